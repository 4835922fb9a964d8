from __future__ import annotations

from pathlib import Path

import pytest
import torch

import prunecore
from prunecore.errors import ModelError
from prunecore.export import export_pt2
from prunecore.types import ExampleInputs
from tests.export.export_nets import (
    IMAGE,
    ROWS,
    SEVERAL,
    Branching,
    Chunking,
    Conv,
    Counting,
    Dataclassed,
    Deciding,
    Mapped,
    Several,
)


def test_a_cut_network_gives_its_outputs_at_any_batch_without_its_code(tmp_path: Path) -> None:
    pruned = prunecore.prune(Conv(), IMAGE, reduce=0.4).model.eval()
    found = export_pt2(pruned, IMAGE, tmp_path / "model.pt2")
    assert (found.batch_sizes, found.notes) == ((1, 2, 3), ())
    assert found.max_abs_error <= 1e-6
    module = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 5):
        image = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(module(image), pruned(image))
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "model.pt2").read_bytes()


def test_dicts_stay_dicts_and_dataclasses_become_dicts(tmp_path: Path) -> None:
    for model, expected in ((Mapped(), {"out", "aux"}), (Dataclassed(), {"logits", "labels", "hidden"})):
        export_pt2(model, IMAGE, tmp_path / "model.pt2")
        outputs = torch.export.load(tmp_path / "model.pt2").module()(*IMAGE.args)
        assert set(outputs) == expected
        assert outputs.get("hidden") is None
    torch.testing.assert_close(outputs["logits"], model.eval()(*IMAGE.args).logits)


def test_several_inputs_by_position_and_keyword(tmp_path: Path) -> None:
    model = Several().eval()
    export_pt2(model, SEVERAL, tmp_path / "model.pt2")
    module = torch.export.load(tmp_path / "model.pt2").module()
    first, (total, same) = module(*SEVERAL.args, **SEVERAL.kwargs)
    torch.testing.assert_close(first, model(*SEVERAL.args, **SEVERAL.kwargs)[0])
    assert total.tolist() == [10]
    assert same.tolist() == [[0, 1, 2, 3, 4]]


def test_a_batch_that_is_an_int_stays_free(tmp_path: Path) -> None:
    assert export_pt2(Counting(), ROWS, tmp_path / "model.pt2").batch_sizes == (1, 2, 3)


def test_a_fixed_batch_is_refused_by_the_file_at_other_sizes(tmp_path: Path) -> None:
    inputs = ExampleInputs((torch.randn(2, 6),))
    for found in (
        export_pt2(Counting(), inputs, tmp_path / "model.pt2", dynamic_batch=False),
        export_pt2(Branching(), inputs, tmp_path / "model.pt2"),
    ):
        assert found.batch_sizes == (2,)
        module = torch.export.load(found.path).module()
        with pytest.raises(Exception, match="rows"):
            module(torch.randn(3, 6))


def test_what_torch_cannot_prove_for_every_batch_is_fixed_and_says_what_it_asks_for(tmp_path: Path) -> None:
    inputs = ExampleInputs((torch.randn(1, 6), torch.randn(1, 6)))
    found = export_pt2(Chunking(), inputs, tmp_path / "model.pt2")
    assert found.batch_sizes == (1,)
    (note,) = found.notes
    assert note.startswith(
        "the batch is fixed at 1: the code of Chunking is not known to do the same for every batch; "
    )
    assert note.endswith("it asks for (((-1) + 3*batch) // batch) == 2")


def test_what_cannot_be_traced_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch\.export cannot follow Deciding"):
        export_pt2(Deciding(), ROWS, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
