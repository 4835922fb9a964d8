"""The task `digits`: 1,797 grey images of handwritten digits that ship in this package; no network access, trains in seconds.

The images are scikit-learn's copy (`sklearn.datasets.load_digits`, BSD 3-Clause) of the test part of "Optical Recognition of
Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0): 8x8 pixels, 0 to 16.
`digits.npz` holds `images` uint8 `(1797, 8, 8)` and `labels` uint8 `(1797,)`, in scikit-learn's order.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from prunecore import hookimpl
from prunecore.training import TensorData, classification_task, shifted, stratified

if TYPE_CHECKING:
    from torch import Tensor

    from prunecore import Task

_SPLIT_SEED = 0  # fixed: every run reports on the same validation split


class DigitsTask:
    """Items: float32 `(1, size, size)`, mean 0 and deviation 1 over the training split; the digit."""

    class Options(BaseModel):
        """`size`: side of the square images, at least 8 (resized bilinearly). `validation`: fraction that reports.

        `augment`: shift training images by up to one pixel in eight.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        source: str | None = None
        size: int = Field(default=16, ge=8)
        validation: float = Field(default=0.25, gt=0, lt=1)
        augment: bool = True

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_task(self) -> Task:
        images, labels = load_digits(self._options.size)
        held = stratified(labels.tolist(), round(len(labels) * self._options.validation), _SPLIT_SEED)
        rest = np.setdiff1d(np.arange(len(labels)), held)
        normal = (images - images[rest].mean()) / images[rest].std()
        train = TensorData(normal[rest], labels[rest], augment=augmented if self._options.augment else None)
        return classification_task(
            "digits", train, TensorData(normal[held], labels[held]), num_classes=10, labels=labels[rest].tolist()
        )


def load_digits(size: int) -> tuple[Tensor, Tensor]:
    """All images, float32 `(1797, 1, size, size)` in [0, 1], and labels, int64 `(1797,)`."""
    with (files("prunecore_plugins.tasks") / "digits.npz").open("rb") as file, np.load(file) as arrays:
        images = torch.from_numpy(arrays["images"]).unsqueeze(1).float() / 16
        labels = torch.from_numpy(arrays["labels"]).long()
    if size != images.shape[-1]:
        images = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return images, labels


def augmented(images: Tensor) -> Tensor:
    """Shifted by up to one pixel of the original eight."""
    return shifted(images, images.shape[-1] // 8)
