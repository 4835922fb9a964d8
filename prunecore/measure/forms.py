"""Sizes as affine forms of the kept counts, evaluated for many counts at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prunecore.types import Affine

Counts = npt.NDArray[Any]  # int64, or Python integers where 64 bits do not hold what is computed from them


@dataclass(frozen=True, eq=False)
class Forms:
    """Affine forms in compressed sparse rows. A form without terms has one of coefficient 0, as `reduceat` needs."""

    group: npt.NDArray[np.int64]
    coef: Counts
    start: npt.NDArray[np.int64]
    constant: Counts
    divisor: Counts

    @classmethod
    def of(cls, forms: Sequence[Affine], position: Mapping[str, int], dtype: type) -> Forms:
        terms = [[(position[name] + 1, coef) for name, coef in form.terms] or [(0, 0)] for form in forms]
        return cls(
            group=np.array([group for row in terms for group, _ in row], dtype=np.int64),
            coef=np.array([coef for row in terms for _, coef in row], dtype=dtype),
            start=np.cumsum([0] + [len(row) for row in terms], dtype=np.int64)[:-1],
            constant=np.array([form.constant for form in forms], dtype=dtype),
            divisor=np.array([form.divisor for form in forms], dtype=dtype),
        )

    def __call__(self, counts: npt.NDArray[np.int64]) -> Counts:
        """Values, shape `(n, forms + 1)`; the last column is 1 and pads short products."""
        column = np.zeros((counts.shape[0], 1), dtype=np.int64)
        padded = np.concatenate([column, counts], axis=1)
        one = np.ones((counts.shape[0], 1), dtype=self.constant.dtype)
        if not len(self.start):
            return one
        sums = np.add.reduceat(padded[:, self.group] * self.coef, self.start, axis=1)
        return np.concatenate([self.constant + sums // self.divisor, one], axis=1)
