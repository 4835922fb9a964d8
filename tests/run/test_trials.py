"""Trials come out the same wherever and in whatever order they are carried out; what goes wrong in one is that one's alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prunecore import Candidate, Proposal, hookimpl
from prunecore.config.reader import parse
from prunecore.errors import ModelError, PluginError, StalledError
from prunecore.execution import ExecutionSettings, InProcessExecutor, Job, Limits, LocalExecutor, Outcome, Setup
from prunecore.run import trials as trials_module
from prunecore.run.defaults import DefaultSurgery
from prunecore.run.pipeline import run
from tests.run import mischief, search_plugin
from tests.run.kills import journal_of, plain

QUICK: dict[str, Any] = {
    "model": {"spec": f"python:{mischief.__file__}:build", "inputs": [1, 1, 16, 16]},
    "data": "digits",
    "algorithm": search_plugin.NAME,
    "criterion": "l2norm",
    "target": {"reduce": 0.4},
    "training": {"epochs": 0},
    "retraining": {"epochs": 1, "max_batches": 3, "batch_size": 32},
    "compensation": None,
    "recalibration": {"images": 64, "batch_size": 32},
    "evaluation": {"max_batches": 1, "batch_size": 128},
    "control": "none",
    "device": "cpu",
}


class Listener:
    """An executor in place of the default one (None: the default), and an ear for events."""

    def __init__(self, executor: Any = None) -> None:
        self._executor = executor
        self.events: list[Mapping[str, Any]] = []

    @hookimpl
    def prune_executor(self) -> Any:
        return self._executor

    @hookimpl
    def prune_event(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def told(self, name: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["event"] == name]


@dataclasses.dataclass(frozen=True)
class Reversed:
    """Carries jobs out in this process, the last one first."""

    def open(self, setup: Setup, on_event: Any = None) -> Any:
        session = InProcessExecutor().open(setup, on_event)
        forwards = session.run

        def backwards(jobs: Sequence[Job], on_outcome: Any = None) -> list[Outcome]:
            return forwards(jobs[::-1], on_outcome)[::-1]

        session.run = backwards  # type: ignore[method-assign]
        return session


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(search_plugin.install(tmp_path / "installed"))


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that mischief is asked for by a file in."""
    where = tmp_path / "mischief"
    where.mkdir()
    monkeypatch.setenv(mischief.VARIABLE, str(where))
    return where


def carried_out(
    out: Path, settings: Mapping[str, Any] = QUICK, *, executor: Any = None, resume: bool = False
) -> Listener:
    listener = Listener(executor)
    run(parse(settings), out, listeners=(listener,), resume=resume)
    return listener


def trials(out: Path) -> dict[str, Any]:
    """What the journal has of each, without what hangs on the clock."""
    return {name: record["data"] for name, record in journal_of(out).items() if "trial-" in name}


def local(count: int, **more: Any) -> LocalExecutor:
    return LocalExecutor(("cpu",) * count, ExecutionSettings(**more))


def test_trials_that_are_compared_share_their_chance(tmp_path: Path) -> None:
    """The same proposal comes out the same under another number, since both are recalibrated and tuned by the same images."""
    carried_out(tmp_path / "run")
    carried_out(tmp_path / "swapped", {**QUICK, search_plugin.NAME: {"swap": True}})
    scores, swapped = ([t["score"] for t in trials(tmp_path / name).values()][:4] for name in ("run", "swapped"))
    assert scores == swapped[::-1]
    assert len({score["loss"] for score in scores}) == 4


def test_candidates_are_tried_by_images_of_their_own() -> None:
    first, again, later = (trials_module.seed_of(1, Proposal({}, base)) for base in (0, 0, 5))
    assert first == again != later != trials_module.seed_of(2, Proposal({}, 5))


