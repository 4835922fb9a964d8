"""Random changes of whole batches `(batch, channels, height, width)`, by torch's generator; for `TensorData.augment`."""

from __future__ import annotations

import torch
from torch import Tensor


def flipped(images: Tensor) -> Tensor:
    """Every image mirrored left to right with probability one half."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)


def flipped_together(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The same, each with its mask `(batch, height, width)`."""
    mirrored = torch.rand(len(images)) < 0.5
    return (
        torch.where(mirrored[:, None, None, None], images.flip(-1), images),
        torch.where(mirrored[:, None, None], masks.flip(-1), masks),
    )


def shifted(images: Tensor, most: int) -> Tensor:
    """Every image shifted by up to `most` pixels in both directions; its edge is repeated."""
    batch, _, height, width = images.shape
    rows, columns = _positions(batch, height, most), _positions(batch, width, most)
    return images[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _positions(batch: int, length: int, most: int) -> Tensor:
    shift = torch.randint(-most, most + 1, (batch, 1))
    return (torch.arange(length) + shift).clamp(0, length - 1)
