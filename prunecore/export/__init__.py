"""A network in a file that others read: written only after it was read back and compared with the network itself."""

from __future__ import annotations

from prunecore.export.checking import TOLERANCE, Exported
from prunecore.export.interface import export_interface
from prunecore.export.onnx import export_onnx
from prunecore.export.program import export_pt2
from prunecore.export.weights import export_safetensors
from prunecore.export.whole import export_pth

__all__ = [
    "TOLERANCE",
    "Exported",
    "export_interface",
    "export_onnx",
    "export_pt2",
    "export_pth",
    "export_safetensors",
]
