"""`netadapt` as users meet it: aligned widths in both modes, runs that are chained, input that is wrong, trials that fail."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import prunecore
from prunecore import training
from prunecore.config.reader import parse
from prunecore.errors import PrunecoreError, TargetError
from prunecore.report.tables import certificate_line
from prunecore.run.pipeline import run
from prunecore.run.workshop import Workshop
from tests.run import narrow, test_trials
from tests.run.kills import journal_of, plain

QUICK: dict[str, Any] = {
    **test_trials.QUICK,
    "algorithm": "netadapt",
    "evaluation": {"max_batches": 1, "batch_size": 64},
}
FAST = {"images": 64, "calibration": 32, "step": 0.2}


def settings(network: str, *, reduce: float, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    target = {"reduce": reduce, **more.pop("target", {})}
    model = {"spec": f"python:{narrow.__file__}:{network}", "inputs": [1, 1, 16, 16]}
    return {**QUICK, "model": model, "target": target, "netadapt": options, **more}


def carried_out(out: Path, given: dict[str, Any]) -> tuple[dict[str, Any], test_trials.Listener]:
    listener = test_trials.Listener()
    return run(parse(given), out, listeners=(listener,)), listener


def warnings_of(listener: test_trials.Listener) -> list[str]:
    return [w["text"] for w in listener.told("warning")]


def refused(out: Path, given: dict[str, Any]) -> str:
    """What is said, in one line, of what leaves nothing behind."""
    with pytest.raises(PrunecoreError) as caught:
        carried_out(out, given)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def trials(out: Path) -> dict[int, dict[str, Any]]:
    found = {name: record["data"] for name, record in journal_of(out).items() if name.startswith("value trial-")}
    return {int(name.rpartition("-")[2]): data for name, data in found.items()}


def widths_of(model: Any) -> list[int]:
    return [model.body[i].out_channels for i in (0, 3, 6)]


def outputs(model: torch.nn.Module) -> torch.Tensor:
    x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(x)
    return found


# ---------------------------------------------------------------- aligned widths


@pytest.mark.parametrize("options", [FAST, {"exact": True}], ids=["fast", "exact"])
@pytest.mark.parametrize(("network", "multiple_of", "reduce"), [("odd", 4, 0.3), ("wide", 32, 0.4)])
def test_every_width_is_a_multiple_in_the_end(
    tmp_path: Path, network: str, multiple_of: int, reduce: float, options: dict[str, Any]
) -> None:
    target = {"multiple_of": multiple_of, "align_all": True}
    result, _ = carried_out(tmp_path / "run", settings(network, reduce=reduce, options=options, target=target))
    assert {w["after"] % multiple_of for w in result["widths"]} == {0}
    assert result["size"] <= 1 - reduce
    assert result["certificate"]["verified"]
    assert {w % multiple_of for w in widths_of(prunecore.load(tmp_path / "run"))} == {0}


@pytest.mark.parametrize("options", [FAST, {"exact": True}], ids=["fast", "exact"])
def test_aligning_alone_is_one_cut_without_trials_and_a_fine_tune(tmp_path: Path, options: dict[str, Any]) -> None:
    target = {"multiple_of": 8, "align_all": True}
    training = {"epochs": 1, "max_batches": 2}
    given = settings("odd", reduce=0.0, options=options, target=target, training=training)
    result, listener = carried_out(tmp_path / "run", given)
    assert [w["after"] for w in result["widths"]] == [8, 16, 8]
    assert (result["ledger"]["trials"], result["ledger"]["candidates"]) == (0, 1)
    assert [len(listener.told(name)) for name in ("accepted", "trials", "epoch")] == [1, 0, 1]


def test_a_run_of_several_rounds_is_aligned_by_a_second_one(tmp_path: Path) -> None:
    first, _ = carried_out(tmp_path / "first", several_rounds())
    before = widths_of(prunecore.load(tmp_path / "first"))
    assert {w % 8 for w in before} != {0}
    given = settings("wide", reduce=0.0, options=FAST, target={"multiple_of": 8, "align_all": True})
    second, listener = carried_out(tmp_path / "second", {**given, "model": {"spec": f"run:{tmp_path / 'first'}"}})
    model = prunecore.load(tmp_path / "second")
    assert widths_of(model) == [w // 8 * 8 for w in before]
    assert second["size_total"] == pytest.approx(second["macs"]["after"] / first["macs"]["before"])
    recipe = json.loads((tmp_path / "second" / "recipe.json").read_text())
    assert sorted({s["size"] for s in recipe["slices"]}) == [64, 96]  # of the original class
    (chosen,) = listener.told("accepted")
    assert torch.equal(outputs(model), outputs(chosen["model"]))
    assert torch.equal(outputs(model), outputs(prunecore.load(tmp_path / "second", narrow.wide())))
    assert sum(p.numel() for p in model.parameters()) == second["params"]["after"]


def several_rounds() -> dict[str, Any]:
    given = settings("wide", reduce=0.3, options={}, algorithm="linear", linear={"n": 2})
    return {key: value for key, value in given.items() if key != "netadapt"}


# ---------------------------------------------------------------- what is wrong is one line, and nothing is written


def test_what_cannot_be_reached_is_said_with_what_can_before_anything_is_written(tmp_path: Path) -> None:
    given = settings("even", reduce=0.9, options=FAST, target={"multiple_of": 8})
    text = refused(tmp_path / "run", given)
    assert text.startswith("target.reduce: 0.9 of macs is out of reach; between 0.0 % and ")
    most = round(float(text.partition(" and ")[2].partition(" %")[0]) / 100, 3)
    result, _ = carried_out(tmp_path / "most", settings("even", reduce=most, options=FAST, target={"multiple_of": 8}))
    assert 1 - most - 1e-3 < result["size"] <= 1 - most
    assert [w["after"] for w in result["widths"]] == [8, 8, 8]


def test_what_ptflops_cannot_reach_is_said_before_anything_is_written(tmp_path: Path) -> None:
    text = refused(
        tmp_path / "run", settings("even", reduce=0.9, options=FAST, target={"multiple_of": 8, "measure": "ptflops"})
    )
    assert text.startswith("target.reduce: 0.9 of ptflops is out of reach; at most ")


def test_nothing_left_to_cut_is_said_before_anything_is_written(tmp_path: Path) -> None:
    text = refused(tmp_path / "run", settings("even", reduce=0.3, options=FAST, target={"skip": ["body"]}))
    assert text.startswith(
        "target.reduce: 0.3 of macs is out of reach; between 0.0 % and 0.0 % can go. What limits it:"
    )
    assert "skip 'body'" in text


def test_a_device_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    text = refused(tmp_path / "run", settings("even", reduce=0.3, options=FAST, executor={"workers": ["cpu", "gpu7"]}))
    assert text.startswith("workers: this machine has no gpu7 (asked for: cpu, gpu7); it has cpu")
    assert "; choose for example --set executor.workers=[cpu,cpu" in text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {**FAST, "delta_crop": 0.1, "top_n": 100},
            "netadapt: delta_crop, top_n: not used in fast mode; `--set netadapt.exact=true` is the mode that has them",
        ),
        (
            {"exact": True, "delta_crop": 0.9, "blocks": 2},
            "netadapt: blocks: not used in exact mode; `--set netadapt.exact=false` is the mode that has them",
        ),
        ({"exact": True, "delta_crop": 0.9, "top_n": 1}, None),
        (
            {"exact": True, "delta_crop": 0.9, "decay": 0.5},
            "netadapt: decay: of the step of a round, and none is given; `--set netadapt.step=0.05` gives one",
        ),
        (FAST, None),
    ],
)
def test_options_of_the_other_mode_are_told_once(tmp_path: Path, options: dict[str, Any], line: str | None) -> None:
    _, listener = carried_out(tmp_path / "run", settings("even", reduce=0.2, options=options))
    assert [t for t in warnings_of(listener) if t.startswith("netadapt")] == ([] if line is None else [line])


# ---------------------------------------------------------------- what stood in the way is in the notes


def test_a_size_that_the_loop_passes_is_told(tmp_path: Path) -> None:
    result, _ = carried_out(tmp_path / "run", settings("even", reduce=0.1, options={"exact": True, "delta_crop": 0.4}))
    assert result["size"] < 0.895
    assert result["notes"] == [f"size {result['size']:.4f} is below the 0.9000 asked for: the search came no nearer"]


def test_where_aligning_passes_the_target_the_note_names_the_target(tmp_path: Path) -> None:
    given = settings("odd", reduce=0.05, options=FAST, target={"multiple_of": 8, "align_all": True})
    result, _ = carried_out(tmp_path / "run", given)
    (note,) = result["notes"]
    assert (
        note
        == f"size {result['size']:.4f} is below the 0.9500 asked for: the cuts chosen in multiples of 8 came no nearer"
    )


def test_where_nothing_may_be_aligned_that_is_told_and_no_certificate_is_missed(tmp_path: Path) -> None:
    target = {"multiple_of": 8, "align_all": True, "skip": ["body"]}
    result, _ = carried_out(tmp_path / "run", settings("odd", reduce=0.0, options=FAST, target=target))
    assert result["size"] == 1.0
    assert result["notes"][-1].startswith("nothing was cut. What limits it: ")
    assert "skip 'body'" in result["notes"][-1]
    assert certificate_line(result["certificate"]) == "certificate: none, since nothing was cut"


def test_a_control_that_cannot_be_made_takes_no_finished_search_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def propose(*_: Any) -> Any:
        raise TargetError("out of reach")

    monkeypatch.setattr("prunecore.run.pipeline.propose", propose)
    given = settings("even", reduce=0.3, options=FAST, control="cut")
    result, listener = carried_out(tmp_path / "run", given)
    assert result["control"] is None
    assert result["notes"][-1] == "no random control was made: out of reach"
    assert "no random control was made: out of reach" in warnings_of(listener)
    assert (tmp_path / "run" / "model.safetensors").is_file()


# ---------------------------------------------------------------- few data


def test_a_search_split_with_fewer_images_is_used_whole_and_told_once(tmp_path: Path) -> None:
    options = {**FAST, "images": 4096}
    _, listener = carried_out(
        tmp_path / "run", settings("even", reduce=0.3, options=options, evaluation={"batch_size": 512})
    )
    there = {t["score"]["images"] for t in trials(tmp_path / "run").values()}
    assert len(there) == 1
    assert [t for t in warnings_of(listener) if "search split" in t] == [
        f"trials are to be measured on 4096 images, the search split has {there.pop()}: all of it is used; "
        "search_fraction makes it larger"
    ]


def test_a_search_split_that_is_large_enough_is_not_mentioned(tmp_path: Path) -> None:
    _, listener = carried_out(tmp_path / "run", settings("even", reduce=0.3, options=FAST))
    assert not [t for t in warnings_of(listener) if "search split" in t]


def test_a_training_split_smaller_than_the_batch_is_one_batch(tmp_path: Path) -> None:
    big = {"epochs": 1, "batch_size": 4096, "drop_last": True}
    more = {"retraining": big, "training": big, "recalibration": {"images": 4096, "batch_size": 4096}}
    given = settings("even", reduce=0.1, options={"exact": True, "delta_crop": 0.4}, **more)
    result, listener = carried_out(tmp_path / "run", given)
    tuned = {t["backward"] for t in trials(tmp_path / "run").values()}
    assert tuned == {epoch["images"] for epoch in listener.told("epoch")}
    assert 0 < max(tuned) < 4096
    assert result["ledger"]["trials_failed"] == 0


def test_of_steps_on_the_way_only_what_they_come_to_is_measured(tmp_path: Path) -> None:
    result, listener = carried_out(tmp_path / "run", settings("even", reduce=0.3, options={**FAST, "images": 32}))
    measured: dict[str, list[str]] = {}
    for event in listener.told("score"):
        candidate, _, stage = event["stage"].partition("/")
        measured.setdefault(candidate, []).append(stage)
    *on_the_way, last = [stages for name, stages in measured.items() if name.startswith("candidate-")]
    assert len(on_the_way) >= 2
    assert {tuple(stages) for stages in on_the_way} == {("after", "search")}
    assert last == ["after", "search"]  # the last fine-tune cuts nothing: there is no score after a cut
    assert result["metric"]["after_cut"] is None
    assert result["metric"]["after_repair"] is None
    # by the images of the trials, which they are compared with; the last one by the whole split
    *chosen_by, of_the_last = [e["images"] for e in listener.told("score") if e["stage"].endswith("/search")]
    assert set(chosen_by) == {32}
    assert of_the_last > 32


def test_the_network_before_a_round_is_recalibrated_as_those_that_are_compared_with_it(tmp_path: Path) -> None:
    result, _ = carried_out(tmp_path / "run", settings("even", reduce=0.3, options=FAST))
    tried = trials(tmp_path / "run").values()
    uncut = [t for t in tried if not t["widths"]]
    assert len(uncut) == len({t["base"] for t in tried}) >= 2
    assert {t["forward"] for t in tried} == {64 + 32}
    ledger = result["ledger"]
    assert (ledger["trials"], ledger["images_forward"]) == (len(tried) - len(uncut), 96 * len(tried))
    assert ledger["rounds"] == len([n for n in journal_of(tmp_path / "run") if n.endswith("/cut")])


def test_of_many_steps_the_last_networks_are_held_and_one_file_each_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Workshop] = []

    class Watched(Workshop):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr("prunecore.run.candidates.Workshop", Watched)
    carried_out(tmp_path / "run", settings("even", reduce=0.5, options=FAST))
    workshop = made[0]
    last = workshop.candidates - 1
    steps = [int(n.split("-")[1].partition("/")[0]) for n in journal_of(tmp_path / "run") if n.endswith("/cut")]
    assert len(steps) == last >= 4
    held = [n for n in steps if workshop.candidate(n).network._model is not None]
    assert held == steps[-2:]
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    ends = [f"candidate-{n}-fine-tune.safetensors" for n in steps[:-1]] + [f"candidate-{steps[-1]}-repair.safetensors"]
    assert names == {"loaded.safetensors", *ends}
    assert widths_of(workshop.candidate(steps[0]).model)[0] <= 16  # read again


def test_a_run_that_goes_on_traces_no_candidate_whose_cuts_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings("even", reduce=0.3, options=FAST)
    first, _ = carried_out(tmp_path / "run", given)
    (tmp_path / "run" / "result.json").unlink()

    def trace(*_: Any) -> Any:
        raise AssertionError("nothing is to be traced")

    monkeypatch.setattr("prunecore.run.workshop.trace", trace)
    again = run(parse(given), tmp_path / "run", resume=True)
    assert plain(again) == plain(first)


# ---------------------------------------------------------------- trials that fail


def test_memory_that_half_the_batch_has_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(narrow.VARIABLE, "memory:1:16")
    given = settings("even", reduce=0.1, options={"exact": True, "delta_crop": 0.4})
    result, listener = carried_out(tmp_path / "run", given)
    assert {t["halved"] for t in trials(tmp_path / "run").values()} == {True}
    assert {t["halved"] for t in listener.told("trial")} == {True}
    assert result["ledger"]["trials_failed"] == 0


@pytest.mark.parametrize(
    ("asked", "fault", "message"),
    [
        (
            "memory:16:8",
            "memory",
            "not enough memory to run Narrow on data of shape (16, 1, 16, 16): CUDA out of memory. Tried to allocate 2.00 GiB, "
            "also with half the batch; "
            "lower the batch_size of retraining, recalibration and evaluation",
        ),
        ("nan:16:0", "error", "TrainingError: the loss of Narrow on the first batch of task 'digits' is nan; "),
    ],
)
def test_candidates_that_fail_are_dropped_reported_and_never_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, fault: str, message: str
) -> None:
    """In training, only networks with a narrower first block work."""
    monkeypatch.setenv(narrow.VARIABLE, asked)
    options = {"exact": True, "delta_crop": 0.4}
    result, listener = carried_out(tmp_path / "run", settings("even", reduce=0.4, options=options))
    failed = [t for t in listener.told("trial") if "fault" in t]
    assert [(t["fault"], t["message"][: len(message)]) for t in failed] == [(fault, message)] * 2
    assert {g for t in failed for g in t["widths"]} == {"body.3", "body.6"}
    assert result["ledger"]["trials_failed"] == 2
    assert [w["group"] for w in listener.told("accepted")[0]["widths"]] == ["body.0"]


def test_where_all_fail_that_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(narrow.VARIABLE, "nan:1:0")
    with pytest.raises(PrunecoreError) as caught:
        carried_out(tmp_path / "run", settings("even", reduce=0.3, options={"exact": True}))
    assert str(caught.value).startswith(
        "netadapt: every trial of a round failed, the first: error: TrainingError: the loss of Narrow on the first batch of "
        "task 'digits' is nan; expected a finite number: check the weights"
    )
    assert "\n" not in str(caught.value)


def test_a_fine_tune_that_breaks_off_later_drops_its_candidate_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last good weights would be those before the fine-tune, and pass for the result of one."""
    more = {
        "retraining": {"epochs": 1, "max_batches": 3, "batch_size": 32, "lr": 1e30, "clip": None, "optimizer": "sgd"}
    }
    with pytest.raises(PrunecoreError, match=r"every trial of a round failed, the first: .*; try a lower lr$"):
        carried_out(tmp_path / "run", settings("even", reduce=0.1, options={"exact": True, "delta_crop": 0.9}, **more))


