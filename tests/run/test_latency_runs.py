"""Latency as the target, on a machine on which an operator call takes what its tensors say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import prunecore
from prunecore.config.reader import parse
from prunecore.config.training import LatencySettings
from prunecore.errors import ConfigError, ModelError, TargetError
from prunecore.measure import CostModel, Latency
from prunecore.measure.calls import _is_view
from prunecore.measure.tables import LatencyTables
from prunecore.registry import Choice, build_manager
from prunecore.run import directory as files
from prunecore.run import latency as module
from prunecore.run import timetable
from prunecore.run.defaults import DefaultSurgery
from prunecore.run.latency import with_tables
from prunecore.run.pipeline import run
from prunecore.run.rounds import Bench, bench_of
from prunecore.run.workshop import Workshop
from prunecore.types import Candidate, ExampleInputs, Recipe, Target
from tests.run.test_resume import QUICK

INPUTS = ExampleInputs((torch.zeros(1, 3, 8, 8),))
SETTINGS = LatencySettings(threads=1, seconds=1e-3)
CALL, ELEMENT = 1e-7, 1e-8  # seconds


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what calls take: 0.1 us each, and 10 ns for every element of their tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _is_view(func):
            tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
            self.seconds += CALL + ELEMENT * sum(x.numel() for x in tensors)
        return func(*args, **(kwargs or {}))


def timer(call: Callable[[], Any]) -> float:
    with torch.no_grad(), _Meter() as meter:
        call()
    return meter.seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`bias`: seconds that every network takes beside its calls, from the check on. `checks`: how many there were."""
    facts: dict[str, Any] = {"bias": 0.0, "checks": 0, "tables": 0}

    def end_to_end(subjects: Mapping[str, nn.Module], inputs: ExampleInputs, **_: Any) -> tuple[Latency]:
        facts["checks"] += 1
        taken = {name: facts["bias"] + timer(lambda m=m: m(*inputs.args)) for name, m in subjects.items()}
        return (Latency(1, {name: (seconds,) * 6 for name, seconds in taken.items()}),)

    def timer_of(device: torch.device, threads: int) -> Any:
        facts["tables"] += 1
        return timer

    monkeypatch.setattr(timetable, "timer_of", timer_of)
    monkeypatch.setattr(module, "measure_latency", end_to_end)
    return facts


class Twins(nn.Module):
    """Two equal blocks between a stem and a head; the sum ties the stem's width to that of the blocks' ends."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up1, self.down1 = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.up2, self.down2 = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down1(self.up1(x).relu())
        x = x + self.down2(self.up2(x).relu())
        found: Tensor = self.head(x.mean((2, 3)))
        return found


def bench(model: nn.Module, target: Target, settings: LatencySettings = SETTINGS) -> Bench:
    hook = build_manager(
        [Choice("graph", "labels", {}, "graph"), Choice("algorithm", "l2norm", {}, "algo")],
        defaults=(DefaultSurgery(),),
    ).hook
    return with_tables(bench_of(hook, model, INPUTS, target, seed=0, task=None), model, settings)


def network() -> nn.Module:
    torch.manual_seed(0)
    return Twins().eval()


# ---------------------------------------------------------------- tables


def test_layers_of_equal_configuration_and_shapes_share_a_table(machine: dict[str, Any]) -> None:
    tables = bench(network(), Target(0.3, "latency")).graph.latency
    assert tables is not None
    of = {layer.name: layer.table for layer in tables.layers}
    assert of["up1 (convolution)"] == of["up2 (convolution)"]
    assert of["down1 (convolution)"] == of["down2 (convolution)"]
    assert len({of["stem (convolution)"], of["up1 (convolution)"], of["down1 (convolution)"]}) == 3
    # sizes along an axis are added: of up1 the input's and the weight's 8 + 8, the weight's and the bias's 16 + 16
    points = tables.tables[of["up1 (convolution)"]].points
    assert [(p[0], p[-1]) for p in points] == [(2, 16), (2, 32)]


@pytest.mark.parametrize("reduce", [0.2, 0.5])
def test_the_tables_give_what_the_whole_network_takes(machine: dict[str, Any], reduce: float) -> None:
    """Elements are bilinear in the widths, so that interpolation is exact here."""
    model = network()
    found = bench(model, Target(reduce, "latency"))
    workshop = Workshop(found, Candidate(0, model, Recipe(), found.original, 1.0))
    made = workshop.propose(workshop.candidate(0), reduce)
    cut, _ = found.hook.prune_resize(model=model, graph=found.graph, proposal=made)
    planned = CostModel(found.graph).cost({name: len(index) for name, index in made.kept.items()}).seconds
    assert planned == pytest.approx(timer(lambda: cut(*INPUTS.args)), rel=1e-9)
    assert found.whole == pytest.approx(timer(lambda: model(*INPUTS.args)), rel=1e-9)
    assert abs(planned / found.whole - (1 - reduce)) <= 0.02
    assert machine["checks"] == 1  # the first plan was right


def test_what_cannot_be_timed_alone_is_named_and_left_to_the_rest(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunecore.measure import stopwatch

    real = stopwatch.replay_of

    def fails(form: Any, sizes: Any, device: Any) -> Any:
        if "aten.mean" in form.key:
            raise RuntimeError("not alone")
        return real(form, sizes, device)

    monkeypatch.setattr(stopwatch, "replay_of", fails)
    tables = bench(network(), Target(0.3, "latency")).graph.latency
    assert tables is not None
    assert tables.about["untimed"] == ["the network itself (mean)"]
    assert all("mean" not in layer.name for layer in tables.layers)
    assert tables.rest > 0.0


class Depends(nn.Module):
    """What it does depends on its width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        found: Tensor = self.head(y.relu() if len(self.conv.weight) == 8 else y.sigmoid())
        return found


