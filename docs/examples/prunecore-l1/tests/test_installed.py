"""Run where prunecore and prunecore-l1 are both installed: the plugins are found, and do their work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prunecore_l1 import ChainLoader, chain
from pydantic import ValidationError

import prunecore


def prune_command(*arguments: str, cwd: Path) -> str:
    """What `prune ARGUMENTS` prints; an AssertionError with all of it where it fails."""
    command = [str(Path(sys.executable).with_name("prune")), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def network():
    """Two convolutions; the filters of the first have absolute sums 1, 2, 3, 4 times nine."""
    model = chain([4, 6])
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    model[0].weight.data = (torch.arange(1.0, 5.0) * signs)[:, None, None, None].expand(4, 1, 3, 3).clone()
    return model


def test_the_plugins_are_listed_with_their_distribution(tmp_path):
    rows = json.loads(prune_command("plugins", "--json", cwd=tmp_path))
    ours = {(r["role"], r["name"]): r for r in rows if r["distribution"] == "prunecore-l1"}
    assert set(ours) == {("algorithm", "l1"), ("loader", "chain")}
    assert ours["algorithm", "l1"]["hooks"] == ["prune_score"]
    assert ours["loader", "chain"]["hooks"] == ["prune_load_model"]
    assert ours["loader", "chain"]["version"] == "1.0"


@pytest.mark.parametrize("options", [{}, {"per_weight": True}])
def test_the_smallest_filters_go(network, options):
    pruned = prunecore.prune(
        network, torch.zeros(1, 1, 16, 16), algo="l1", reduce=0.5, scope="uniform", options=options
    )
    assert pruned.certificate.verified
    first = next(s for s in pruned.recipe.slices if s.tensor == "0.weight" and s.dim == 0)
    assert first.kept == tuple(range(4 - len(first.kept), 4))
    assert len(first.kept) < 4
    assert torch.equal(pruned.model[0].weight, network[0].weight[4 - len(first.kept) :])


def test_the_command_line_prunes_a_network_of_the_loader(tmp_path):
    run = ["run", "--algo", "l1", "--model", "chain:8-16", "--data", "digits", "-P", "0.5", "--out", "out"]
    prune_command(*run, "--set", "training.epochs=1", "--set", "l1.per_weight=true", cwd=tmp_path)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["algorithm"] == "l1"
    assert result["certificate"]["verified"] is True
    assert abs(result["size"] - 0.5) < 0.05


def test_options_are_checked():
    with pytest.raises(ValidationError, match="expected widths such as 8-16"):
        ChainLoader.Options(source="8-wide")
    with pytest.raises(prunecore.ConfigError, match="per_wait"):
        prunecore.prune(chain([2, 2]), torch.zeros(1, 1, 16, 16), algo="l1", options={"per_wait": True})
