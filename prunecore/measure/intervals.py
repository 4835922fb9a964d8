"""The median of a sample and its 95 % interval, without an assumption on how the values are spread.

Of `n` independent values, the number below the true median is binomial with p = 1/2, whatever their distribution; so the true
median lies between the k-th smallest and the k-th largest value with the probability 1 - 2 P(B < k) (David and Nagaraja,
Order Statistics, 3rd ed., section 7.1). Timings are skewed and have outliers: a median shrugs them off, a mean does not.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# the fewest values of which smallest and largest enclose the median with 95 %: 1 - 2 / 2**6 = 0.969
FEWEST = 6


@dataclass(frozen=True)
class Interval:
    """A median and the ends of its 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Length of the interval relative to the median."""
        return (self.high - self.low) / self.median


def median_interval(values: Sequence[float]) -> Interval:
    """The median of `values` with its 95 % interval; of fewer than six values the interval is their range, and covers less."""
    ordered, k = sorted(values), median_rank(len(values))
    return Interval(statistics.median(ordered), ordered[k - 1], ordered[-k])


@lru_cache(maxsize=256)
def median_rank(n: int) -> int:
    """The largest k (from 1) for which the k-th smallest and the k-th largest of `n` values enclose the median with 95 %."""
    k, below, term = 0, 0, 1  # term: how many of the 2**n outcomes have exactly k values below the median
    while (below + term) * 40 <= 2**n:  # 1/40 = 2.5 % on either side, in whole numbers
        below, term, k = below + term, term * (n - k) // (k + 1), k + 1
    return max(k, 1)


def paired_ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """`values[i] / base[i]`: what slows a whole round slows both and drops out."""
    return [value / other for value, other in zip(values, base, strict=True)]
