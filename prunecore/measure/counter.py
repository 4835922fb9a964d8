"""An independent count of what a network computes: it is run once, and every ATen operation passes by.

The convention (one MAC = one multiplication and one addition; batch 1):

- convolution: output positions x elements of the weight; transposed: input positions x elements of the weight;
- linear layers and matrix products: rows x inner width x columns;
- attention: q k^T and the product with v, each in full (causal masks save nothing);
- recurrent layers: for each step the elements of the input and the recurrent weights;
- biases, norms, activations, pooling, sums and embeddings count nothing.

A total that one can check by hand: `Conv2d(3, 8, 3, padding=1)` on 16x16, global pooling, `Linear(8, 10)`:
256 positions x (8 x 3 x 9) + 8 x 10 = 55,296 + 80 = 55,376 MACs; (216 + 8) + (80 + 10) = 314 parameters.

Where torch's `FlopCounterMode` counts at all this is half of what it says; it has no entry for attention on CPU
(`_scaled_dot_product_flash_attention_for_cpu`), fused recurrent layers and matrix-vector products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from prunecore.types import Cost, ExampleInputs


@dataclass(frozen=True)
class TracedOp:
    """One operation of one forward.

    module: path of the innermost module that ran it ("" for the network itself). macs: for batch 1. weight: the
    parameter that it multiplies with, or None (attention products, weights computed in the forward). weight_shape: the
    shape of that parameter; of the operand where a convolution's weight is no parameter; else ().
    """

    module: str
    op: str
    macs: int
    weight: str | None
    weight_shape: tuple[int, ...]


@dataclass(frozen=True)
class _Work:
    """MACs of a call for the whole batch, and the operands that may be parameters."""

    macs: int
    weights: tuple[Tensor, ...]
    is_convolution: bool = False


def count(model: nn.Module, inputs: ExampleInputs) -> Cost:
    """MACs for batch 1 and the number of parameters (shared ones once). The model is left as it was."""
    macs = sum(op.macs for op in trace_ops(model, inputs))
    return Cost(macs, sum(p.numel() for p in model.parameters()))


def trace_ops(model: nn.Module, inputs: ExampleInputs) -> tuple[TracedOp, ...]:
    """Every operation with MACs of one forward in eval mode, in the order of execution. The model is left as it was.

    The batch size is dim 0 of the first input tensor (the length of a list of 3-dim images); work that does not divide
    by it (computed once, whatever the batch) counts as it is.
    """
    args, kwargs = tree_map_only(Tensor, torch.clone, (tuple(inputs.args), dict(inputs.kwargs)))
    with quiet(model), module_stack(model) as stack, _Counter(_Names(model), stack, _batch(inputs)) as counter:
        model(*args, **kwargs)
    return tuple(counter.ops)


def _batch(inputs: ExampleInputs) -> int:
    first = next(iter([*inputs.args, *inputs.kwargs.values()]), None)
    if isinstance(first, (list, tuple)) and first and all(isinstance(x, Tensor) and x.ndim == 3 for x in first):
        return len(first)
    tensors = [x for x in tree_leaves((inputs.args, dict(inputs.kwargs))) if isinstance(x, Tensor) and x.ndim]
    return int(tensors[0].shape[0]) if tensors else 1


# ---------------------------------------------------------------- the model is run, and left as it was


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Eval mode, no autograd, no fused attention layers; afterwards every flag is what it was.

    Flags are set one by one: `model.eval()` may be overridden and do more than that.
    """
    modules = list(model.modules())
    training = [m.training for m in modules]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        for module in modules:
            module.training = False
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for module, flag in zip(modules, training, strict=True):
            module.training = flag


@contextmanager
def module_stack(model: nn.Module) -> Iterator[list[str]]:
    """The paths of the modules whose forward is running, outermost first."""
    stack = [""]
    handles = []
    try:
        for name, module in model.named_modules():
            if module is model:
                continue
            handles.append(module.register_forward_pre_hook(lambda _m, _a, name=name: stack.append(name)))
            handles.append(module.register_forward_hook(lambda _m, _a, _o: _pop(stack), always_call=True))
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def _pop(stack: list[str]) -> None:
    stack.pop()


class _Names:
    """Parameter names by storage, so that views (a transposed weight, the query rows of a fused one) are found too."""

    def __init__(self, model: nn.Module) -> None:
        self._found: dict[int, list[tuple[int, int, str, tuple[int, ...]]]] = {}
        for name, p in model.named_parameters():
            start = int(p.storage_offset())
            self._found.setdefault(_storage(p), []).append((start, start + p.numel(), name, tuple(p.shape)))

    def find(self, tensor: Tensor) -> tuple[str, tuple[int, ...]] | None:
        offset = int(tensor.storage_offset())
        for start, end, name, shape in self._found.get(_storage(tensor), ()):
            if start <= offset < end:
                return name, shape
        return None


