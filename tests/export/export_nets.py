"""Tiny networks whose code has what exporters stumble over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunecore.types import ExampleInputs

IMAGE = ExampleInputs((torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)),))
ROWS = ExampleInputs((torch.randn(1, 6, generator=torch.Generator().manual_seed(2)),))


class Conv(nn.Module):
    """conv -> batch norm -> relu -> pool -> linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))


class Mapped(Conv):
    """Gives a dict, as torchvision's segmentation networks do."""

    def forward(self, image: Tensor) -> Any:
        return {"out": super().forward(image), "aux": image.mean((2, 3))}


@dataclass
class Answer:
    logits: Tensor
    labels: tuple[str, ...]
    hidden: Tensor | None = None


class Dataclassed(Conv):
    """Gives a dataclass with values that are no tensors."""

    def forward(self, image: Tensor) -> Any:
        return Answer(super().forward(image), ("a", "b"))


class Several(nn.Module):
    """Two tensors and a number; `mask` by keyword; an output that is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 4)

    def forward(self, rows: Tensor, times: int, *, mask: Tensor, more: Tensor) -> Any:
        return self.line(rows) * times * mask.float(), [more.sum(1), more]


SEVERAL = ExampleInputs(
    (torch.linspace(-1, 1, 6)[None], 3),
    {"more": torch.arange(5)[None], "mask": torch.tensor([[True, False, True, True]])},
)


class Branching(nn.Module):
    """Does something else for a batch of one; torch.export does not notice."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 4)

    def forward(self, rows: Tensor) -> Tensor:
        return self.line(rows) if rows.shape[0] == 1 else 2 * self.line(rows)


class Folding(nn.Module):
    """Takes batches of `length` only."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.line = nn.Linear(6, 4)

    def forward(self, rows: Tensor) -> Tensor:
        return self.line(rows.view(-1, self.length, 6).sum(1))


class Counting(nn.Module):
    """Makes the batch size an `int`, which torch.export takes for a constant unless it reads the bytecode."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 4)

    def forward(self, rows: Tensor) -> Tensor:
        return self.line(rows.reshape(int(rows.shape[0]), 6))


class Chunking(nn.Module):
    """Joins two inputs along the batch and parts them again, which torch cannot prove to give two parts for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 4)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        one, other = torch.chunk(torch.cat([first, second]), 2)
        return self.line(one) - self.line(other).relu()


class Deciding(nn.Module):
    """Its path depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 4)

    def forward(self, rows: Tensor) -> Tensor:
        return self.line(rows) if rows.sum() > 0 else rows[:, :4]


class Caching(nn.Module):
    """Keeps a tensor of the last call."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 4)
        self.last: Tensor | None = None

    def forward(self, rows: Tensor) -> Tensor:
        self.last = self.line(rows)
        return self.last


class Attending(nn.Module):
    """An encoder layer, which takes a fused path in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows.unsqueeze(1).expand(-1, 3, -1))
