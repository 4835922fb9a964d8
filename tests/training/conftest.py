"""A two-class problem that a tiny network learns in a second."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunecore.training import TensorData, classification_task, flipped
from prunecore.types import Task


@pytest.fixture
def task() -> Task:
    """Bright images are class 1; 96 to train, 32 to validate, `(1, 8, 8)`."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(128) % 2
    images = torch.randn(128, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    train = TensorData(images[:96], labels[:96], augment=flipped)
    return classification_task(
        "bright", train, TensorData(images[96:], labels[96:]), num_classes=2, labels=labels[:96].tolist()
    )


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )
