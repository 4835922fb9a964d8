"""What the table and the lines of `prune bench` say, on timings made up for it."""

from __future__ import annotations

import dataclasses

import pytest

from prunecore.measure.latency import Ratio, Timing
from prunecore.report.diagnosis import Row, diagnosis, latency_table, odd_widths, spell_ms
from prunecore.types import Width

WIDTHS = (Width("stem", 64, 64), Width("a", 64, 37), Width("b", 128, 72), Width("c", 30, 30), Width("d", 9, 1))


def row(ratio: float, *, macs: float = 0.5, spread: float = 0.01, network: str = "pruned", batch: int = 1) -> Row:
    original, timing = Timing(0.04, 0.039, 0.041, 30), Timing(0.04 * ratio, 0.039 * ratio, 0.041 * ratio, 30)
    found = Ratio(ratio, ratio - spread, ratio + spread, 30)
    return Row("eager", batch, network, macs, original, timing, found, None, settled=True)


def aligned(to_pruned: float, *, macs: float = 0.49, spread: float = 0.01) -> Row:
    versus = Ratio(to_pruned, to_pruned - spread, to_pruned + spread, 30)
    return dataclasses.replace(row(0.7 * to_pruned, macs=macs, network="aligned to 8"), to_pruned=versus)


@pytest.mark.parametrize(
    ("ratio", "macs", "spread", "lags"),
    [
        (0.55, 0.5, 0.01, False),  # within the margin
        (0.62, 0.5, 0.01, True),
        (0.62, 0.5, 0.03, False),  # the interval reaches into the margin: not sure
        (1.2, 1.0, 0.01, False),  # no MACs fell
        (1.2, 0.9, 0.01, True),
    ],
)
def test_latency_lags_where_even_the_low_end_is_above_the_macs_and_a_margin(
    ratio: float, macs: float, spread: float, lags: bool
) -> None:
    assert row(ratio, macs=macs, spread=spread).lags is lags


def test_odd_widths_are_those_that_were_cut_to_no_multiple() -> None:
    assert [w.group for w in odd_widths(WIDTHS)] == ["a", "d"]
    assert [w.group for w in odd_widths(WIDTHS, 16)] == ["a", "b", "d"]


def test_nothing_is_said_where_latency_fell_with_the_macs() -> None:
    assert diagnosis([row(0.52)], WIDTHS) == []


def test_lagging_latency_is_named_with_the_widths_to_blame() -> None:
    assert diagnosis([row(0.7), row(1.3, batch=8), row(0.5, batch=16)], WIDTHS) == [
        "eager, batch 1: pruned: MACs fell to 0.500, latency only to 0.700 [0.690, 0.710]",
        "eager, batch 8: pruned: MACs fell to 0.500, latency rose to 1.300 [1.290, 1.310]",
        "widths that are no multiple of 8: 2 of the 3 that were cut: a 64 -> 37, d 9 -> 1",
    ]


def test_aligned_widths_are_not_blamed() -> None:
    lines = diagnosis([row(0.7)], (Width("a", 64, 40), Width("b", 33, 33)))
    assert lines[1:] == ["every width that was cut is a multiple of 8: the widths are not to blame"]


def test_of_two_networks_whose_widths_are_not_known_no_width_is_blamed() -> None:
    assert len(diagnosis([row(0.7)], None)) == 1


@pytest.mark.parametrize(
    ("to_pruned", "spread", "verdict"),
    [
        (0.8, 0.01, "set target.multiple_of: 8"),
        (0.975, 0.01, "no gain beyond its MACs"),  # 0.49 of 0.5 MACs alone would explain 0.98
        (1.1, 0.01, "slower"),
        (0.95, 0.2, "too wide an interval to tell"),
    ],
)
def test_an_aligned_cut_is_judged_by_more_than_its_macs_explain(to_pruned: float, spread: float, verdict: str) -> None:
    lines = diagnosis([row(0.7), aligned(to_pruned, spread=spread)], WIDTHS)
    place = f"eager, batch 1: aligned to 8: {to_pruned:.3f} [{to_pruned - spread:.3f}, {to_pruned + spread:.3f}]"
    assert lines[-1] == f"{place} of the time of pruned, 0.980 of its MACs: {verdict}"


def test_wide_intervals_are_named_once_a_place() -> None:
    lines = diagnosis([row(0.5, spread=0.2), row(0.5, spread=0.2, network="other"), row(0.5, batch=8)], None)
    assert lines == ["wide intervals at eager, batch 1: give more --seconds, or a quieter machine"]


def test_the_table_has_both_latencies_their_ratio_and_the_macs_beside() -> None:
    text = latency_table([row(0.5), row(0.7, batch=16, macs=0.25)], "original")
    assert text.splitlines() == [
        "backend  batch  original, ms       network  its latency, ms    ratio                 MACs ratio  rounds",
        "eager    1      40.0 [39.0, 41.0]  pruned   20.0 [19.5, 20.5]  0.500 [0.490, 0.510]  0.500       30",
        "eager    16     40.0 [39.0, 41.0]  pruned   28.0 [27.3, 28.7]  0.700 [0.690, 0.710]  0.250       30",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.000012345, "0.0123"), (0.00044, "0.440"), (0.0123456, "12.3"), (1.2345, "1234")]
)
def test_times_have_three_digits_and_no_exponent(seconds: float, text: str) -> None:
    assert spell_ms(Timing(seconds, seconds, seconds, 9)) == f"{text} [{text}, {text}]"
