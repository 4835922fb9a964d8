"""Time of trace, plan and cut against operations and channels: a chain of blocks that gets deeper, then wider.

    python tests/benchmarks/growth.py [--out docs/growth.svg]

CPU seconds, the smallest of three runs. The slope is that of trace + cut between neighbours on a double logarithmic
scale: 1 = linear, 2 = quadratic. The input is 8x8, so that the forward itself is little of it.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from prunecore.planning import plan
from prunecore.registry import Choice, build_manager
from prunecore.run.rounds import trace
from prunecore.scoring import score_all
from prunecore.surgery import resize
from prunecore.types import Calibration, ExampleInputs, Target


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def seconds(depth: int, width: int) -> tuple[float, float]:
    """Of trace and cut, and of the plan."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, width, 1), *(Residual(width) for _ in range(depth)), nn.Conv2d(width, 4, 1)
    ).eval()
    inputs = ExampleInputs((torch.randn(1, 3, 8, 8),))
    hook = build_manager([Choice("algorithm", "random", {}, "algo"), Choice("graph", "labels", {}, "graph")]).hook
    best, planning = math.inf, math.inf
    for _ in range(3):
        start = time.process_time()
        graph = trace(hook, model, inputs)
        traced = time.process_time()
        made = plan(graph, score_all(graph, model, hook, Calibration(), 0), Target(0.5))
        planned = time.process_time()
        resize(model, graph, made.proposal)
        best = min(best, traced - start + time.process_time() - planned)
        planning = min(planning, planned - traced)
    return best, planning


def series(title: str, sizes: list[int], measure: dict[int, tuple[float, float]]) -> list[str]:
    lines = [f"| {title} | trace + cut | slope | plan |", "|---|---|---|---|"]
    for before, size in zip([None, *sizes], sizes, strict=False):
        slope = (
            "" if before is None else f"{math.log(measure[size][0] / measure[before][0]) / math.log(size / before):.2f}"
        )
        lines.append(f"| {size} | {measure[size][0]:.3f} | {slope} | {measure[size][1]:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    depths, widths = [25, 50, 100, 200, 400], [64, 128, 256, 512, 1024]
    by_depth = {5 * d: seconds(d, 32) for d in depths}
    by_width = {w: seconds(20, w) for w in widths}
    print("\n".join(series("operations (32 channels each)", list(by_depth), by_depth)), "\n")
    print("\n".join(series("channels (100 operations)", list(by_width), by_width)))
    if options.out:
        import matplotlib as mpl

        mpl.use("svg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
        for axis, found, label in ((axes[0], by_depth, "operations"), (axes[1], by_width, "channels of each layer")):
            axis.plot(list(found), [t for t, _ in found.values()], "o-", label="trace + cut")
            axis.plot(list(found), [p for _, p in found.values()], "s--", label="plan")
            axis.set(xlabel=label, ylabel="CPU seconds", xlim=(0, None), ylim=(0, None))
        axes[0].legend(frameon=False)
        figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
