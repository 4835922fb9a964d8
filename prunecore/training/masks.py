"""Masks: images whose pixel values are class ids. Data sets of images and their masks, in memory where they fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from prunecore.errors import DataError, listing
from prunecore.training.augment import flipped_together
from prunecore.training.data import Batch
from prunecore.training.images import ImageFormat, decode, normalised, open_image, unreadable

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image

# one channel of whole numbers, or indices into a palette
_MODES = {"1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"}
# pillow stretches grey values of 2 and 4 bits to 0 … 255
_STRETCHED = {"L;2": 85, "L;4": 17}


@dataclasses.dataclass(frozen=True, eq=False)
class MaskData(Dataset[Any]):
    """Images and masks held in tensors, read a whole batch at a time; the task's collate must be `prunecore.training.collate`.

    images: uint8 `(n, channels, height, width)`; masks: whole numbers `(n, height, width)`. Items: float32 `(channels,
    height, width)`, normalised by `form`, and int64 `(height, width)`; both mirrored at random where `form.flip`.
    """

    images: Tensor
    masks: Tensor
    form: ImageFormat

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, masks = self.__getitems__([index])
        return images[0], masks[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        return _prepared(self.images[chosen], self.masks[chosen], self.form)

    def plain(self) -> MaskData:
        """The same items, not mirrored."""
        return dataclasses.replace(self, form=self.form.without_flip())


@dataclasses.dataclass(frozen=True, eq=False)
class MaskFiles(Dataset[Any]):
    """The items of `MaskData`, read from disk whenever they are asked for."""

    images: Sequence[Path]
    masks: Sequence[Path]
    form: ImageFormat

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = decode(self.images[index], self.form), decode_mask(self.masks[index], self.form.size)
        images, masks = _prepared(image.unsqueeze(0), mask.unsqueeze(0), self.form)
        return images[0], masks[0]

    def plain(self) -> MaskFiles:
        """The same items, not mirrored."""
        return dataclasses.replace(self, form=self.form.without_flip())


def mask_data(images: Sequence[Path], masks: Sequence[Path], form: ImageFormat) -> Dataset[Any]:
    """The images and masks as a data set: in memory where they fit, else read from disk. DataError names what cannot be read.

    Images are resized bilinearly, masks to the nearest pixel.
    """
    height, width = form.size
    if len(images) * (form.channels + 1) * height * width > form.memory * 2**20:
        return MaskFiles(tuple(images), tuple(masks), form)
    pixels = torch.stack([decode(path, form) for path in images])
    ids = [_narrow(decode_mask(path, form.size)) for path in masks]
    kind = max((m.dtype for m in ids), key=lambda dtype: dtype.itemsize)
    return MaskData(pixels, torch.stack([m.to(kind) for m in ids]), form)


def decode_mask(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """The class ids in a mask image: int32 `(height, width)`, resized to the nearest pixel where `size` is given.

    The index of palette images, the value of others, as it is stored. DataError where it cannot be read, or where it has
    several channels.
    """
    if not path.is_file():
        raise DataError(f"missing file {path}")
    with open_image(path) as image:
        if image.mode not in _MODES:
            raise DataError(
                f"mask {path} is of mode {image.mode}, expected one channel, or a palette, whose pixel values are class ids"
            )
        stretch = _STRETCHED.get(_stored_as(image), 1)
        try:
            pixels = np.asarray(image if size is None else image.resize((size[1], size[0]), resample=0))  # nearest
        except (OSError, SyntaxError, ValueError) as fault:
            raise DataError(f"mask {path} cannot be read: {fault}") from fault
    ids: npt.NDArray[np.int32] = pixels.astype(np.int32) // stretch
    return torch.from_numpy(ids)


@dataclasses.dataclass(frozen=True)
class PairFacts:
    """What is wrong with an image and its mask, in words, and the largest class id (None: no pixel has one)."""

    faults: tuple[str, ...] = ()
    highest: int | None = None


def examine_pair(
    image: Path, mask: Path, *, num_classes: int | None = None, ignore_index: int | None = None
) -> PairFacts:
    """Look at a pair: the header of the image, every pixel of the mask. num_classes: class ids must be below it."""
    faults = [fault] if (fault := unreadable(image)) is not None else []
    try:
        ids = decode_mask(mask)
    except DataError as unread:
        return PairFacts((*faults, str(unread)))
    if not faults:
        with open_image(image) as opened:
            width, height = opened.size
        if ids.shape != (height, width):
            faults.append(f"image {image} is {height}x{width}, its mask {mask} {ids.shape[0]}x{ids.shape[1]}")
    counted = ids if ignore_index is None else ids[ids != ignore_index]
    if not counted.numel():
        return PairFacts(tuple(faults))
    extremes = [int(v) for v in counted.aminmax()]
    outside = [i for i in dict.fromkeys(extremes) if i < 0 or (num_classes is not None and i >= num_classes)]
    if outside:
        ids_known = "from 0" if num_classes is None else f"0 to {num_classes - 1} (num_classes {num_classes})"
        ignored = "" if ignore_index is None else f", or {ignore_index} (ignore_index)"
        faults.append(f"mask {mask} holds class {listing(map(str, outside))}, expected {ids_known}{ignored}")
    return PairFacts(tuple(faults), extremes[1])


def _prepared(images: Tensor, masks: Tensor, form: ImageFormat) -> Batch:
    inputs, targets = normalised(images, form), masks.long()
    return Batch(*(flipped_together(inputs, targets) if form.flip else (inputs, targets)))


def _narrow(mask: Tensor) -> Tensor:
    """The same ids in bytes, where they fit."""
    lowest, highest = (int(v) for v in mask.aminmax())
    return mask.to(torch.uint8) if lowest >= 0 and highest < 256 else mask


def _stored_as(image: Image) -> str:
    """How the pixels lie in the file, in pillow's words; known until they are read."""
    tiles: list[Any] = getattr(image, "tile", [])
    stored = tiles[0][3] if tiles else ""
    return str(stored[0] if isinstance(stored, tuple) and stored else stored)
