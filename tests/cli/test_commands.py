"""The command line as a user meets it: in a fresh directory, by its own entry point."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prunecore.cli.main import main

QUICK = {
    "model": {"spec": "demo", "widths": [8, 12, 16]},
    "data": "digits",
    "algorithm": "l2norm",
    "target": {"reduce": 0.4},
    "pretraining": {"epochs": 1},
    "training": {"epochs": 1},
}


@contextlib.contextmanager
def working_directory(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def prune(*args: str, cwd: Path) -> Done:
    """`prune ARGS` in `cwd`, in this process (an import of torch costs seconds)."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with working_directory(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        before, sys.argv = sys.argv, ["prune", *args]
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in `out`, made once for this file."""
    where = tmp_path_factory.mktemp("finished")
    (where / "Pruning.yaml").write_text(yaml.safe_dump(QUICK))
    done = prune("run", "--out", "out", cwd=where)
    assert done.returncode == 0, done.stderr
    assert "certificate: verified" in done.stdout
    return where


def result_of(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "result.json").read_text())
    return loaded


def test_a_run_leaves_every_file_and_every_field(finished: Path) -> None:
    out = finished / "out"
    names = {p.name for p in out.iterdir()}
    assert {"config.yaml", "journal.jsonl", "model.safetensors", "recipe.json", "result.json", "metrics.csv"} <= names
    assert "report.html" in names
    result = result_of(out)
    fields = (
        "algorithm criterion target size macs params metric val_accuracy time seconds certificate unprunable widths"
    )
    assert {*fields.split(), "ledger", "seed", "versions"} <= set(result)
    assert result["algorithm"] == result["criterion"] == "l2norm"
    assert result["target"] == {"measure": "macs", "reduce": 0.4, "multiple_of": None}
    assert abs(result["size"] - 0.6) <= 0.005
    assert result["size"] == result["macs"]["after"] / result["macs"]["before"]
    assert set(result["metric"]) == {"name", "before", "after_cut", "after_repair", "after"}
    assert result["val_accuracy"] == result["metric"]["after"]
    assert set(result["certificate"]) == {"verified", "max_abs_error", "inputs", "dtype", "notes"}
    assert result["certificate"]["verified"] is True
    assert result["unprunable"][0]["module"] == "head"
    assert {"group", "before", "after"} == set(result["widths"][0])
    assert result["control"]["criterion"] == "random"


def test_verify_and_eval_agree_with_the_run(finished: Path) -> None:
    verified = prune("verify", "out", cwd=finished)
    assert verified.returncode == 0
    assert "\ncertificate: verified" in verified.stdout
    widths = {w["group"]: (w["before"], w["after"]) for w in result_of(finished / "out")["widths"]}
    shown = [line.split() for line in verified.stdout.splitlines() if "█" in line]
    assert {group: (int(before), int(after)) for group, before, after, _ in shown} == {
        g: w for g, w in widths.items() if w[0] != w[1]
    }
    evaluated = prune("eval", "out", cwd=finished)
    accuracy = result_of(finished / "out")["val_accuracy"]
    assert evaluated.stdout.startswith(f"accuracy {accuracy:.4f}")


def test_eval_reads_data_as_the_run_did_but_for_what_is_given(finished: Path) -> None:
    own = prune("eval", "out", "--set", "data.validation=0.5", cwd=finished)
    assert own.returncode == 0, own.stderr
    assert int(own.stdout.split()[-2]) == pytest.approx(1797 / 2, abs=5)
    named = prune("eval", "out", "--data", "digits", "--set", "data.validation=0.5", cwd=finished)
    assert named.stdout == own.stdout
    unknown = prune("eval", "out", "--set", "data.sise=3", "--set", "data.validation=0.5", cwd=finished)
    assert "sise: unknown key" in unknown.stderr
    assert prune("eval", "out", "--set", "size=3", cwd=finished).stderr.startswith("Error: --set: for a MODEL only")


def test_runs_chain_and_recipes_compose_to_the_original_class(finished: Path) -> None:
    import prunecore

    command = ("run", "--model", "run:out", "-P", "0.3", "--out", "second", "--set", "pretraining=null")
    done = prune(*command, cwd=finished)
    assert done.returncode == 0, done.stderr
    first, second = result_of(finished / "out"), result_of(finished / "second")
    assert second["macs"]["before"] == first["macs"]["after"]
    assert second["size_total"] == pytest.approx(second["macs"]["after"] / first["macs"]["before"])
    with working_directory(finished):
        model = prunecore.load("second")
    assert sum(p.numel() for p in model.parameters()) == second["params"]["after"]
    assert second["versions"]["prunecore"] == prunecore.__version__


def test_a_directory_that_holds_a_run_is_refused(finished: Path) -> None:
    refused = prune("run", "--out", "out", cwd=finished)
    assert refused.returncode == 1
    assert refused.stderr == (
        "Error: --out out: holds another run; go on with it by `prune run --resume out`, or choose another --out\n"
    )


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["run", "--algo", "fgpm"], 2, "unknown algorithm 'fgpm', did you mean 'fpgm'?"),
        (["run", "-P", "1"], 2, "target.reduce: must be a fraction to remove"),
        (["run", "-P", "nan"], 2, "target.reduce"),
        (["run", "-P", "-0.1"], 2, "target.reduce"),
        (["run", "-P", "0.9999", "--set", "target.min_channels=4"], 2, "is out of reach; between"),
        (["run", "--set", "target.skip=[nothing.*]"], 2, "nothing.*"),
        (["run", "--set", "device=cuda:7"], 2, "cuda:7"),
        (
            ["run", "--algo", "netadapt", "--set", "netadapt.refesh=3"],
            2,
            "netadapt.refesh: unknown key; netadapt knows: exact",
        ),
        (["run", "--set", "model.width=3"], 2, "model.width: unknown key; demo knows: source, widths, depth"),
        (["run", "--model", "python:missing.py:build"], 2, "missing.py"),
        (["run", "--data", "csv:missing.csv"], 2, "missing.csv"),
        (["rnu"], 2, "no such command 'rnu', did you mean 'run'?"),
        (["verify", "torchvision:resnet19"], 2, "resnet18"),
        (["init", "--out", "Pruning.yaml"], 2, "exists already"),
        (["run", "-c", "missing.yaml"], 2, "no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_one_clear_line_and_writes_nothing(
    tmp_path: Path, args: list[str], code: int, message: str
) -> None:
    (tmp_path / "Pruning.yaml").write_text(yaml.safe_dump(QUICK))
    done = prune(*args, cwd=tmp_path)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code
    assert [p.name for p in tmp_path.iterdir()] == ["Pruning.yaml"]


NAN_NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3))) * VALUE

def build():
    return Net()
"""


