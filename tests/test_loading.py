from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prunecore.errors import ConfigError, ModelError
from prunecore.loading import example_inputs, load_weights, read_state_dict, run_named


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


def test_example_inputs_are_always_the_same():
    one = example_inputs([1, 3, 4, 4])
    assert [tuple(x.shape) for x in one.args] == [(1, 3, 4, 4)]
    assert torch.equal(one.args[0], example_inputs([1, 3, 4, 4]).args[0])
    assert [tuple(x.shape) for x in example_inputs([[1, 2], [1, 3]]).args] == [(1, 2), (1, 3)]
