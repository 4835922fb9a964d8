"""Latency as the target on this CPU: what tables promise against what the whole network takes; equal MACs with aligned widths.

    taskset -c 1 python tests/benchmarks/latency_target.py --runs 2 --write

For each network: tables are measured, a cut of 30 % of the latency is planned from them (`first`), planned again where it
misses by more than 0.02 (`final`), and both are measured beside the original, in turns. Then half of the MACs, with widths of
any number and of multiples of 8 and 16, beside the original too. Random weights, batch 1, 224 px.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import prunecore
from prunecore.config.training import LatencySettings
from prunecore.measure import Latency, measure_latency
from prunecore.planning import plan, uniform_scores
from prunecore.registry import Choice, build_manager
from prunecore.run.defaults import DefaultSurgery
from prunecore.run.latency import with_tables
from prunecore.run.rounds import Analysis, bench_of, propose
from prunecore.types import Candidate, ExampleInputs, Recipe, Target

NETS = ("resnet18", "mobilenet_v2", "regnet_y_400mf")
PAGE = Path(__file__).parents[2] / "docs" / "measurements.md"
BEGIN, END = "<!-- latency_target: begin -->", "<!-- latency_target: end -->"
INPUTS = ExampleInputs((torch.zeros(1, 3, 224, 224),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--runs", type=int, default=1, help="how often the tables are measured anew")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the tables of a network")
    parser.add_argument("--check", type=float, default=15.0, help="for one measurement beside the original")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    args = parser.parse_args()
    lines = [
        "| network | multiple_of | tables, s | points | first: planned | measured | miss | final: measured | times planned |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in args.nets:
        for multiple in (None, 8):
            for _ in range(args.runs):
                lines.append(targeted(name, multiple, args))
                print(lines[-1], flush=True)
    lines += ["", "| network | any width | multiple of 8 | multiple of 16 |", "|---|---|---|---|"]
    for name in args.nets:
        lines.append(aligned(name, args.check))
        print(lines[-1], flush=True)
    if args.write:
        text = PAGE.read_text()
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        PAGE.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + after)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models, name)(weights=None)
    return model.eval()


def targeted(name: str, multiple: int | None, args: Any) -> str:
    """A row: 30 % of the latency, planned from tables."""
    target = Target(0.3, "latency", multiple_of=multiple)
    hook = build_manager([Choice("graph", "labels", {}, "graph")], defaults=(DefaultSurgery(),)).hook
    model = network(name)
    bench = bench_of(hook, model, INPUTS, target, seed=0, task=None)
    bench = with_tables(bench, model, LatencySettings(threads=1, seconds=args.seconds, check_seconds=5.0))
    scores = uniform_scores(bench.graph.groups)
    first = plan(bench.graph, scores, target, original=bench.original)
    start = Candidate(0, model, Recipe(), bench.original, 1.0)
    final = propose(bench, start, Analysis(bench.graph, scores), target.reduce)
    cuts = {"first": first.proposal, "final": final}
    made = {key: hook.prune_resize(model=model, graph=bench.graph, proposal=p)[0] for key, p in cuts.items()}
    found = beside(model, made, args.check)
    miss = first.size / found.ratio("first", "original").median - 1.0
    times = next((note.split()[2] for note in final.notes if note.startswith("latency: planned")), "1")
    about = bench.graph.latency.about
    cells = [name, multiple or "any", f"{about['seconds']:.0f}", f"{about['points']} an axis", f"{first.size:.3f}"]
    cells += [spelt(found, "first"), f"{100 * miss:+.1f} %", spelt(found, "final"), times]
    return f"| {' | '.join(map(str, cells))} |"


def aligned(name: str, seconds: float) -> str:
    """A row: half of the MACs, with widths of any number and of multiples."""
    model = network(name)
    cuts = {str(k): prunecore.prune(model, INPUTS, "l2norm", 0.5, multiple_of=k).model for k in (None, 8, 16)}
    found = beside(model, cuts, seconds)
    return f"| {name} | {' | '.join(spelt(found, key) for key in cuts)} |"


def beside(model: nn.Module, cuts: Mapping[str, nn.Module], seconds: float) -> Latency:
    subjects = {"original": model, **cuts}
    (found,) = measure_latency(subjects, INPUTS, threads=1, seconds=seconds)
    return found


def spelt(found: Latency, key: str) -> str:
    ratio = found.ratio(key, "original")
    return f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


if __name__ == "__main__":
    main()
