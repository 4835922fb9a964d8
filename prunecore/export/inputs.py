"""Random inputs made like the example inputs, at any batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_structure

from prunecore.errors import ConfigError
from prunecore.measure.batch import at_batch
from prunecore.surgery.randomise import map_inputs
from prunecore.types import ExampleInputs


@dataclass(frozen=True, eq=False)
class Batches:
    """Example inputs and where their batch is.

    size: of the example inputs; 1 where they have no batch. places: numbers of the leaves whose dim 0 is the batch.
    fixed: why the batch cannot be another one; None where it can.
    """

    example: ExampleInputs
    size: int
    places: frozenset[int]
    fixed: str | None

    def draw(self, size: int, seed: int, device: torch.device) -> ExampleInputs:
        """Inputs of the batch `size` on `device`: every element is one of the example's elements, drawn at random.

        Floats that are all the same are drawn normally instead; single numbers stay what they are.
        """
        inputs = self.example if size == self.size else at_batch(self.example, size)
        generator = torch.Generator().manual_seed(seed)
        return map_inputs(inputs, lambda tensor: _drawn(tensor, generator).to(device))

    def free(self, drawn: ExampleInputs, dim: Any) -> Any:
        """What `torch.export` takes as `dynamic_shapes`: `dim` at every place of the batch. Shapes by tensor, to be resolved."""
        shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
        leaves = tree_leaves((drawn.args, drawn.kwargs))
        for place in sorted(self.places):
            shapes[leaves[place]] = {0: dim}
        return shapes


def batches_of(inputs: ExampleInputs) -> Batches:
    """Where the batch is, found by comparing the inputs at two batch sizes."""
    try:
        two, three = ((x.args, x.kwargs) for x in (at_batch(inputs, 2), at_batch(inputs, 3)))
    except ConfigError:
        return Batches(inputs, 1, frozenset(), "the inputs have no batch dimension")
    if tree_structure(two) != tree_structure(three):
        first = next(iter((*inputs.args, *inputs.kwargs.values())))
        return Batches(
            inputs, len(first), frozenset(), "the batch is a list of images, whose length is part of the code"
        )
    pairs = enumerate(zip(tree_leaves(two), tree_leaves(three), strict=True))
    places = frozenset(i for i, (a, b) in pairs if isinstance(a, Tensor) and a.shape != b.shape)
    size = len(tree_leaves((inputs.args, inputs.kwargs))[min(places)])
    return Batches(inputs, size, places, None)


def _drawn(tensor: Tensor, generator: torch.Generator) -> Tensor:
    values = tensor.detach().cpu().reshape(-1)
    if tensor.ndim == 0 or not len(values):
        return tensor.detach().clone()
    if not (values == values[0]).all():
        return values[torch.randint(len(values), tensor.shape, generator=generator)]
    if tensor.is_floating_point() or tensor.is_complex():
        wide = torch.complex64 if tensor.is_complex() else torch.float32
        return torch.randn(tensor.shape, dtype=wide, generator=generator).to(tensor.dtype)
    return tensor.detach().cpu().clone()
