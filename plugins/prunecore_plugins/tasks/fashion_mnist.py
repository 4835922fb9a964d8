"""The task `fashion-mnist`: 70,000 grey images of clothes, 28x28, ten classes (Xiao et al., arXiv 1708.07747, MIT licence).

It reads the four idx files, gzipped or not, of Debian's package `dataset-fashion-mnist` or of a torchvision directory.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from prunecore import ConfigError, DataError, hookimpl
from prunecore.training import TensorData, classification_task, flipped, shifted, stratified

if TYPE_CHECKING:
    from torch import Tensor

    from prunecore import Task

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# of the training images, in [0, 1]
_MEAN, _DEVIATION = 0.2860, 0.3530


class FashionMNISTTask:
    """Items: float32 `(1, 28, 28)`, normalised; the class. 60,000 train, the 10,000 test images validate."""

    class Options(BaseModel):
        """source: the directory of the idx files, or one above `FashionMNIST/raw`; default: where Debian puts them.

        augment: mirror training images and shift them by up to 2 pixels. train_limit: train on so many images only
        (stratified, always the same).
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        source: Path = DEBIAN
        augment: bool = True
        train_limit: int | None = Field(default=None, ge=10, le=60000)

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_task(self) -> Task:
        directory = find_directory(self._options.source)
        images, labels = read_part(directory, "train")
        if self._options.train_limit is not None and self._options.train_limit < len(labels):
            chosen = stratified(labels.tolist(), self._options.train_limit, seed=0)
            images, labels = images[chosen], labels[chosen]
        train = TensorData(images, labels, prepare=normalised, augment=augmented if self._options.augment else None)
        validation = TensorData(*read_part(directory, "t10k"), prepare=normalised)
        return classification_task("fashion-mnist", train, validation, num_classes=10, labels=labels.tolist())


def normalised(images: Tensor) -> Tensor:
    """uint8 images as float32 of mean 0 and deviation 1."""
    return (images.float() / 255 - _MEAN) / _DEVIATION


def augmented(images: Tensor) -> Tensor:
    """Mirrored with probability one half, shifted by up to 2 pixels."""
    return flipped(shifted(images, 2))


def find_directory(source: Path) -> Path:
    """`source`, or the directory below it where torchvision keeps the files; ConfigError where neither has them."""
    for directory in (source, source / "raw", source / "FashionMNIST" / "raw"):
        if _find_file(directory, "train-images-idx3-ubyte") is not None:
            return directory
    raise ConfigError(
        f"fashion-mnist: no train-images-idx3-ubyte(.gz) in {source}; run `apt-get install dataset-fashion-mnist`, "
        "or give its directory: --data fashion-mnist:DIR"
    )


def read_part(directory: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images of a part (`train` or `t10k`), uint8 `(n, 1, height, width)`, and classes, int64 `(n,)`."""
    images = read_idx(directory, f"{part}-images-idx3-ubyte", dims=3)
    labels = read_idx(directory, f"{part}-labels-idx1-ubyte", dims=1)
    if len(images) != len(labels):
        raise DataError(f"fashion-mnist: {len(images)} images but {len(labels)} labels of {part} in {directory}")
    return images.unsqueeze(1), labels.long()


def read_idx(directory: Path, name: str, *, dims: int) -> Tensor:
    """An idx file of bytes: 0, 0, 8 (unsigned byte), the number of dims, then each length, big-endian, then the data."""
    path = _find_file(directory, name)
    if path is None:
        raise DataError(f"fashion-mnist: {name}(.gz) is missing in {directory}; fetch the data set again")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as fault:
        raise DataError(f"fashion-mnist: {path} cannot be read ({fault}); fetch the data set again") from fault
    header = 4 + 4 * dims
    shape = tuple(np.frombuffer(data[4:header], dtype=">u4").tolist()) if len(data) >= header else ()
    if data[:4] != bytes((0, 0, 8, dims)) or len(data) != header + math.prod(shape):
        raise DataError(f"fashion-mnist: {path} is not a whole idx file of {dims} dims; fetch the data set again")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).reshape(shape)


def _find_file(directory: Path, name: str) -> Path | None:
    return next((p for p in (directory / f"{name}.gz", directory / name) if p.is_file()), None)
