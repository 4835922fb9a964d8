"""What the plots are made of."""

from __future__ import annotations

import re

from prunecore.report.plots import Round, Visit, pareto_front, rounds_plot, search_plot, stages_plot, widths_plot
from prunecore.types import Width

METRIC = {"name": "accuracy", "before": 0.9, "after_cut": 0.2, "after_repair": 0.7, "after": 0.85}


def visits(*points: tuple[float, float]) -> list[Visit]:
    return [Visit(n, "ranked", size, value) for n, (size, value) in enumerate(points)]


def test_the_front_holds_what_nothing_smaller_beats_and_the_first_of_equals() -> None:
    found = pareto_front(visits((0.5, 0.8), (0.6, 0.7), (0.7, 0.9), (0.5, 0.8), (0.5, 0.6), (0.9, 0.9)))
    assert [v.number for v in found] == [0, 2]
    lowest = pareto_front(visits((0.5, 0.8), (0.6, 0.7), (0.7, 0.9), (0.8, 0.1)), lowest=True)
    assert [v.number for v in lowest] == [0, 1, 3]
    assert pareto_front([]) == []


def test_a_plot_is_drawn_for_wide_and_for_narrow_pages_in_colours_of_the_page() -> None:
    svg = stages_plot(METRIC, {"after_cut": 0.1, "after_repair": 0.6, "after": None})
    assert re.findall(r'<svg class="plot (\w+)" viewBox="0 0 (\d+) (\d+)"', svg) == [
        ("wide", "720", "230"),
        ("narrow", "340", "220"),
    ]
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()
    assert {"var(--ours)", "var(--random)", "var(--grid)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert (
        "before 0.9000, cut 0.2000, repaired 0.7000, fine-tuned 0.8500. Random control: cut 0.1000, repaired 0.6000."
        in svg
    )
    assert re.findall(r">(0\.\d+)</text>", svg).count("0.8500") == 2


def test_there_is_no_plot_of_nothing() -> None:
    only = [Round(1, 0.5, 0.2, 0.7, 0.85)]
    assert (widths_plot(()), search_plot("accuracy", ()), rounds_plot("accuracy", only, 0.9, None, 0.5)) == ("", "", "")


def test_a_hundred_groups_have_no_numbers_but_a_description() -> None:
    svg = widths_plot([Width(f"layer.{n}", 64, 32) for n in range(100)])
    assert "layer.0 from 64 to 32" in svg
    assert "(and 88 more)" in svg
    assert re.findall(r">(\d+)</text>", svg) == ["1", "100", "0", "64"] * 2


def test_rounds_without_fine_tuning_go_on_from_what_was_repaired() -> None:
    rounds = [Round(1, 0.8, 0.5, 0.7, None), Round(2, 0.5, 0.2, 0.6, None)]
    assert "2 rounds; accuracy before 0.9000, after the last 0.6000" in rounds_plot("accuracy", rounds, 0.9, 0.55, 0.5)
