from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prunecore.errors import ConfigError, ModelError
from prunecore.loading import example_inputs, load_weights, read_state_dict, run_named
from tests.loading.damaged import DAMAGED
from tests.loading.hostile import HOSTILE


def test_a_module_and_a_file_are_called_with_arguments(tmp_path):
    assert run_named("fractions:Fraction", {"numerator": 1, "denominator": 2}) * 2 == 1
    (tmp_path / "nets.py").write_text("def build(width):\n    return width, __name__\n")
    before = list(sys.path)
    width, name = run_named(f"{tmp_path}/nets.py:build", {"width": 3})
    assert width == 3
    assert name.startswith("_prunecore_nets_")
    assert sys.path == before
    assert "nets" not in sys.modules


def test_code_that_cannot_be_called_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text("def build():\n    raise ValueError('too small')\n")
    (tmp_path / "bad.py").write_text("import surely_not_there\n")
    for spec, message in {
        "nets": "got 'nets', expected `module:callable`",
        "nets:build": r"module 'nets' is not installed; give the file: nets\.py",
        "gone.py:build": r"there is no file gone\.py",
        "nets.py:biuld": r"nets\.py has no callable 'biuld'; it has: build",
        "nets.py:build": r"nets\.py:build failed at nets\.py:2: ValueError: too small",
        "bad.py:build": r"bad\.py:build failed at .*: ModuleNotFoundError",
    }.items():
        with pytest.raises(ConfigError, match=message):
            run_named(spec, {})


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_weights_are_found_in_their_wrappers(tmp_path, wrapper):
    model = nn.Linear(2, 3)
    parallel = {f"module.{k}": v for k, v in model.state_dict().items()}
    torch.save({wrapper: parallel, "epoch": 3} if wrapper else parallel, tmp_path / "w.pth")
    other = nn.Linear(2, 3)
    load_weights(other, tmp_path / "w.pth")
    assert torch.equal(other.weight, model.weight)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(read_state_dict(tmp_path / "w.safetensors")["bias"], model.bias)


def test_weights_that_do_not_fit_are_named(tmp_path):
    torch.save({"weight": torch.zeros(3, 5), "extra": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelError) as fault:
        load_weights(nn.Linear(2, 3), tmp_path / "w.pth")
    assert str(fault.value) == (
        f"weights {tmp_path}/w.pth do not fit Linear: missing: bias; unknown: extra; "
        "of another shape: weight (3, 5) for (3, 2)"
    )


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(ModelError, match="there is no such file"):
        read_state_dict(tmp_path / "gone.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "whole.pth")
    with pytest.raises(ModelError, match=r"holds more than tensors; write it with torch\.save\(model\.state_dict\(\)"):
        read_state_dict(tmp_path / "whole.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="expected a mapping of names to tensors, got list"):
        read_state_dict(tmp_path / "list.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_bytes(b"hello")
        with pytest.raises(ModelError, match=rf"{name}: "):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_a_hostile_file_of_weights_runs(scene, name):
    HOSTILE[name].build(scene.file, scene.marker)
    before = scene.files()
    with pytest.raises(ModelError, match=r"^weights .*net\.pth: ") as fault:
        read_state_dict(scene.file)
    assert "\n" not in str(fault.value)
    assert scene.files() == before


@pytest.mark.parametrize(
    "name", [n for n in DAMAGED if n not in ("weights_alone", "weights_of_a_training_script", "empty_mapping")]
)
def test_damaged_files_of_weights_are_one_line(scene, name):
    DAMAGED[name].build(scene.file, scene.marker)
    with pytest.raises(ModelError, match=r"^weights .*net\.pth: ") as fault:
        read_state_dict(scene.file)
    assert "\n" not in str(fault.value)


def test_weights_that_are_odd_are_one_line(tmp_path):
    path = tmp_path / "w.pth"
    for found, message in {
        (): "expected a mapping of names to tensors, got tuple",
        (("weight", 1),): "expected a mapping of names to tensors, got dict",
        ((1, torch.zeros(1)),): "expected names of tensors, got the key 1",
        (("model", None), ("weight", torch.zeros(1))): "expected a mapping of names to tensors, got dict",
    }.items():
        torch.save(dict(found) if found else found, path)
        with pytest.raises(ModelError, match=f"weights .*{message}"):
            read_state_dict(path)
    torch.save({}, path)
    assert read_state_dict(path) == {}
    with pytest.raises(ModelError, match="do not fit Linear: missing: weight, bias"):
        load_weights(nn.Linear(2, 3), path)


def test_weights_without_values_cannot_be_copied(tmp_path):
    torch.save(nn.Linear(2, 3, device="meta").state_dict(), tmp_path / "w.pth")
    net = nn.Linear(2, 3)
    with pytest.raises(ModelError, match=r"w\.pth cannot be copied into Linear: .*weight.*meta") as fault:
        load_weights(net, tmp_path / "w.pth")
    assert "\n" not in str(fault.value)


def test_files_of_code_that_end_the_program_are_one_line(tmp_path, monkeypatch):
    """A script without a guard parses arguments that are not its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("import sys\nsys.exit('usage: script.py DATA\\nmore')\n")
    (tmp_path / "loud.py").write_text("def build():\n    raise ValueError('one\\ntwo')\n")
    (tmp_path / "wrong.py").write_text("def build(:\n")
    before = set(sys.modules)
    for spec, message in {
        "script.py:build": "script.py:build failed at script.py:2: SystemExit: usage: script.py DATA",
        "loud.py:build": "loud.py:build failed at loud.py:2: ValueError: one",
        "wrong.py:build": "SyntaxError",
        "no_such_top.sub:build": "module 'no_such_top.sub' is not installed",
        "json.no_such_part:build": "module 'json.no_such_part' is not installed",
        "json.decoder.deep:build": "module 'json.decoder.deep' is not installed",
    }.items():
        with pytest.raises(ConfigError) as fault:
            run_named(spec, {})
        assert message in str(fault.value)
        assert "\n" not in str(fault.value)
    assert not {m for m in set(sys.modules) - before if "script" in m or "wrong" in m}


def test_example_inputs_are_always_the_same():
    one = example_inputs([1, 3, 4, 4])
    assert [tuple(x.shape) for x in one.args] == [(1, 3, 4, 4)]
    assert torch.equal(one.args[0], example_inputs([1, 3, 4, 4]).args[0])
    assert [tuple(x.shape) for x in example_inputs([[1, 2], [1, 3]]).args] == [(1, 2), (1, 3)]
