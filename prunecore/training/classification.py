"""The task that most data sets are: one class an image, cross-entropy, accuracy."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunecore.training.data import collate
from prunecore.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.utils.data import Dataset


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Mean cross-entropy. outputs: logits `(batch, classes)`, or an object with such `logits`; targets: `(batch,)`."""
    return torch.nn.functional.cross_entropy(logits_of(outputs), targets)


def logits_of(outputs: Any) -> Tensor:
    """The main logits: networks with auxiliary heads return a tuple with a field `logits` in training."""
    logits: Tensor = getattr(outputs, "logits", outputs)
    return logits


@functools.cache
def _accuracy_class() -> Any:
    # torchmetrics takes seconds to import, and not every use of this package needs it
    from torchmetrics.classification import MulticlassAccuracy

    class Accuracy(MulticlassAccuracy):
        def update(self, preds: Any, target: Tensor) -> None:
            super().update(logits_of(preds).argmax(dim=1), target)

    return Accuracy


def accuracy(num_classes: int) -> Any:
    """A torchmetrics accuracy over all images: `update(logits, targets)`, `compute()` in [0, 1]."""
    return _accuracy_class()(num_classes=num_classes, average="micro", validate_args=False)


def classification_task(
    name: str, train: Dataset[Any], validation: Dataset[Any], *, num_classes: int, labels: Sequence[int] | None = None
) -> Task:
    """A `Task` of image classification; `labels`: class of every training item (for the stratified split)."""
    return Task(
        name=name,
        train=train,
        validation=validation,
        loss=cross_entropy,
        metric=functools.partial(accuracy, num_classes),
        metric_name="accuracy",
        labels=labels,
        num_classes=num_classes,
        collate=collate,
    )
