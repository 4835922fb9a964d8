"""Random values of order 1 for everything that a certificate compares with (a zero-initialised branch proves nothing)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prunecore.surgery.cut import named_tensors, scale, slice_all
from prunecore.types import ExampleInputs, Recipe, Slice

Style = Literal["plain", "positive", "own"]


class RandomValues(Mapping[str, Tensor]):
    """Values (float32, on the CPU) for every floating parameter and every statistic of a norm of `model`, by name.

    Weights are scaled by the square root of their fan-in, so that activations stay of order 1; the rest is of order 1
    itself; variances are positive. style: `positive` for networks that need positive values, `own` for their own values
    with 30 % of noise. Other buffers (tables, masks) are left out. A tensor is drawn anew, and the same, each time that it
    is asked for: a network's worth of values is never held.
    """

    def __init__(self, model: nn.Module, style: Style, seed: int) -> None:
        self._style, self._seed = style, seed
        self._sources: dict[str, tuple[nn.Module, str, Tensor]] = {}
        seen: set[int] = set()
        for prefix, module in model.named_modules():
            for key, tensor, is_parameter in _tensors(module):
                if id(tensor) in seen or not (tensor.is_floating_point() or tensor.is_complex()):
                    continue
                seen.add(id(tensor))
                if is_parameter or _is_norm(module):
                    self._sources[f"{prefix}.{key}".lstrip(".")] = module, key, tensor
        self._numbers = {name: number for number, name in enumerate(self._sources)}

    def __getitem__(self, name: str) -> Tensor:
        module, key, tensor = self._sources[name]
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._numbers[name])
        return _values(module, key, tensor, self._style, generator)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor, bool]]:
    parameters = [(key, t, True) for key, t in module._parameters.items() if t is not None]
    return parameters + [(key, t, False) for key, t in module._buffers.items() if t is not None]


def _is_norm(module: nn.Module) -> bool:
    return module._buffers.get("running_var") is not None


def _values(module: nn.Module, key: str, tensor: Tensor, style: Style, generator: torch.Generator) -> Tensor:
    noise = _noise(tensor, generator)
    if style == "own":
        own = tensor.detach().to("cpu", noise.dtype)
        spread = own.std() if own.numel() > 1 else own.abs().max()
        mixed = own * (1 + 0.3 * noise) + 0.1 * spread * noise.roll(1)
        return mixed.abs() if key.endswith("var") else mixed
    # in place: one tensor may be most of a network
    if key.endswith("running_var"):
        return noise.abs_().add_(0.5)
    if style == "positive":
        noise = noise.abs().add_(0.2) if noise.is_complex() else noise.abs_().add_(0.2)
    if tensor.dim() > 1 and tensor.shape[0] > 1 and not isinstance(module, nn.Embedding):
        return noise.div_(math.sqrt(max(tensor[0].numel(), 1)))
    if tensor.dim() == 1 and key == "weight":  # the scale of a norm: not too near to zero
        return torch.sign(noise) * (0.7 + noise.abs() / 2)
    return noise.div_(2) if tensor.dim() == 1 else noise  # offsets that leave channels alive behind a relu


def _noise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Mean 0, variance 1, uniform (several times faster than normal) where the numbers are real."""
    if tensor.is_complex():
        return torch.randn(tensor.shape, dtype=torch.complex64, generator=generator)
    return torch.empty(tensor.shape, dtype=torch.float32).uniform_(-math.sqrt(3), math.sqrt(3), generator=generator)


def random_inputs(inputs: ExampleInputs, device: torch.device, generator: torch.Generator) -> ExampleInputs:
    """Float64 inputs of the same shapes on `device`, normally distributed; whole numbers and booleans are left alone."""

    def draw(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, dtype=torch.float64, generator=generator).to(device)
        if tensor.is_complex():
            return torch.randn(tensor.shape, dtype=torch.complex128, generator=generator).to(device)
        return tensor.detach().clone().to(device)

    return map_inputs(inputs, draw)


def map_inputs(inputs: ExampleInputs, change: Any) -> ExampleInputs:
    """`change` applied to every tensor of the inputs, however nested."""
    args, kwargs = tree_map_only(Tensor, change, (tuple(inputs.args), dict(inputs.kwargs)))
    return ExampleInputs(args, kwargs)


def zero_removed(model: nn.Module, recipe: Recipe) -> None:
    """Every removed position of every sliced floating tensor of `model` becomes zero (variances one), in place."""
    tensors = named_tensors(model)
    for cut in recipe.slices:
        tensor = tensors[cut.tensor].data
        if tensor.is_floating_point() or tensor.is_complex():
            removed = torch.ones(cut.size, dtype=torch.bool)
            removed[list(cut.kept)] = False
            rest = 1.0 if cut.tensor.endswith("running_var") else 0.0
            tensor.index_fill_(cut.dim, removed.nonzero().flatten().to(tensor.device), rest)


def load_cut(model: nn.Module, values: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Give the cut network `values`, sliced and edited as the recipe says, in place and one tensor at a time."""
    tensors = named_tensors(model)
    slices: dict[str, list[Slice]] = {}
    for part in recipe.slices:
        slices.setdefault(part.tensor, []).append(part)
    for name in values:
        tensors[name].data.copy_(slice_all({name: values[name]}, tuple(slices.get(name, ())))[name])
    for edit in recipe.values:
        if edit.tensor in values:
            scale(tensors[edit.tensor], edit)
