"""The dispatch mode that runs beside the forward: every ATen operation passes by and its rule moves the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode

from prunecore.graph import UNREACHED, GraphBuilder
from prunecore.types import Indices
from prunecore_plugins.graphs.labels.call import Call, tensors_in
from prunecore_plugins.graphs.labels.frontier import NOTHING, Given
from prunecore_plugins.graphs.labels.layers import Info, Layer, Made, counted, line
from prunecore_plugins.graphs.labels.ledger import Ledger
from prunecore_plugins.graphs.labels.restore import Originals
from prunecore_plugins.graphs.labels.rules.pointwise import pointwise

Rule = Callable[[Call], Any]

_KEY = "_prunecore_labels"
# bool(tensor), int(tensor), tensor.item()
_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
_NOTHING = Info()


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels of all tensors of one forward. `module` is the path of the module that runs now."""

    def __init__(
        self, model: nn.Module, builder: GraphBuilder, rules: Mapping[str, Rule], originals: Originals
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.builder, self._rules, self._originals = builder, rules, originals
        self._names = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}
        self._paths = {id(m): n for n, m in model.named_modules()}
        self._leaves: dict[int, Info] = {}
        self._found: dict[Any, Rule | None] = {}
        self._storages = {t.untyped_storage()._cdata: t for t in (*model.parameters(), *model.buffers())}
        self._filled: set[int] = set()  # storages that values were written into, of which views may still say constant
        self._sited: set[str] = set()
        self.stack: list[tuple[str, nn.Module | None]] = [("", model)]
        self.batch = 1
        self._fused = bool(torch._C._get_mkldnn_enabled())
        self.costs = True
        self.ledger = Ledger()
        self.ledger.locate(lambda: self.module)
        self.given: Given = NOTHING  # the numbers that the running Python call was given
        self.reached: set[str] = set()
        self.hidden: list[Indices] = []
        self.decided: str | None = None  # the module in which Python read a number off the data
        self.varying: str | None = None  # the operation whose result is as long as the data say

    # ------------------------------------------------------------ modules

    @property
    def module(self) -> str:
        return self.stack[-1][0]

    @property
    def current(self) -> nn.Module | None:
        return self.stack[-1][1]

    def enter(self, module: nn.Module, _args: Any) -> None:
        """A module starts (forward pre-hook)."""
        path = self._paths.get(id(module))
        self.stack.append((self.module if path is None else path, module))
        if isinstance(module, nn.RNNBase):
            # the fused kernel hides the gates; without it a recurrent layer is products, splits and pointwise ops
            torch._C._set_mkldnn_enabled(False)

    def leave(self, module: nn.Module, _args: Any, output: Any) -> None:
        """A module ends (forward hook): note where channels are visible in a leaf module's outputs."""
        path = self._paths.get(id(module))
        if path and path not in self._sited and not module._modules:
            self._sited.add(path)
            for number, tensor in enumerate(tensors_in(output)):
                layers = self.info(tensor).layers
                if len(layers) == 1 and layers[0].is_line and (layers[0].labels >= 0).any():
                    self.builder.site(path, number, layers[0].axis, layers[0].labels.ravel())
        while len(self.stack) > 1 and self.stack.pop()[1] is not module:
            pass
        if isinstance(module, nn.RNNBase):
            torch._C._set_mkldnn_enabled(self._fused)

    # ------------------------------------------------------------ labels of tensors

    def info(self, tensor: Any) -> Info:
        """Labels of a tensor: those that travel with it, or fresh ones of a parameter or buffer."""
        if not isinstance(tensor, Tensor):
            return _NOTHING
        found = tensor.__dict__.get(_KEY)
        if found is not None and found[0] is self:
            info: Info = found[1]
            return replace(info, leaf=False) if info.leaf and self._is_filled(tensor) else info
        name = self._names.get(id(tensor))
        if name is not None:
            return self._leaf(name, tensor)
        owner = self._storages.get(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else None
        if owner is None:
            return _NOTHING
        # an alias made behind our back (`.data`): the parameter itself, or else nothing that we know how to cut
        info = self._leaf(self._names[id(owner)], owner)
        if owner.shape == tensor.shape and owner.stride() == tensor.stride():
            return info
        for layer in info.layers:
            self.builder.freeze(layer.labels, f"a view made outside the dispatcher (in {self.module})")
        return _NOTHING

    def _leaf(self, name: str, tensor: Tensor) -> Info:
        found = self._leaves.get(id(tensor))
        if found is None:
            rank = tensor.dim()
            layers = [Layer(d, line(self.builder.labels(name, d), d, rank)) for d in range(rank)]
            found = self._leaves[id(tensor)] = Info(tuple(layers))
            self.reached.add(name)
        return found

    def _is_filled(self, tensor: Tensor) -> bool:
        return bool(self._filled) and tensor.layout == torch.strided and tensor.untyped_storage()._cdata in self._filled

    def set(self, tensor: Any, info: Info) -> None:
        """Let `info` travel with `tensor`."""
        if isinstance(tensor, Tensor) and id(tensor) not in self._leaves:
            tensor.__dict__[_KEY] = (self, info)

    def number(self, tensor: Tensor, dim: int, size: int) -> int:
        """`size`, that of `dim` of `tensor`, as a number that remembers the channels there."""
        channels = self._along(tensor, dim)
        return size if channels is None else self.ledger.width(channels)

    def _along(self, tensor: Tensor, dim: int) -> Indices | None:
        """The channels that make `dim` as long as it is; None where there are none, or two dims of them."""
        found = [y for y in self.info(tensor).layers if y.axis == dim and y.varies(dim)]
        return counted(found[0]) if len(found) == 1 else None

    def scaled(self, tensor: Tensor, number: int, power: float, *, other: Tensor | None = None) -> None:
        """`tensor` (times `other`) is multiplied by `number ** power`: its weights have to make up for another number."""
        made_by = self.info(tensor).made_by
        if made_by is not None and other is not None:
            made_by = made_by.times(self.info(other).made_by)
        why = f"a scale follows the width of a head (in {self.module or 'the network itself'})"
        if made_by is None:
            self.ledger.scale(number, power, np.empty(0, dtype=np.int64), why)
        else:
            self.ledger.scale(number, power / made_by.degree, made_by.labels, why, before=made_by.scaled)

    def normalised(self, tensor: Tensor, shape: Sequence[int]) -> None:
        """The code gives `shape` as the last sizes of `tensor`; a norm without weights has nothing else to go by."""
        for dim, number in enumerate(shape, tensor.dim() - len(shape)):
            channels = self._along(tensor, dim)
            if channels is not None:
                self.ledger.use(number, channels, f"normalised over {number} (in {self.module})")

    def shares(self, one: Any, other: Any) -> bool:
        """Whether two tensors are made by the same weights."""
        left, right = self.info(one).made_by, self.info(other).made_by
        if left is None or right is None:
            return False
        return bool(np.isin(np.concatenate([left.weights, left.also]), right.weights).any())

    def freeze_all(self, tensor: Tensor, why: str) -> None:
        """Freeze whatever channels `tensor` carries, as `why` says."""
        for layer in self.info(tensor).layers:
            self.builder.freeze(layer.labels[layer.labels >= 0], f"{why} (in {self.module or 'the network itself'})")

    def shadow(self, tensor: Tensor, info: Info) -> Tensor:
        """`tensor` itself, labelled with an intermediate result that a rule goes on with."""
        self.set(tensor, info)
        return tensor

    def finish(self) -> None:
        """Kernel dims and the like are no channels; numbers of the code follow widths, or hold them."""
        self.ledger.settle(self.builder)
        if self.hidden:
            self.builder.freeze(np.concatenate([a.ravel() for a in self.hidden]), UNREACHED)

    def inputs(self, values: Any) -> None:
        """Mark the network's inputs."""
        for tensor in tensors_in(values):
            self.set(tensor, Info((), leaf=False, why="network input"))

    def outputs(self, values: Any) -> None:
        """Freeze what the network returns."""
        for tensor in tensors_in(values):
            for layer in self.info(tensor).layers:
                self.builder.freeze(layer.labels[layer.labels >= 0], "network output")

    # ------------------------------------------------------------ dispatch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the default imports the compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            rule = self._found[func]
        except KeyError:
            rule = self._found[func] = self._rule(func)
        if func._schema.is_mutable:
            self._originals.guard(func, args, kwargs)
        if func in _READS and _KEY in args[0].__dict__ and not self.info(args[0]).leaf:
            self.decided = self.decided or self.module or "the network itself"
        if torch.Tag.dynamic_output_shape in func.tags and self.varying is None and self._by_value(func, args):
            self.varying = f"{func.overloadpacket} in {self.module or 'the network itself'}"
        if rule is None:
            return self._unknown(func, args, kwargs)
        out = func(*args, **kwargs)
        result = self._origin(func, args, rule(Call(self, func, args, kwargs, out)))
        if isinstance(result, Info):
            self.set(out, result)
            if func._schema.is_mutable and not result.leaf:
                self._filled.add(out.untyped_storage()._cdata)
        elif result is not None:
            for tensor, info in zip(out, result, strict=False):
                self.set(tensor, info)
        return out

    def _by_value(self, func: Any, args: Any) -> bool:
        """Whether the shape of the result depends on the network's inputs, not on constants alone."""
        deciding = tensors_in(args)
        if func.overloadpacket is torch.ops.aten.index:  # numbers pick as many as there are of them, masks do not
            deciding = [t for t in deciding[1:] if t.dtype in (torch.bool, torch.uint8)]
        return any(not self.info(t).leaf for t in deciding)

    def _origin(self, func: Any, args: Any, result: Any) -> Any:
        """`result` with the weights that it is linear in."""
        name = func.overloadpacket.__name__
        if isinstance(result, Info):
            found = _made(name, args, self._sources(name, args), result)
            if found is not None and self.given.scale:
                found = replace(found, scaled=found.scaled + 1)
            return result if result.made_by is found is None else replace(result, made_by=found)
        if result is None:
            return result
        if name == "native_layer_norm":
            return [replace(result[0], made_by=_made(name, args, self._sources(name, args), result[0])), *result[1:]]
        made_by = self.info(args[0]).made_by if name in _MOVES else None
        return result if made_by is None else [replace(r, made_by=_part(made_by, r)) for r in result]

    def _sources(self, name: str, args: Any) -> list[Info]:
        values = args[0] if name in ("cat", "stack") else args[:4]
        return [self.info(a) for a in values]

    def _rule(self, func: Any) -> Rule | None:
        rule = self._rules.get(str(func)) or self._rules.get(str(func.overloadpacket))
        if rule is not None or torch.Tag.pointwise in func.tags:
            return rule or pointwise
        # in-place variants do not always carry the tag of the operation that they stand for
        name = func.overloadpacket.__name__
        plain = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") and func.namespace == "aten" else None
        if plain is None:
            return None
        if f"aten.{name[:-1]}" in self._rules:
            return self._rules[f"aten.{name[:-1]}"] if self._rules[f"aten.{name[:-1]}"] is pointwise else None
        return pointwise if any(torch.Tag.pointwise in getattr(plain, o).tags for o in plain.overloads()) else None

    def _unknown(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Take an operation without a rule apart; freeze what goes into it where that cannot be done."""
        operands = [(t, self.info(t)) for t in tensors_in((args, kwargs))]
        if any(info.layers for _, info in operands) and not func._schema.is_mutable:
            with self:
                out = func.decompose(*args, **kwargs)
                if out is not NotImplemented:
                    return out
                if (parts := decomposition_table.get(func)) is not None:
                    return parts(*args, **kwargs)
        out = func(*args, **kwargs)
        call = Call(self, func, args, kwargs, out)
        for _, info in operands:
            call.drop(info.layers, "no rule for this operation")
        leaf = all(info.leaf for _, info in operands)
        for tensor in tensors_in(out):
            self.set(tensor, Info((), leaf=leaf, why=call.reason("no rule for this operation")))
        return out


_SUMS = frozenset(("add", "add_", "sub", "sub_", "cat", "stack"))
_MOVES = frozenset(
    (
        "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "select", "slice", "split",
        "split_with_sizes", "unbind", "clone", "contiguous", "expand", "squeeze", "unsqueeze", "alias", "detach", "_to_copy",
        "flatten", "unflatten", "roll", "repeat", "constant_pad_nd", "neg",
        # of positive degree one: a factor above zero passes through
        "amax", "amin", "max", "min", "relu", "relu_", "leaky_relu", "abs", "sum", "mean", "max_pool2d_with_indices",
        "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "upsample_bilinear2d",
        "upsample_nearest2d", "upsample_bicubic2d",
    )
)  # fmt: skip


def _made(name: str, args: Any, sources: list[Info], result: Info) -> Made | None:
    """The weights that `result` is linear in: of one layer, or what is left of it after moves, sums and constant factors."""
    made = [s.made_by for s in sources if s.made_by is not None]
    first = sources[0].made_by if sources else None
    if name in ("addmm", "convolution"):
        bias = sources[0] if name == "addmm" else sources[2] if isinstance(args[2], Tensor) else None
        return _by_layer(result, 1, bias)
    if name in ("mm", "bmm"):
        weights = _by_layer(result, args[0].dim() - 1) if any(s.leaf for s in sources[:2]) else None
        if weights is not None:
            return replace(weights, also=np.concatenate([m.weights for m in made])) if made else weights
        if not made:
            return None
        return made[0].times(made[1]) if len(made) > 1 else made[0]
    if name == "native_layer_norm":
        return Made.of_line(*sources[2:4]) if len(args) > 3 else None
    if name in _SUMS:
        if made and len(made) == len(sources):
            return Made.union(made)
        constant = next((s for s in sources if s.leaf), None)
        given = next((s for s in sources if s.made_by is not None), Info())
        return made[0].with_bias(constant, given) if len(made) == 1 and constant is not None else None
    if name in ("mul", "mul_", "div", "div_"):
        factor = sources[1] if len(sources) > 1 and isinstance(args[1], Tensor) else None
        if factor is None or (factor.leaf and first is not None):
            return first
        if name in ("mul", "mul_"):
            return factor.made_by if sources[0].leaf else Made.of_line(factor, None)
        return None
    return _part(first, result) if name in _MOVES and first is not None else None


def _part(made_by: Made, result: Info) -> Made:
    """What of it a result with fewer labels stands for; all of it where the labels are gone (contracted) or others'."""
    part = made_by.at(np.concatenate([y.labels.ravel() for y in result.layers] or [np.empty(0, dtype=np.int64)]))
    return part if part.weights.size else made_by


def _by_layer(result: Info, axis: int, bias: Info | None = None) -> Made | None:
    """A layer whose outputs lie along `axis`."""
    found = [y for y in result.layers if y.axis == axis]
    return Made.by(found[0].labels, bias) if len(found) == 1 else None


def first_batch(values: Any) -> int:
    """Dim 0 of the first input tensor; the length of a list of 3-dim images."""
    for value in values[0]:
        if isinstance(value, (list, tuple)) and value and all(isinstance(t, Tensor) and t.dim() == 3 for t in value):
            return len(value)
        break
    found: Sequence[Tensor] = tensors_in(values)
    return max(int(found[0].shape[0]), 1) if found and found[0].dim() else 1
