"""The task that most data sets are: one class an image, cross-entropy, accuracy (or another loss and metric by name)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from prunecore.errors import ModelError
from prunecore.training.data import collate
from prunecore.training.forward import main_output
from prunecore.training.metrics import Reading, mean_where
from prunecore.types import Task

if TYPE_CHECKING:
    from torch.utils.data import Dataset

ClassificationLoss = Literal["cross_entropy", "label_smoothing", "focal"]
ClassificationMetric = Literal["accuracy", "balanced_accuracy", "f1", "auroc"]


@dataclass(frozen=True)
class Objective:
    """The loss that trains and the metric that reports (see `LOSSES` and `METRICS`)."""

    loss: ClassificationLoss = "cross_entropy"
    metric: ClassificationMetric = "accuracy"


_DEFAULT = Objective()


def classification_task(
    name: str,
    train: Dataset[Any],
    validation: Dataset[Any],
    *,
    num_classes: int,
    labels: Sequence[int] | None = None,
    objective: Objective = _DEFAULT,
) -> Task:
    """A `Task` of image classification; `labels`: class of every training item (for the stratified split)."""
    return Task(
        name=name,
        train=train,
        validation=validation,
        loss=LOSSES[objective.loss],
        metric=functools.partial(METRICS[objective.metric], num_classes),
        metric_name=objective.metric,
        labels=labels,
        num_classes=num_classes,
        collate=collate,
    )


def logits_of(outputs: Any) -> Tensor:
    """The main logits, where a network returns auxiliary ones too."""
    logits: Tensor = main_output(outputs, "logits")
    return logits


# ---------------------------------------------------------------- losses


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Mean cross-entropy. outputs: logits `(batch, classes)`, or an object with such `logits`; targets: `(batch,)`."""
    return functional.cross_entropy(logits_of(outputs), targets)


def smoothed_cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """The same against targets of which 0.1 is spread over all classes (Szegedy et al., arXiv 1512.00567)."""
    return functional.cross_entropy(logits_of(outputs), targets, label_smoothing=0.1)


def focal(outputs: Any, targets: Tensor) -> Tensor:
    """Cross-entropy times (1 - p)², p the probability of the right class: the mean (Lin et al., arXiv 1708.02002)."""
    losses = functional.cross_entropy(logits_of(outputs), targets, reduction="none")
    return ((1 - torch.exp(-losses)).square() * losses).mean()


# ---------------------------------------------------------------- metrics
# torchmetrics takes seconds to import, and not every use of this package needs it


def accuracy(num_classes: int) -> Reading:
    """The share of images whose class is right."""
    from torchmetrics.classification import MulticlassAccuracy

    metric = MulticlassAccuracy(num_classes=num_classes, average="micro", validate_args=False)
    return Reading(metric, lambda outputs, targets: (logits_of(outputs).argmax(dim=1), targets))


def balanced_accuracy(num_classes: int) -> Reading:
    """The share of images of a class whose class is right: the mean over the classes that there are images of."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    def mean_recall(metric: Any) -> Tensor:
        table = metric.compute()  # (right class, found class)
        images = table.sum(dim=1)
        return mean_where(table.diag() / images, images)

    metric = MulticlassConfusionMatrix(num_classes=num_classes, validate_args=False)
    return Reading(metric, functools.partial(_classes_found, num_classes=num_classes), mean_recall)


def f1(num_classes: int) -> Reading:
    """F1 of each class: the mean over the classes that there are images of or that were found."""
    from torchmetrics.classification import MulticlassF1Score

    metric = MulticlassF1Score(num_classes=num_classes, average="macro", validate_args=False)
    return Reading(metric, functools.partial(_classes_found, num_classes=num_classes))


def auroc(num_classes: int) -> Reading:
    """The area under the ROC curve of each class against all others: the mean over the classes where there are both.

    NaN where all images are of one class. The probabilities of all images are kept, on the CPU.
    """
    from torchmetrics.classification import MulticlassAUROC

    def read(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        # float64: in float32 the surest images would tie at 1
        return _all_logits(outputs, num_classes).float().cpu().double().softmax(dim=1), targets.cpu()

    def mean_area(metric: Any) -> Tensor:
        targets = torch.cat([t.reshape(-1) for t in metric.target])
        images = torch.bincount(targets, minlength=num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about classes without images, which do not count
            areas = metric.compute()
        return mean_where(areas, images * (len(targets) - images))

    return Reading(MulticlassAUROC(num_classes=num_classes, average="none", validate_args=False), read, mean_area)


def _classes_found(outputs: Any, targets: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    return _all_logits(outputs, num_classes).argmax(dim=1), targets


def _all_logits(outputs: Any, num_classes: int) -> Tensor:
    """The logits; ModelError where there is not one a class, which metrics of all classes take for granted."""
    logits = logits_of(outputs)
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ModelError(
            f"the network gives logits {tuple(logits.shape)}, expected (batch, {num_classes}): one for each class of the "
            "task; give a network of as many classes, or num_classes"
        )
    return logits


LOSSES: dict[ClassificationLoss, Callable[[Any, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "label_smoothing": smoothed_cross_entropy,
    "focal": focal,
}
METRICS: dict[ClassificationMetric, Callable[[int], Reading]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "auroc": auroc,
}
