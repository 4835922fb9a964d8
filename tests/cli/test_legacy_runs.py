"""What an existing user of the old tool has, run as it is: one YAML, a network, a table of pictures."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunecore
from prunecore.api import load_by
from prunecore.registry import Choice
from tests.cli.test_commands import Done, prune, result_of, working_directory
from tests.legacy.bundle import ofa_resnet50d, old_yaml, write_interface, write_table, write_whole_module, write_yaml

# what is not under test here; `--set` works on old files too
QUICK = ("--set", "control=none", "--set", "recalibration.images=64", "--set", "compensation.images=64")
OURS = {"config.yaml", "journal.jsonl", "checkpoints", "model.safetensors", "recipe.json", "result.json", "metrics.csv"}
OURS |= {"report.html"}


def directory_of(where: Path, **changes: Any) -> Path:
    """A user's directory: pictures and `Pruning.yaml`."""
    write_table(where / "data", train=64, validation=32)
    write_yaml(where / "Pruning.yaml", old_yaml(**changes))
    return where


def log_of(where: Path, name: str = "net") -> list[dict[str, str]]:
    with (where / "exp" / f"{name}_log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def whole(path: Path) -> nn.Module:
    """What the user's own scripts do with a file."""
    found: nn.Module = torch.load(path, weights_only=False)
    assert isinstance(found, nn.Module)
    return found.eval()


def outputs(model: nn.Module) -> torch.Tensor:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: torch.Tensor = model(x)
    return found


def interface_net(path: Path) -> nn.Module:
    return load_by(Choice("loader", "interface", {"source": str(path), "size": [32, 32]}, "model")).model.eval()


def assert_layout(where: Path, done: Done, results: set[str], *, rounds: int) -> dict[str, Any]:
    """Every file that existing users look for, and what stands in it."""
    assert done.returncode == 0, done.stderr
    run = where / "exp" / "net"
    result = result_of(run)
    models = sorted(p.name for p in run.glob("it*.pth"))
    assert [re.sub(r"\d+\.\d+", "X", name) for name in models] == [
        f"it{k}_accX_sizeX.pth" for k in range(1, rounds + 1)
    ]
    assert models[-1] == f"it{rounds}_acc{result['val_accuracy']:.4f}_size{result['size']:.4f}.pth"
    assert {p.name for p in run.iterdir()} == OURS | {".lock", "orig_model.pth", *results, *models}
    assert {p.name for p in (where / "exp").iterdir()} == {"net", "net.txt", "net_log.csv"}
    summary = (where / "exp" / "net.txt").read_text()
    assert summary == f"{ {key: result[key] for key in ('size', 'val_accuracy', 'time')} }\n"
    assert re.fullmatch(r"\{'size': 0\.\d+, 'val_accuracy': \d\.\d+, 'time': '\d+h \d+m \d+s'\}\n", summary)
    assert summary in done.stdout
    return result


def assert_log(where: Path, result: dict[str, Any], *, rounds: int) -> None:
    """The header, and widths that lead from those before the run to those of `result.json`, one round after the other."""
    assert (where / "exp" / "net_log.csv").read_text().splitlines()[0] == "N,sloi,do,posle,acc,size"
    rows = log_of(where)
    assert sorted({int(row["N"]) for row in rows}) == list(range(1, rounds + 1))
    width = {w["group"]: w["before"] for w in result["widths"]}
    for row in rows:
        assert int(row["do"]) == width[row["sloi"]]
        assert int(row["posle"]) < int(row["do"])
        width[row["sloi"]] = int(row["posle"])
    assert width == {w["group"]: w["after"] for w in result["widths"]}
    names = {f"it{r['N']}_acc{r['acc']}_size{r['size']}.pth" for r in rows}
    assert names == {p.name for p in (where / "exp" / "net").glob("it*.pth")}


# ---------------------------------------------------------------- a network of an architecture search


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The unchanged YAML, FPGM in one shot, on a static subnet of once-for-all."""
    where = directory_of(tmp_path_factory.mktemp("searched"))
    write_interface(where / "interface.pt", ofa_resnet50d())
    return where, prune("run", "-c", "Pruning.yaml", cwd=where)


@pytest.mark.slow
def test_one_shot_on_an_interface_leaves_what_users_expect(searched: tuple[Path, Done]) -> None:
    where, done = searched
    result = assert_layout(where, done, {"interface.pt"}, rounds=1)
    assert_log(where, result, rounds=1)
    assert (result["algorithm"], result["criterion"]) == ("fpgm", "fpgm")
    assert result["target"] == {"measure": "params", "reduce": 0.3, "multiple_of": None}
    assert result["size"] == result["params"]["after"] / result["params"]["before"] == pytest.approx(0.7, abs=0.005)
    assert result["certificate"]["verified"] is True
    assert result["control"]["criterion"] == "random"
    assert sorted(p.name for p in where.iterdir()) == ["Pruning.yaml", "data", "exp", "interface.pt"]


@pytest.mark.slow
def test_what_was_translated_is_told_line_by_line_before_the_run(searched: tuple[Path, Done]) -> None:
    lines = searched[1].stdout.splitlines()
    told = lines[: next(k for k, line in enumerate(lines) if line.startswith("  before:"))]
    assert "nni_pruning.P: 0.3 -> target.reduce: 0.3" in told
    assert "model.type_save_load, path_to_resurs, name_resurs -> model: interface:interface.pt" in told
    assert "my_pruning, retraining: not used (fpgm does not have it)" in told


@pytest.mark.slow
def test_the_interface_that_is_written_is_read_by_everyone(searched: tuple[Path, Done]) -> None:
    where, _ = searched
    run = where / "exp" / "net"
    content = torch.load(run / "interface.pt", weights_only=True)
    source = torch.load(where / "interface.pt", weights_only=True)
    assert list(content)[: len(source)] == list(source)
    assert (content["nas"], content["comment"]) == (source["nas"], "kept")
    pruning, result = content["pruning"], result_of(run)
    assert pruning["is_pruning"] is True
    assert {k: pruning["summary"][k] for k in ("size", "val_accuracy", "time")} == {
        k: result[k] for k in ("size", "val_accuracy", "time")
    }
    shapes = {e["name"]: e["shape"] for e in pruning["summary"]["resize"]}
    stem = next(w for w in result["widths"] if w["group"] == "input_stem.0.conv")
    assert shapes["input_stem[0].conv.weight"] == [3, stem["after"]]
    with working_directory(where):
        ours = prunecore.load("exp/net")
    assert torch.equal(outputs(interface_net(run / "interface.pt")), outputs(ours))


@pytest.mark.slow
def test_whole_modules_are_the_network_before_and_after(searched: tuple[Path, Done]) -> None:
    where, _ = searched
    run = where / "exp" / "net"
    assert torch.equal(outputs(whole(run / "orig_model.pth")), outputs(interface_net(where / "interface.pt")))
    (last,) = run.glob("it1_*.pth")
    assert torch.equal(outputs(whole(last)), outputs(interface_net(run / "interface.pt")))


@pytest.mark.slow
def test_two_rounds_of_agp_and_a_pruned_interface_pruned_again(tmp_path: Path, searched: tuple[Path, Done]) -> None:
    where = directory_of(tmp_path, algorithm="AGP", nni_pruning__total_iteration=2)
    source = searched[0] / "exp" / "net" / "interface.pt"  # pruned before
    (where / "interface.pt").write_bytes(source.read_bytes())
    done = prune("run", *QUICK, "--criterion", "l2norm", cwd=where)
    result = assert_layout(where, done, {"interface.pt"}, rounds=2)
    assert_log(where, result, rounds=2)
    sizes = sorted({float(row["size"]) for row in log_of(where)}, reverse=True)
    # 0.3 (1 - (1/2)^3), then 0.3
    assert sizes == pytest.approx([1 - 0.2625, 0.7], abs=0.005)
    assert result["size_total"] == pytest.approx(result["size"] * result_of(searched[0] / "exp" / "net")["size"])
    with working_directory(where):
        ours = prunecore.load("exp/net")
    assert torch.equal(outputs(interface_net(where / "exp" / "net" / "interface.pt")), outputs(ours))
    first, last = (whole(next((where / "exp" / "net").glob(f"it{k}_*.pth"))) for k in (1, 2))
    counts = [sum(p.numel() for p in net.parameters()) for net in (first, last)]
    assert counts == [round(size * result["params"]["before"]) for size in exact_sizes(where)]
    assert torch.equal(outputs(last), outputs(ours))


def exact_sizes(where: Path) -> list[float]:
    """The size of every cut, as the journal has it."""
    lines = (where / "exp" / "net" / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line.partition(" ")[2]) for line in lines]
    return [r["data"]["size"] for r in records if r["event"] == "stage" and r["name"].endswith("/cut")]


# ---------------------------------------------------------------- whole modules


@pytest.mark.slow
def test_a_whole_module_needs_trust_in_its_code_and_then_runs_as_it_is(tmp_path: Path) -> None:
    where = directory_of(tmp_path, model__type_save_load="pth", model__name_resurs="mine", model__path_to_resurs="nets")
    source = write_whole_module(where / "nets", "mine")
    refused = prune("run", "-c", "Pruning.yaml", *QUICK, cwd=where)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"Error: {source}: not trusted: mine.Net, mine_blocks.Block; it lies beside the file; "
        f"if you trust it: --trust-code {where / 'nets'}\n"
    )
    assert not (where / "exp").exists()
    done = prune("run", "-c", "Pruning.yaml", *QUICK, "--trust-code", "nets", cwd=where)
    result = assert_layout(where, done, {"rezalt.pth"}, rounds=1)
    assert_log(where, result, rounds=1)
    run = where / "exp" / "net"
    beside = where / "nets" / "rezalt.pth"
    assert beside.read_bytes() == (run / "rezalt.pth").read_bytes()
    before, after = whole(source), whole(beside)
    assert type(after) is type(before)
    with working_directory(where):
        ours = prunecore.load("exp/net")
    (last,) = run.glob("it1_*.pth")
    assert torch.equal(outputs(after), outputs(ours))
    assert torch.equal(outputs(whole(last)), outputs(ours))
    assert torch.equal(outputs(whole(run / "orig_model.pth")), outputs(before))
    assert sum(p.numel() for p in after.parameters()) == result["params"]["after"]


@pytest.mark.slow
def test_a_pickled_network_of_timm_needs_trust_in_the_package(tmp_path: Path) -> None:
    import timm

    where = directory_of(tmp_path, model__type_save_load="pth", model__name_resurs="resnet", algorithm="L2Norm")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=10), where / "resnet.pth")
    refused = prune("run", *QUICK, cwd=where)
    assert "if you trust the package: --trust-package timm" in refused.stderr
    assert not (where / "exp").exists()
    done = prune("run", *QUICK, "--trust-package", "timm", cwd=where)
    result = assert_layout(where, done, {"rezalt.pth"}, rounds=1)
    assert_log(where, result, rounds=1)
    with working_directory(where):
        ours = prunecore.load("exp/net")
    assert torch.equal(outputs(whole(where / "rezalt.pth")), outputs(ours))
    # saved anew it is read back under the same trust
    again = prune("verify", "pth:rezalt.pth", "--trust-package", "timm", "--set", "size=[32,32]", cwd=where)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_my_pruning_ends_with_the_layout_and_the_widths_that_users_expect(tmp_path: Path) -> None:
    changes = {"model__type_save_load": "pth", "model__name_resurs": "searched_net", "my_pruning__alf": 4}
    where = directory_of(tmp_path, **changes, algorithm="My_pruning", my_pruning__cart=["cpu"], my_pruning__P=0.3)
    write_whole_module(where, "searched_net")
    done = prune("run", *QUICK, "--trust-code", ".", cwd=where)
    assert done.returncode == 0, done.stderr
    assert "my_pruning runs in fast mode; `--set netadapt.exact=true` is the old loop" in done.stdout
    result = result_of(where / "exp" / "net")
    assert (result["algorithm"], result["criterion"]) == ("netadapt", "taylor")
    assert result["size"] <= 0.7  # aligned: never above
    assert [w for w in result["widths"] if w["after"] % 4] == []
    width = {w["group"]: w["before"] for w in result["widths"]}
    for row in log_of(where):
        assert int(row["do"]) == width[row["sloi"]]
        width[row["sloi"]] = int(row["posle"])
    assert width == {w["group"]: w["after"] for w in result["widths"]}
    with working_directory(where):
        ours = prunecore.load("exp/net")
    assert torch.equal(outputs(whole(where / "rezalt.pth")), outputs(ours))


@pytest.mark.slow
def test_the_recommended_file_of_my_pruning_runs_as_it_is(tmp_path: Path) -> None:
    """Two workers, alf 32, P 0.8, iskl, and the network of an earlier run."""
    mine = {"alf": 32, "P": 0.8, "iskl": ["head"], "restart": {"start_iteration": 0, "load": "exp/net/orig_model.pth"}}
    changes = {"model__name_resurs": "gone", "model__size": [16, 16]}
    where = directory_of(
        tmp_path, **changes, **{f"my_pruning__{k}": v for k, v in mine.items()}, algorithm="My_pruning"
    )
    (where / "exp" / "net").mkdir(parents=True)
    write_whole_module(where, "recommended_net", width=128).rename(where / "exp" / "net" / "orig_model.pth")
    done = prune("run", *QUICK, "--trust-code", ".", cwd=where)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    for line in (
        "my_pruning.alf: 32 -> target.multiple_of: 32",
        "my_pruning.P: 0.8 -> target.reduce: 0.8",
        "my_pruning.cart: ['cpu', 'cpu'] -> executor.workers: ['cpu', 'cpu']",
        "my_pruning.iskl: ['head'] -> target.skip: ['head']",
        "my_pruning.algoritm: TaylorFOWeight -> criterion: taylor",
        "my_pruning.resize_alf: True -> target.align_all: True",
        "my_pruning.restart.load -> model: pth:exp/net/orig_model.pth",
        "my_pruning runs in fast mode; `--set netadapt.exact=true` is the old loop",
        "warning: netadapt: delta_crop, top_n: not used in fast mode; `--set netadapt.exact=true` is the mode that has them",
    ):
        assert told.count(line) == 1, line
    result = result_of(where / "exp" / "net")
    assert result["size"] == result["params"]["after"] / result["params"]["before"] <= 0.2
    assert {w["after"] % 32 for w in result["widths"]} == {0}
    # what `iskl` names keeps its inputs
    assert {w["group"] for w in result["widths"]} == {"blocks.0.conv1", "blocks.1.conv1"}
    assert result["ledger"]["trials_failed"] == 0
    with working_directory(where):
        ours = prunecore.load("exp/net")
    assert torch.equal(outputs(whole(where / "exp" / "net" / "rezalt.pth")), outputs(ours))


@pytest.mark.slow
def test_a_restart_goes_on_from_a_file_of_the_old_tool_and_from_its_number(tmp_path: Path) -> None:
    restart = {"start_iteration": 5, "load": "exp/net/it5_acc0.9_size0.9.pth"}
    changes = {"model__name_resurs": "gone", "my_pruning__restart": restart, "my_pruning__alf": 4}
    where = directory_of(tmp_path, **changes, algorithm="My_pruning", my_pruning__cart=["cpu"], my_pruning__P=0.1)
    run = where / "exp" / "net"
    left = write_whole_module(where, "restarted_net").read_bytes()
    run.mkdir(parents=True)
    for name in ("it5_acc0.9_size0.9.pth", "orig_model.pth"):
        (run / name).write_bytes(left)
    (where / "exp" / "net_log.csv").write_text("N,sloi,do,posle,acc,size\n5,a,32,28,0.9,0.9\n6,a,28,24,0.8,0.8\n")
    done = prune("run", *QUICK, "--trust-code", ".", "--set", "training.num_epochs=0", cwd=where)
    assert done.returncode == 0, done.stderr
    assert "my_pruning.restart.load -> model: pth:exp/net/it5_acc0.9_size0.9.pth" in done.stdout
    rows = log_of(where)
    assert list(rows[0].values()) == ["5", "a", "32", "28", "0.9", "0.9"]
    assert {row["sloi"] for row in rows if row["N"] == "6"} <= {w["group"] for w in result_of(run)["widths"]}
    assert {int(row["N"]) for row in rows[1:]} <= {int(p.name[2 : p.name.index("_")]) for p in run.glob("it*_*.pth")}
    assert min(int(row["N"]) for row in rows[1:]) >= 6
    assert [(run / n).read_bytes() for n in ("it5_acc0.9_size0.9.pth", "orig_model.pth")] == [left, left]


# ---------------------------------------------------------------- the directory of a run


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """Three rounds on a whole module."""
    where = three_rounds(tmp_path_factory.mktemp("rounds"), "rounds_net")
    return where, prune("run", *QUICK, "--trust-code", ".", cwd=where)


def three_rounds(where: Path, name: str) -> Path:
    changes = {"model__type_save_load": "pth", "model__name_resurs": name, "nni_pruning__algoritm": "L2Norm"}
    directory_of(where, **changes, algorithm="Linear", nni_pruning__total_iteration=3)
    write_whole_module(where, name)
    return where


# the machine goes down after the first line of the log was written, before the network of that iteration was
KILLED = """
import os, signal
from prunecore_plugins.trackers import legacy_files
from prunecore.cli.main import main

save = legacy_files.save_whole
legacy_files.save_whole = lambda model, path: (
    os.kill(os.getpid(), signal.SIGKILL) if path.name.startswith("it1_") else save(model, path)
)
main()
"""


@pytest.mark.slow
def test_a_run_that_was_killed_leaves_the_same_log_when_it_is_resumed(
    tmp_path: Path, rounds: tuple[Path, Done]
) -> None:
    where = three_rounds(tmp_path, "killed_net")
    command = [sys.executable, "-c", KILLED, "run", *QUICK, "--trust-code", "."]
    killed = subprocess.run(command, cwd=where, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {row["N"] for row in log_of(where)} == {"1"}
    assert list((where / "exp" / "net").glob("it*.pth")) == []
    assert not (where / "exp" / "net.txt").exists()
    resumed = prune("run", "--resume", "exp/net", cwd=where)
    result = assert_layout(where, resumed, {"rezalt.pth"}, rounds=3)
    assert_log(where, result, rounds=3)
    assert log_of(where) == log_of(rounds[0])
    models = [sorted(p.name for p in (w / "exp" / "net").glob("it*")) for w in (where, rounds[0])]
    assert models[0] == models[1]


@pytest.mark.slow
def test_a_second_run_into_a_directory_is_refused_with_how_to_go_on(rounds: tuple[Path, Done]) -> None:
    where, first = rounds
    assert first.returncode == 0, first.stderr
    before = {p: p.stat().st_mtime_ns for p in where.rglob("*")}
    refused = prune("run", *QUICK, "--trust-code", ".", cwd=where)
    assert refused.returncode == 1
    assert refused.stderr == (
        "Error: --out exp/net: holds another run; go on with it by `prune run --resume exp/net`, or choose another --out\n"
    )
    assert {p: p.stat().st_mtime_ns for p in where.rglob("*")} == before


@pytest.mark.slow
def test_another_out_has_its_own_log_and_leaves_the_first_one(rounds: tuple[Path, Done]) -> None:
    where, _ = rounds
    before = {p: p.read_bytes() for p in (where / "exp").rglob("*") if p.is_file()}
    flags = ("--out", "exp/second", "--algo", "L2Norm", "-P", "0.2", "--set", "training.num_epochs=0")
    done = prune("run", *QUICK, "--trust-code", ".", *flags, cwd=where)
    assert done.returncode == 0, done.stderr
    result = result_of(where / "exp" / "second")
    assert result["size"] == pytest.approx(0.8, abs=0.02)  # widths of 8 and 16
    rows = log_of(where, "second")
    assert {row["sloi"]: int(row["posle"]) for row in rows} == {w["group"]: w["after"] for w in result["widths"]}
    assert (where / "exp" / "second.txt").is_file()
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.slow
def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    where = directory_of(tmp_path, model__type_save_load="pth", model__name_resurs="shared")
    write_whole_module(where, "shared")
    run = where / "exp" / "net"
    foreign = {"notes.md": b"mine", "it9_acc0.5_size0.5.pth": b"old", "orig_model.pth": b"the original", "sub/a": b"b"}
    for name, content in foreign.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    done = prune("run", *QUICK, "--trust-code", ".", "--set", "training.num_epochs=0", cwd=where)
    assert done.returncode == 0, done.stderr
    assert {name: (run / name).read_bytes() for name in foreign} == foreign
    assert (run / "result.json").is_file()


@pytest.mark.slow
def test_a_directory_with_the_result_of_another_run_is_refused(tmp_path: Path) -> None:
    where = directory_of(tmp_path, model__type_save_load="pth", model__name_resurs="taken")
    write_whole_module(where, "taken")
    (where / "exp" / "net").mkdir(parents=True)
    (where / "exp" / "net" / "recipe.json").write_text("{}")
    refused = prune("run", *QUICK, "--trust-code", ".", cwd=where)
    assert (refused.returncode, refused.stderr) == (
        1,
        "Error: --out exp/net: holds recipe.json of another run; choose another --out\n",
    )


@pytest.mark.slow
def test_a_run_is_aligned_by_a_second_one_that_starts_from_it(rounds: tuple[Path, Done]) -> None:
    where, _ = rounds
    flags = ("--algo", "L2Norm", "-P", "0", "--set", "target.multiple_of=4", "--set", "target.align_all=true")
    done = prune("run", *QUICK, "--model", "run:exp/net", *flags, "--out", "exp/aligned", cwd=where)
    assert done.returncode == 0, done.stderr
    first, second = (result_of(where / "exp" / name) for name in ("net", "aligned"))
    assert second["params"]["before"] == first["params"]["after"]
    assert second["size_total"] == pytest.approx(first["size"] * second["size"])
    odd = {w["group"]: w["after"] for w in first["widths"] if w["after"] % 4}
    assert {w["group"]: w["before"] for w in second["widths"] if w["before"] != w["after"]} == odd != {}
    assert [w for w in second["widths"] if w["after"] % 4] == []
    with working_directory(where):
        assert sum(p.numel() for p in prunecore.load("exp/aligned").parameters()) == second["params"]["after"]


# ---------------------------------------------------------------- what is wrong is one line, and nothing is written


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--set", "my_pruning.p=1"], 2, "my_pruning.p: unknown key, did you mean 'P'?"),
        (["--set", "nni_pruning.gpu=77"], 2, "choose one: --set device=cpu"),
        (["--algo", "My_pruning", "--set", "my_pruning.cart=[77,cpu]"], 2, "this machine has no cuda:77 (asked for: cuda:77, cpu)"),
        (["--set", "nni_pruning.P=1.5"], 2, "target.reduce: must be a fraction to remove"),
        (["-P", "-1"], 2, "target.reduce: must be a fraction to remove"),
        (["--algo", "AGP", "--set", "nni_pruning.total_iteration=0"], 2, "agp knows: n, s_0, i_0, frequency"),
        (["--algo", "FPMG"], 2, "unknown algorithm 'fpmg', did you mean 'fpgm'?"),
        (["--set", "task.type=detection"], 2, "give it with --data python:FILE.py:CALLABLE"),
        (["--set", "nni_pruning.iskl=[blocks.9]"], 2, "blocks.9"),
        (["--set", "dataset.annotation_name=gone.csv"], 2, "/data/gone.csv; give the table"),
        (["--set", "dataset.num_classes=3"], 1, "is outside 0 to 2 (num_classes 3)"),
        (["--set", "model.name_resurs=gone"], 1, "gone.pth"),
        (["--algo", "LotteryTicket", "--set", "lottery_ticket.rewind_to=gone.pth"], 1, "gone.pth: there is no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_clear_line_and_writes_nothing(bad: Path, flags: list[str], code: int, message: str) -> None:
    done = prune("run", *QUICK, "--trust-code", ".", *flags, cwd=bad)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code
    assert not (bad / "exp").exists()


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    where = directory_of(tmp_path_factory.mktemp("bad"), model__type_save_load="pth", model__name_resurs="bad_net")
    write_whole_module(where, "bad_net")
    yield where
    assert sorted(p.name for p in where.iterdir() if p.name != "__pycache__") == [
        *("Pruning.yaml", "bad_net.pth", "bad_net.py", "bad_net_blocks.py", "data")
    ]


@pytest.mark.slow
def test_init_writes_a_file_of_today_that_gives_the_same_run(rounds: tuple[Path, Done]) -> None:
    where, _ = rounds
    wrote = prune("init", "--from", "Pruning.yaml", "--out", "new.yaml", cwd=where)
    assert wrote.returncode == 0, wrote.stderr
    done = prune("run", "-c", "new.yaml", *QUICK, "--trust-code", ".", "--out", "exp/new", cwd=where)
    assert done.returncode == 0, done.stderr
    assert log_of(where, "new") == log_of(where)
    ours, theirs = (result_of(where / "exp" / name) for name in ("new", "net"))
    assert {k: ours[k] for k in ("size", "metric", "widths")} == {k: theirs[k] for k in ("size", "metric", "widths")}