def test_a_fine_tune_that_breaks_off_is_told_and_noted_also_by_a_run_that_goes_on(tmp_path: Path) -> None:
    """Its network keeps the weights of before; nothing else would show that it was not tuned."""
    breaks = {"epochs": 2, "max_batches": 3, "batch_size": 32, "lr": 1e30, "clip": None, "optimizer": "sgd"}
    given = {k: v for k, v in settings("even", reduce=0.3, options={}, training=breaks).items() if k != "netadapt"}
    result, listener = carried_out(tmp_path / "run", {**given, "algorithm": "l2norm"})
    reason = "the loss is not finite in epoch 1; the weights of epoch 0 are kept; try a lower lr"
    assert [(t["phase"], t["reason"]) for t in listener.told("training_stopped")] == [("training", reason)]
    assert f"training stopped early: {reason}" in result["notes"]
    (tmp_path / "run" / "result.json").unlink()
    again = run(parse({**given, "algorithm": "l2norm"}), tmp_path / "run", resume=True)
    assert again["notes"] == result["notes"]


def test_a_metric_that_is_nan_wins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(model: Any, *args: Any, **kwargs: Any) -> Any:
        score = training.evaluate(model, *args, **kwargs)
        return score if len(model.body[0].weight) < 16 else dataclasses.replace(score, value=float("nan"))

    monkeypatch.setattr("prunecore.run.trials.evaluate", evaluate)
    options = {"exact": True, "delta_crop": 0.4}
    result, listener = carried_out(tmp_path / "run", settings("even", reduce=0.4, options=options))
    failed = [t for t in listener.told("trial") if "fault" in t]
    assert [list(t["widths"]) for t in failed] == [["body.3"], ["body.6"]]
    assert "the metric accuracy is nan on 64 images of the search split" in failed[0]["message"]
    assert [w["group"] for w in listener.told("accepted")[0]["widths"]] == ["body.0"]
    assert result["ledger"]["trials_failed"] == 2


# ---------------------------------------------------------------- widths are told from input to output


def test_widths_are_in_the_order_of_the_network_whatever_was_cut_first(tmp_path: Path) -> None:
    result, listener = carried_out(tmp_path / "run", settings("even", reduce=0.3, options={**FAST, "blocks": 1}))
    first = [next(iter(t["widths"])) for t in trials(tmp_path / "run").values() if t["widths"]]
    assert first[:3] == ["body.0", "body.3", "body.6"]
    cut_first = [w["group"] for w in listener.told("accepted")[0]["widths"]]
    groups = [w["group"] for w in result["widths"]]
    assert cut_first != groups[: len(cut_first)]
    assert groups == ["body.0", "body.3", "body.6"]
