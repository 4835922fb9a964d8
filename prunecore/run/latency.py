"""Latency as the target: tables to plan by, measured once, and the whole network beside the original to check each plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prunecore.errors import ConfigError, ModelError, OutOfMemory
from prunecore.measure import CostModel, Latency, measure_latency
from prunecore.measure.batch import at_batch
from prunecore.measure.latency import moved, pinned_threads
from prunecore.measure.tables import LatencyTables
from prunecore.planning import reachable
from prunecore.run.timetable import Conditions, Subject, measure_tables
from prunecore.surgery import copy_model
from prunecore.training import resolve_device
from prunecore.types import ExampleInputs, Proposal

if TYPE_CHECKING:
    from prunecore.config.training import LatencySettings
    from prunecore.run.rounds import Bench

Value = Callable[[Callable[[], Mapping[str, Any]]], Mapping[str, Any]]  # the recorded value of a step, or a new one


@dataclass(frozen=True, eq=False)
class Stopwatch:
    """Measures networks end to end beside `original`, in turns. whole: seconds of the original when the tables were made."""

    original: nn.Module
    inputs: ExampleInputs
    settings: LatencySettings
    device: torch.device
    whole: float = 0.0

    def beside(self, model: nn.Module) -> Latency:
        """The original and `model` in turns, as the subjects `original` and `cut`."""
        subjects = {"original": self.original, "cut": model}
        (found,) = measure_latency(
            subjects,
            self.inputs,
            batch_sizes=(self.settings.batch,),
            threads=self.settings.threads,
            seconds=self.settings.check_seconds,
            device=self.device,
        )
        return found

    def size(self, model: nn.Module) -> float:
        """What is left of the original's latency: the median ratio of turns side by side."""
        return self.beside(model).ratio("cut", "original").median

    def check(self, model: nn.Module, planned: float) -> dict[str, Any]:
        """The measurement of a cut, in plain values; planned: its size by the tables."""
        found = self.beside(model)
        ratio, cut = found.ratio("cut", "original"), found.timing("cut")
        with pinned_threads(self.settings.threads) as threads:
            about = {"device": str(self.device), "threads": threads, "batch": self.settings.batch}
        dtype = next((str(p.dtype).removeprefix("torch.") for p in model.parameters()), "float32")
        return {
            **about,
            "dtype": dtype,
            "planned_size": planned,
            "planned_ms": 1e3 * planned * self.whole,
            "measured_ms": {"median": 1e3 * cut.median, "low": 1e3 * cut.low, "high": 1e3 * cut.high},
            "original_ms": 1e3 * found.timing("original").median,
            "ratio": dataclasses.asdict(ratio),
        }


def check_device(settings: LatencySettings, device: str) -> torch.device:
    """Where latency is measured: `settings.device`, else that of the run. ConfigError where it is not there."""
    return resolve_device(settings.device or device)


def with_tables(
    bench: Bench, model: nn.Module, settings: LatencySettings, *, value: Value = lambda compute: compute()
) -> Bench:
    """The bench of a run whose target is latency, with its tables; TargetError where they cannot reach it.

    value: keeps the tables, so that a run that goes on plans by the same ones. Raises ModelError where the network cannot
    be run there, or has no layer whose time follows a width.
    """
    device = check_device(settings, bench.device)
    watch = Stopwatch(model, bench.inputs, settings, device)
    tables = LatencyTables.from_dict(value(lambda: _measured(bench, watch).to_dict()))
    if not tables.layers:
        raise ModelError("target.measure latency: no operation whose time follows a width could be timed; take macs")
    graph = dataclasses.replace(bench.graph, latency=tables)
    seconds = CostModel(graph).cost({}).seconds
    original = dataclasses.replace(bench.original, seconds=seconds)
    reachable(graph, bench.target, original=original).require(bench.target.reduce)
    watch = dataclasses.replace(watch, whole=seconds)
    return dataclasses.replace(bench, graph=graph, original=original, whole=seconds, stopwatch=watch)


def _measured(bench: Bench, watch: Stopwatch) -> LatencyTables:
    if bench.graph.varies is not None:
        raise ConfigError(
            f"target.measure latency: what the network does depends on values ({bench.graph.varies}), so its layers have no "
            "latency by width; take target.measure: macs"
        )
    device = watch.device
    args, kwargs = moved(at_batch(bench.inputs, watch.settings.batch), device)
    own = copy_model(watch.original).eval()

    def resize(proposal: Proposal) -> nn.Module:
        cut, _ = bench.hook.prune_resize(model=own, graph=bench.graph, proposal=proposal)
        made: nn.Module = cut.eval().to(device)
        return made

    subject = Subject(copy_model(own).to(device), ExampleInputs(args, kwargs), bench.graph, bench.target, resize)
    try:
        with pinned_threads(watch.settings.threads) as threads:
            return measure_tables(subject, Conditions(device, threads, watch.settings.seconds))
    except (RuntimeError, MemoryError) as error:
        if (short := OutOfMemory.of(error, f"time batch {watch.settings.batch} on {device}")) is not None:
            raise short from error
        raise


def described(facts: Mapping[str, Any] | None, tables: LatencyTables | None) -> dict[str, Any] | None:
    """What `result.json` says of latency: the check of the chosen network, and what its plan rested on."""
    if not facts or tables is None:
        return None
    about = dict(tables.about) | {"layers": len(tables.layers), "tables": len(tables.tables)}
    return {**facts, "tables": {**about, "rest_ms": 1e3 * tables.rest, "scale": tables.scale}}
