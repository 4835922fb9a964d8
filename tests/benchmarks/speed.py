"""CPU time of trace, plan, cut and certificate beside Torch-Pruning's own graph and prune, as ratios in one run.

    python tests/benchmarks/speed.py [--nets resnet18 …] [--runs 3] [--size 64]

A row: medians over the runs, in CPU seconds; `ratio` = (trace + plan + cut) / (Torch-Pruning's graph + prune).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
import torchvision

from prunecore.measure import count
from prunecore.planning import plan
from prunecore.registry import Choice, build_manager
from prunecore.run.rounds import trace
from prunecore.scoring import score_all
from prunecore.surgery import certify, resize
from prunecore.types import Calibration, ExampleInputs, Target

NETS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "resnet50", "densenet121", "regnet_y_400mf")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ours(model: torch.nn.Module, inputs: ExampleInputs) -> list[float]:
    hook = build_manager([Choice("algorithm", "l2norm", {}, "algo"), Choice("graph", "labels", {}, "graph")]).hook
    cost = count(model, inputs)
    trace_s, graph = timed(lambda: trace(hook, model, inputs))

    def planned() -> Any:
        return plan(graph, score_all(graph, model, hook, Calibration(), 0), Target(0.5), original=cost)

    plan_s, made = timed(planned)
    cut_s, (cut, recipe) = timed(lambda: resize(model, graph, made.proposal))
    certificate_s, certificate = timed(lambda: certify(model, cut, recipe, inputs))
    if not certificate.verified:
        raise SystemExit(f"{type(model).__name__}: the certificate failed: {certificate.notes}")
    return [trace_s, plan_s, cut_s, certificate_s]


def peer(model: torch.nn.Module, inputs: ExampleInputs) -> float:
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    subject = copy.deepcopy(model)
    head = dict(subject.named_modules())[next(n for n, m in model.named_modules() if m is last)]

    def prune() -> None:
        tp.pruner.BasePruner(
            subject,
            inputs.args[0],
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=0.3,
            ignored_layers=[head],
        ).step()

    return timed(prune)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    print(
        "| network | trace | score + plan | cut | certificate | Torch-Pruning | ratio |\n|---|---|---|---|---|---|---|"
    )
    for name in options.nets:
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval()
        inputs = ExampleInputs((torch.randn(1, 3, options.size, options.size),))
        runs = [(ours(model, inputs), peer(model, inputs)) for _ in range(options.runs)]
        parts = [statistics.median(mine[i] for mine, _ in runs) for i in range(4)]
        ratio = statistics.median(sum(mine[:3]) / theirs for mine, theirs in runs)
        shown = " | ".join(f"{s:.2f}" for s in (*parts, statistics.median(theirs for _, theirs in runs)))
        print(f"| {name} | {shown} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
