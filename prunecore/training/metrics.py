"""torchmetrics' metrics, fed with what a task's networks return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


def _computed(metric: Any) -> Tensor:
    value: Tensor = metric.compute()
    return value


@dataclass(frozen=True, eq=False)
class Reading:
    """A metric of `torchmetrics` over a whole data set: `update(outputs, targets)`, `compute()`, `to(device)`.

    read: outputs and targets -> what `metric.update` takes. finish: the metric, once all is seen -> its value.
    """

    metric: Any
    read: Callable[[Any, Any], tuple[Tensor, Tensor]]
    finish: Callable[[Any], Tensor] = _computed

    def update(self, outputs: Any, targets: Any) -> None:
        self.metric.update(*self.read(outputs, targets))

    def compute(self) -> Tensor:
        return self.finish(self.metric)

    def to(self, device: torch.device) -> Reading:
        return replace(self, metric=self.metric.to(device))


def mean_where(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of the `values` (one a class) whose `counts` are not 0; NaN where all are."""
    return values[counts > 0].mean()