def test_four_trials_a_round_are_measured_and_the_best_is_carried_out(tmp_path: Path) -> None:
    listener = carried_out(tmp_path / "run")
    found = trials(tmp_path / "run")
    assert list(found) == [f"value trial-{n}" for n in (1, 2, 3, 4, 6, 7, 8, 9)]
    # images: 64 recalibrate, 64 or 121 (the search split) measure; 2 or 3 batches of 32 train
    assert [(t["forward"], t["backward"]) for t in found.values()] == [(192, 0), (192, 64), (128, 0), (192, 96)] * 2
    assert not any(t["halved"] for t in found.values())
    assert [len({t["score"]["loss"] for t in list(found.values())[i : i + 4]}) for i in (0, 4)] == [4, 4]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert abs(result["size"] - 0.6) < 0.02
    assert result["certificate"]["verified"]
    ledger = {k: result["ledger"][k] for k in ("trials", "trials_tuned", "trials_failed", "images_backward")}
    assert ledger == {"trials": 8, "trials_tuned": 4, "trials_failed": 0, "images_backward": 320}
    assert [e["number"] for e in listener.told("trial")] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert [e["number"] for e in listener.told("accepted")] == [5, 10]
    best = min(range(4), key=lambda i: found[f"value trial-{i + 1}"]["score"]["loss"])
    stem = next(s for s in journal_of(tmp_path / "run")["stage candidate-5/cut"]["recipe"]["slices"] if s["dim"] == 0)
    width, kept = stem["size"], stem["kept"]
    other = next(s for s in plan_of(tmp_path / "run", width) if s)
    assert kept == (other if best < 2 else [width - 1 - i for i in reversed(other)])


def plan_of(out: Path, width: int) -> list[list[int]]:
    kept = next(r for n, r in journal_of(out).items() if n.startswith("value plan-0"))["data"]["kept"]
    return [kept["body.0"] if width == 8 else kept["body.3"]]


def test_the_order_in_which_trials_are_done_makes_no_difference(tmp_path: Path) -> None:
    carried_out(tmp_path / "a")
    listener = carried_out(tmp_path / "b", executor=Reversed())
    assert [e["number"] for e in listener.told("trial")] == [4, 3, 2, 1, 9, 8, 7, 6]
    assert trials(tmp_path / "a") == trials(tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def bytes_of(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("model.safetensors", "recipe.json", "metrics.csv")]


def test_the_order_in_which_trials_are_proposed_names_them_and_nothing_else(tmp_path: Path) -> None:
    carried_out(tmp_path / "a")
    carried_out(tmp_path / "b", {**QUICK, search_plugin.NAME: {"swap": True}})
    untuned = [("value trial-1", "value trial-4"), ("value trial-3", "value trial-2")]
    a, b = trials(tmp_path / "a"), trials(tmp_path / "b")
    # what is drawn hangs on the name: the images that recalibrate differ
    assert all(a[x]["cost"] == b[y]["cost"] for x, y in untuned)
    assert all(a[x]["score"]["images"] == b[y]["score"]["images"] for x, y in untuned)


@pytest.mark.slow
@pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.nightly), pytest.param(3, marks=pytest.mark.nightly)]
)
def test_any_number_of_workers_gives_what_none_gives(tmp_path: Path, workers: int) -> None:
    carried_out(tmp_path / "a")
    listener = carried_out(tmp_path / "b", executor=local(workers))
    assert len(listener.told("worker_started")) == workers
    assert trials(tmp_path / "a") == trials(tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kill", pytest.param("stop", marks=pytest.mark.nightly)])
def test_a_worker_that_is_lost_in_a_trial_makes_no_difference(tmp_path: Path, ask: Path, what: str) -> None:
    carried_out(tmp_path / "a")
    (ask / f"{what}.1").touch()
    listener = carried_out(tmp_path / "b", executor=local(1, limits=Limits(heartbeat=2)))
    assert [e["attempt"] for e in listener.told("job_retried")] == [1]
    assert len(listener.told("worker_lost")) == 1
    assert trials(tmp_path / "a") == trials(tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_plugin_that_fine_tunes_does_so_in_trials_too(tmp_path: Path) -> None:
    settings = {**QUICK, "training": {"epochs": 1}, search_plugin.NAME: {"nudge": 0.5}}
    carried_out(tmp_path / "run", settings)
    found = trials(tmp_path / "run")
    assert [t["backward"] for t in found.values()] == [0, 40, 0, 40] * 2  # two looks at 20 images
    losses = [t["score"]["loss"] for t in found.values()]
    carried_out(tmp_path / "other", {**settings, search_plugin.NAME: {"nudge": 0.25, "looks": 3}})
    others = trials(tmp_path / "other")
    assert [t["backward"] for t in others.values()] == [0, 60, 0, 60] * 2
    first_round = [(a, b["score"]["loss"]) for a, b in zip(losses[:4], list(others.values())[:4], strict=True)]
    assert [a == b for a, b in first_round] == [True, False, True, False]  # those that are not tuned are the same
    # the step of each round is trained by it as well
    before = tensors_of(tmp_path / "run", "loaded")
    after = tensors_of(tmp_path / "run", "candidate-5-fine-tune")
    assert torch.equal(after["head.bias"], before["head.bias"] + 0.5)
    columns = {tuple(column) for column in before["head.weight"].T.tolist()}
    assert {tuple(column) for column in after["head.weight"].T.tolist()} <= columns


def tensors_of(out: Path, checkpoint: str) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"{checkpoint}.safetensors")


def stopped_after_trials(out: Path) -> None:
    """As a kill would leave it when the first four trials are recorded."""
    (out / "result.json").unlink()
    lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if '"name": "trial-4"' in line)
    (out / "journal.jsonl").write_text("".join(lines[: last + 1]))


