"""Networks of odd and even widths; and one that needs more memory, or loses its loss, the wider its first block is in training.

`PRUNECORE_NARROW` is `what:width:batch`: in training mode, with at least `width` channels of the first convolution, on more than
`batch` images, `memory` is short, or the outputs are `nan`.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

VARIABLE = "PRUNECORE_NARROW"


class Narrow(nn.Module):
    """Input `(batch, 1, 16, 16)`, output `(batch, 10)`."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = widths
        self.body = nn.Sequential(
            *(nn.Conv2d(1, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()),
            *(nn.Conv2d(first, second, 3, 2, 1, bias=False), nn.BatchNorm2d(second), nn.ReLU()),
            *(nn.Conv2d(second, third, 1, bias=False), nn.BatchNorm2d(third), nn.ReLU()),
        )
        self.head = nn.Linear(third, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        asked = os.environ.get(VARIABLE)
        if asked is None or not self.training or torch.compiler.is_compiling():
            return out
        what, width, batch = asked.split(":")
        if len(self.body[0].weight) < int(width) or len(x) <= int(batch):  # type: ignore[arg-type]
            return out
        if what == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return out * float("nan")


def odd() -> nn.Module:
    return Narrow((12, 20, 14))


def even() -> nn.Module:
    return Narrow((16, 24, 16))


def wide() -> nn.Module:
    return Narrow((64, 96, 64))
