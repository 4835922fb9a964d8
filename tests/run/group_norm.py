"""A network whose batches do not mix: several processes compute what one does, up to the order of sums."""

from __future__ import annotations

from torch import Tensor, nn


class GroupNormNet(nn.Module):
    """Input `(batch, 1, 8, 8)`, output `(batch, 10)`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, 1, 1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, 2, 1),
            nn.GroupNorm(3, 12),
            nn.ReLU(),
        )
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return out


def build() -> nn.Module:
    return GroupNormNet()
