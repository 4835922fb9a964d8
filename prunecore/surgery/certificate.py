"""The proof that a cut network computes what the original computes with the removed channels dead.

Both sides get the same random float64 values: the original with every removed position zero, the cut network the slices
of them. Indices come from the recipe alone, so a graph engine cannot vouch for itself; a negative control shifts one
kept index by one and the comparison has to fail.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prunecore.surgery.copying import copy_model
from prunecore.surgery.cut import named_tensors
from prunecore.surgery.masking import DeadChannels
from prunecore.surgery.observe import LOW, Boundary, Gather, Run, cuda_devices, leaves, run, seed_all
from prunecore.surgery.randomise import RandomValues, Style, load_cut, map_inputs, random_inputs, zero_removed
from prunecore.types import Certificate, ExampleInputs, Recipe, Slice

TOLERANCE = 1e-9
_CONTROLS = 3
_DRAWS = 4  # of random values, where the negative control shows nothing
_CONTROL = "negative control:"


@dataclass(frozen=True)
class _Sides:
    """Copies of both networks with their values, and the inputs.

    Parameters lie in float32, as they were drawn, and `run` widens them one module at a time: two networks in float64
    would be four times the memory of the one that is pruned.
    """

    masked: nn.Module
    cut: nn.Module
    values: Mapping[str, Tensor]
    inputs: ExampleInputs


def certify(
    original: nn.Module, cut: nn.Module, recipe: Recipe, inputs: ExampleInputs, *, seed: int = 0
) -> Certificate:
    """Compare `cut` with the masked `original` in float64 on random parameters and inputs; both stay untouched.

    `cut` must be the pure result of `recipe` (with its value edits) or any network of that shape: its values are
    replaced. Never raises for a wrong cut: `verified` is False and the notes name the first module that differs. At most
    eight forward-equivalents a draw (one draw, unless the negative control shows nothing) on
    inputs of the shapes of `inputs` (whole numbers are taken as they are).
    """
    shapes = tuple(tuple(t.shape) for t in leaves([*inputs.args, *inputs.kwargs.values()]))
    with torch.random.fork_rng(devices=cuda_devices(original)):
        fault = _misfit(original, cut, recipe)
        if fault:
            return Certificate(False, math.inf, shapes, "float64", (fault,))
        for draw in range(_DRAWS):
            verified, error, notes = _compare(original, cut, recipe, inputs, seed + draw)
            # a few kept channels may all be dead behind a ReLU on one draw; a difference is never drawn again
            if verified or not (notes and notes[-1].startswith(_CONTROL)):
                break
        if verified:
            fault = _trains(original, cut, inputs, seed)
            notes += [fault] if fault else []
            verified = not (fault and fault.startswith("train mode:"))
    return Certificate(verified, error, shapes, "float64", tuple(notes))


def _device(model: nn.Module) -> torch.device:
    device = next((t.device for t in named_tensors(model).values()), torch.device("cpu"))
    return torch.device("cpu") if device.type == "mps" else device  # no float64 there


def _misfit(original: nn.Module, cut: nn.Module, recipe: Recipe) -> str | None:
    before, after = named_tensors(original), named_tensors(cut)
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        return f"the cut network has other tensors than the original: {odd[0]}"
    expected = {name: list(t.shape) for name, t in before.items()}
    for part in recipe.slices:
        if part.tensor not in expected or expected[part.tensor][part.dim] != part.size:
            return f"the recipe does not fit the original: {part.tensor} dim {part.dim} of size {part.size}"
        expected[part.tensor][part.dim] = len(part.kept)
    for name, tensor in after.items():
        if list(tensor.shape) != expected[name]:
            return f"{name} of the cut network has shape {tuple(tensor.shape)}, the recipe says {tuple(expected[name])}"
    return None


# ---------------------------------------------------------------- the comparison


def _compare(
    original: nn.Module, cut: nn.Module, recipe: Recipe, inputs: ExampleInputs, seed: int
) -> tuple[bool, float, list[str]]:
    notes: list[str] = []
    styles: tuple[Style, ...] = ("plain", "positive", "own")
    for style in styles:
        sides = _sides(original, cut, recipe, inputs, style, seed)
        small = run(sides.cut, sides.inputs, seed=seed)
        if small.failure:  # parameters of other modules, whose types some operations compare
            _widen(sides)
            small = run(sides.cut, sides.inputs, seed=seed)
        if small.failure:
            return False, math.inf, [f"the cut network stops in {small.failure}"]
        if all(_finite(t) for t in small.outputs):
            break
        notes = [f"random values ({style}) overflow; the next kind was used"]
    else:
        return False, math.inf, ["outputs are not finite on random values, nor on the network's own"]
    large = run(sides.masked, sides.inputs, seed=seed, gather=_gatherer(recipe, small))
    if large.failure:
        return False, math.inf, [f"the masked network stops in {large.failure}"]
    compare = _difference if not recipe.values else lambda a, b: _outputs_differ(a.outputs, b.outputs)
    error, difference = compare(large, small)
    if difference:  # zero parameters may not be all that dead channels mean
        large, more = _carried(sides, recipe, small, seed)
        if large.failure:
            return False, error, [difference, f"the masked network stops in {large.failure}"]
        error, difference = compare(large, small)
        notes += more
    if difference:
        return False, error, [*notes, difference]
    if not recipe.slices:
        return True, error, [*notes, "nothing was cut"]
    control = _control(sides, recipe, large, seed)
    return control is None, error, [*notes, *([control] if control else [])]


def _carried(sides: _Sides, recipe: Recipe, small: Run, seed: int) -> tuple[Run, list[str]]:
    """The masked network again, with dead channels carried through every operation; and notes on what that restricted."""
    dead = DeadChannels(named_tensors(sides.masked), recipe)
    large = run(sides.masked, sides.inputs, seed=seed, modes=(dead,), gather=_gatherer(recipe, small))
    notes = [f"restricted to the kept channels: {_counts(dead.restricted)}"] if dead.restricted else []
    return large, notes + ([f"dead channels end at: {_counts(dead.unknown)}"] if dead.unknown else [])


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counter.items())


def _sides(
    original: nn.Module, cut: nn.Module, recipe: Recipe, inputs: ExampleInputs, style: Style, seed: int
) -> _Sides:
    device = _device(original)
    values = RandomValues(original, style, seed)
    drawn = random_inputs(inputs, device, torch.Generator().manual_seed(seed))
    if style == "own":
        drawn = map_inputs(inputs, lambda t: t.detach().to(device, torch.float64 if t.is_floating_point() else t.dtype))
    masked, small = _copy(original, recipe, device), _copy(cut, recipe, device)
    load_cut(masked, values, Recipe())
    drawn_once = named_tensors(masked)
    load_cut(small, {name: drawn_once[name] for name in values}, recipe)
    zero_removed(masked, recipe)
    return _Sides(masked, small, values, drawn)


def _copy(model: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """A copy in eval mode; parameters in single precision, buffers and what has value edits in double precision."""
    copied = copy_model(model).to(device).eval().requires_grad_(False)
    edited = {edit.tensor for edit in recipe.values}
    for name, parameter in copied.named_parameters():
        if parameter.dtype in LOW:
            parameter.data = parameter.data.to(torch.float64 if name in edited else torch.float32)
    for buffer in copied.buffers():
        if buffer.dtype in LOW:
            buffer.data = buffer.data.double()
    return copied


def _widen(sides: _Sides) -> None:
    for model in (sides.masked, sides.cut):
        model.double()


def _finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all())


def _gatherer(recipe: Recipe, small: Run) -> Gather:
    """Restricts the masked network's module outputs to the kept channels where the module owns the slice.

    Layers only: what a module with others inside owns (a table of positions) need not be as wide as what it gives.
    """
    parents = {name.rpartition(".")[0] for name, _ in small.boundaries}
    owned: dict[str, list[Slice]] = {}
    for part in recipe.slices:
        module = part.tensor.rpartition(".")[0]
        if module not in parents:
            owned.setdefault(module, []).append(part)

    def gather(name: str, call: int, tensor: Tensor) -> Tensor:
        other = small.boundaries.get((name, call))
        if other is None or len(other.shape) != tensor.dim():
            return tensor
        uneven = [d for d in range(tensor.dim()) if tensor.shape[d] != other.shape[d]]
        found = {
            s.kept
            for s in owned.get(name, ())
            if uneven and (s.size, len(s.kept)) == (tensor.shape[uneven[0]], other.shape[uneven[0]])
        }
        if len(uneven) != 1 or len(found) != 1:
            return tensor
        return tensor.index_select(uneven[0], torch.tensor(found.pop(), device=tensor.device))

    return gather


def _difference(large: Run, small: Run) -> tuple[float, str | None]:
    """The largest difference of any output, and what differs (None: nothing)."""
    worst, fault = _outputs_differ(large.outputs, small.outputs)
    name = _first_difference(large, small)
    if name is None:
        return worst, fault
    where = name or "the network itself"
    return worst, f"the cut network differs from the masked one first in {where}{f' ({fault})' if fault else ''}"


def _first_difference(large: Run, small: Run, *, besides: str | None = None) -> str | None:
    """The first module whose outputs differ, leaving out `besides`."""
    for key, boundary in large.boundaries.items():
        other: Boundary | None = small.boundaries.get(key)
        known = other is not None and other.shape == boundary.shape and boundary.module != besides
        if other is not None and known and boundary.differs(other, TOLERANCE):
            return boundary.module
    return None


def _outputs_differ(large: list[Tensor], small: list[Tensor]) -> tuple[float, str | None]:
    if [t.shape for t in large] != [t.shape for t in small]:
        got, expected = [tuple(t.shape) for t in small], [tuple(t.shape) for t in large]
        return math.inf, f"output shapes are {got}, expected {expected}"
    worst, fault = 0.0, None
    for number, (a, b) in enumerate(zip(large, small, strict=True)):
        if not a.numel():
            continue
        wide = a.dtype if a.is_floating_point() or a.is_complex() else torch.float64
        error = float((a.to(wide) - b.to(wide)).abs().max())
        worst = max(worst, error)
        if not error <= TOLERANCE * max(float(a.to(wide).abs().max()), 1e-30):
            fault = fault or f"output {number} is off by {error:.3g}"
    return worst, fault


# ---------------------------------------------------------------- controls


def _control(sides: _Sides, recipe: Recipe, large: Run, seed: int) -> str | None:
    """Shift one kept index of one slice by one; the comparison has to fail. None when it did.

    A detector may return no box at all on random values: then what its other modules give has to differ.
    """
    weights = [s for s in recipe.slices if s.tensor in sides.values]
    matrices = [s for s in weights if sides.values[s.tensor].dim() > 1] or weights
    tensors = named_tensors(sides.cut)
    picks = [matrices[len(matrices) * i // _CONTROLS] for i in range(_CONTROLS)] if matrices else []
    empty = not any(t.numel() for t in large.outputs)
    for number, part in enumerate(reversed(picks)):
        slices = tuple(_shift(s, number) if s == part else s for s in recipe.slices if s.tensor == part.tensor)
        kept = tensors[part.tensor].data.clone()
        load_cut(sides.cut, {part.tensor: sides.values[part.tensor]}, replace(recipe, slices=slices))
        moved = run(sides.cut, sides.inputs, seed=seed)
        tensors[part.tensor].data.copy_(kept)
        if _outputs_differ(large.outputs, moved.outputs)[1]:
            return None
        own = part.tensor.rpartition(".")[0]
        if empty and not recipe.values and _first_difference(large, moved, besides=own) is not None:
            return None
    names = ", ".join(dict.fromkeys(s.tensor for s in picks)) or "no parameter"
    return f"{_CONTROL} shifting an index of {names} changes no output, so the comparison proves nothing"


def _shift(part: Slice, number: int) -> Slice:
    """One kept position (another one for each `number`) replaced by a removed neighbour."""
    there = set(part.kept)
    moves = [
        (i, neighbour)
        for i, position in enumerate(part.kept)
        for neighbour in (position + 1, position - 1)
        if neighbour not in there and 0 <= neighbour < part.size
    ]
    index, neighbour = moves[len(moves) * number // _CONTROLS]
    return replace(part, kept=(*part.kept[:index], neighbour, *part.kept[index + 1 :]))


def _trains(original: nn.Module, cut: nn.Module, inputs: ExampleInputs, seed: int) -> str | None:
    """One forward and backward in train mode; None when it works. What the original cannot do either is only noted."""
    fault = _train_fault(cut, inputs, seed)
    if fault is None:
        return None
    theirs = _train_fault(original, inputs, seed)
    if theirs and re.sub(r"\d+", "", theirs) == re.sub(r"\d+", "", fault):  # messages hold sizes
        return f"the train-mode forward needs more than the example inputs, in the original too ({fault})"
    return f"train mode: the cut network stops: {fault}"


def _train_fault(model: nn.Module, inputs: ExampleInputs, seed: int) -> str | None:
    device = _device(model)
    trained = copy_model(model).to(device).float().train()
    for parameter in trained.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    seed_all(trained, seed)
    doubled = map_inputs(
        inputs, lambda t: _double_batch(t.detach().to(device, torch.float32 if t.is_floating_point() else t.dtype))
    )
    try:
        with torch.enable_grad():
            outputs = [t for t in leaves(trained(*doubled.args, **doubled.kwargs)) if t.requires_grad]
            if not outputs:
                return "no output has a gradient"
            torch.stack([t.abs().float().mean() for t in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever the network's code raises is the finding
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _double_batch(tensor: Tensor) -> Tensor:
    """A batch of one becomes two: batch norm cannot train on one value per channel."""
    return torch.cat([tensor, tensor]) if tensor.dim() > 1 and tensor.shape[0] == 1 else tensor
