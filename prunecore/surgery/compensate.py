"""Folding what a removed channel contributed on average into the layer behind it.

A removed channel is rarely zero. Its mean, times the weights that read it, is added to the bias of the reading layer, or
taken off the running mean of the batch norm behind it (cf. Molchanov et al., arXiv 1611.06440, and the bias propagation of
Ye et al., arXiv 1802.00124). Done after the certificate, which proves the pure cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prunecore.surgery.copying import copy_model
from prunecore.surgery.cut import named_tensors
from prunecore.surgery.observe import cuda_devices, seed_all
from prunecore.surgery.randomise import map_inputs
from prunecore.types import ExampleInputs, Recipe

Reader = _ConvNd | nn.Linear


def compensate(
    original: nn.Module,
    cut: nn.Module,
    recipe: Recipe,
    inputs: ExampleInputs,
    *,
    batches: Iterable[ExampleInputs] = (),
) -> nn.Module:
    """A copy of `cut` in which the mean contribution of the channels that `recipe` removed is kept; inputs are untouched.

    Means come from `batches` where there are any, else without data from the batch norms of `original`: each is taken to
    give out what its scale and shift say (a normal distribution), in one forward on `inputs`. Layers without a bias and
    without a batch norm behind them are left as they are.
    """
    repaired = copy_model(cut)
    source = copy_model(original).eval()
    given = tuple(batches)
    with torch.random.fork_rng(devices=cuda_devices(original)), torch.no_grad():
        seed_all(source, 0)
        means, norms = _observe(source, given or (inputs,), synthetic=not given)
        removed = {(s.tensor, s.dim): s.kept for s in recipe.slices}
        readers = dict(source.named_modules())
        tensors, names = named_tensors(repaired), {id(t): n for n, t in named_tensors(source).items()}
        for name, mean in means.items():
            reader = cast("Reader", readers[name])
            weight = names.get(id(reader.weight))
            if weight is None or (weight, _input_dim(reader)) not in removed:
                continue
            shift = _contribution(reader, mean, removed[weight, _input_dim(reader)])
            shift = shift[list(removed.get((weight, 1 - _input_dim(reader)), range(len(shift))))]
            for edit in recipe.values:  # outputs that are scaled give the scaled share of what is gone
                if edit.tensor == weight and edit.dim == 1 - _input_dim(reader):
                    shift[slice(None) if edit.index is None else list(edit.index)] *= edit.factor
            _add(tensors, names, reader, norms.get(name), shift)
    return repaired


def _input_dim(reader: Reader) -> int:
    return 0 if isinstance(reader, _ConvNd) and reader.transposed else 1


def _contribution(reader: Reader, mean: Tensor, kept: tuple[int, ...]) -> Tensor:
    """What the removed inputs add to every output on average, shape `(outputs,)`; borders count as the inside does."""
    weight = reader.weight.detach().to(mean.dtype)
    taps = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    if isinstance(reader, _ConvNd) and reader.transposed:
        # each output position is reached by one tap in `stride` of every dim
        taps = taps / float(torch.tensor(reader.stride).prod())
        gone = torch.ones(taps.shape[0], dtype=torch.bool, device=taps.device)
        gone[list(kept)] = False
        per_group = (taps * (mean * gone)[:, None]).reshape(reader.groups, -1, taps.shape[1])
        return per_group.sum(1).flatten()
    groups = reader.groups if isinstance(reader, _ConvNd) else 1
    gone = torch.ones(taps.shape[1], dtype=torch.bool, device=taps.device)
    gone[list(kept)] = False
    rows = taps.reshape(groups, -1, taps.shape[1])
    return (rows * (mean.reshape(groups, 1, -1) * gone)).sum(2).flatten()


def _add(
    tensors: Mapping[str, Tensor], names: Mapping[int, str], reader: Reader, norm: nn.Module | None, shift: Tensor
) -> None:
    """Into the bias, else off the running mean of the batch norm behind."""
    if reader.bias is not None:
        place, sign = reader.bias, 1.0
    elif norm is not None and norm.running_mean is not None:
        place, sign = cast("Tensor", norm.running_mean), -1.0
    else:
        return
    target = tensors[names[id(place)]].data
    if target.shape == shift.shape:
        target.add_(shift.to(target.dtype), alpha=sign)


# ---------------------------------------------------------------- what the layers read


def _observe(
    model: nn.Module, batches: tuple[ExampleInputs, ...], *, synthetic: bool
) -> tuple[dict[str, Tensor], dict[str, nn.Module]]:
    """Mean input per channel of every convolution and linear layer, and the batch norm that takes its output as it is."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    norms: dict[str, nn.Module] = {}
    made: list[tuple[Tensor, str]] = []

    def read(name: str) -> Callable[..., None]:
        def hook(module: Reader, args: Any, output: Tensor) -> None:
            x = args[0].detach().float()
            dim = x.dim() - len(module.kernel_size) - 1 if isinstance(module, _ConvNd) else x.dim() - 1
            flat = x.movedim(dim, 0).flatten(1)
            sums[name] = sums.get(name, 0) + flat.sum(1)
            counts[name] = counts.get(name, 0) + flat.shape[1]
            made.append((output, name))

        return hook

    def follow(module: nn.Module, args: Any) -> None:
        norms.update({name: module for output, name in made if output is args[0]})

    with _hooked(model, read, follow, synthetic=synthetic):
        for batch in batches:
            made.clear()
            owned = map_inputs(batch, lambda t: t.detach().clone())
            model(*owned.args, **owned.kwargs)
    made.clear()
    return {name: total / counts[name] for name, total in sums.items()}, norms


@contextmanager
def _hooked(
    model: nn.Module, read: Callable[[str], Any], follow: Callable[..., None], *, synthetic: bool
) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd | nn.Linear):
            handles.append(module.register_forward_hook(read(name)))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(follow))
            if synthetic and type(module).forward is _BatchNorm.forward:
                handles.append(module.register_forward_hook(_emit))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _emit(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """What a trained batch norm gives out: normal, with its shift as mean and its scale as deviation."""
    shape = [1, -1] + [1] * (output.dim() - 2)
    noise = torch.randn_like(output)
    noise = noise if module.weight is None else noise * cast("Tensor", module.weight).view(shape)
    return noise if module.bias is None else noise + cast("Tensor", module.bias).view(shape)
