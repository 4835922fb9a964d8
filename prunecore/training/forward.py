"""Calling a network on a batch, and leaving it as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunecore.errors import ModelError, OutOfMemory, TrainingError
from prunecore.types import ExampleInputs

if TYPE_CHECKING:
    from prunecore.types import Task

# What torch raises where shapes, types or classes do not fit.
_MISFIT = (RuntimeError, ValueError, TypeError, IndexError)


def call(model: nn.Module, inputs: Any) -> Any:
    """`model` on the inputs of one batch: a tensor, a sequence (positional), or a mapping (by keyword).

    Raises ModelError, which names the shapes, where the network cannot take them, OutOfMemory where they are too many.
    """
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, (tuple, list)):
            return model(*inputs)
        return model(inputs)
    except _MISFIT as fault:
        short = OutOfMemory.of(fault, f"run {type(model).__name__} on data of shape {shapes(inputs)}")
        if short is not None:
            raise short from fault
        raise ModelError(
            f"{type(model).__name__} cannot be run on data of shape {shapes(inputs)}: {first_line(fault)}; "
            "check that the input size and channels of the data are those of the network"
        ) from fault


def as_example(inputs: Any) -> ExampleInputs:
    """The inputs of one batch as a network is called with them, on the CPU."""
    plain = moved(inputs, torch.device("cpu"))
    if isinstance(plain, Mapping):
        return ExampleInputs((), plain)
    return ExampleInputs(tuple(plain) if isinstance(plain, (tuple, list)) else (plain,))


def plain_strides(inputs: Any) -> Any:
    """A batch of one channel is both contiguous and channels_last; torch takes such strides for the latter, and so does
    every activation after it. Give it the plain ones; anything else is returned as it is."""
    if isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] == 1 and inputs.is_contiguous():
        return inputs.clone(memory_format=torch.contiguous_format)
    return inputs


def loss_of(task: Task, outputs: Any, targets: Any) -> Tensor:
    """The task's loss, a scalar tensor; TrainingError, which names the shapes, where it cannot be computed."""
    try:
        return task.loss(outputs, targets)
    except _MISFIT as fault:
        raise TrainingError(
            f"the loss of task {task.name!r} cannot be computed from outputs {shapes(outputs)} and targets "
            f"{shapes(targets)}: {first_line(fault)}; check that the network has the outputs (classes) of the task"
        ) from fault


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists, mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(tensors_in(v) for v in value.values())
    elif isinstance(value, (tuple, list)):
        yield from chain.from_iterable(tensors_in(v) for v in value)


def main_output(outputs: Any, *names: str) -> Any:
    """The predictions among what a network returns: the tensor under the first of `names` that it has as a key or a field, else
    `outputs` itself. Networks with auxiliary heads return several in training.
    """
    for name in names:
        found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if isinstance(found, Tensor):
            return found
    return outputs


def shapes(value: Any) -> str:
    """`(64, 3, 32, 32)`, or several of them, for a message."""
    return ", ".join(str(tuple(t.shape)) for t in tensors_in(value)) or type(value).__name__


def first_line(fault: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]


def images_in(inputs: Any) -> int:
    """Length of a batch: dim 0 of its first tensor."""
    return int(next(tensors_in(inputs)).shape[0])


def moved(value: Any, device: torch.device) -> Any:
    """`value` with every tensor on `device`."""
    if isinstance(value, Tensor):
        return plain_strides(value.to(device))
    if isinstance(value, Mapping):
        return {k: moved(v, device) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(moved(v, device) for v in value)
    return value


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU for a network without any."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` itself where it is on `device` already, else a copy that is."""
    here = all(t.device == device for t in chain(model.parameters(), model.buffers()))
    return model if here else copy.deepcopy(model).to(device)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Whatever is done inside, every module is in the mode (train or eval) that it was in."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