@pytest.mark.parametrize(
    ("what", "note"),
    [
        ("raise", r"error: OSError: a disk went away"),
        ("nan", r"error: TrainingError: the loss of Mischievous on the first batch of task 'digits' is nan"),
    ],
)
def test_a_trial_that_fails_has_no_score_and_the_search_goes_on(
    tmp_path: Path, ask: Path, what: str, note: str
) -> None:
    (ask / f"{what}.always").touch()
    listener = carried_out(tmp_path / "run")
    found = trials(tmp_path / "run")
    assert ["score" in t for t in found.values()] == [True, False] * 4
    assert f"{found['value trial-2']['fault']}: {found['value trial-2']['message']}".startswith(note)
    assert "\n" not in found["value trial-2"]["message"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["ledger"]["trials_failed"] == 4
    assert listener.told("done")

    # recorded is decided: what would go well by now is not tried again
    (ask / f"{what}.always").unlink()
    stopped_after_trials(tmp_path / "run")
    again = carried_out(tmp_path / "run", resume=True)
    assert [e["number"] for e in again.told("trial")] == [6, 7, 8, 9]
    since = trials(tmp_path / "run")
    assert since["value trial-2"] == found["value trial-2"]
    assert ["score" in t for t in since.values()] == [True, False, True, False, True, True, True, True]


@pytest.mark.nightly
def test_a_trial_that_takes_too_long_is_given_up_and_not_tried_again(tmp_path: Path, ask: Path) -> None:
    (ask / "sleep.1").touch()
    carried_out(tmp_path / "run", executor=local(1, retries=0, limits=Limits(job=12)))
    found = trials(tmp_path / "run")
    assert ["score" in t for t in found.values()][:4] == [True, False, True, True]
    assert found["value trial-2"]["fault"] == "timeout"
    assert "took longer than 12 s" in found["value trial-2"]["message"]
    whole = bytes_of(tmp_path / "run")
    stopped_after_trials(tmp_path / "run")
    again = carried_out(tmp_path / "run", resume=True)
    assert [e["number"] for e in again.told("trial")] == [6, 7, 8, 9]
    assert trials(tmp_path / "run") == found
    assert bytes_of(tmp_path / "run") == whole


def test_memory_that_is_short_once_halves_the_batch(tmp_path: Path, ask: Path) -> None:
    (ask / "memory.1").touch()
    carried_out(tmp_path / "run")
    found = trials(tmp_path / "run")
    assert [t["halved"] for t in found.values()] == [False, True] + [False] * 6
    assert found["value trial-2"]["backward"] == 2 * 16
    sizes = [int(line.split()[1]) for line in (ask / "log").read_text().splitlines()]
    assert sizes[:6] == [32, 16, 16, 32, 32, 32]


def test_memory_that_is_short_twice_drops_the_trial(tmp_path: Path, ask: Path) -> None:
    (ask / "memory.1").touch()
    (ask / "memory.2").touch()
    carried_out(tmp_path / "run")
    found = trials(tmp_path / "run")
    assert ["score" in t for t in found.values()] == [True, False] + [True] * 6
    assert found["value trial-2"]["fault"] == "memory"
    assert "no more of it" in found["value trial-2"]["message"]


def test_a_trial_whose_data_stalled_is_tried_again_with_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried_out(tmp_path / "a")
    whole, asked = trials_module.evaluate, []

    def stalling(*arguments: Any, **more: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            raise StalledError("the 1 processes that load data gave no batch in 300 s")
        return whole(*arguments, **more)

    monkeypatch.setattr(trials_module, "evaluate", stalling)
    carried_out(tmp_path / "b")
    assert len(asked) == 8 + 1
    assert trials(tmp_path / "a") == trials(tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_trial_that_cannot_be_cut_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blunt(DefaultSurgery):
        """Every fourth cut fails, from the second on."""

        def __init__(self) -> None:
            self._cuts = itertools.count()

        @hookimpl(trylast=True)
        def prune_resize(self, model: Any, graph: Any, proposal: Any) -> Any:
            if next(self._cuts) % 4 == 1:
                raise ModelError("cannot be cut")
            return super().prune_resize(model, graph, proposal)

    monkeypatch.setattr("prunecore.run.trials.DefaultSurgery", Blunt)
    run(parse(QUICK), tmp_path / "run")
    found = trials(tmp_path / "run")
    assert ["score" in t for t in found.values()] == [True, False, True, True] * 2
    assert found["value trial-2"]["message"] == "ModelError: cannot be cut"


class Asks:
    """A search that proposes one thing, of a network whose first block has 8 channels."""

    def __init__(self, **proposal: Any) -> None:
        self._proposal = proposal

    @hookimpl(tryfirst=True)
    def prune_search(self, problem: Any) -> Any:
        (found,) = yield [Proposal(**self._proposal)]
        return found


@pytest.mark.parametrize("trial", [False, True])
@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        ({"kept": {"body.1": [0]}}, "the search cuts group 'body.1', did you mean 'body.3'?, which is not there"),
        (
            {"kept": {"body.0": [0, 1, 99]}},
            "the search keeps channels 0, 1, 99 of group 'body.0'; expected at least one, ascending within 0 … 7",
        ),
        (
            {"kept": {"body.0": [2, 1]}},
            "the search keeps channels 2, 1 of group 'body.0'; expected at least one, ascending within 0 … 7",
        ),
        (
            {"kept": {"body.0": []}},
            "the search keeps channels none of group 'body.0'; expected at least one, ascending within 0 … 7",
        ),
        (
            {"kept": {"body.0": [1]}, "tune": "trainig"},
            "the search proposes tune='trainig', did you mean 'training'?; expected None or one of pretraining, training, "
            "retraining",
        ),
    ],
)
def test_a_proposal_that_means_nothing_ends_the_run(
    tmp_path: Path, proposal: dict[str, Any], message: str, trial: bool
) -> None:
    with pytest.raises(PluginError) as caught:
        run(parse(QUICK), tmp_path / "run", listeners=(Asks(**proposal, trial=trial),))
    assert str(caught.value) == message


class Wrong:
    """A search that does one thing wrong."""

    def __init__(self, chooses_a_trial: bool) -> None:
        self._chooses_a_trial = chooses_a_trial

    @hookimpl(tryfirst=True)
    def prune_search(self, problem: Any) -> Any:
        plan: Proposal = problem.plan(problem.start, problem.target.reduce)
        (tried,) = yield [dataclasses.replace(plan, trial=True, tune=None)]
        assert isinstance(tried, Candidate)
        if not self._chooses_a_trial:
            yield [dataclasses.replace(plan, base=tried.number)]
        return tried


def test_a_search_that_goes_on_from_a_trial_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"cuts from candidate 1, which is a trial or not there; cut from one of 0$"):
        run(parse(QUICK), tmp_path / "a", listeners=(Wrong(False),))
    with pytest.raises(
        PluginError, match="candidate 1 was a trial and has no network; propose it again with trial=False"
    ):
        run(parse(QUICK), tmp_path / "b", listeners=(Wrong(True),))


class Cuts:
    """A search that asks for block cuts by part of a block, and by a saving that is the same number."""

    @hookimpl(tryfirst=True)
    def prune_search(self, problem: Any) -> Any:
        self.asked = [problem.block_cuts(problem.start, 0.25, saving) for saving in (0.25, None)]
        (found,) = yield [problem.plan(problem.start, problem.target.reduce)]
        return found


def test_cuts_by_a_part_are_not_those_by_a_saving_of_the_same_number(tmp_path: Path) -> None:
    first, again = Cuts(), Cuts()
    run(parse(QUICK), tmp_path / "run", listeners=(first,))
    (tmp_path / "run" / "result.json").unlink()
    run(parse(QUICK), tmp_path / "run", listeners=(again,), resume=True)
    for search in (first, again):
        by_saving, by_part = ({c.block: (c.before, c.after) for c in cuts} for cuts in search.asked)
        assert by_saving == {"body.0": (8, 5), "body.3": (12, 8)}
        assert by_part == {"body.0": (8, 6), "body.3": (12, 9)}


def test_what_is_compared_leaves_out_the_clock_only() -> None:
    assert plain({"a": [{"seconds": 1.0, "loss": 2.0}], "time": "1s"}) == {"a": [{"loss": 2.0}]}
