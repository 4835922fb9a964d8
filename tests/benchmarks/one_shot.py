"""One-shot pruning on Fashion-MNIST: six criteria and Torch-Pruning's own pruner, the same images for every row.

    python tests/benchmarks/one_shot.py NET --cache DIR      train NET there (once), then one JSON line a row
    python tests/benchmarks/one_shot.py --write --cache DIR  put the rows into docs/measurements.md

Needs Debian's package `dataset-fashion-mnist`. Exit code 1 where a size or a certificate is not what is promised.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nets
import torch
from torch import nn

import prunecore
from prunecore.config.training import EvaluationSettings, RecalibrationSettings, TrainingSettings
from prunecore.measure import count
from prunecore.registry import Choice, build_manager
from prunecore.training import evaluate, fine_tune, recalibrate
from prunecore.types import ExampleInputs, Task

NETS = {"fashion_resnet": nets.fashion_resnet, "fashion_mobilenet": nets.fashion_mobilenet}
CRITERIA = ("l1norm", "l2norm", "fpgm", "taylor", "bn_scale", "random")
PEERS = ("l2", "fpgm", "taylor")
REDUCTIONS = (0.5, 0.8)
IMAGES = 6_000
BASE = TrainingSettings(epochs=2, lr=4e-3, batch_size=128)
TUNE = TrainingSettings(epochs=1, lr=2e-3, batch_size=64)
INPUT = torch.zeros(1, 1, 28, 28)
PAGE = Path(__file__).parents[2] / "docs" / "measurements.md"
BEGIN, END = "<!-- one_shot: begin -->", "<!-- one_shot: end -->"


def task_of(**options: Any) -> Task:
    task: Task = build_manager([Choice("task", "fashion-mnist", options, "data")]).hook.prune_task()
    return task


def accuracy(model: nn.Module, task: Task) -> float:
    return evaluate(model, task.validation, task, EvaluationSettings()).value


def trained(name: str, cache: Path) -> nn.Module:
    """The network, trained once on all 60,000 images."""
    torch.manual_seed(0)
    model, path = NETS[name](), cache / f"{name}.pt"
    if not path.is_file():
        torch.save(fine_tune(model, task_of(), BASE, seed=0).state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def peer_cut(model: nn.Module, importance: str, reduce: float, task: Task) -> tuple[nn.Module, int]:
    """Torch-Pruning's own global pruner, its ratio bisected towards the MACs target; the network and the trials."""
    import torch_pruning as tp

    before, low, high = count(model, ExampleInputs((INPUT,))).macs, 0.0, 1.0
    best: tuple[float, nn.Module] | None = None
    trials = 0
    while trials < 8 and (best is None or best[0] > 0.005):
        ratio = (low + high) / 2 if trials else reduce / 2
        cut = copy.deepcopy(model)
        trials += 1
        kinds = {
            "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
            "fpgm": lambda: tp.importance.FPGMImportance(p=2),
            "taylor": lambda: tp.importance.GroupTaylorImportance(),
        }
        pruner = tp.pruner.BasePruner(
            cut,
            INPUT,
            importance=kinds[importance](),
            global_pruning=True,
            pruning_ratio=ratio,
            ignored_layers=[cut.head],
        )
        if importance == "taylor":
            items = [task.train[i] for i in range(0, IMAGES, 12)]
            inputs, targets = (torch.stack([torch.as_tensor(x[k]) for x in items]) for k in (0, 1))
            task.loss(cut.eval()(inputs), targets).backward()
        pruner.step()
        cut.zero_grad()
        size = count(cut, ExampleInputs((INPUT,))).macs / before
        miss = abs(size - (1 - reduce))
        best = (miss, cut) if best is None or miss < best[0] else best
        low, high = (ratio, high) if size > 1 - reduce else (low, ratio)
    assert best is not None
    return best[1], trials


def rows_of(name: str, cache: Path) -> Iterator[dict[str, Any]]:
    model, small = trained(name, cache), task_of(train_limit=IMAGES)
    before = accuracy(model, small)
    original = count(model, ExampleInputs((INPUT,)))
    for reduce in REDUCTIONS:
        for by, criterion in [("prunecore", c) for c in CRITERIA] + [("Torch-Pruning", p) for p in PEERS]:
            start = time.process_time()
            verified: bool | None = None
            if by == "prunecore":
                pruned = prunecore.prune(model, INPUT, algo=criterion, reduce=reduce, task=small)
                cut, trials, verified = pruned.model, 1, pruned.certificate.verified
            else:
                cut, trials = peer_cut(model, criterion, reduce, small)
            seconds = time.process_time() - start
            cost = count(cut, ExampleInputs((INPUT,)))
            repaired = recalibrate(cut, small.train, small, RecalibrationSettings())
            tuned = fine_tune(repaired, small, TUNE, seed=1)
            yield {
                "net": name, "macs": original.macs, "P": reduce, "by": by, "criterion": criterion, "trials": trials,
                "size": cost.macs / original.macs, "params": cost.params / original.params, "verified": verified,
                "seconds": seconds, "before": before, "after_cut": accuracy(cut, small),
                "after_repair": accuracy(repaired, small), "after": accuracy(tuned, small),
            }  # fmt: skip


def holds(row: dict[str, Any]) -> bool:
    return row["by"] != "prunecore" or (bool(row["verified"]) and abs(row["size"] - (1 - row["P"])) <= 0.005)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | P | cut by | criterion | size | certificate | trial cuts | before | after cut | recalibrated | fine-tuned |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        verdict = "-" if r["verified"] is None else ("verified" if r["verified"] else "FAILED")
        scores = " | ".join(f"{100 * r[k]:.2f}" for k in ("before", "after_cut", "after_repair", "after"))
        lines.append(
            f"| {r['net']} ({r['macs'] / 1e6:.1f} MMACs) | {r['P']} | {r['by']} | {r['criterion']} | {r['size']:.4f} "
            f"| {verdict} | {r['trials']} | {scores} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", choices=[*NETS, []])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    for name in options.nets:
        rows = []
        for row in rows_of(name, options.cache):
            print(json.dumps(row), flush=True)
            rows.append(row)
            (options.cache / f"{name}.json").write_text(json.dumps(rows))
    found = [row for name in NETS for row in _read(options.cache / f"{name}.json")]
    if options.write:
        text = PAGE.read_text()
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        PAGE.write_text(f"{text[:start]}\n\n{table(found)}\n\n{text[end:]}")
    return 0 if all(holds(row) for row in found) else 1


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main())
