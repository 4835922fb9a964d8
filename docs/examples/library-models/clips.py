"""A task of video clips in memory: moving bars, to be told apart by the direction in which they move."""

import torch

from prunecore.training import TensorData, classification_task


def clips(count, frames, size, seed):
    """Put your own clips here: float32 (count, 3, frames, height, width), and the class of each."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    start = torch.randint(0, size, (count,), generator=generator)
    moved = start[:, None] + torch.where(labels == 0, 2, -2)[:, None] * torch.arange(frames)
    bars = torch.nn.functional.one_hot(moved % size, size).float()  # (count, frames, width)
    noise = 0.1 * torch.randn(count, 3, frames, size, size, generator=generator)
    return noise + bars[:, None, :, None, :], labels


def task(train=256, validation=64, frames=8, size=32):
    return classification_task(
        "bars",
        TensorData(*clips(train, frames, size, seed=0)),
        TensorData(*clips(validation, frames, size, seed=1)),
        num_classes=2,
    )
