"""Every extension point of prunecore, readable as a menu.

A plugin is a class named by an entry point of one of the groups below. If it has an inner pydantic model `Options`, it is
built as `cls(options)`, else as `cls()`; one instance serves one run. Hooks are methods marked with `prunecore.hookimpl`.

    prunecore.loaders      prune_load_model, prune_save_model
    prunecore.graphs       prune_trace
    prunecore.algorithms   prune_score, prune_calibrate (criteria); prune_schedule, prune_search, prune_rewind (searches);
                           prune_fine_tune
    prunecore.tasks        prune_task
    prunecore.executors    prune_executor
    prunecore.trackers     prune_event
    prunecore.extensions   always loaded: prune_op_rules, prune_nas_builders, prune_resize, prune_event
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunecore.execution import Executor
    from prunecore.graph import OpRule
    from prunecore.types import (
        Calibration,
        Candidate,
        ChannelGroup,
        DependencyGraph,
        ExampleInputs,
        LoadedModel,
        Member,
        NasBuilder,
        Phase,
        Proposal,
        Recipe,
        Target,
        Task,
    )

PROJECT = "prunecore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# ---------------------------------------------------------------- loading and saving


@hookspec(firstresult=True)
def prune_load_model(builders: Mapping[str, NasBuilder]) -> LoadedModel | None:
    """Load the network that the run prunes: the model, example inputs, provenance.

    `builders`: what all plugins gave by `prune_nas_builders`; most loaders leave the argument out.
    """


@hookspec(firstresult=True)
def prune_save_model(
    loaded: LoadedModel, pruned: nn.Module, recipe: Recipe, result: Mapping[str, Any], directory: Path
) -> Path | None:
    """Write `pruned` into `directory` in the loader's own format, beside `model.safetensors`; returns the path.

    `recipe`: relative to `loaded.model`. `result`: what `result.json` will hold.
    """


@hookspec
def prune_nas_builders() -> Mapping[str, NasBuilder]:
    """Builders of unpruned networks by the `algname` of an architecture search, collected from all plugins.

    A builder is called as `builder(interface, num_classes=…, trust=…)`: the whole content of an `interface.pt`, the number
    of classes that the user asked for (or None), and whose code may run for it (`prunecore.loading.Trust`).
    """
    return {}


# ---------------------------------------------------------------- dependency graph and resizing


@hookspec(firstresult=True)
def prune_trace(model: nn.Module, inputs: ExampleInputs, rules: Sequence[OpRule]) -> DependencyGraph | None:
    """Find the channel groups of `model` and its cost model. The model is left as it was.

    `rules`: what all plugins gave by `prune_op_rules`; an engine that knows no operators leaves the argument out.
    """


@hookspec(firstresult=True)
def prune_resize(model: nn.Module, graph: DependencyGraph, proposal: Proposal) -> tuple[nn.Module, Recipe] | None:
    """Carry out `proposal` on a copy of `model`. The core has the default; the input is untouched."""


@hookspec
def prune_op_rules() -> Iterable[OpRule]:
    """Further operator rules for the label engine, collected from all plugins; they win over the built-in ones."""
    return ()


# ---------------------------------------------------------------- importance scoring


@hookspec(firstresult=True)
def prune_calibrate(
    model: nn.Module, graph: DependencyGraph, inputs: ExampleInputs, task: Task | None, seed: int
) -> Calibration | None:
    """Gather evidence from data. `model` is a copy that may be run but must keep its weights.

    Raise `prunecore.ConfigError` where data is needed and `task` is None.
    """


@hookspec(firstresult=True)
def prune_score(
    group: ChannelGroup, weights: Mapping[Member, Tensor], calibration: Calibration, seed: int
) -> Tensor | None:
    """Saliency of every channel of `group`: float32, shape `(channels,)`, higher = keep.

    `weights[member]` is float32 of shape `(channels, features)`, whatever the layer type.
    """


# ---------------------------------------------------------------- schedule and search


@hookspec(firstresult=True)
def prune_schedule(target: Target) -> Sequence[float] | None:
    """Cumulative reductions, one a round, ascending, the last equal to `target.reduce`."""


@hookspec(firstresult=True)
def prune_search(problem: Any) -> Generator[Sequence[Proposal], Sequence[Candidate], Candidate] | None:
    """An ask/tell generator: yields proposals, is sent the candidates made of them, returns the chosen one.

    `problem` is a `prunecore.Problem`. It must be deterministic given its seed and what it is sent.
    """


@hookspec(firstresult=True)
def prune_rewind(start: nn.Module) -> nn.Module | None:
    """The network whose values the survivors of a cut take; by default they keep those that they were cut with.

    `start`: the network that the run began to cut, which must not be changed. What is returned has the same tensors.
    """


# ---------------------------------------------------------------- around them


@hookspec(firstresult=True)
def prune_task() -> Task | None:
    """Data, loss and metric of the run."""


@hookspec(firstresult=True)
def prune_fine_tune(
    model: nn.Module, phase: Phase, task: Task, teacher: nn.Module | None, recipe: Recipe, seed: int
) -> nn.Module | None:
    """Train a copy of `model` for `phase` and return it. The core's default is the loop of `prunecore.training`.

    `teacher`: the unpruned network, where the run distils; `recipe`: how `model` was cut from it.
    """


@hookspec(firstresult=True)
def prune_executor() -> Executor | None:
    """Where the trials of a search are carried out; the core's default has workers on this machine."""


@hookspec
def prune_event(event: Mapping[str, Any]) -> None:
    """Told to all: trackers, progress, notebooks. `event["event"]` names it; the rest is plain values.

    `loaded` and `accepted` also carry the network as `model`, which must be left as it is.
    """
