"""The networks of the Fashion-MNIST benchmarks; input `(batch, 1, 28, 28)`, output `(batch, 10)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


class FashionResNet(nn.Module):
    """A ResNet of three stages of `depth` blocks."""

    def __init__(self, widths: tuple[int, int, int], *, depth: int, stem_stride: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, stem_stride, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        inputs = (widths[0], *(w for w in widths for _ in range(depth)))[: 3 * depth]
        outputs = [w for w in widths for _ in range(depth)]
        strides = [2 if stage and not number else 1 for stage in range(3) for number in range(depth)]
        self.blocks = nn.Sequential(*(Block(i, o, s) for i, o, s in zip(inputs, outputs, strides, strict=True)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))
        return out


class SqueezeExcite(nn.Module):
    """Channels weighted by a gate of their own means (Hu et al., arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, max(8, channels // 4), 1)
        self.expand = nn.Conv2d(max(8, channels // 4), channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.gate = nn.Hardsigmoid(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.gate(self.expand(self.relu(self.reduce(self.squeeze(x)))))
        return out


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-excite, project (MobileNetV3, arXiv 1905.02244)."""

    def __init__(self, inputs: int, outputs: int, *, expand: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(inplace=True),
            SqueezeExcite(hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class FashionMobileNet(nn.Module):
    """A small MobileNetV3: a stem of stride 2, seven inverted residuals, a head of 1x1 convolution and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(inplace=True))
        self.blocks = nn.Sequential(
            InvertedResidual(16, 24, expand=2, stride=1),
            InvertedResidual(24, 48, expand=4, stride=2),
            InvertedResidual(48, 48, expand=3, stride=1),
            InvertedResidual(48, 48, expand=3, stride=1),
            InvertedResidual(48, 96, expand=4, stride=2),
            InvertedResidual(96, 96, expand=3, stride=1),
            InvertedResidual(96, 96, expand=3, stride=1),
        )
        self.head = nn.Sequential(
            nn.Conv2d(96, 288, 1, bias=False),
            nn.BatchNorm2d(288),
            nn.Hardswish(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(288, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)))
        return out


def fashion_resnet() -> nn.Module:
    """13 layers of 3x3 convolution, about 22 MMACs."""
    return FashionResNet((32, 64, 128), depth=2, stem_stride=2)


def fashion_mobilenet() -> nn.Module:
    """Inverted residuals with squeeze-excite and hard-swish, about 6 MMACs."""
    return FashionMobileNet()


class SmallMobileNet(nn.Module):
    """Four inverted residuals behind a stem of stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(inplace=True))
        self.blocks = nn.Sequential(
            InvertedResidual(16, 24, expand=3, stride=1),
            InvertedResidual(24, 40, expand=4, stride=2),
            InvertedResidual(40, 40, expand=4, stride=1),
            InvertedResidual(40, 64, expand=4, stride=2),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)))
        return out


def small_resnet() -> nn.Module:
    """13 layers of 3x3 convolution in 9 blocks, about 4 MMACs."""
    return FashionResNet((16, 24, 48), depth=2, stem_stride=2)


def small_mobilenet() -> nn.Module:
    """Inverted residuals with squeeze-excite in 12 blocks, about 2 MMACs."""
    return SmallMobileNet()


BUILDERS = {f.__name__: f for f in (fashion_resnet, fashion_mobilenet, small_resnet, small_mobilenet)}
