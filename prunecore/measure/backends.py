"""What runs a network when its latency is measured: torch as it is, torch.compile, or ONNX Runtime."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from prunecore.errors import ConfigError, ModelError, nearest
from prunecore.measure.latency import pinned_threads
from prunecore.surgery import copy_model
from prunecore.types import ExampleInputs

BACKENDS = ("eager", "compile", "onnx")

Call = Callable[..., Any]


def check_backend(name: str) -> str:
    """`name` where it is that of a backend, else ConfigError."""
    if name not in BACKENDS:
        raise ConfigError(f"no such backend {name!r}{nearest(name, BACKENDS)}; there are: {', '.join(BACKENDS)}")
    return name


def prepare(
    backend: str, models: Mapping[str, nn.Module], inputs: ExampleInputs, *, device: torch.device, threads: int | None
) -> dict[str, Call]:
    """Copies of `models` in eval mode, ready to be called with `inputs` (of one batch size) on `device`.

    `compile` drops what torch.compile has compiled in this process before: it keeps only so many versions of one class.
    Raises ConfigError where the backend is unknown or its library is missing, ModelError where it cannot take a network.
    """
    copies = {name: copy_model(model).eval().to(device) for name, model in models.items()}
    if check_backend(backend) == "eager":
        return {name: model.__call__ for name, model in copies.items()}
    if backend == "compile":
        torch.compiler.reset()
        with pinned_threads(threads):  # the number of threads is compiled in
            return {name: _compiled(model, inputs, device) for name, model in copies.items()}
    if device.type != "cpu":
        raise ConfigError(f"onnx: got the device {device}, expected cpu; ONNX Runtime is measured on the CPU only")
    return {name: _session(model, inputs, threads) for name, model in copies.items()}


def _compiled(model: nn.Module, inputs: ExampleInputs, device: torch.device) -> Call:
    """`model` behind torch.compile, for these shapes; called once, as it compiles then."""
    made = torch.compile(model, dynamic=False)
    args, kwargs = tree_map_only(Tensor, lambda t: t.to(device), (tuple(inputs.args), dict(inputs.kwargs)))
    try:
        with torch.inference_mode():
            made(*args, **kwargs)
    except Exception as error:  # of the compiler, of the C++ compiler behind it, or of the network
        raise ModelError(f"torch.compile fails: {_first_line(error)}") from error
    return lambda *args, **kwargs: made(*args, **kwargs)


def _session(model: nn.Module, inputs: ExampleInputs, threads: int | None) -> Call:
    """`model` in ONNX Runtime on the CPU, with the batch of `inputs`: takes torch's tensors, gives numpy arrays."""
    from prunecore.export import export_onnx

    with tempfile.TemporaryDirectory() as directory:
        # how its rounding differs is no matter here: networks whose weights are random may have huge outputs
        made = export_onnx(model, inputs, Path(directory) / "model.onnx", dynamic_batch=False, tolerance=math.inf)
        import onnxruntime  # it is there, else the export has said what to install

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would run on into others' turns
        session = onnxruntime.InferenceSession(made.path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        return session.run(None, {name: x.numpy() for name, x in zip(names, tensors, strict=True)})

    return call


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
