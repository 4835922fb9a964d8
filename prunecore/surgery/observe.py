"""Running a network in float64 while noting what leaves each of its modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from prunecore.errors import OutOfMemory
from prunecore.types import ExampleInputs

LOW = (torch.float32, torch.float16, torch.bfloat16)


class Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a float64 network in float64 where its code asks for less (`.float()`, `dtype=torch.float32`)."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the default imports the compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in LOW:
            kwargs["dtype"] = torch.float64
        if func._schema.is_mutable:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, _widen, (args, kwargs))
        return tree_map_only(Tensor, _widen, func(*args, **kwargs))


def _widen(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64) if tensor.dtype in LOW else tensor


@dataclass(frozen=True)
class Boundary:
    """One module output, summed up: shape, a fixed random projection and the sum of magnitudes."""

    module: str
    call: int
    shape: tuple[int, ...]
    projection: complex
    magnitude: float

    def differs(self, other: Boundary, tolerance: float) -> bool:
        return not abs(self.projection - other.projection) <= tolerance * max(self.magnitude, other.magnitude, 1e-300)


@dataclass
class Run:
    """What a forward gave: output tensors, boundaries in order, and the module and error where it stopped."""

    outputs: list[Tensor] = field(default_factory=list)
    boundaries: dict[tuple[str, int], Boundary] = field(default_factory=dict)
    failure: str | None = None
    error: Exception | None = None


def seed_all(model: nn.Module, seed: int) -> None:
    """Seed the CPU and the CUDA devices of `model`, and no other device (`torch.manual_seed` seeds every one)."""
    torch.default_generator.manual_seed(seed)
    for device in cuda_devices(model):
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """The CUDA devices that hold parameters or buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return list(dict.fromkeys(t.device for t in tensors if t.device.type == "cuda"))


Gather = Callable[[str, int, Tensor], Tensor]


def run(
    model: nn.Module,
    inputs: ExampleInputs,
    *,
    seed: int,
    modes: tuple[TorchDispatchMode, ...] = (),
    gather: Gather | None = None,
) -> Run:
    """One forward without gradients. An error of the network is noted, not raised; `gather` may reshape module outputs.

    A module's own parameters are float64 while it runs, whatever they are before and after.
    """
    result = Run()
    stack: list[str] = []
    seed_all(model, seed)
    with ExitStack() as context:
        context.enter_context(torch.no_grad())
        # what the network makes from numbers (the root of a width) is as exact as the rest
        context.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        context.enter_context(_watched(model, result, stack, gather))
        context.enter_context(_widened(model))
        # the plain formulas: fused attention hides its softmax and its projections
        context.enter_context(sdpa_kernel(SDPBackend.MATH))
        context.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        context.enter_context(Float64())  # type: ignore[no-untyped-call]
        for mode in modes:
            context.enter_context(mode)
        try:
            result.outputs = leaves(model(*inputs.args, **inputs.kwargs))
        except Exception as error:  # whatever the network's code raises is the finding
            if (shortage := OutOfMemory.of(error, "certify the cut")) is not None:
                raise shortage from error
            result.error = error
            where = stack[-1] if stack and stack[-1] else type(model).__name__
            result.failure = f"{where}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return result


@contextmanager
def _watched(model: nn.Module, result: Run, stack: list[str], gather: Gather | None) -> Iterator[None]:
    calls: dict[str, int] = {}
    handles = []
    projections = Projections()

    def enter(name: str) -> Callable[..., None]:
        return lambda module, args: stack.append(name)

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            stack.pop()
            with _disable_current_modes():  # what is measured here is no part of the network
                for tensor in leaves(output):
                    number = calls[name] = calls.get(name, -1) + 1
                    if tensor.is_floating_point() or tensor.is_complex():
                        seen = tensor if gather is None else gather(name, number, tensor)
                        result.boundaries[name, number] = projections.summary(name, number, seen)

        return hook

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _widened(model: nn.Module) -> Iterator[None]:
    """Each module's own parameters in float64 while it runs, and no longer."""
    narrow: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}

    def enter(module: nn.Module, _args: Any) -> None:
        own = [(p, p.data) for p in module._parameters.values() if p is not None and p.dtype in LOW]
        if own:
            narrow[module] = own
            with _disable_current_modes():
                for parameter, data in own:
                    parameter.data = data.double()

    def leave(module: nn.Module, _args: Any = None, _output: Any = None) -> None:
        for parameter, data in narrow.pop(module, ()):
            parameter.data = data

    handles = []
    for module in model.modules():
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(narrow):
            leave(module)


class Projections:
    """Sums tensors up: onto a fixed quasi-random direction, made once for the longest tensor seen."""

    def __init__(self) -> None:
        self._direction = torch.empty(0, dtype=torch.float64)

    def summary(self, module: str, call: int, tensor: Tensor) -> Boundary:
        flat = tensor.detach().reshape(-1)
        if flat.numel() > self._direction.numel() or flat.device != self._direction.device:
            self._direction = torch.arange(flat.numel(), device=flat.device, dtype=torch.float64).mul_(12.9898).cos_()
        projection = (flat * self._direction[: flat.numel()]).sum()
        return Boundary(module, call, tuple(tensor.shape), complex(projection.item()), float(flat.abs().sum()))


def leaves(value: Any) -> list[Tensor]:
    """Every tensor in `value`: lists, tuples, dicts, dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [leaf for f in dataclasses.fields(value) for leaf in leaves(getattr(value, f.name))]
    return []
