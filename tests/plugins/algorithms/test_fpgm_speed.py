"""fpgm on a wide network: NNI's loop over channels takes minutes there."""

from __future__ import annotations

import time

import pytest
import torch
from prunecore_plugins.algorithms.fpgm import FPGM
from torch import nn

from prunecore.graph import GraphBuilder
from prunecore.scoring import Matrices
from prunecore.types import Calibration


@pytest.mark.slow
def test_convnext_tiny_takes_under_ten_seconds_of_cpu_time():
    import torchvision

    model = torchvision.models.convnext_tiny(weights=None)
    builder = GraphBuilder(model, "test")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            builder.labels(f"{name}.weight", 0, "producer")
    groups, tensors = builder.build().groups, dict(model.named_parameters())
    started = time.process_time()
    scores = [
        FPGM().prune_score(group=g, weights=Matrices(g, tensors), calibration=Calibration(), seed=0) for g in groups
    ]
    assert time.process_time() - started < 10
    assert max(len(s) for s in scores) == 3072
    assert all(bool(torch.isfinite(s).all()) for s in scores)
