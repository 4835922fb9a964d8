"""Semantic segmentation: one class a pixel; cross-entropy a pixel, and mIoU over all pixels of a data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from prunecore.training.data import collate
from prunecore.training.forward import main_output
from prunecore.training.metrics import Reading, mean_where
from prunecore.types import Task

if TYPE_CHECKING:
    from torch.utils.data import Dataset

SegmentationMetric = Literal["miou", "accuracy", "dice"]

_AUXILIARY = 0.5  # what torchvision's own training gives the auxiliary head


def segmentation_task(
    name: str,
    train: Dataset[Any],
    validation: Dataset[Any],
    *,
    num_classes: int,
    ignore_index: int | None = 255,
    metric: SegmentationMetric = "miou",
) -> Task:
    """A `Task` of semantic segmentation. Targets: class ids `(height, width)`; pixels of `ignore_index` count nowhere.

    Networks return logits `(batch, num_classes, h, w)`, a mapping with such `out` (torchvision's), or an object with such
    `logits`; where h and w are not those of the targets, the logits are interpolated bilinearly.
    """
    return Task(
        name=name,
        train=train,
        validation=validation,
        loss=functools.partial(pixel_cross_entropy, num_classes=num_classes, ignore_index=ignore_index),
        metric=functools.partial(SEGMENTATION_METRICS[metric], num_classes, ignore_index),
        metric_name=metric,
        num_classes=num_classes,
        collate=collate,
    )


def pixel_cross_entropy(outputs: Any, targets: Tensor, *, num_classes: int, ignore_index: int | None = 255) -> Tensor:
    """Mean cross-entropy of the pixels whose target is not `ignore_index` (0 where there are none).

    outputs: as in `segmentation_task`; targets: `(batch, height, width)`. Where gradients are taken, 0.5 times that of
    `aux` is added, if the mapping has it. Raises ValueError where the logits are not one a class and pixel.
    """
    loss = _cross_entropy(_main(outputs), targets, num_classes, ignore_index)
    auxiliary = outputs.get("aux") if isinstance(outputs, Mapping) else None
    if auxiliary is None or not torch.is_grad_enabled():
        return loss
    return loss + _AUXILIARY * _cross_entropy(auxiliary, targets, num_classes, ignore_index)


def classes_of_pixels(outputs: Any, targets: Tensor, *, num_classes: int) -> Tensor:
    """The most likely class of every pixel, int64 `(batch, height, width)`, at the resolution of `targets`."""
    return _scaled(_main(outputs), targets, num_classes).argmax(dim=1)


def _cross_entropy(logits: Any, targets: Tensor, num_classes: int, ignore_index: int | None) -> Tensor:
    ignored = -100 if ignore_index is None else ignore_index
    scaled = _scaled(logits, targets, num_classes)
    total = functional.cross_entropy(scaled, targets, ignore_index=ignored, reduction="sum")
    return total / (targets != ignored).sum().clamp(min=1)  # torch's own mean of no pixel is NaN


def _main(outputs: Any) -> Any:
    """The main head's logits."""
    return main_output(outputs, "out", "logits")


def _scaled(logits: Any, targets: Tensor, num_classes: int) -> Tensor:
    """Logits `(batch, num_classes, height, width)` at the resolution of `targets`."""
    if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] != num_classes:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"expected logits (batch, {num_classes}, height, width), as num_classes is, got {got}")
    size = targets.shape[-2:]
    if logits.shape[-2:] == size:
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


# ---------------------------------------------------------------- metrics
# over all pixels of a data set; torchmetrics takes seconds to import


def miou(num_classes: int, ignore_index: int | None = 255) -> Reading:
    """Intersection over union of each class: the mean over the classes that there are pixels of or that were found."""
    from torchmetrics.classification import MulticlassJaccardIndex

    metric = MulticlassJaccardIndex(
        num_classes=num_classes, ignore_index=ignore_index, average="macro", validate_args=False
    )
    return _over_pixels(metric, num_classes)


def pixel_accuracy(num_classes: int, ignore_index: int | None = 255) -> Reading:
    """The share of pixels whose class is right."""
    from torchmetrics.classification import MulticlassAccuracy

    metric = MulticlassAccuracy(
        num_classes=num_classes, ignore_index=ignore_index, average="micro", validate_args=False
    )
    return _over_pixels(metric, num_classes)


def dice(num_classes: int, ignore_index: int | None = 255) -> Reading:
    """Dice, which is F1, of each class: the mean over the classes that there are pixels of or that were found."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    def mean_dice(metric: Any) -> Tensor:
        table = metric.compute()  # (right class, found class)
        pixels = table.sum(dim=0) + table.sum(dim=1)
        if ignore_index is not None and 0 <= ignore_index < num_classes:
            pixels[ignore_index] = 0
        return mean_where(2 * table.diag() / pixels, pixels)

    metric = MulticlassConfusionMatrix(num_classes=num_classes, ignore_index=ignore_index, validate_args=False)
    return _over_pixels(metric, num_classes, mean_dice)


def _over_pixels(metric: Any, num_classes: int, *finish: Callable[[Any], Tensor]) -> Reading:
    def read(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        return classes_of_pixels(outputs, targets, num_classes=num_classes), targets

    return Reading(metric, read, *finish)


SEGMENTATION_METRICS: dict[SegmentationMetric, Callable[[int, int | None], Reading]] = {
    "miou": miou,
    "accuracy": pixel_accuracy,
    "dice": dice,
}
