"""Multi-stage against one-shot pruning on Fashion-MNIST at equal numbers of training images, with and without distillation.

    python tests/benchmarks/multi_stage.py --cache DIR [--only GLOB]   fill in the missing rows (networks of one_shot.py, same cache)
    python tests/benchmarks/multi_stage.py --cache DIR --write         the same, and put table and plot into the docs

Needs Debian's package `dataset-fashion-mnist`, and matplotlib for `--write`. Every row is a run of `prune run`: 5 rounds of one
epoch, or one round of 5 epochs, on the same images.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import one_shot

import prunecore
from prunecore.config.reader import parse
from prunecore.run.pipeline import run

REDUCE, ROUNDS, IMAGES, SEEDS = 0.8, 5, 2_000, (1, 2, 3)
METHODS = ("one-shot taylor", "one-shot random", "agp", "linear", "lottery_ticket")
DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOT = DOCS / "measurements.md", DOCS / "multi-stage.svg"
BEGIN, END = "<!-- multi_stage: begin -->", "<!-- multi_stage: end -->"

Row = dict[str, Any]
Key = tuple[str, str, bool, int]


def settings_of(key: Key, cache: Path) -> dict[str, Any]:
    """The configuration of a row: net, method, whether it distils, seed."""
    net, method, distils, seed = key
    staged = not method.startswith("one-shot")
    algorithm = method if staged else method.partition(" ")[2]
    nets = Path(__file__).with_name("nets.py")
    return {
        "model": {"spec": f"python:{nets}:{net}", "weights": str(cache / f"{net}.pt"), "inputs": [1, 1, 28, 28]},
        "data": {"kind": "fashion-mnist", "augment": False, "train_limit": IMAGES},
        "algorithm": algorithm,
        "target": {"reduce": REDUCE},
        "training": {"epochs": 1 if staged else ROUNDS, "lr": 2e-3, "batch_size": 64},
        "distillation": {} if distils else None,
        "control": "none",
        "evaluation": {"max_batches": 2},  # in between; what is reported is measured on all test images
        "device": "cpu",
        "seed": seed,
        **({algorithm: {"n": ROUNDS}} if staged else {}),
    }


def row_of(key: Key, cache: Path, directory: Path) -> Row:
    result = run(parse(settings_of(key, cache)), directory, resume=(directory / "config.yaml").is_file())
    net, method, distils, seed = key
    task = one_shot.task_of()
    original, _ = one_shot.trained(net, cache)
    return {
        "net": net,
        "method": method,
        "distils": distils,
        "seed": seed,
        "size": result["size"],
        "before": one_shot.accuracy(original, task),
        "after": one_shot.accuracy(prunecore.load(directory), task),
        "verified": result["certificate"]["verified"],
        "seconds": result["seconds"],
    }


def keys() -> list[Key]:
    return list(itertools.product(one_shot.NETS, METHODS, (False, True), SEEDS))


def table(rows: Sequence[Row], net: str) -> str:
    found = [r for r in rows if r["net"] == net]
    lines = [
        f"### {net}, P {REDUCE}: before {100 * found[0]['before']:.2f} %",
        "",
        "| method | size | after, labels only | after, with distillation |",
        "|---|---|---|---|",
    ]
    for method in METHODS:
        cells = [f"{statistics.mean(r['size'] for r in found if r['method'] == method):.4f}"]
        for distils in (False, True):
            after = [100 * r["after"] for r in found if (r["method"], r["distils"]) == (method, distils)]
            cells.append(f"{statistics.mean(after):.2f} ± {statistics.stdev(after):.2f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: Sequence[Row]) -> None:
    """Accuracy of every method and net, each seed a dot."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "prunecore"  # the same file for the same rows
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(one_shot.NETS), figsize=(9, 3.2), sharey=False)
    for axis, net in zip(axes, one_shot.NETS, strict=True):
        for offset, distils, colour in ((-0.12, False, "#1f77b4"), (0.12, True, "#d62728")):
            for place, method in enumerate(METHODS):
                ys = [100 * r["after"] for r in rows if (r["net"], r["method"], r["distils"]) == (net, method, distils)]
                label = ("with distillation" if distils else "labels only") if place == 0 else None
                axis.plot([place + offset] * len(ys), ys, "o", color=colour, markersize=4, alpha=0.8, label=label)
        axis.set_xticks(range(len(METHODS)), [m.replace(" ", "\n").replace("_", "\n") for m in METHODS], fontsize=8)
        axis.set_title(f"{net}, P {REDUCE}", fontsize=9)
        axis.set_ylabel("test accuracy, %", fontsize=8)
        axis.grid(axis="y", alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="directory of weights and rows")
    parser.add_argument("--only", default="*", metavar="GLOB", help="rows NET/METHOD/{labels,distils}/SEED")
    parser.add_argument("--write", action="store_true", help="put table and plot into the docs")
    given = parser.parse_args()
    rows: list[Row] = []
    for key in keys():
        name = f"{key[0]}/{key[1].replace(' ', '-')}/{'distils' if key[2] else 'labels'}/{key[3]}"
        kept = given.cache / "multi_stage" / f"{name.replace('/', '-')}.json"
        if not kept.is_file() and fnmatch.fnmatch(name, given.only):
            one_shot.trained(key[0], given.cache)
            kept.parent.mkdir(parents=True, exist_ok=True)
            row = row_of(key, given.cache, kept.with_suffix(""))
            kept.write_text(json.dumps(row) + "\n")
            print(name, json.dumps(row), flush=True)
        if kept.is_file():
            rows.append(json.loads(kept.read_text()))
    if given.write:
        if len(rows) != len(keys()):
            parser.error(f"--write needs all {len(keys())} rows, there are {len(rows)}")
        plot(rows)
        text = PAGE.read_text()
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        PAGE.write_text("\n\n".join([text[:start], *(table(rows, net) for net in one_shot.NETS), text[end:]]))
    return 0 if all(r["verified"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
