"""One-shot pruning on Fashion-MNIST: six criteria and Torch-Pruning's own pruner, the same images for every row.

    python tests/benchmarks/one_shot.py [NET …] --cache DIR   train the networks (once), then fill in the missing rows
    python tests/benchmarks/one_shot.py --write --cache DIR   the same, and put the table into docs/measurements.md

Needs Debian's package `dataset-fashion-mnist`. A row that is in the cache with the same settings is not made again
(`--fresh` makes all of them anew). Exit code 1 where a size or a certificate is not what is promised.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nets
import torch
from peer import IMPORTANCES, mean_gradients, peer_cut
from torch import nn

import prunecore
from prunecore.config.training import RecalibrationSettings, TrainingSettings
from prunecore.measure import count
from prunecore.registry import Choice, build_manager
from prunecore.training import batches, evaluate, fine_tune, recalibrate
from prunecore.types import Cost, ExampleInputs, Task

NETS = ("fashion_resnet", "fashion_mobilenet")
CRITERIA = ("l1norm", "l2norm", "fpgm", "taylor", "bn_scale", "random")
REDUCTIONS = (0.5, 0.8)
IMAGES = 6_000
SEEDS = (1, 2, 3)
BASE = TrainingSettings(epochs=2, lr=4e-3, batch_size=128)
TUNE = TrainingSettings(epochs=1, lr=2e-3, batch_size=64)
REPAIR = RecalibrationSettings()
INPUT = torch.zeros(1, 1, 28, 28)
PAGE = Path(__file__).parents[2] / "docs" / "measurements.md"
BEGIN, END = "<!-- one_shot: begin -->", "<!-- one_shot: end -->"

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network; `stamp` tells by which settings and weights its rows are made."""

    name: str
    model: nn.Module
    task: Task
    cost: Cost
    before: float
    stamp: str
    gradients: Mapping[str, torch.Tensor]


# ---------------------------------------------------------------- what is cut


def task_of(**options: Any) -> Task:
    task: Task = build_manager(
        [Choice("task", "fashion-mnist", {"augment": False, **options}, "data")]
    ).hook.prune_task()
    return task


def accuracy(model: nn.Module, task: Task) -> float:
    return evaluate(model, task.validation, task, device="cpu").value


def trained(name: str, cache: Path) -> tuple[nn.Module, str]:
    """The network, trained once on all 60,000 images, and a digest of how it was trained and what came out."""
    torch.manual_seed(0)
    model, path = nets.BUILDERS[name](), cache / f"{name}.pt"
    if not path.is_file():
        print(f"{name}: training", flush=True)
        state = fine_tune(model, task_of(), BASE, seed=0, device="cpu", on_event=_progress).state_dict()
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    model.load_state_dict(torch.load(path, weights_only=True))
    told = [BASE.model_dump_json(), TUNE.model_dump_json(), REPAIR.model_dump_json(), str(IMAGES), str(SEEDS)]
    return model.eval(), hashlib.sha256(path.read_bytes() + "".join(told).encode()).hexdigest()[:16]


def subject(name: str, cache: Path) -> Subject:
    model, stamp = trained(name, cache)
    task = task_of(train_limit=IMAGES)
    gradients = mean_gradients(model, task, batches(task.train, task, batch_size=64, seed=0))
    cost = count(model, ExampleInputs((INPUT,)))
    return Subject(name, model, task, cost, accuracy(model, task), stamp, gradients)


def methods() -> list[tuple[float, str, str]]:
    """Reduction, tool, criterion of every row; the first one is the uncut network, trained as the others are."""
    by = [("prunecore", c) for c in CRITERIA] + [("Torch-Pruning", i) for i in IMPORTANCES]
    return [(0.0, "-", "-"), *((p, tool, criterion) for p in REDUCTIONS for tool, criterion in by)]


def cut_of(it: Subject, reduce: float, by: str, criterion: str) -> tuple[nn.Module, int, bool | None]:
    """The cut network, how many cuts it took, and whether its certificate is verified (None: there is none)."""
    if by == "prunecore":
        pruned = prunecore.prune(it.model, INPUT, algo=criterion, reduce=reduce, task=it.task)
        return pruned.model, 1, pruned.certificate.verified
    if by == "Torch-Pruning":
        found = peer_cut(it.model, INPUT, criterion, 1.0 - reduce, it.gradients if criterion == "taylor" else {})
        return found.model, found.trials, None
    return it.model, 0, None


