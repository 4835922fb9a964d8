"""The sentences: no more than the numbers say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from prunecore.report.facts import read_run
from prunecore.report.words import control_lines, headline, sampling_error, spell_change, spell_seconds, target_line
from tests.report.hand_runs import changed, make


def lines(path: Path, *, steps: int = 1, **changes: Any) -> list[str]:
    return control_lines(
        read_run(make(path / "run", changed(**changes), steps=[{"number": n} for n in range(1, steps + 1)]))
    )


def test_a_clear_gain_is_told_with_its_size(tmp_path: Path) -> None:
    first, second, third = lines(tmp_path)
    assert first == (
        "After fine-tuning: fpgm beat the random control by 0.1000 (0.9400 against 0.8400; "
        "10 images of 100, where chance alone makes up to 0.0856)."
    )
    assert second.startswith("Repaired, before any fine-tuning: fpgm cannot be told from the random control (0.8000")
    assert third == "The control is one draw with one seed."


def test_a_loss_is_called_a_loss_and_a_draw_a_draw(tmp_path: Path) -> None:
    lost = lines(tmp_path / "a", metric={"after": 0.6})
    assert lost[0].startswith("After fine-tuning: fpgm LOST to the random control by 0.2400 (0.6000 against 0.8400;")
    even = lines(tmp_path / "b", metric={"after": 0.84})
    assert even[0] == "After fine-tuning: fpgm did no better than the random control (both 0.8400)."


def test_other_metrics_have_no_interval(tmp_path: Path) -> None:
    found = lines(tmp_path, metric={"name": "miou"})
    assert found[0] == "After fine-tuning: fpgm beat the random control by 0.1000 (0.9400 against 0.8400)."


def test_a_control_that_was_not_fine_tuned_shows_nothing_about_the_end(tmp_path: Path) -> None:
    once = lines(tmp_path / "a", control={"after": None})
    assert once[0].startswith("Repaired, before any fine-tuning: fpgm cannot be told")
    assert once[1].startswith("Whether that lasts through fine-tuning is not known")
    rounds = lines(tmp_path / "b", control={"after": None}, steps=3)
    assert rounds[0].endswith(
        "fine-tuned in its 3 rounds: nothing here shows that the criterion does better than chance."
    )


def test_several_rounds_and_unequal_sizes_weaken_it(tmp_path: Path) -> None:
    found = lines(tmp_path, steps=3, control={"size": 0.6})
    assert "through 3 rounds" in found[1]
    assert found[2] == "The two are not of one size: 0.4987 and 0.6000."
    assert not [line for line in found if line.startswith("Repaired")]


def test_random_against_random_is_told(tmp_path: Path) -> None:
    assert lines(tmp_path, criterion="random")[-1] == "The criterion is random itself: this compares two draws."


def test_a_control_that_was_asked_for_and_not_made_is_not_called_unasked(tmp_path: Path) -> None:
    end = "so nothing here shows that the criterion does better than chance."
    for asked, why in (("none", "control: none"), ("full", "the notes say why")):
        run = make(tmp_path / asked, changed(control=None), config=f"control: {asked}\n")
        assert control_lines(read_run(run)) == [f"No random control was made ({why}), {end}"]


def test_the_sampling_error_is_that_of_two_shares() -> None:
    assert sampling_error("accuracy", (0.9, 0.8), 100) == pytest.approx(1.96 * math.sqrt(0.09 / 100 + 0.16 / 100))
    assert sampling_error("accuracy", (0.9, 0.8055), 100) is None  # no share of 100 images
    assert sampling_error("accuracy", (0.9, 0.8), None) is None
    assert sampling_error("miou", (0.9, 0.8), 100) is None


def test_the_target_line_tells_hit_and_miss() -> None:
    assert target_line(changed()) == "Asked for: 50 % of the MACs removed. Size 0.4987 against 0.5000: on target."
    assert target_line(changed(size=0.6)).endswith("OFF target by more than 0.005.")
    aligned = {"multiple_of": 8, "measure": "params"}
    assert target_line(changed(target=aligned, size=0.44)) == (
        "Asked for: 50 % of the parameters removed, widths that are cut a multiple of 8. Size 0.4400 against 0.5000: not above the target."
    )
    assert target_line(changed(target=aligned, size=0.5)).endswith("not above the target.")
    assert target_line(changed(target=aligned, size=0.503)).endswith("ABOVE the target.")
    assert target_line(changed(target=aligned, size=0.6)).endswith("ABOVE the target.")


@pytest.mark.parametrize("multiple_of", [None, 8])
def test_a_measured_latency_is_on_target_within_its_own_tolerance(multiple_of: int | None) -> None:
    target = {"measure": "latency", "multiple_of": multiple_of}
    assert target_line(changed(target=target, size=0.519)).endswith("Size 0.5190 against 0.5000: on target.")
    assert target_line(changed(target=target, size=0.521)).endswith("OFF target by more than 0.02.")


def test_the_headline_names_the_source_of_the_network(tmp_path: Path) -> None:
    run = make(tmp_path / "run", changed(metric={"after": 0.95}), config="model: {kind: timm, source: resnet10t}\n")
    assert headline(read_run(run)) == "timm:resnet10t keeps 49.87 % of its MACs; accuracy stayed at 0.9500."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.00 s"), (0.25, "0.25 s"), (2.04, "2.0 s"), (59.4, "59 s"), (250, "4 min 10 s"), (7500, "2 h 05 min")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert spell_seconds(seconds) == text


def test_changes() -> None:
    assert [spell_change(v) for v in (0.01234, -0.5, 0.00001, -0.00001)] == [
        "+0.0123",
        "\N{MINUS SIGN}0.5000",
        "±0",
        "±0",
    ]
