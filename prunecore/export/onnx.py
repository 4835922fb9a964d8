"""ONNX, by torch's exporter, checked by ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

from prunecore.errors import ConfigError, ModelError
from prunecore.export.checking import TOLERANCE, Exported, Runner, Subject, reason, subject_of
from prunecore.export.tracing import BATCH, Artifact, make, plain_outputs, quiet
from prunecore.files import write_whole
from prunecore.types import ExampleInputs

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_CPU = torch.device("cpu")
_ROOM = 2**31 - 2**24  # of a protobuf message, less what the graph itself needs


def export_onnx(
    model: nn.Module,
    inputs: ExampleInputs,
    path: Path,
    *,
    opset: int | None = None,
    dynamic_batch: bool = True,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write `model` in eval mode as one ONNX file; the model is left as it was.

    opset: of the operators; None: the one that torch recommends. dynamic_batch: dim 0 of the inputs is free (named
    `batch`), unless the network's own code fixes it, which a note then says. The file is run by ONNX Runtime on the CPU, and
    the network beside it, on random inputs of the batch sizes 1, 2 and 3 (the example's own where it is fixed). tolerance:
    largest absolute difference allowed. Inputs are named after the parameters of `forward`, outputs after the keys of a
    dict. Raises ConfigError (the extra `onnx` is missing, no such opset), ModelError (not traced, no such operator, other outputs).
    """
    _libraries()
    subject = subject_of(model, inputs)
    size = sum(t.numel() * t.element_size() for t in (*subject.model.parameters(), *subject.model.buffers()))
    if size > _ROOM:
        raise ModelError(
            f"{size / 2**30:.1f} GiB of weights: an ONNX file holds at most 2 GiB; write a .pt2 file instead"
        )
    names = _output_names(subject)
    made = make(
        subject, partial(_converted, opset=opset, names=names), dynamic_batch=dynamic_batch, tolerance=tolerance
    )
    write_whole(path, lambda file: file.write(made.data))
    return Exported(path, made.agreement.error, tuple(sorted(made.sizes)), made.notes)


def _libraries() -> Any:
    """ONNX Runtime; ConfigError where it, or what torch's exporter needs, is missing."""
    try:
        with quiet():
            import onnx  # noqa: F401
            import onnxruntime
            import onnxscript  # noqa: F401
    except ImportError as missing:
        raise ConfigError(f"ONNX files need {missing.name}: pip install 'prunecore[onnx]'") from missing
    return onnxruntime


def _converted(program: ExportedProgram, *, opset: int | None, names: Sequence[str]) -> Artifact:
    try:
        found = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=opset)
    except Exception as error:
        raise ModelError(f"torch.onnx cannot write it: {reason(error)}") from error
    if found is None:
        raise ModelError("torch.onnx gave no program")
    _name_outputs(found.model.graph, names)
    message = _in_opset(found.model_proto, opset)
    _name_batch(message, program)
    data = message.SerializeToString()
    return Artifact(data, _session(data), _CPU)


def _in_opset(message: Any, opset: int | None) -> Any:
    """`message` in the opset asked for; torch itself does not go below 18. ConfigError where an operator has no form in it."""
    from onnx import defs, version_converter

    got = {entry.domain: entry.version for entry in message.opset_import}.get("")
    if opset is None or got == opset:
        return message
    try:
        converted = version_converter.convert_version(message, opset)
    except Exception as error:
        text = str(error).rpartition(": ")[2].strip() or type(error).__name__
        raise ConfigError(
            f"opset {opset}: torch writes this network in opset {got}, which cannot be converted: {text}; give {got} or none"
        ) from error
    for node in converted.graph.node:  # the converter leaves attributes that the operators did not have yet
        known = defs.get_schema(node.op_type, opset, node.domain).attributes
        for attribute in [a for a in node.attribute if a.name not in known]:
            node.attribute.remove(attribute)
    return converted


def _session(data: bytes) -> Runner:
    """Runs the file; its inputs are the tensors among the inputs, in order."""
    onnxruntime = _libraries()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load what torch wrote: {reason(error)}") from error
    names = [given.name for given in session.get_inputs()]

    def run(inputs: ExampleInputs) -> list[Tensor]:
        tensors = [x for x in tree_leaves((inputs.args, inputs.kwargs)) if isinstance(x, Tensor)]
        feed = {name: x.numpy() for name, x in zip(names, tensors, strict=True)}
        return [torch.from_numpy(x) for x in session.run(None, feed)]

    return run


# ---------------------------------------------------------------- names that a reader of the file understands


def _output_names(subject: Subject) -> list[str]:
    """`output`, `output_0`, or the keys of dicts, joined by underscores."""
    drawn = subject.batches.draw(subject.batches.size, 0, subject.device)
    with torch.no_grad():
        found, _ = tree_flatten_with_path(plain_outputs(subject.model(*drawn.args, **drawn.kwargs)))
    keys = [[str(getattr(k, "key", getattr(k, "idx", k))) for k in path] for path, leaf in found if leaf is not None]
    return ["_".join(k if k and not k[0].isdecimal() else ["output", *k]) for k in keys]


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Rename the outputs, except where a name is taken or the output is a constant or an input."""
    outputs = list(graph.outputs)
    if len(outputs) != len(names) or len(set(names)) != len(names):
        return
    held = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    taken = held | {value.name for node in graph.all_nodes() for value in node.outputs}
    for value, name in zip(outputs, names, strict=True):
        if value.name not in held and name not in taken:
            value.name = name


def _name_batch(message: Any, program: ExportedProgram) -> None:
    """`batch` for torch's own symbol (`s77`) in the shapes of the file."""
    symbols = {str(s) for s in program.range_constraints}
    given = {d.dim_param for value in message.graph.input for d in value.type.tensor_type.shape.dim[:1]} & symbols
    if not given:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(given)))})\b")
    for value in (*message.graph.input, *message.graph.output, *message.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(BATCH, dim.dim_param)
