"""An algorithm of the tests: every round tries four proposals in workers, takes the best by loss, and carries it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from prunecore import Candidate, Problem, Proposal, Recipe, Target, Task, hookimpl
from prunecore.surgery import copy_model
from prunecore.training import batches
from prunecore.types import Phase

NAME = "try_four"

Search = Generator[Sequence[Proposal], Sequence[Candidate], Candidate]


class TryFour:
    """Two rounds. Trials: the plan and its mirror image (other channels of the same widths), each as it is and tuned."""

    class Options(BaseModel):
        """swap: propose them the other way round. nudge: fine-tune by adding it to every bias, after so many looks at the data
        as `looks` says; None: as the core does.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        swap: bool = False
        nudge: float | None = None
        looks: int = 2

    def __init__(self, options: Options) -> None:
        self._swap = options.swap
        self._options = options

    @hookimpl
    def prune_fine_tune(
        self, model: nn.Module, phase: Phase, task: Task, teacher: nn.Module | None, recipe: Recipe, seed: int
    ) -> nn.Module | None:
        if self._options.nudge is None:
            return None
        if teacher is None or not recipe.widths or phase == "pretraining":
            raise AssertionError(f"{phase}: no teacher, or nothing was cut")
        own = copy_model(model).train()
        for inputs, _ in batches(task.train, task, batch_size=20, images=20 * self._options.looks, seed=seed):
            own(inputs)
        with torch.no_grad():
            for name, parameter in own.named_parameters():
                parameter += self._options.nudge if name.endswith("bias") else 0.0
        return own.train(model.training)

    @hookimpl
    def prune_schedule(self, target: Target) -> tuple[float, ...]:
        return (target.reduce / 2, target.reduce)

    @hookimpl
    def prune_search(self, problem: Problem) -> Search:
        return self._search(problem)

    def _search(self, problem: Problem) -> Search:
        best = problem.start
        for reduce in problem.schedule:
            plan = problem.plan(best, reduce)
            mirror = mirrored(plan, best)
            asked = [
                dataclasses.replace(plan, trial=True, tune=None),
                dataclasses.replace(plan, trial=True, tune="retraining", batches=2),
                dataclasses.replace(mirror, trial=True, tune=None, images=64),
                dataclasses.replace(mirror, trial=True, tune="retraining"),
            ]
            tried = yield asked[::-1] if self._swap else asked
            scored = [
                (c.score.loss, i) for i, c in enumerate(tried[::-1] if self._swap else tried) if c.score is not None
            ]
            chosen = asked[min(scored)[1]] if scored else plan
            (best,) = yield [dataclasses.replace(plan, kept=chosen.kept)]
        return best


def mirrored(plan: Proposal, base: Candidate) -> Proposal:
    """As many channels of each group, counted from the other end."""
    widths = {name: len(module.weight) for name, module in base.model.named_modules() if name in plan.kept}  # type: ignore[arg-type]
    return dataclasses.replace(plan, kept={g: widths[g] - 1 - index[::-1] for g, index in plan.kept.items()})


def install(directory: Path) -> Path:
    """Make `directory` what a path entry looks like that this algorithm is installed in."""
    info = directory / "try_four-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: try-four\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[prunecore.algorithms]\n{NAME} = {__name__}:TryFour\n")
    return directory
