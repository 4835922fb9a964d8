from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from prunecore.errors import ConfigError, ModelError
from prunecore.measure import measure_latency
from prunecore.measure.backends import check_backend, prepare
from prunecore.types import ExampleInputs

CPU = torch.device("cpu")


class Sum(nn.Module):
    """Two inputs, the second by keyword, and a setting."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.norm = nn.Linear(4, 3), nn.Linear(5, 3), nn.BatchNorm1d(3)

    def forward(self, left: torch.Tensor, *, right: torch.Tensor, scale: int) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.left(left) - scale * self.right(right))
        return out


def inputs(batch: int = 2) -> ExampleInputs:
    return ExampleInputs((torch.randn(batch, 4),), {"right": torch.randn(batch, 5), "scale": 3})


@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("onnx", marks=pytest.mark.slow), pytest.param("compile", marks=pytest.mark.slow)]
)
def test_every_backend_computes_what_the_network_computes_in_eval_mode(backend: str) -> None:
    models, given = {"a": Sum().train(), "b": Sum().train()}, inputs()
    calls = prepare(backend, models, given, device=CPU, threads=1)
    for name, model in models.items():
        assert model.training
        with torch.inference_mode():
            found = calls[name](*given.args, **given.kwargs)
        expected = model.eval()(*given.args, **given.kwargs)
        values = torch.from_numpy(found[0]) if backend == "onnx" else found
        torch.testing.assert_close(values, expected.detach())
    (latency,) = measure_latency(calls, given, batch_sizes=(2,), threads=1, seconds=0.02)
    assert latency.timing("a").median > 0


def test_what_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("\nCppCompileError: g++: not found\n\nlong log")

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: broken)
    with pytest.raises(ModelError) as error:
        prepare("compile", {"a": Sum()}, inputs(), device=CPU, threads=1)
    assert str(error.value) == "torch.compile fails: RuntimeError: CppCompileError: g++: not found"


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'prunecore\[onnx\]'"):
        prepare("onnx", {"a": Sum()}, inputs(), device=CPU, threads=1)


def test_onnx_is_measured_on_the_cpu_only() -> None:
    with pytest.raises(ConfigError, match="got the device meta, expected cpu"):
        prepare("onnx", {"a": Sum()}, inputs(), device=torch.device("meta"), threads=1)


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no such backend 'eeger', did you mean 'eager'"):
        check_backend("eeger")
