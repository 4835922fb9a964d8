"""`.pt2`: a program of `torch.export`, which runs without the network's code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from prunecore.errors import ModelError
from prunecore.export.checking import TOLERANCE, Exported, reason, runner, subject_of
from prunecore.export.tracing import Artifact, make
from prunecore.files import write_whole
from prunecore.types import ExampleInputs

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def export_pt2(
    model: nn.Module,
    inputs: ExampleInputs,
    path: Path,
    *,
    dynamic_batch: bool = True,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write `model` in eval mode for `torch.export.load(path).module()`; the model is left as it was.

    The device of the network is part of the program. Otherwise as `export_onnx`. Raises ModelError where the network cannot
    be traced or what was saved gives other outputs.
    """
    made = make(subject_of(model, inputs), _converted, dynamic_batch=dynamic_batch, tolerance=tolerance)
    write_whole(path, lambda file: file.write(made.data))
    return Exported(path, made.agreement.error, tuple(sorted(made.sizes)), made.notes)


def _converted(program: ExportedProgram) -> Artifact:
    buffer = io.BytesIO()
    try:
        torch.export.save(program, buffer)
        loaded = torch.export.load(io.BytesIO(buffer.getvalue()))
    except Exception as error:
        raise ModelError(f"torch.export cannot save it: {reason(error)}") from error
    return Artifact(buffer.getvalue(), runner(loaded.module()))
