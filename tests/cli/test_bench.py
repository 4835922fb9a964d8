"""`prune bench` on the demo network; what it says about latency itself is tested on made-up timings elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prunecore.cli.main import main
from prunecore.errors import ModelError
from prunecore.measure import Latency, backends, latency

SMALL = ("--set", "widths=[8,12,16]")
QUICK = ("--seconds", "0.02", "--threads", "1")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `prune bench ARGS`; gives the exit code, stdout and stderr."""

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prune", "bench", *args])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained nothing."""
    from prunecore.config.reader import parse
    from prunecore.run.pipeline import run

    out = tmp_path_factory.mktemp("finished") / "out"
    settings = {"model": {"spec": "demo", "widths": [8, 24, 32]}, "data": "digits", "algorithm": "l2norm"}
    off: dict[str, Any] = {"training": {"epochs": 0}, "control": "none", "compensation": None, "recalibration": None}
    run(parse({**settings, "target": {"reduce": 0.4, "skip": ["stem.*"]}, **off}), out)
    return out


def made_up(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[tuple[int, tuple[str, ...]]]:
    """Every measurement finds these seconds for networks by the first word of their names; gives what was measured."""
    asked: list[tuple[int, tuple[str, ...]]] = []

    def measure(subjects: Any, inputs: Any, *, batch_sizes: tuple[int], **how: Any) -> tuple[Latency]:
        assert inputs.args[0].shape[0] == batch_sizes[0]
        asked.append((batch_sizes[0], tuple(subjects)))
        return (Latency(batch_sizes[0], {name: (seconds[name.split()[0]],) * 6 for name in subjects}),)

    monkeypatch.setattr(latency, "measure_latency", measure)
    return asked


def test_a_run_is_measured_beside_the_original(bench: Any, finished: Path) -> None:
    code, out, err = bench(str(finished), "--json", "--batch", "1,4", *QUICK)
    assert code == 0, err
    report, result = json.loads(out), json.loads((finished / "result.json").read_text())
    assert report["device"] == "cpu"
    assert report["threads"] == 1
    assert report["compared_with"] == "original"
    rows = [row for row in report["rows"] if row["network"] == "pruned"]
    assert [(row["backend"], row["batch"]) for row in rows] == [("eager", 1), ("eager", 4)]
    for row in rows:
        assert row["macs"] == result["macs"]["after"] / result["macs"]["before"]
        assert row["original"]["repeats"] == row["timing"]["repeats"] == row["ratio"]["repeats"] >= 6
        assert 0 < row["timing"]["low"] <= row["timing"]["median"] <= row["timing"]["high"] < 1
        assert 0.1 < row["ratio"]["median"] < 10
    assert "eager, batch 1: original, pruned …" in err


def test_where_latency_lags_the_widths_are_blamed_and_the_aligned_cut_is_measured_too(
    bench: Any, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = made_up(monkeypatch, original=0.004, pruned=0.004, aligned=0.002)
    code, out, _ = bench(str(finished), *QUICK, "--batch", "1,2")
    assert code == 0
    three = ("original", "pruned", "aligned to 8")
    assert asked == [(1, three[:2]), (2, three[:2]), (1, three), (2, three)]
    lines = out.splitlines()
    assert lines[0].startswith("cpu, 1 thread; ")
    assert " ".join(lines[4].split()).startswith("eager 1 4.00 [4.00, 4.00] aligned to 8 2.00 [2.00, 2.00] 0.500 [")
    widths = json.loads((finished / "result.json").read_text())["widths"]
    odd = [f"{w['group']} {w['before']} -> {w['after']}" for w in widths if w["before"] > w["after"] and w["after"] % 8]
    blamed = next(line for line in lines if line.startswith("widths that are no multiple of 8: "))
    assert blamed.partition("cut: ")[2] == ", ".join(odd)
    assert lines[-1].endswith(": set target.multiple_of: 8")


def test_the_aligned_cut_has_the_target_of_the_run(bench: Any, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, torch.nn.Module] = {}
    real = backends.prepare

    def prepare(backend: str, models: Any, *rest: Any, **more: Any) -> Any:
        made.update(models)
        return real(backend, models, *rest, **more)

    monkeypatch.setattr(backends, "prepare", prepare)
    made_up(monkeypatch, original=0.004, pruned=0.002, aligned=0.002)
    code, out, _ = bench(str(finished), *QUICK, "--align", "4", "--json")
    assert code == 0
    macs = {row["network"]: row["macs"] for row in json.loads(out)["rows"]}
    assert macs["aligned to 4"] <= 0.6 <= macs["pruned"] + 0.005
    convolutions = [m for m in made["aligned to 4"].modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions[0].out_channels == 8  # skipped by the run's target
    assert {m.out_channels % 4 for m in convolutions} == {0}
    assert {m.out_channels % 4 for m in made["pruned"].modules() if isinstance(m, torch.nn.Conv2d)} > {0}


def test_an_aligned_cut_that_cannot_be_had_is_said_so(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, original=0.004, pruned=0.004)
    code, out, _ = bench("demo", "--set", "widths=[8,8,9]", *QUICK)
    assert code == 0
    assert "a cut with widths of a multiple of 8 was not measured: " in out


def test_a_model_alone_is_compared_with_a_trial_cut(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, original=0.004, pruned=0.002)
    code, out, _ = bench("demo", *SMALL, "-P", "0.3", "--json", *QUICK)
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert abs(row["macs"] - 0.7) <= 0.01
    assert row["ratio"]["median"] == 0.5


def test_two_models_are_compared_with_each_other(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef small(): return nn.Linear(4, 2)\ndef large(): return nn.Linear(4, 8)\n"
    )
    small, large = (f"python:{tmp_path / 'nets.py'}:{name}" for name in ("small", "large"))
    code, out, _ = bench(small, large, "--set", "inputs=[1,4]", "--json", *QUICK)
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert json.loads(out)["compared_with"] == small
    assert row["network"] == large
    assert row["macs"] == 4


def test_a_backend_that_fails_is_left_out_with_its_reason(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, original=0.004, pruned=0.002)

    def broken(*args: Any) -> None:
        raise ModelError("torch.compile fails: no C++ compiler")

    monkeypatch.setattr(backends, "_compiled", broken)
    code, out, _ = bench("demo", *SMALL, "--backends", "compile,eager", "--batch", "1,2", *QUICK)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[3:5]] == [["eager", "1"], ["eager", "2"]]
    assert out.count("compile, batch 1: not measured: torch.compile fails: no C++ compiler") == 1
    code, out, err = bench("demo", *SMALL, "--backends", "compile", *QUICK)
    assert code == 1
    assert err.splitlines()[-1] == "Error: nothing was measured: compile: torch.compile fails: no C++ compiler"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--backends", "egaer"], "no such backend 'egaer', did you mean 'eager'?"),
        (["--batch", "1,x"], "--batch '1,x': expected batch sizes from 1, such as 1,8"),
        (["--batch", "0"], "--batch '0': expected"),
        (["--device", "cuda:7"], "cuda:7"),
        (["demo", "--align", "8"], "--align: for a RUN or a MODEL alone"),
        (["demo", "-P", "0.5"], "-P: for a MODEL alone"),
        (["--seconds", "0"], "--seconds"),
        (["--align", "1"], "--align"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line(bench: Any, args: list[str], message: str) -> None:
    code, _, err = bench("demo", *SMALL, *args)
    assert code == 2
    assert message in err.splitlines()[-1]


def test_a_run_has_its_own_settings(bench: Any, finished: Path) -> None:
    code, _, err = bench(str(finished), "demo", "-P", "0.3")
    assert code == 2
    assert err == "Error: MODEL2, -P: for a MODEL only; a RUN has its own network and settings\n"


def test_a_network_that_takes_one_batch_size_only_is_one_line(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = nn.Linear(4, 8)\n"
        "    def forward(self, x):\n"
        "        return self.a(x).reshape(1, 8)\n"
        "def build(): return Net()\n"
    )
    net = f"python:{tmp_path / 'net.py'}:build"
    code, _, err = bench(net, net, "--set", "inputs=[1,4]", "--batch", "1,2", *QUICK)
    assert code == 1
    assert "Error: the network fails on inputs (2, 4) float32: RuntimeError" in err


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['prune', 'bench', '--help']\n"
        "from prunecore.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "RUN|MODEL [MODEL2]" in done.stdout
