"""Run where prunecore and prunecore-layers are both installed: networks go out as they came in, in one format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prunecore_layers import LayersLoader
from safetensors.torch import save_file

import prunecore

LAYERS = [
    {"type": "conv", "inputs": 1, "outputs": 8},
    {"type": "norm", "channels": 8},
    {"type": "relu"},
    {"type": "conv", "inputs": 8, "outputs": 8, "groups": 8},
    {"type": "conv", "inputs": 8, "outputs": 16, "kernel": 1, "stride": 2},
    {"type": "norm", "channels": 16},
    {"type": "relu"},
    {"type": "mean"},
    {"type": "linear", "inputs": 16, "outputs": 10},
]
CODE = "from torch import nn\n\nclass Square(nn.Module):\n    def forward(self, x):\n        return x * x\n"


def prune_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("prune")), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def written(directory: Path, layers: list[dict[str, object]]) -> Path:
    path = directory / "net.json"
    path.write_text(json.dumps({"input": [1, 16, 16], "layers": layers}))
    return path


def loaded(path: Path, **options: object) -> prunecore.LoadedModel:
    return LayersLoader(LayersLoader.Options(source=path, **options)).prune_load_model()


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A description with trained-looking weights beside it."""
    path = written(tmp_path, LAYERS)
    torch.manual_seed(0)
    model = loaded(path).model
    model[1].running_var.uniform_(0.5, 2)
    save_file(model.state_dict(), path.with_suffix(".safetensors"))
    return path


def test_the_plugins_are_listed_with_their_distribution(tmp_path: Path) -> None:
    rows = json.loads(prune_command("plugins", "--json", cwd=tmp_path).stdout)
    ours = {r["role"]: r["hooks"] for r in rows if r["distribution"] == "prunecore-layers"}
    assert ours == {"loader": ["prune_load_model", "prune_save_model"], "extension": ["prune_nas_builders"]}


def test_weights_beside_the_description_make_it_a_trained_network(net: Path) -> None:
    found = loaded(net)
    assert found.pretrained
    assert found.provenance["weights"] == str(net.with_suffix(".safetensors"))
    assert found.inputs.args[0].shape == (1, 1, 16, 16)
    net.with_suffix(".safetensors").unlink()
    assert not loaded(net).pretrained


def test_a_run_writes_the_pair_and_the_pair_is_the_pruned_network(net: Path) -> None:
    run = ["run", "--model", "layers:net.json", "--data", "digits", "-P", "0.5", "--out", "out"]
    done = prune_command(*run, "--set", "training.epochs=1", "--set", "control=none", cwd=net.parent)
    assert done.returncode == 0, done.stderr
    out = net.parent / "out"
    again, ours = loaded(out / "layers.json"), prunecore.load(out)
    inputs = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.model(inputs), ours(inputs))
    facts = json.loads((out / "layers.json").read_text())
    result = json.loads((out / "result.json").read_text())
    assert facts["pruned"] == {"size": result["size"], "val_accuracy": result["val_accuracy"]}
    first = next(w["after"] for w in result["widths"] if w["group"] == "0")
    assert first < 8
    assert facts["layers"][0]["outputs"] == facts["layers"][3]["groups"] == facts["layers"][4]["inputs"] == first
    assert facts["layers"][-1] == {"type": "linear", "inputs": facts["layers"][4]["outputs"], "outputs": 10}


def test_code_runs_only_from_a_trusted_directory(tmp_path: Path) -> None:
    (tmp_path / "squares.py").write_text(CODE)
    path = written(tmp_path, [{"type": "code", "call": "squares.py:Square"}])
    with pytest.raises(prunecore.ModelError, match=r"not trusted.*--trust-code"):
        loaded(path)
    model = loaded(path, trust_code=(tmp_path,)).model
    assert torch.equal(model(torch.tensor([-3.0])), torch.tensor([9.0]))


def test_code_of_a_module_is_found_wherever_the_description_lies(tmp_path: Path) -> None:
    (tmp_path / "squares_of.py").write_text(CODE)
    (tmp_path / "run").mkdir()
    path = written(tmp_path / "run", [{"type": "code", "call": "squares_of:Square"}])
    assert torch.equal(loaded(path, trust_code=(tmp_path,)).model(torch.tensor([4.0])), torch.tensor([16.0]))


def test_code_with_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weighty.py").write_text("from torch import nn\n\ndef layer():\n    return nn.Linear(2, 2)\n")
    with pytest.raises(prunecore.ModelError, match="without tensors"):
        loaded(written(tmp_path, [{"type": "code", "call": "weighty.py:layer"}]), trust_code=True)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"type": "pool"}, r"net\.json: layers\.0: .*'conv'"),
        (
            {"type": "conv", "inputs": 0, "outputs": 1},
            r"net\.json: layers\.0\.conv\.inputs: .*greater than or equal to 1",
        ),
        ({"type": "relu", "slope": 1}, r"net\.json: layers\.0\.\S+: Extra inputs are not permitted"),
    ],
)
def test_a_fault_of_the_description_is_named_with_its_place(
    tmp_path: Path, layer: dict[str, object], message: str
) -> None:
    with pytest.raises(prunecore.ModelError, match=message):
        loaded(written(tmp_path, [layer]))


def test_weights_of_another_network_are_refused(net: Path) -> None:
    written(net.parent, LAYERS[:3])
    with pytest.raises(prunecore.ModelError, match=r"do not fit Sequential: unknown: .*3\.weight"):
        loaded(net)


def test_an_interface_file_of_a_search_is_built_by_the_same_description(net: Path) -> None:
    params = dict(loaded(net).model.state_dict())
    nas = {"algname": "layers", "layers": net.read_text()}
    torch.save({"nas": nas, "params": params}, net.parent / "found.pt")
    command = ["verify", "interface:found.pt", "--set", "inputs=[1,1,16,16]", "-P", "0.3"]
    done = prune_command(*command, cwd=net.parent)
    assert done.returncode == 0, done.stderr
    assert "certificate: verified" in done.stdout
