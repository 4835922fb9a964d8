"""Is the target hit by one plan? Five torchvision networks (random weights), planned, cut and counted again.

    python tests/benchmarks/planning_targets.py [--nets resnet50 …] [--reduce 0.3 0.5 0.8] [--size 224] [--peer]

A row: the size planned and the size counted on the really cut network (by the independent counter), whether both cost
models agree to the last MAC, how many of the cut dims of all tensors are no multiple of 8, milliseconds of the plan.
With `--peer` beside it how many trial prunes Torch-Pruning's own pruner needs, its ratio bisected, until it is within
0.005 of the same size.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torchvision

from prunecore.errors import PrunecoreError
from prunecore.measure import CostModel, count
from prunecore.planning import plan
from prunecore.registry import Choice, build_manager
from prunecore.run.rounds import trace
from prunecore.scoring import score_all
from prunecore.surgery import resize
from prunecore.types import Calibration, Cost, DependencyGraph, ExampleInputs, Target

if TYPE_CHECKING:
    from torch import nn

NETS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "regnet_y_400mf")
MOST_TRIALS = 12


@dataclass(frozen=True, eq=False)
class Subject:
    name: str
    model: nn.Module
    inputs: ExampleInputs
    graph: DependencyGraph
    scores: dict[str, torch.Tensor]
    cost: Cost


def subject(name: str, size: int, engine: str) -> Subject:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    inputs = ExampleInputs((torch.randn(1, 3, size, size),))
    choices = [Choice("algorithm", "l2norm", {}, "algo"), Choice("graph", engine, {}, "graph")]
    hook = build_manager(choices).hook
    graph = trace(hook, model, inputs)
    scores = score_all(graph, model, hook, Calibration(), 0)
    return Subject(name, model, inputs, graph, scores, count(model, inputs))


def row(it: Subject, reduce: float, multiple_of: int | None) -> str:
    started = time.perf_counter()
    try:
        made = plan(it.graph, it.scores, Target(reduce, multiple_of=multiple_of), original=it.cost)
    except PrunecoreError as error:
        return f"{it.name:16} {reduce:4.1f} {multiple_of or '-':>3}  {error}"
    seconds = time.perf_counter() - started
    cut, recipe = resize(it.model, it.graph, made.proposal)
    counted = count(cut, it.inputs)
    odd = [s for s in recipe.slices if len(s.kept) % (multiple_of or 8)]
    whole = CostModel(it.graph).cost({}) == it.cost
    agrees = "yes" if whole and counted == made.cost else "NO"
    missed = "; ".join(n for n in made.notes if "size" in n)
    return (
        f"{it.name:16} {reduce:4.1f} {multiple_of or '-':>3} {made.size:8.4f} {counted.macs / it.cost.macs:8.4f} "
        f"{agrees:>6} {len(odd):4d}/{len(recipe.slices):<4d} {1000 * seconds:6.0f}  {missed}"
    )


def peer_trials(it: Subject, reduce: float) -> str:
    """Bisect the pruning ratio of Torch-Pruning's MetaPruner, one fresh network and one prune a trial."""
    import torch_pruning as tp

    low, high, size = 0.0, 1.0, 1.0
    for trial in range(1, MOST_TRIALS + 1):
        torch.manual_seed(0)
        model = torchvision.models.get_model(it.name, weights=None).eval()
        ratio = (low + high) / 2 if trial > 1 else reduce
        pruner = tp.pruner.MetaPruner(
            model,
            it.inputs.args[0],
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[last_linear(model)],
        )
        pruner.step()
        size = count(model, it.inputs).macs / it.cost.macs
        if abs(size - (1 - reduce)) <= 0.005:
            return f"{trial} trials, size {size:.4f}"
        low, high = (ratio, high) if size > 1 - reduce else (low, ratio)
    return f"not within 0.005 in {MOST_TRIALS} trials, size {size:.4f}"


def last_linear(model: Any) -> Any:
    return [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--reduce", nargs="+", type=float, default=[0.3, 0.5, 0.8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--engine", default="torch-pruning")
    parser.add_argument("--peer", action="store_true")
    given = parser.parse_args()
    print(f"{'net':16} {'P':>4} {'mul':>3} {'planned':>8} {'counted':>8} {'agree':>6} {'odd/cut':>9} {'ms':>6}")
    for name in given.nets:
        it = subject(name, given.size, given.engine)
        for reduce in given.reduce:
            for multiple_of in (None, 8, 32):
                print(row(it, reduce, multiple_of), flush=True)
            if given.peer:
                print(f"{'':16} {reduce:4.1f}   Torch-Pruning: {peer_trials(it, reduce)}", flush=True)


if __name__ == "__main__":
    main()
