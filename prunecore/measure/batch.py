"""Example inputs at another batch size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from prunecore.errors import ConfigError
from prunecore.types import ExampleInputs


def at_batch(inputs: ExampleInputs, batch: int) -> ExampleInputs:
    """`inputs` with copies of its tensors, repeated along dim 0 or cut to `batch`, as many as are as long as the first one.

    Where the first input is a list of images (3 dims each, as detectors take), such lists are the batch instead.
    ConfigError where no input has a batch.
    """
    values = (*inputs.args, *inputs.kwargs.values())
    images = bool(values) and _is_images(values[0])

    def is_whole(value: Any) -> bool:
        return images and _is_images(value)

    sizes = [len(x) for value in values for x in tree_leaves(value, is_leaf=is_whole) if is_whole(x) or _has_dims(x)]
    if not sizes:
        raise ConfigError(
            f"batch {batch}: the example inputs hold no tensor with dims, expected one with the batch as dim 0"
        )

    def resized(value: Any) -> Any:
        if is_whole(value) and len(value) == sizes[0]:
            return type(value)(value[i % sizes[0]].clone() for i in range(batch))
        if _has_dims(value) and len(value) == sizes[0] and not images:
            return value.index_select(0, torch.arange(batch, device=value.device) % sizes[0])
        return value.clone() if isinstance(value, Tensor) else value

    args = tuple(tree_map(resized, value, is_leaf=is_whole) for value in inputs.args)
    return ExampleInputs(
        args, {key: tree_map(resized, value, is_leaf=is_whole) for key, value in inputs.kwargs.items()}
    )


def _has_dims(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _is_images(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, Tensor) and x.ndim == 3 for x in value)
