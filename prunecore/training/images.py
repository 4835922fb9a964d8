"""A data set of image files, decoded once where it fits into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset

from prunecore.errors import ConfigError, DataError
from prunecore.training.augment import flipped
from prunecore.training.data import TensorData

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageOptions(BaseModel):
    """Options that tasks of image files share.

    size: [height, width] that images are resized to. mean, std: normalisation of the range [0, 1], one number or one a
    channel. flip: mirror at random in training. grey: one channel. memory: MiB that decoded images may take to be kept in
    memory (otherwise they are read from disk each time).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int] = (224, 224)
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    flip: bool = True
    grey: bool = False
    memory: int = Field(default=1024, ge=0)

    def format(self) -> ImageFormat:
        return ImageFormat(self.size, self.grey, self.mean, self.std, self.flip, self.memory)


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """What an image becomes: `size` (height, width), 3 channels or 1 (`grey`), `(value in [0, 1] - mean) / std`.

    flip: mirror at random in training. memory: MiB that a decoded data set may take to be kept in memory.
    """

    size: tuple[int, int] = (224, 224)
    grey: bool = False
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    flip: bool = True
    memory: int = 1024

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3

    def without_flip(self) -> ImageFormat:
        """The format of images that are evaluated."""
        return dataclasses.replace(self, flip=False)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles(Dataset[Any]):
    """Items: float32 `(channels, height, width)` and the class, read from disk whenever they are asked for."""

    paths: Sequence[Path]
    labels: Sequence[int]
    format: ImageFormat

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = normalised(decode(self.paths[index], self.format).unsqueeze(0), self.format)
        return (flipped(image) if self.format.flip else image)[0], self.labels[index]

    def plain(self) -> ImageFiles:
        """The same items, not mirrored."""
        return dataclasses.replace(self, format=self.format.without_flip())


def image_data(paths: Sequence[Path], labels: Sequence[int], form: ImageFormat) -> Dataset[Any]:
    """The images as a data set: in memory where they fit, else read from disk. DataError names what cannot be read."""
    height, width = form.size
    if len(paths) * form.channels * height * width > form.memory * 2**20:
        return ImageFiles(tuple(paths), tuple(labels), form)
    pixels = torch.stack([decode(p, form) for p in paths])
    return TensorData(
        pixels,
        torch.tensor(labels, dtype=torch.long),
        prepare=partial(normalised, form=form),
        augment=flipped if form.flip else None,
    )


def normalised(pixels: Tensor, form: ImageFormat) -> Tensor:
    """uint8 `(batch, channels, height, width)` as float32, by mean and deviation of each channel."""
    mean, std = (torch.as_tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (form.mean, form.std))
    return (pixels.float() / 255 - mean) / std


def decode(path: Path, form: ImageFormat) -> Tensor:
    """The pixels of an image file, resized: uint8 `(channels, height, width)`. DataError where it cannot be read."""
    height, width = form.size
    with open_image(path) as image:
        try:
            pixels = image.convert("L" if form.grey else "RGB").resize((width, height), resample=2)  # bilinear
        except (OSError, SyntaxError, ValueError) as fault:
            raise DataError(f"image {path} cannot be read: {fault}") from fault
    return torch.from_numpy(np.array(pixels).reshape(height, width, form.channels)).movedim(-1, 0).contiguous()


def open_image(path: Path) -> Image:
    """The image with its header read (its pixels are not yet). DataError where it is no image."""
    try:
        from PIL import Image
    except ImportError as missing:
        raise ConfigError("image files need pillow: pip install 'prunecore[vision]'") from missing
    try:
        return Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as fault:
        raise DataError(f"image {path} cannot be read: {fault}") from fault


def unreadable(path: Path) -> str | None:
    """Why the file is no image (None: its header is one)."""
    if not path.is_file():
        return f"missing file {path}"
    try:
        open_image(path).close()
    except DataError as fault:
        return str(fault)
    return None