def narrowest(original: nn.Module, cut: nn.Module) -> str:
    """The layer of which the least is left, `7/64`: channels after and before."""
    before = dict(original.named_modules())
    widths = [
        (len(m.weight), len(before[name].weight))  # type: ignore[arg-type]
        for name, m in cut.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    after, whole = min(widths, key=lambda w: w[0] / w[1])
    return f"{after}/{whole}"


def row_of(it: Subject, reduce: float, by: str, criterion: str) -> Row:
    start = time.process_time()
    cut, trials, verified = cut_of(it, reduce, by, criterion)
    seconds = time.process_time() - start
    cost = count(cut, ExampleInputs((INPUT,)))
    repaired = recalibrate(cut, it.task.train, it.task, REPAIR, device="cpu")
    tuned = [accuracy(fine_tune(repaired, it.task, TUNE, seed=s, device="cpu"), it.task) for s in SEEDS]
    return {
        "net": it.name, "stamp": it.stamp, "macs": it.cost.macs, "P": reduce, "by": by, "criterion": criterion,
        "trials": trials, "size": cost.macs / it.cost.macs, "params": cost.params / it.cost.params,
        "verified": verified, "narrowest": narrowest(it.model, cut), "seconds": seconds, "before": it.before,
        "after_cut": accuracy(cut, it.task), "after_repair": accuracy(repaired, it.task), "after": tuned,
    }  # fmt: skip


# ---------------------------------------------------------------- what is kept and shown


def fill(name: str, cache: Path, *, fresh: bool) -> list[Row]:
    """All rows of a network, in order; each is written as soon as it is made."""
    it, path = subject(name, cache), cache / f"{name}.json"
    old = [] if fresh or not path.is_file() else json.loads(path.read_text())
    known = {(r["P"], r["by"], r["criterion"]): r for r in old if r.get("stamp") == it.stamp}
    for key in methods():
        if key not in known:
            known[key] = row_of(it, *key)
            print(line(known[key]), flush=True)
        path.with_suffix(".new").write_text(json.dumps([known[k] for k in methods() if k in known], indent=1))
        path.with_suffix(".new").replace(path)
    return [known[key] for key in methods()]


def holds(row: Row) -> bool:
    """What is promised: the size within 0.005 of the target, and a verified certificate."""
    return row["by"] != "prunecore" or (row["verified"] is True and abs(row["size"] - (1 - row["P"])) <= 0.005)


def line(row: Row) -> str:
    """The row in the table of its network."""
    verdict = {None: "-", True: "verified", False: "FAILED"}[row["verified"]]
    scores = [f"{100 * row[k]:.2f}" for k in ("before", "after_cut", "after_repair")]
    mean, spread = statistics.mean(row["after"]), statistics.stdev(row["after"])
    who = ("uncut", "") if row["by"] == "-" else (row["by"], row["criterion"])
    cells = [f"{row['P']:g}", *who, f"{row['size']:.4f}", verdict, str(row["trials"] or "-"), row["narrowest"], *scores]
    return f"| {' | '.join(cells)} | {100 * mean:.2f} ± {100 * spread:.2f} |"


def table(rows: Sequence[Row]) -> str:
    first = rows[0]
    return "\n".join(
        [
            f"### {first['net']}: {first['macs'] / 1e6:.1f} MMACs",
            "",
            "| P | cut by | criterion | size | certificate | trial cuts | narrowest "
            "| before | after cut | recalibrated | fine-tuned |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *(line(r) for r in rows),
        ]
    )


def write(tables: Sequence[str]) -> None:
    """Put the tables between the markers of the page."""
    text = PAGE.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text("\n\n".join([text[:start], *tables, text[end:]]))


def _progress(event: Mapping[str, Any]) -> None:
    if event["event"] == "epoch" or (event["event"] == "step" and event["step"] % 50 == 0):
        print({k: v for k, v in event.items() if k != "event"}, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", help=f"which networks (default: {' '.join(NETS)})")
    parser.add_argument("--cache", type=Path, required=True, help="directory of weights and rows")
    parser.add_argument("--fresh", action="store_true", help="make every row anew")
    parser.add_argument("--write", action="store_true", help="put the table into docs/measurements.md")
    given = parser.parse_args()
    unknown = [n for n in given.nets if n not in NETS]
    if unknown:
        parser.error(f"unknown network {unknown[0]!r}; choose from {', '.join(NETS)}")
    if given.write and given.nets:
        parser.error("--write needs the rows of all networks; leave their names out")
    given.cache.mkdir(parents=True, exist_ok=True)
    made = {name: fill(name, given.cache, fresh=given.fresh) for name in given.nets or NETS}
    if given.write:
        write([table(rows) for rows in made.values()])
    broken = [r for rows in made.values() for r in rows if not holds(r)]
    for row in broken:
        print(f"not as promised: {line(row)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
