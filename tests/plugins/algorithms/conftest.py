"""Groups of one producer, made by the graph builder as an engine makes them."""

from __future__ import annotations

import pytest

from prunecore.graph import GraphBuilder
from prunecore.scoring import Matrices
from prunecore.types import Calibration


def produced_by(module, dim=0):
    """The group of the channels that `module` produces along `dim` of its weight, and its tensors."""
    builder = GraphBuilder(module, "test")
    width = builder.labels("weight", dim, "producer")
    if getattr(module, "bias", None) is not None and len(module.bias) == len(width):
        builder.tie(width, builder.labels("bias", 0, "bias"))
    (group,) = [g for g in builder.build().groups if g.frozen is None]
    return group, dict(module.named_parameters())


@pytest.fixture
def saliency():
    """Saliency by a criterion of the channels of one layer, as a list of numbers."""

    def score(criterion, module, *, dim=0, seed=0):
        group, tensors = produced_by(module, dim)
        return criterion.prune_score(
            group=group, weights=Matrices(group, tensors), calibration=Calibration(), seed=seed
        )

    return score
