"""NetAdapt, fast and exact, against AGP and one-shot pruning at equal numbers of training images, and what each lever gives.

    python tests/benchmarks/search.py --cache DIR [--only GLOB]   fill in the missing rows NET/P/METHOD/SEED
    python tests/benchmarks/search.py --cache DIR --write tables  the same, and put tables and plot into the docs
    python tests/benchmarks/search.py --cache DIR --write reuse   of what reusing prices gives, which takes rows of its own

Needs Debian's package `dataset-fashion-mnist`, and matplotlib for `--write`. Every row is a run of `prune run`. Methods named
`NAME@exact` and `NAME@fast` are trained on as many images as that search took in all, its trials and its last fine-tune together.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import one_shot
import torch

import prunecore
from prunecore.config.reader import parse
from prunecore.run.pipeline import run
from prunecore.training import batches

NETS, REDUCTIONS, SEEDS = ("small_resnet", "small_mobilenet"), (0.5, 0.8), (1, 2, 3)
IMAGES = 60_000  # of training data; a tenth of them, 6,000, are the search split, which says what is accurate
STEPS = 20  # short-term steps of a candidate
SHORT = {"exact": 8, "fast": 32}  # images in each of them
LONG = {"epochs": 2, "max_batches": 800, "batch_size": 64, "lr": 2e-3}  # the long-term fine-tune
ROUNDS = 5  # of AGP
SCORING = {"batches": 2, "batch_size": 64}  # images that gradients are taken from, each time that channels are scored
METHODS = ("fast", "exact", *(f"{name}@{search}" for search in ("fast", "exact") for name in ("one-shot", "agp")))
# the fast mode with every block tried in every round, and that without one of its levers
FAST: Mapping[str, Any] = {"refresh": 1}
LEVERS: Mapping[str, Mapping[str, Any]] = {
    "one block a round": {"blocks": 1, "step": 0.03},
    "thin blocks no dearer": {"balance": 0.0},
    "coarser: twice the step": {"step": 0.12},
    "half the images": {"images": 256, "calibration": 64},
}
# of the second network, the lever that gives nothing on the first
ABLATED = {("small_resnet", 0.8): tuple(LEVERS), ("small_mobilenet", 0.8): ("thin blocks no dearer",)}
# with prices reused, as by default
REUSED: Mapping[str, Mapping[str, Any]] = {"fast, prices reused": {}}
REUSE = ("fast", *REUSED, "one-shot@fast")
DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOT = DOCS / "measurements.md", DOCS / "search.svg"
SECTIONS = ("tables", "reuse")

Row = dict[str, Any]
Key = tuple[str, float, str, int]


def keys() -> list[Key]:
    whole = itertools.product(NETS, REDUCTIONS, METHODS, SEEDS)
    levers = [(*pair, lever, seed) for pair, levers in ABLATED.items() for lever in levers for seed in SEEDS]
    return [*whole, *levers, *itertools.product(NETS, REDUCTIONS, REUSED, SEEDS)]


def name_of(key: Key) -> str:
    return "/".join([key[0], str(key[1]), re.sub(r"[,: ]+", "-", key[2]), str(key[3])])


def settings_of(key: Key, cache: Path) -> dict[str, Any]:
    """The configuration of a row; of a peer, with the images of the search that it is measured against."""
    net, reduce, method, seed = key
    nets = Path(__file__).with_name("nets.py")
    settings: dict[str, Any] = {
        "model": {"spec": f"python:{nets}:{net}", "weights": str(cache / f"{net}.pt"), "inputs": [1, 1, 28, 28]},
        "data": {"kind": "fashion-mnist", "augment": False, "train_limit": IMAGES},
        "target": {"reduce": reduce},
        "training": LONG,
        "recalibration": {"images": 512},
        "compensation": {"images": 256},
        "control": "none",
        "device": "cpu",
        "seed": seed,
    }
    if "@" not in method:
        exact = method == "exact"
        fast = REUSED[method] if method in REUSED else {**FAST, **LEVERS.get(method, {})}
        options = {"exact": True, "long_term": "end", "step": 0.05} if exact else fast
        short = {"epochs": 1, "max_batches": STEPS, "lr": 1e-3, "batch_size": SHORT["exact" if exact else "fast"]}
        searches = {"algorithm": "netadapt", "criterion": "taylor", "taylor": SCORING, "netadapt": options}
        return {**settings, **searches, "retraining": short}
    name, _, search = method.partition("@")
    images = json.loads(_file(cache, (net, reduce, search, seed)).read_text())["training_images"]
    rounds = ROUNDS if name == "agp" else 1
    algorithm = {"agp": "agp", "one-shot": "taylor"}[name]
    settings |= {"algorithm": algorithm, **({"agp": {"n": ROUNDS}} if name == "agp" else {})}
    return {**settings, "training": {**LONG, **epochs_of(images / rounds)}}


def epochs_of(images: float) -> dict[str, int]:
    """Two epochs or more of equal length that are `images` in all, none longer than the data."""
    longest, wanted = (IMAGES - IMAGES // 10) // 64, max(2, round(images / 64))
    epochs = max(2, -(-wanted // longest))
    return {"epochs": epochs, "max_batches": round(wanted / epochs)}


def training_images(settings: Mapping[str, Any], result: Mapping[str, Any], directory: Path) -> int:
    """What went forward and backward: to score channels, in trials, after accepted cuts, in the last fine-tune."""
    journal = (directory / "journal.jsonl").read_text()
    scored = len(set(re.findall(r'"name": "(?:plan|blocks)-(\d+)-', journal)))
    trained = settings["training"]
    tuned = trained["epochs"] * trained["max_batches"] * trained["batch_size"]
    if settings["algorithm"] == "netadapt":
        short = settings["retraining"]
        tuned += (journal.count('/fine-tune"') - 1) * short["max_batches"] * short["batch_size"]
    elif settings["algorithm"] == "agp":
        tuned *= ROUNDS
    scoring = scored * SCORING["batches"] * SCORING["batch_size"]
    return tuned + scoring + int(result["ledger"]["images_backward"])


def row_of(key: Key, cache: Path, directory: Path) -> Row:
    settings = settings_of(key, cache)
    result = run(parse(settings), directory, resume=(directory / "config.yaml").is_file())
    task = one_shot.task_of()
    correct = _correct(prunecore.load(directory), task)
    _file(cache, key).with_suffix(".right").write_bytes(np.packbits(correct).tobytes())
    net, reduce, method, seed = key
    return {
        "net": net,
        "P": reduce,
        "method": method,
        "seed": seed,
        "size": result["size"],
        "before": one_shot.accuracy(one_shot.trained(net, cache)[0], task),
        "after": float(correct.mean()),
        "training_images": training_images(settings, result, directory),
        "forward_images": result["ledger"]["images_forward"],
        "backward_images": result["ledger"]["images_backward"],
        "candidates": result["ledger"]["candidates"],
        "verified": result["certificate"]["verified"],
        "seconds": result["seconds"],
        "widths": [w["after"] for w in result["widths"]],
    }


def _correct(model: torch.nn.Module, task: prunecore.Task) -> Any:
    """For every test image, whether the answer is right."""
    model.eval()
    with torch.no_grad():
        found = [(model(x).argmax(1) == y) for x, y in batches(task.validation, task, batch_size=500)]
    return torch.cat(found).numpy()


def _file(cache: Path, key: Key) -> Path:
    return cache / "search" / f"{name_of(key).replace('/', '-')}.json"


# ---------------------------------------------------------------- what came out


def right(cache: Path, key: Key) -> Any:
    """Shape `(10_000,)`: which test images the network of a row gets right."""
    packed = np.frombuffer(_file(cache, key).with_suffix(".right").read_bytes(), dtype=np.uint8)
    return np.unpackbits(packed)[:10_000].astype(np.int8)


def interval(cache: Path, ours: Sequence[Key], theirs: Sequence[Key]) -> tuple[float, float, float]:
    """Difference of accuracy in points, ours - theirs, and its 95 % interval: seeds and test images drawn anew, pairs together."""
    gaps = np.stack([right(cache, a) - right(cache, b) for a, b in zip(ours, theirs, strict=True)])
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(10_000):
        seeds = generator.integers(len(gaps), size=len(gaps))
        counts = generator.multinomial(gaps.shape[1], np.full(gaps.shape[1], 1 / gaps.shape[1]))
        draws.append(100 * float((gaps[seeds] @ counts).mean()) / gaps.shape[1])
    low, high = np.percentile(draws, [2.5, 97.5])
    return 100 * float(gaps.mean()), float(low), float(high)


def spell(found: tuple[float, float, float]) -> str:
    return f"{found[0]:+.2f} [{found[1]:+.2f}, {found[2]:+.2f}]"


def seeds_of(rows: Mapping[Key, Row], net: str, reduce: float, method: str) -> list[Key]:
    """The rows of a method that are there."""
    return [k for seed in SEEDS if (k := (net, reduce, method, seed)) in rows]


def gap(rows: Mapping[Key, Row], cache: Path, ours: Sequence[Key], theirs: Sequence[Key]) -> str:
    """The difference of two methods, by the seeds that both have."""
    seeds = {k[3] for k in ours} & {k[3] for k in theirs}
    mine, others = ([k for k in keys if k[3] in seeds] for keys in (ours, theirs))
    return spell(interval(cache, mine, others)) if mine and mine != others else ""


def mean_of(rows: Mapping[Key, Row], found: Sequence[Key], *fields: str) -> float:
    return statistics.mean(sum(rows[k][f] for f in fields) for k in found)


def line_of(rows: Mapping[Key, Row], found: Sequence[Key], *cells: str) -> str:
    """Of a method: size, accuracy of all its seeds, what else there is to say of it, and what it took."""
    after = [100 * rows[k]["after"] for k in found]
    spread = f" ± {statistics.stdev(after):.2f}" if len(after) > 1 else ""
    numbers = [
        f"{mean_of(rows, found, 'size'):.4f}",
        f"{statistics.mean(after):.2f}{spread} ({len(after)})",
        *cells,
        f"{mean_of(rows, found, 'training_images'):,.0f}",
        f"{mean_of(rows, found, 'training_images', 'forward_images'):,.0f}",
    ]
    return f"| {found[0][2]} | {' | '.join(numbers)} |"


def table(rows: Mapping[Key, Row], cache: Path, net: str, reduce: float) -> str:
    found = {m: k for m in METHODS if (k := seeds_of(rows, net, reduce, m))}
    lines = [
        f"### {net}, P {reduce}: before {100 * next(iter(rows[k[0]] for k in found.values()))['before']:.2f} %",
        "",
        "| method | size | accuracy, % (seeds) | fast - this, points | exact - this, points | trained images | all images |",
        "|---|---|---|---|---|---|---|",
    ]
    for theirs in found.values():
        gaps = [gap(rows, cache, found.get(ours, []), theirs) for ours in ("fast", "exact")]
        lines.append(line_of(rows, theirs, *gaps))
    if {"fast", "exact"} <= found.keys():
        fast, exact = (mean_of(rows, found[m], "training_images", "forward_images") for m in ("fast", "exact"))
        last = LONG["epochs"] * LONG["max_batches"] * LONG["batch_size"]
        lines += [
            "",
            f"Fast sends {fast / exact:.3f} of exact's images through networks; {(fast - last) / (exact - last):.3f} without the last "
            "fine-tune, which both have.",
        ]
    return "\n".join(lines)


def ablation(rows: Mapping[Key, Row], cache: Path, net: str, reduce: float) -> str:
    whole = seeds_of(rows, net, reduce, "fast")
    lines = [
        f"### Levers of the fast mode, {net}, P {reduce}",
        "",
        "| | size | accuracy, % (seeds) | this - fast, points | trained images | all images |",
        "|---|---|---|---|---|---|",
    ]
    for method in ("fast", *LEVERS):
        found = seeds_of(rows, net, reduce, method)
        if found:
            lines.append(line_of(rows, found, gap(rows, cache, found, whole)))
    return "\n".join(lines)


def plot(rows: Mapping[Key, Row]) -> None:
    """Accuracy against all images that a method sent through networks, each seed a dot."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "prunecore"  # the same file for the same rows
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(REDUCTIONS), len(NETS), figsize=(9, 6.4), sharex=True, squeeze=False)
    methods = {"fast": "#d62728", "exact": "#1f77b4", "one-shot": "#2ca02c", "agp": "#9467bd"}
    for axis, (reduce, net) in zip(axes.flat, itertools.product(REDUCTIONS, NETS), strict=True):
        best: list[tuple[float, float]] = []
        for name, colour in methods.items():
            found = [r for k, r in rows.items() if k[:2] == (net, reduce) and k[2].partition("@")[0] == name]
            xs = [r["training_images"] + r["forward_images"] for r in found]
            ys = [100 * r["after"] for r in found]
            if not found:
                continue
            axis.plot(xs, ys, "o", color=colour, markersize=4, alpha=0.8, label=name)
            means = {r["method"] for r in found}
            best += [
                (statistics.mean(x for x, r in zip(xs, found, strict=True) if r["method"] == m),
                 statistics.mean(y for y, r in zip(ys, found, strict=True) if r["method"] == m))
                for m in means
            ]  # fmt: skip
        front = [p for p in sorted(best) if all(q[1] < p[1] for q in best if q[0] < p[0])]
        if front:
            axis.step(
                *zip(*front, strict=True),
                where="post",
                color="black",
                linewidth=0.8,
                alpha=0.6,
                label="Pareto front of the means",
            )
        axis.set_xscale("log")
        axis.set_title(f"{net}, P {reduce}", fontsize=9)
        axis.set_ylabel("test accuracy, %", fontsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("images forward or backward, trials included", fontsize=8)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def reuse(rows: Mapping[Key, Row], cache: Path) -> str:
    """What reusing prices gives: a line a method, of every network and target."""
    lines = [
        "| network | P | method | size | accuracy, % (seeds) | prices reused - this, points | trained images | all images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pair in itertools.product(NETS, REDUCTIONS):
        ours = seeds_of(rows, *pair, next(iter(REUSED)))
        found = [k for method in REUSE if (k := seeds_of(rows, *pair, method))]
        lines += [f"| {pair[0]} | {pair[1]} {line_of(rows, k, gap(rows, cache, ours, k))}" for k in found]
    return "\n".join(lines)


def write(rows: Mapping[Key, Row], cache: Path, section: str) -> None:
    """Put what was asked for between its markers in the docs."""
    made = {k[:2] for k in rows}
    parts = [reuse(rows, cache)]
    if section == "tables":
        plot({k: row for k, row in rows.items() if k[2] not in REUSED})
        parts = [table(rows, cache, *pair) for pair in itertools.product(NETS, REDUCTIONS) if pair in made]
        parts += [ablation(rows, cache, *p) for p in ABLATED if any(k[:2] == p and k[2] in LEVERS for k in rows)]
    text, (begin, end) = PAGE.read_text(), (f"<!-- search {section}: {side} -->" for side in ("begin", "end"))
    PAGE.write_text("\n\n".join([text[: text.index(begin) + len(begin)], *parts, text[text.index(end) :]]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="directory of weights and rows")
    parser.add_argument("--only", default="*", metavar="GLOB", help="rows NET/P/METHOD/SEED")
    parser.add_argument("--write", choices=SECTIONS, help="put tables and plot, or what reuse gives, into the docs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[Key, Row] = {}
    for key in keys():
        kept = _file(given.cache, key)
        if not kept.is_file() and fnmatch.fnmatch(name_of(key), given.only):
            one_shot.trained(key[0], given.cache)
            kept.parent.mkdir(parents=True, exist_ok=True)
            row = row_of(key, given.cache, kept.with_suffix(""))
            kept.write_text(json.dumps(row) + "\n")
            print(name_of(key), json.dumps(row), flush=True)
        if kept.is_file():
            rows[key] = json.loads(kept.read_text())
    if given.write:
        write(rows, given.cache, given.write)
        print(f"written with {len(rows)} of {len(keys())} rows")
    return 0 if all(r["verified"] for r in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
