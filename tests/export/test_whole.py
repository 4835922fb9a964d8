from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prunecore.errors import ModelError
from prunecore.export import export_pth
from prunecore.loading import run_named
from prunecore.types import ExampleInputs
from tests.export.export_nets import IMAGE, Conv

FILE = """
import dataclasses
import torch

@dataclasses.dataclass
class Settings:
    width: int

class Net(torch.nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.settings = settings
        self.line = torch.nn.Linear(4, settings.width)

    def forward(self, x):
        return self.line(x)

def build():
    return Net(Settings(3))
"""


def test_the_whole_module_is_written_in_eval_mode(tmp_path: Path) -> None:
    model = Conv().train()
    found = export_pth(model, IMAGE, tmp_path / "model.pth")
    assert (found.max_abs_error, found.batch_sizes, found.notes) == (0.0, (1, 2, 3), ())
    loaded = torch.load(tmp_path / "model.pth", weights_only=False)
    assert not loaded.training
    assert model.training
    assert torch.equal(loaded(*IMAGE.args), model.eval()(*IMAGE.args))


def test_classes_of_a_file_go_by_its_name_and_load_where_it_is_on_the_path(tmp_path: Path) -> None:
    code = tmp_path / "narrow_net.py"
    code.write_text(FILE)
    model = run_named(f"{code}:build", {})
    private = type(model).__module__
    found = export_pth(model, ExampleInputs((torch.randn(1, 4),)), tmp_path / "out" / "model.pth")
    assert found.notes == ("narrow_net.py has to be on the path of whoever loads it",)
    assert type(model).__module__ == type(model.settings).__module__ == private
    assert "narrow_net" not in sys.modules
    script = (
        "import torch; m = torch.load('out/model.pth', weights_only=False); print(type(m).__module__, m.settings.width)"
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["narrow_net", "3"]


def test_a_file_called_like_an_installed_module_is_refused(tmp_path: Path) -> None:
    code = tmp_path / "click.py"
    code.write_text(FILE)
    with pytest.raises(ModelError, match=r"click\.py: a \.pth file would name the installed module 'click' instead"):
        export_pth(run_named(f"{code}:build", {}), ExampleInputs((torch.randn(1, 4),)), tmp_path / "model.pth")
    import click

    assert sys.modules["click"] is click
    assert Path(str(click.__file__)).parent != tmp_path


def test_what_cannot_be_pickled_is_one_line(tmp_path: Path) -> None:
    model = Conv()
    model.norm.forward = lambda x: x * 2  # type: ignore[method-assign,assignment]
    with pytest.raises(ModelError, match=r"^Conv cannot be pickled: .*; write a \.pt2 or \.safetensors file") as caught:
        export_pth(model, IMAGE, tmp_path / "model.pth")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_whose_file_was_read_twice_is_written_too(tmp_path: Path) -> None:
    """As that of a run that goes on from another run's network."""
    code = tmp_path / "twice_net.py"
    code.write_text(FILE)
    first, second = (run_named(f"{code}:build", {}) for _ in range(2))
    assert type(first) is type(second)
    assert first is not second
    found = export_pth(first, ExampleInputs((torch.randn(1, 4),)), tmp_path / "model.pth")
    assert found.notes == ("twice_net.py has to be on the path of whoever loads it",)
    code.write_text(FILE + "\nCHANGED = True\n")
    assert type(run_named(f"{code}:build", {})) is not type(first)