def _storage(tensor: Tensor) -> int:
    # the storage's identity, not its address: meta tensors have none
    return int(tensor.untyped_storage()._cdata)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, names: _Names, stack: list[str], batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[TracedOp] = []
        self._names, self._stack, self._batch = names, stack, batch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the default imports the compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        rule = RULES.get(str(func.overloadpacket).removeprefix("aten."))
        if rule is not None:
            self._note(func, rule(args, kwargs or {}, out))
        return out

    def _note(self, func: Any, work: _Work) -> None:
        found = next((f for f in map(self._names.find, work.weights) if f is not None), None)
        name, shape = found if found is not None else (None, ())
        if found is None and work.is_convolution:
            shape = tuple(work.weights[0].shape)
        macs = work.macs // self._batch if work.macs % self._batch == 0 else work.macs
        self.ops.append(TracedOp(self._stack[-1], str(func.overloadpacket), macs, name, shape))


# ---------------------------------------------------------------- rules: MACs are pure functions of shapes


def _convolution(args: Any, kwargs: Any, out: Tensor, *, transposed: bool) -> _Work:
    x, weight = args[0], args[1]
    positions = (x if transposed else out).shape[-(weight.ndim - 2) :]
    return _Work(out.shape[0] * math.prod(positions) * weight.numel(), (weight,), is_convolution=True)


def _aten_convolution(args: Any, kwargs: Any, out: Tensor) -> _Work:
    transposed = args[6] if len(args) > 6 else kwargs.get("transposed", False)
    return _convolution(args, kwargs, out, transposed=bool(transposed))


def _plain_convolution(args: Any, kwargs: Any, out: Tensor) -> _Work:
    return _convolution(args, kwargs, out, transposed=False)


def _transposed_convolution(args: Any, kwargs: Any, out: Tensor) -> _Work:
    return _convolution(args, kwargs, out, transposed=True)


def _product(args: Any, kwargs: Any, out: Tensor) -> _Work:
    """mm, bmm, mv, dot: each output element is a sum over the left operand's last dim."""
    left, right = args[0], args[1]
    return _Work(out.numel() * left.shape[-1], (right, left))


def _added_product(args: Any, kwargs: Any, out: Tensor) -> _Work:
    """addmm, baddbmm, addmv: the first operand is added only."""
    return _product(args[1:], kwargs, out)


def _summed_product(args: Any, kwargs: Any, out: Tensor) -> _Work:
    """addbmm sums over the batch as well."""
    left, right = args[1], args[2]
    return _Work(left.numel() * right.shape[-1], (right, left))


def _linear(args: Any, kwargs: Any, out: Tensor) -> _Work:
    return _Work(out.numel() * args[0].shape[-1], (args[1],))


def _attention(args: Any, kwargs: Any, out: Any) -> _Work:
    """q `(..., heads, n, d)`, k and v `(..., heads or fewer, m, d)`: n x m products of length d, then of v's width."""
    q, k, v = args[:3]
    return _Work(math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1]), ())


def _attention_by_sequence(args: Any, kwargs: Any, out: Any) -> _Work:
    """As `_attention`, with heads behind positions: q `(..., n, heads, d)`, k and v `(..., m, heads, d)`."""
    q, k, v = args[:3]
    return _Work(math.prod(q.shape[:-1]) * k.shape[-3] * (q.shape[-1] + v.shape[-1]), ())


def _onednn_rnn(args: Any, kwargs: Any, out: Any) -> _Work:
    """One layer in one direction: (input, weight of the input, weight of the state, ...)."""
    x, *weights = args[:3]
    return _Work(_steps(x) * sum(w.numel() for w in weights), tuple(weights))


def _cudnn_rnn(args: Any, kwargs: Any, out: Any) -> _Work:
    """All layers and directions: (input, list of weights and biases, ...)."""
    weights = tuple(w for w in args[1] if w.ndim == 2)
    return _Work(_steps(args[0]) * sum(w.numel() for w in weights), weights)


def _steps(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


Rule = Callable[[Any, Any, Any], _Work]
RULES: Mapping[str, Rule] = {
    "convolution": _aten_convolution,
    "_convolution": _aten_convolution,
    "convolution_overrideable": _aten_convolution,
    "cudnn_convolution": _plain_convolution,
    "mkldnn_convolution": _plain_convolution,
    "cudnn_convolution_transpose": _transposed_convolution,
    "mm": _product,
    "bmm": _product,
    "mv": _product,
    "dot": _product,
    "addmm": _added_product,
    "_addmm_activation": _added_product,
    "addmv": _added_product,
    "baddbmm": _added_product,
    "addbmm": _summed_product,
    "linear": _linear,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_flash_attention_forward": _attention_by_sequence,
    "_efficient_attention_forward": _attention_by_sequence,
    "mkldnn_rnn_layer": _onednn_rnn,
    "_cudnn_rnn": _cudnn_rnn,
}
