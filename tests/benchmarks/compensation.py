"""Does compensation pay? Accuracy on Fashion-MNIST: raw, compensated, recalibrated, both.

    python tests/benchmarks/compensation.py fashion_resnet WEIGHTS.pt [--criteria l2norm fpgm] [--reduce 0.5 0.8]

WEIGHTS: state dict of the network, as `one_shot.py` leaves it in its cache. Judged on the 10,000 test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nets
import torch

import prunecore
from prunecore.config.training import EvaluationSettings, RecalibrationSettings
from prunecore.registry import Choice, build_manager
from prunecore.surgery import compensate
from prunecore.training import batches, evaluate, recalibrate
from prunecore.types import ExampleInputs

INPUT = torch.zeros(1, 1, 28, 28)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=("fashion_resnet", "fashion_mobilenet"))
    parser.add_argument("weights", type=Path)
    parser.add_argument("--criteria", nargs="+", default=("l2norm", "fpgm"))
    parser.add_argument("--reduce", nargs="+", type=float, default=(0.5, 0.8))
    options = parser.parse_args()
    task = build_manager([Choice("task", "fashion-mnist", {"train_limit": 6000}, "data")]).hook.prune_task()
    model = getattr(nets, options.net)()
    model.load_state_dict(torch.load(options.weights, weights_only=True))
    model.eval()

    def accuracy(network: torch.nn.Module) -> str:
        return f"{100 * evaluate(network, task.validation, task, EvaluationSettings()).value:.2f}"

    print("| network | criterion | P | raw | compensated | recalibrated | compensated, then recalibrated |")
    print("|---|---|---|---|---|---|---|")
    seen = [ExampleInputs((x,)) for x, _ in batches(task.train, task, batch_size=128, images=1024, seed=0)]
    for criterion in options.criteria:
        for reduce in options.reduce:
            pruned = prunecore.prune(model, INPUT, algo=criterion, reduce=reduce)
            repaired = compensate(model, pruned.model, pruned.recipe, ExampleInputs((INPUT,)), batches=seen)
            both = [recalibrate(m, task.train, task, RecalibrationSettings()) for m in (pruned.model, repaired)]
            values = " | ".join(accuracy(m) for m in (pruned.model, repaired, *both))
            print(f"| {options.net} | {criterion} | {reduce} | {values} |", flush=True)


if __name__ == "__main__":
    main()
