from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import prunecore
from prunecore.errors import ConfigError, ModelError
from prunecore.export import export_onnx
from prunecore.types import ExampleInputs
from tests.export.export_nets import (
    IMAGE,
    ROWS,
    SEVERAL,
    Attending,
    Branching,
    Caching,
    Conv,
    Counting,
    Dataclassed,
    Deciding,
    Folding,
    Mapped,
    Several,
)

pytestmark = pytest.mark.slow


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def names(values: Any) -> list[tuple[str, list[Any]]]:
    return [(value.name, value.shape) for value in values]


def test_a_cut_network_gives_its_outputs_at_any_batch(tmp_path: Path) -> None:
    pruned = prunecore.prune(Conv(), IMAGE, reduce=0.4).model
    found = export_onnx(pruned, IMAGE, tmp_path / "model.onnx")
    assert found.batch_sizes == (1, 2, 3)
    assert found.max_abs_error <= 1e-5
    assert found.notes == ()
    session = session_of(tmp_path / "model.onnx")
    assert names(session.get_inputs()) == [("image", ["batch", 3, 8, 8])]
    assert names(session.get_outputs()) == [("output", ["batch", 5])]
    for batch in (1, 4):
        image = torch.randn(batch, 3, 8, 8)
        (got,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(got, pruned.eval()(image).detach().numpy(), atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(tmp_path / "model.onnx")


def test_the_callers_model_stays_and_the_file_names_no_place_on_this_machine(tmp_path: Path) -> None:
    model = Conv().train()
    calls: list[int] = []
    model.head.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, IMAGE, tmp_path / "model.onnx")
    assert model.training
    assert len(model.head._forward_hooks) == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "model.onnx").read_bytes()


def test_outputs_in_a_dict_are_named_by_its_keys(tmp_path: Path) -> None:
    export_onnx(Mapped(), IMAGE, tmp_path / "model.onnx")
    session = session_of(tmp_path / "model.onnx")
    assert names(session.get_outputs()) == [("out", ["batch", 5]), ("aux", ["batch", 3])]


def test_outputs_in_a_dataclass_are_named_by_its_fields(tmp_path: Path) -> None:
    model = Dataclassed().eval()
    export_onnx(model, IMAGE, tmp_path / "model.onnx")
    session = session_of(tmp_path / "model.onnx")
    assert names(session.get_outputs()) == [("logits", ["batch", 5])]
    (got,) = session.run(None, {"image": IMAGE.args[0].numpy()})
    np.testing.assert_allclose(got, model(*IMAGE.args).logits.detach().numpy(), atol=1e-5)


def test_several_inputs_of_other_types_and_an_output_that_is_an_input(tmp_path: Path) -> None:
    model = Several().eval()
    found = export_onnx(model, SEVERAL, tmp_path / "model.onnx")
    assert found.batch_sizes == (1, 2, 3)
    session = session_of(tmp_path / "model.onnx")
    shapes = dict(names(session.get_inputs()))
    assert list(shapes.values()) == [["batch", 6], ["batch", 5], ["batch", 4]]
    rows, more, mask = torch.randn(2, 6), torch.tensor([[4, 3, 2, 1, 0], [1, 1, 1, 1, 1]]), torch.rand(2, 4) > 0.5
    got = session.run(None, dict(zip(shapes, (rows.numpy(), more.numpy(), mask.numpy()), strict=True)))
    np.testing.assert_allclose(got[0], (model.line(rows) * 3 * mask).detach().numpy(), atol=1e-5)
    assert got[1].tolist() == [10, 5]
    assert got[2].tolist() == more.tolist()


def test_a_fixed_batch_is_that_of_the_example(tmp_path: Path) -> None:
    inputs = ExampleInputs((torch.randn(2, 6),))
    found = export_onnx(Attending(), inputs, tmp_path / "model.onnx", dynamic_batch=False)
    assert found.batch_sizes == (2,)
    assert found.notes == ("the batch is fixed at 2: as asked",)
    assert names(session_of(tmp_path / "model.onnx").get_inputs()) == [("rows", [2, 6])]


@pytest.mark.parametrize(
    ("model", "batch", "why"),
    [
        (Folding(2), 2, "the network fails on a batch of 1: RuntimeError: shape '[-1, 2, 6]' is invalid"),
        (Branching(), 1, "a batch of 1 is not computed as the network does: max abs difference"),
    ],
    ids=["folding", "branching"],
)
def test_where_the_code_fixes_the_batch_so_does_the_file_and_says_why(
    tmp_path: Path, model: nn.Module, batch: int, why: str
) -> None:
    inputs = ExampleInputs((torch.randn(batch, 6),))
    found = export_onnx(model, inputs, tmp_path / "model.onnx")
    assert found.batch_sizes == (batch,)
    assert found.notes[0].startswith(f"the batch is fixed at {batch}: {why}")
    (got,) = session_of(tmp_path / "model.onnx").run(None, {"rows": inputs.args[0].numpy()})
    np.testing.assert_allclose(got, model(*inputs.args).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("model", [Counting(), Caching(), Attending()], ids=lambda m: type(m).__name__.lower())
def test_code_that_only_looks_fixed_keeps_a_free_batch(tmp_path: Path, model: nn.Module) -> None:
    found = export_onnx(model, ROWS, tmp_path / "model.onnx")
    assert found.notes == ()
    assert names(session_of(tmp_path / "model.onnx").get_inputs()) == [("rows", ["batch", 6])]


def test_the_opset_is_the_one_asked_for_or_an_error(tmp_path: Path) -> None:
    for opset in (18, 17):
        export_onnx(Conv(), IMAGE, tmp_path / "model.onnx", opset=opset)
        assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == opset
        assert names(session_of(tmp_path / "model.onnx").get_inputs()) == [("image", ["batch", 3, 8, 8])]
    with pytest.raises(
        ConfigError, match="opset 5: torch writes this network in opset 18, which cannot be converted: "
    ):
        export_onnx(Conv(), IMAGE, tmp_path / "other.onnx", opset=5)
    assert not (tmp_path / "other.onnx").exists()


def test_above_the_tolerance_nothing_is_written(tmp_path: Path) -> None:
    model = Conv()
    with torch.no_grad():
        model.head.weight *= 1e6
    with pytest.raises(ModelError, match=r"^max abs difference .* on a batch of 2 \(outputs up to .*tolerance 1e-12"):
        export_onnx(model, IMAGE, tmp_path / "model.onnx", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(ModelError, match=r"torch\.export cannot follow Deciding: .*data-dependent") as caught:
        export_onnx(Deciding(), ROWS, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert len(recwarn) == 0


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"ONNX files need onnxruntime: pip install 'prunecore\[onnx\]'"):
        export_onnx(Conv(), IMAGE, tmp_path / "model.onnx")
