"""The loader `demo`: a small residual network for the task `digits`. Its weights are random; the run trains it on the spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from prunecore import LoadedModel, hookimpl
from prunecore.loading import example_inputs

if TYPE_CHECKING:
    from torch import Tensor


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., arXiv 1512.03385), a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DemoNet(nn.Module):
    """A stem (stride 2) and three stages of `depth` residual blocks; input `(batch, 1, 16, 16)`, output `(batch, classes)`."""

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96), *, depth: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        blocks: list[nn.Module] = []
        before = widths[0]
        for stage, width in enumerate(widths):
            for number in range(depth):
                blocks.append(ResidualBlock(before, width, 2 if stage and not number else 1))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(self.stem(x))
        out: Tensor = self.head(features.mean(dim=(2, 3)))
        return out


class DemoLoader:
    """A `DemoNet` with random weights, by torch's generator; `pretrained` is False."""

    class Options(BaseModel):
        """`widths`: channels of the three stages. `depth`: blocks a stage."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        source: str | None = None
        widths: tuple[int, int, int] = (24, 48, 96)
        depth: int = Field(default=1, ge=1)

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_load_model(self) -> LoadedModel:
        options = self._options
        model = DemoNet(options.widths, depth=options.depth)
        provenance = {"spec": "demo", "class": f"{DemoNet.__module__}.{DemoNet.__qualname__}", **options.model_dump()}
        return LoadedModel(model.eval(), example_inputs([1, 1, 16, 16]), provenance, pretrained=False)
