"""Latency beside MACs: the table of `prune bench`, and what it says where the two do not fall together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecore.errors import listing
from prunecore.report.tables import plain_table

if TYPE_CHECKING:
    from prunecore.measure.latency import Ratio, Timing
    from prunecore.types import Width

# What widths should be a multiple of, so that no vector or tile is partly empty. CPU: oneDNN keeps activations in blocks of 8
# floats (AVX2, nChw8c) or 16 (AVX-512, nChw16c) and pads the last one ("Understanding memory formats" of its guide).
# CUDA: tensor cores want channels divisible by 8 in half precision, by 4 in TF32 (NVIDIA, "Convolutional layers user's guide").
ALIGNED = 8
MARGIN = 0.1  # latency lags behind when its ratio is above that of the MACs by more than this


@dataclass(frozen=True)
class Row:
    """One network beside the original, in one backend at one batch size.

    macs: MACs relative to the original's. ratio: seconds relative to the original's. to_pruned: the same relative to the
    pruned network, for an aligned one. settled: whether the intervals became as narrow as they should.
    """

    backend: str
    batch: int
    network: str
    macs: float
    original: Timing
    timing: Timing
    ratio: Ratio
    to_pruned: Ratio | None
    settled: bool

    @property
    def lags(self) -> bool:
        """Whether MACs fell and latency surely did not fall with them."""
        return self.macs < 1 and self.ratio.low > self.macs + MARGIN

    @property
    def place(self) -> str:
        return f"{self.backend}, batch {self.batch}"


def odd_widths(widths: Sequence[Width], multiple: int = ALIGNED) -> list[Width]:
    """Groups that were cut to a width that is no multiple."""
    return [w for w in widths if w.after < w.before and w.after % multiple]


def latency_table(rows: Sequence[Row], original: str) -> str:
    """A line a row; times in ms. original: the name of the network that the ratios are relative to."""
    header = ["backend", "batch", f"{original}, ms", "network", "its latency, ms", "ratio", "MACs ratio", "rounds"]
    cells = [
        [
            row.backend,
            row.batch,
            spell_ms(row.original),
            row.network,
            spell_ms(row.timing),
            spell_ratio(row.ratio),
            f"{row.macs:.3f}",
            row.timing.repeats,
        ]
        for row in rows
    ]
    return plain_table(header, cells)


def diagnosis(rows: Sequence[Row], widths: Sequence[Width] | None) -> list[str]:
    """Plain lines: where latency lags behind MACs, the widths to blame, and what aligned widths gave.

    widths: of the groups of the pruned network; None where they are not known.
    """
    lines = []
    for row in rows:
        if row.lags and row.to_pruned is None:
            what = "latency rose to" if row.ratio.low > 1 else "latency only to"
            lines.append(f"{row.place}: {row.network}: MACs fell to {row.macs:.3f}, {what} {spell_ratio(row.ratio)}")
    if lines and widths is not None:
        lines.append(_blame(widths))
    lines += [_verdict(row, rows) for row in rows if row.to_pruned is not None]
    wide = dict.fromkeys(row.place for row in rows if row.ratio.high - row.ratio.low > MARGIN)
    if wide:
        lines.append(f"wide intervals at {'; '.join(wide)}: give more --seconds, or a quieter machine")
    return lines


def _blame(widths: Sequence[Width]) -> str:
    cut, odd = [w for w in widths if w.after < w.before], odd_widths(widths)
    if not odd:
        return f"every width that was cut is a multiple of {ALIGNED}: the widths are not to blame"
    named = listing((f"{w.group} {w.before} -> {w.after}" for w in odd), most=8)
    return f"widths that are no multiple of {ALIGNED}: {len(odd)} of the {len(cut)} that were cut: {named}"


def _verdict(row: Row, rows: Sequence[Row]) -> str:
    """Of an aligned network: against the pruned one, and against what its own MACs explain."""
    pruned = next(r for r in rows if r.place == row.place and r.to_pruned is None)
    share, found = row.macs / pruned.macs, row.to_pruned
    assert found is not None
    text = f"{row.place}: {row.network}: {spell_ratio(found)} of the time of {pruned.network}, {share:.3f} of its MACs"
    if found.high < min(1.0, share):
        return f"{text}: set target.multiple_of: {row.network.rpartition(' ')[2]}"
    if found.low > 1:
        return f"{text}: slower"
    too_wide = found.high - found.low > MARGIN
    return f"{text}: {'too wide an interval to tell' if too_wide else 'no gain beyond its MACs'}"


def spell_ms(timing: Timing) -> str:
    """`41.9 [41.5, 42.3]`."""
    return f"{three_digits(timing.median * 1e3)} [{three_digits(timing.low * 1e3)}, {three_digits(timing.high * 1e3)}]"


def spell_ratio(ratio: Ratio) -> str:
    """`0.512 [0.508, 0.515]`."""
    return f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"