def test_a_network_that_does_something_else_when_it_is_narrower_is_refused(machine: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="makes other operator calls once conv is narrower"):
        bench(Depends(), Target(0.3, "latency"))


def test_a_target_out_of_reach_is_refused_with_the_range(machine: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=r"0.95 of latency is out of reach; between 0.0 % and \d\d\.\d % can go"):
        bench(network(), Target(0.95, "latency"))


# ---------------------------------------------------------------- runs and the Python API


def test_the_api_plans_checks_and_plans_again_where_the_whole_network_differs(machine: dict[str, Any]) -> None:
    machine["bias"] = 5e-5
    found = prunecore.prune(network(), INPUTS, reduce=0.3, measure="latency", latency={"threads": 1, "seconds": 0.001})
    facts = found.latency
    assert facts is not None
    assert abs(found.size - 0.7) <= 0.02
    taken = 5e-5 + timer(lambda: found.model(*INPUTS.args))
    assert facts["measured_ms"]["median"] == pytest.approx(1e3 * taken)
    assert facts["ratio"]["median"] == found.size
    assert facts["planned_size"] < 0.69  # asked for less than the target: the tables do not know the bias
    assert facts["planned_ms"] == pytest.approx(1e3 * (taken - 5e-5))
    assert (facts["device"], facts["threads"], facts["dtype"], facts["batch"]) == ("cpu", 1, "float32", 1)
    assert any(note.startswith("latency: planned 2 times") for note in found.notes)
    assert machine["checks"] == 3  # two plans, and the cut that is handed out


def test_where_the_last_measurement_misses_the_target_a_note_says_so(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.Stopwatch, "size", lambda *_: 0.7)  # what the checks of the plans found
    machine["bias"] = 5e-5
    found = prunecore.prune(network(), INPUTS, reduce=0.3, measure="latency", latency={"threads": 1, "seconds": 0.001})
    assert found.size > 0.75
    spelt = f"{found.size:.3f} [{found.size:.3f}, {found.size:.3f}]"
    assert found.notes == (f"latency: measured {spelt} of the original in the end, 0.700 asked for",)


def test_with_alignment_widths_are_multiples(machine: dict[str, Any]) -> None:
    found = prunecore.prune(
        network(), INPUTS, reduce=0.4, measure="latency", multiple_of=4, latency={"threads": 1, "seconds": 0.001}
    )
    assert all(w.after % 4 == 0 for w in found.recipe.widths)
    assert found.size == pytest.approx(found.latency["planned_size"])  # type: ignore[index]


def test_settings_that_are_unknown_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"latency\.second"):
        prunecore.prune(network(), INPUTS, measure="latency", latency={"second": 5})
    with pytest.raises(
        ConfigError, match=r"latency: got settings with measure 'macs'; leave them out, or give measure="
    ):
        prunecore.prune(network(), INPUTS, latency={"threads": 1})


LATENCY: dict[str, Any] = {
    **QUICK,
    "target": {"reduce": 0.3, "measure": "latency"},
    "latency": {"threads": 1, "seconds": 0.001},
}


@pytest.mark.slow
def test_a_run_measures_its_tables_once_and_goes_on_with_the_recorded_ones(
    machine: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    found = run(parse(LATENCY), out)
    assert abs(found["size"] - 0.7) <= 0.02
    assert found["latency"]["ratio"]["median"] == found["size"]
    assert found["latency"]["tables"]["layers"] > 0
    assert found["macs"]["after"] < found["macs"]["before"]
    lines = (out / files.JOURNAL).read_text().splitlines()
    record = next(json.loads(line.partition(" ")[2]) for line in lines if '"latency-tables"' in line)
    assert LatencyTables.from_dict(record["data"]).whole > 0.0
    # cut off after the tables
    kept = next(i for i, line in enumerate(lines) if '"latency-tables"' in line)
    (out / files.JOURNAL).write_text("\n".join(lines[: kept + 1]) + "\n")
    (out / files.RESULT).unlink()
    assert machine["tables"] == 1
    again = run(parse(LATENCY), out, resume=True)
    assert machine["tables"] == 1
    assert again["widths"] == found["widths"]
    assert again["latency"] == found["latency"]


@pytest.mark.parametrize("control", ["none", "cut"])
def test_a_run_that_is_finished_but_for_its_result_measures_nothing_again(
    machine: dict[str, Any], tmp_path: Path, control: str
) -> None:
    out, settings = tmp_path / "run", parse({**LATENCY, "control": control})
    found = run(settings, out)
    (out / files.RESULT).unlink()
    checks = machine["checks"]
    machine["bias"] = 1.0  # whatever is measured now would differ
    again = run(settings, out, resume=True)
    assert machine["checks"] == checks
    assert again["latency"] == found["latency"]


def test_other_measures_say_nothing_of_latency(tmp_path: Path) -> None:
    assert run(parse(QUICK), tmp_path / "run")["latency"] is None


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    wrong = {**LATENCY, "latency": {"device": "cuda:7"}}
    with pytest.raises(ConfigError, match="cuda"):
        run(parse(wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_block_cuts_count_from_the_size_that_was_measured(machine: dict[str, Any]) -> None:
    model = network()
    found = bench(model, Target(0.5, "latency"))
    whole = Workshop(found, Candidate(0, model, Recipe(), found.original, 1.0))
    slower = Workshop(found, Candidate(0, model, Recipe(), found.original, 0.8))
    first, second = (w.block_cuts(w.candidate(0), 0.25, None)[0] for w in (whole, slower))
    assert second.size == pytest.approx(0.8 * first.size)
    counts = {name: len(index) for name, index in first.kept.items()}
    assert first.size == pytest.approx(CostModel(found.graph).cost(counts).seconds / found.whole)