@pytest.mark.parametrize(
    ("value", "size", "message"),
    [
        ("float('nan')", "[1,1,16,16]", "NaN or infinity"),
        ("1.0", "[1,3,16,16]", "the network fails on inputs (1, 3, 16, 16) float32: RuntimeError"),
    ],
)
def test_a_network_that_fails_is_refused_before_anything_is_written(
    tmp_path: Path, value: str, size: str, message: str
) -> None:
    (tmp_path / "net.py").write_text(NAN_NET.replace("VALUE", value))
    done = prune(
        "run", "--model", "python:net.py:build", "--set", f"model.inputs={size}", "--data", "digits", cwd=tmp_path
    )
    assert message in done.stderr
    assert done.returncode == 1
    assert not (tmp_path / "prune-runs").exists()


def test_ctrl_c_stops_cleanly_says_how_to_go_on_and_the_run_ends_with_the_same_numbers(
    tmp_path: Path, finished: Path
) -> None:
    (tmp_path / "Pruning.yaml").write_text(yaml.safe_dump(QUICK))
    command = [sys.executable, "-m", "prunecore.cli.main", "run", "--out", "out"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a test runner in the background hands down an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal = tmp_path / "out" / "journal.jsonl"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (journal.exists() and "candidate-1/cut" in journal.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "Stopped; go on with `prune run --resume out`.\n"
    assert not (tmp_path / "out" / "result.json").exists()
    resumed = prune("run", "--resume", "out", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = result_of(tmp_path / "out"), result_of(finished / "out")
    for key in ("size", "macs", "params", "metric", "widths", "control", "certificate"):
        assert ours[key] == theirs[key]
    from prunecore.run.directory import read_weights

    mine, other = (read_weights(p / "out" / "model.safetensors") for p in (tmp_path, finished))
    assert all(torch.equal(mine[name], other[name]) for name in other)


def test_plugins_lists_name_distribution_and_hooks(tmp_path: Path) -> None:
    rows = json.loads(prune("plugins", "--json", cwd=tmp_path).stdout)
    fpgm = next(r for r in rows if r["name"] == "fpgm")
    assert fpgm["distribution"] == "prunecore"
    assert fpgm["hooks"] == ["prune_score"]
    assert [r for r in rows if r["fault"]] == []


def test_init_writes_a_file_that_runs_as_it_is(tmp_path: Path) -> None:
    assert prune("init", cwd=tmp_path).returncode == 0
    flags = ("--set", "pretraining.epochs=1", "--set", "training.epochs=0", "--set", "control=none")
    done = prune("run", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "prune-runs" / "demo-fpgm" / "result.json").is_file()


def test_resume_takes_no_other_settings(finished: Path) -> None:
    done = prune("run", "--resume", "out", "-P", "0.8", "--set", "training.epochs=9", cwd=finished)
    assert done.returncode == 2
    assert done.stderr == ("Error: --resume goes on with the run's own settings; drop -P, --set, or start a new run\n")


def test_a_run_of_files_is_used_from_any_directory_and_refuses_options_that_mean_nothing(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "net.py").write_text(NAN_NET.replace("VALUE", "1.0"))
    quick = ("--set", "training.epochs=0", "--set", "control=none", "--set", "model.inputs=[1,1,16,16]")
    done = prune("run", "--model", "python:net.py:build", "--data", "digits", *quick, "-P", "0.2", cwd=here)
    assert done.returncode == 0, done.stderr
    run = here / "prune-runs" / "net-l2norm"
    assert "\ncertificate: verified" in prune("verify", str(run), cwd=elsewhere).stdout
    refused = prune("verify", str(run), "-P", "0.3", cwd=elsewhere)
    assert refused.returncode == 2
    assert refused.stderr == "Error: -P: for a MODEL only; a RUN has its own network and settings\n"
    assert prune("eval", str(run), "--weights", "x.pth", cwd=elsewhere).returncode == 2


def test_outputs_that_do_not_fit_the_classes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NAN_NET.replace("VALUE", "1.0").replace("nn.Linear(8, 10)", "nn.Linear(8, 3)"))
    flags = ("--model", "python:net.py:build", "--set", "model.inputs=[1,1,16,16]", "--data", "digits")
    done = prune("run", *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert "classes" in done.stderr
    assert [p.name for p in tmp_path.iterdir() if p.name != "__pycache__"] == ["net.py"]


def test_doctor_shows_groups_reach_and_what_stays(tmp_path: Path) -> None:
    report = json.loads(prune("doctor", "demo", "--json", "--skip", "blocks.1.conv1", cwd=tmp_path).stdout)
    widths = {g["group"]: g["channels"] for g in report["groups"] if g["frozen"] is None}
    assert widths["stem.0"] == 24
    assert widths["blocks.2.conv1"] == 96
    assert {"module": "head", "reason": "network output"} in report["unprunable"]
    assert 0.5 < report["reach"]["macs"]["at_most"] < 1
    assert report["reach"]["params"]["whole"] == 173842
    assert any("blocks.1.conv1" in limit for limit in report["reach"]["macs"]["limits"])
    text = prune("doctor", "demo", cwd=tmp_path).stdout
    assert "stem.0" in text
    assert "can go" in text
