"""`prune export` on runs that are made by hand: what it writes, where, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml

import prunecore
from prunecore import api
from prunecore.cli.sources import choice_of
from prunecore.registry import Choice
from prunecore.run.directory import write_weights
from prunecore.surgery import save_recipe
from tests.cli.test_commands import prune

CODE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, width, 3)
        self.head = torch.nn.Linear(width, 10)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))

def build(width=8):
    return Net(width)
"""
DEMO = {"kind": "demo", "widths": [4, 6, 8]}


def run_of(directory: Path, model: dict[str, Any], *, size: float = 0.6, size_total: float = 0.6) -> Path:
    """The directory of a finished run that cut `model`, as `prune run` leaves it, as far as export reads it."""
    loaded = api.load_by(Choice("loader", model["kind"], {k: v for k, v in model.items() if k != "kind"}, "model"))
    pruned = prunecore.prune(loaded.model, loaded.inputs, reduce=0.4)
    directory.mkdir()
    settings = {"model": model, "data": "digits", "algorithm": "l2norm", "target": {"reduce": 0.4}}
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    recipe = prunecore.surgery.compose(loaded.recipe, pruned.recipe) if loaded.recipe.slices else pruned.recipe
    save_recipe(recipe, directory / "recipe.json")
    write_weights(directory / "model.safetensors", pruned.model)
    macs = {"before": pruned.before.macs, "after": pruned.after.macs}
    params = {"before": pruned.before.params, "after": pruned.after.params}
    facts = {"size": size, "size_total": size_total, "val_accuracy": 0.5, "time": "0h 0m 1s", "provenance": {}}
    (directory / "result.json").write_text(json.dumps({**facts, "macs": macs, "params": params}))
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return run_of(tmp_path_factory.mktemp("runs") / "run", DEMO)


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_onnx_of_a_run_is_one_line_and_one_file(run: Path) -> None:
    before = files(run)
    done = prune("export", "run", "--to", "onnx", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    place, _, facts = done.stdout.partition(": ")
    assert place == "run/model.onnx"
    assert facts.startswith("0.0")
    assert "MiB, max abs difference " in facts
    assert facts.endswith("batch sizes checked: 1, 2, 3\n")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert files(run) - before == {"model.onnx"}
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    image = torch.randn(4, 1, 16, 16)
    (got,) = session.run(None, {"x": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), prunecore.load(run)(image).detach(), atol=1e-4, rtol=0)
    again = prune("export", "run", "--to", "onnx", cwd=run.parent)
    assert again.returncode == 2
    assert again.stderr == "Error: run/model.onnx: exists already; give --force to overwrite it, or another --out\n"
    options = ("--force", "--static-batch", "--opset", "18")
    forced = prune("export", "run", "--to", "onnx", *options, cwd=run.parent)
    assert forced.stdout.endswith("batch sizes checked: 1\n  the batch is fixed at 1: as asked\n")


def test_pt2_and_pth_of_a_run(run: Path, tmp_path: Path) -> None:
    image = torch.randn(2, 1, 16, 16)
    expected = prunecore.load(run)(image)
    for kind in ("pt2", "pth"):
        done = prune("export", str(run), "--to", kind, "--out", f"new/net.{kind}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"new/net.{kind}: 0.0")
    program = torch.export.load(tmp_path / "new" / "net.pt2").module()
    torch.testing.assert_close(program(image), expected)
    assert torch.equal(torch.load(tmp_path / "new" / "net.pth", weights_only=False)(image), expected)


def test_safetensors_of_a_run_go_into_a_directory_with_the_recipe(run: Path) -> None:
    done = prune("export", "run", "--to", "safetensors", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run/export/model.safetensors: ")
    assert "load_pruned(fresh, 'recipe.json', 'model.safetensors')" in done.stdout
    assert files(run / "export") == {"model.safetensors", "recipe.json"}
    image = torch.randn(2, 1, 16, 16)
    fresh = api.original_of(api.load_original(run))
    assert torch.equal(prunecore.load(run / "export", fresh)(image), prunecore.load(run)(image))
    own = prune("export", "run", "--to", "safetensors", "--out", "run/model.safetensors", "--force", cwd=run.parent)
    assert own.returncode == 2
    assert "the run holds its weights and recipe there already" in own.stderr
    beside = prune("export", "run", "--to", "safetensors", "--out", "run/export/other.safetensors", cwd=run.parent)
    assert beside.stderr.startswith("Error: run/export/recipe.json: exists already")


def test_a_model_goes_by_its_own_name_in_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    torch.save(weights_of(tmp_path), tmp_path / "net-weights.pth")
    options = ("--weights", "net-weights.pth", "--set", "inputs=[1,1,16,16]")
    done = prune("export", "python:net.py:build", "--to", "pth", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("net.pth: ")
    assert done.stdout.endswith("  net.py has to be on the path of whoever loads it\n")
    told = prune("export", "demo", "--to", "safetensors", "--set", "widths=[4,6,8]", cwd=tmp_path)
    assert told.stdout.startswith("demo.safetensors: ")
    assert json.loads((tmp_path / "recipe.json").read_text())["slices"] == []


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    loaded = api.load_by(choice_of("loader", f"python:{directory}/net.py:build", ["inputs=[1,1,16,16]"]))
    return loaded.model.state_dict()


def interface_of(directory: Path) -> Path:
    """An interface file of a network that code beside it builds, with a key of its own."""
    (directory / "exported_net.py").write_text(CODE)
    nas = {"algname": "personal", "builder": "exported_net.py:build", "args": {"width": 12}}
    options = ["inputs=[1,1,16,16]", "args={width: 12}"]
    model = api.load_by(choice_of("loader", f"python:{directory}/exported_net.py:build", options)).model
    content = OrderedDict(nas=nas, params=model.state_dict(), kept="as it was")
    torch.save(content, directory / "interface.pt")
    return directory / "interface.pt"


def summary_of(path: Path) -> dict[str, Any]:
    found = torch.load(path, weights_only=True)
    assert found["kept"] == "as it was"
    summary: dict[str, Any] = found["pruning"]["summary"]
    return summary


def test_interface_of_a_run_and_of_a_chain_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exported_net", None)  # put back as it was, whatever is imported meanwhile
    monkeypatch.delitem(sys.modules, "exported_net")
    source = interface_of(tmp_path)
    trust = {"trust_code": [str(tmp_path)], "inputs": [1, 1, 16, 16]}
    first = run_of(tmp_path / "first", {"kind": "interface", "source": str(source), **trust})
    second = run_of(tmp_path / "second", {"kind": "run", "source": str(first)}, size=0.5, size_total=0.3)
    image = torch.randn(2, 1, 16, 16)
    for directory, size in ((first, 0.6), (second, 0.3)):
        done = prune("export", directory.name, "--to", "interface", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{directory.name}/interface.pt: 0.0")
        summary = summary_of(directory / "interface.pt")
        assert (summary["size"], summary["val_accuracy"], summary["time"]) == (size, 0.5, "0h 0m 1s")
        written = tmp_path / f"{directory.name}.pt"
        written.write_bytes((directory / "interface.pt").read_bytes())
        section = {"source": str(written), **trust}
        again = api.load_by(Choice("loader", "interface", section, "model")).model
        assert torch.equal(again(image), prunecore.load(directory)(image))
    left = {p.name for p in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"exported_net.py", "interface.pt", "first", "second", "first.pt", "second.pt"}


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (
            ["run", "--to", "interface"],
            2,
            "its network comes from the loader 'demo'; an interface file needs the `nas`",
        ),
        (["demo", "--to", "interface"], 2, "--to interface: of a RUN only, got the MODEL 'demo'"),
        (["run", "--to", "pth", "--opset", "18"], 2, "--opset: of --to onnx only, got --to pth"),
        (["run", "--to", "pth", "--static-batch"], 2, "--static-batch: of --to onnx and pt2 only, got --to pth"),
        (["run", "--to", "pth", "--set", "widths=[1,2,3]"], 2, "--set: for a MODEL only"),
        (["run", "--to", "pth", "--out", "run"], 2, "run: is a directory, expected a file"),
        (["run", "--to", "pth", "--device", "cuda:7", "--out", "x"], 2, "device 'cuda:7' is not on this machine"),
        (["run", "--to", "tflite"], 2, "'tflite' is not one of 'onnx', 'pt2', 'pth', 'interface', 'safetensors'"),
        (["nothing", "--to", "pth"], 2, "unknown loader 'nothing'"),
        (["unfinished", "--to", "pth"], 1, "unfinished: no recipe.json there; give the directory of a finished run"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    run: Path, args: list[str], code: int, message: str
) -> None:
    unfinished = run.parent / "unfinished"
    unfinished.mkdir(exist_ok=True)
    (unfinished / "config.yaml").write_text((run / "config.yaml").read_text())
    before = files(run.parent)
    done = prune("export", *args, cwd=run.parent)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert files(run.parent) == before


def test_a_difference_is_refused_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE.replace("return self.head(", "return torch.rand(1) + self.head("))
    command = ("export", "python:net.py:build", "--to", "pth", "--set", "inputs=[1,1,16,16]")
    done = prune(*command, "--tolerance", "1e-3", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: max abs difference ")
    assert "is above the tolerance 0.001; nothing was written" in done.stderr
    assert files(tmp_path) - {p for p in files(tmp_path) if "__pycache__" in p} == {"net.py"}
