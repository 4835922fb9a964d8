"""Random networks: every cut of the label engine is certified, and agrees with an oracle that knows no labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prunecore_plugins.graphs.labels import LabelGraph
from torch import Tensor, nn
from torch.nn import functional as F

from prunecore.measure import count
from prunecore.planning import plan, reachable
from prunecore.surgery import certify, resize
from prunecore.types import ExampleInputs, Target
from tests.oracle import disagreements

STEPS = (
    "conv", "conv1x1", "conv", "depthwise", "multiplier", "grouped", "cardinal", "norm", "act", "residual", "padded",
    "concat", "dense", "chunk", "halves", "glu", "shuffle", "gate", "pixels", "up", "groupnorm", "prelu", "scale", "flip",
    "shared", "inplace", "pool", "stack", "pair", "functional", "branches", "transposed_grouped",
)  # fmt: skip


class Net(nn.Module):
    """A network made of `steps`; each takes the last activation and adds one. Widths are read off tensors."""

    def __init__(self, steps: list[tuple[str, int]], *, flat: bool) -> None:
        super().__init__()
        self.steps, self.flat = steps, flat
        self.parts = nn.ModuleDict()
        self.raw = nn.ParameterDict()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        width = 8
        for number, (kind, seed) in enumerate(steps):
            width = self._build(str(number), kind, width, 4 * (1 + seed % 3))
        size = (
            8 // 2 ** sum(kind == "pool" for kind, _ in steps) * 2 ** sum(kind in ("pixels", "up") for kind, _ in steps)
        )
        self.head = nn.Linear(width * size * size if flat else width, 5)

    def _build(self, key: str, kind: str, width: int, wide: int) -> int:
        part, raw = self.parts, self.raw
        if kind in ("conv", "branches"):
            part[key] = nn.Conv2d(width, wide, 3, padding=1)
            if kind == "branches":
                part[key + "b"] = nn.Conv2d(width, wide, 1, bias=False)
            return wide
        if kind == "conv1x1":
            part[key] = nn.Conv2d(width, wide, 1, bias=False)
            return wide
        if kind == "functional":
            raw[key] = nn.Parameter(torch.randn(wide, width, 3, 3))
            return wide
        if kind == "depthwise":
            part[key] = nn.Conv2d(width, width, 3, padding=1, groups=width)
        elif kind == "multiplier":
            part[key] = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width, bias=False)
            return 2 * width
        elif kind == "grouped":
            part[key] = nn.Conv2d(width, wide, 3, padding=1, groups=2)
            return wide
        elif kind == "cardinal":
            part[key] = nn.Conv2d(width, width, 3, padding=1, groups=width // 2)
        elif kind == "transposed_grouped":
            part[key] = nn.ConvTranspose2d(width, wide, 3, padding=1, groups=2)
            return wide
        elif kind == "norm":
            part[key] = nn.BatchNorm2d(width)
        elif kind == "groupnorm":
            part[key] = nn.GroupNorm(width, width)
        elif kind in ("residual", "inplace"):
            part[key] = nn.Conv2d(width, width, 3, padding=1)
        elif kind == "padded":
            part[key] = nn.Conv2d(width, width + 4, 1)
            return width + 4
        elif kind in ("concat", "dense"):
            part[key] = nn.Conv2d(width, wide, 3, padding=1)
            return width + wide
        elif kind in ("chunk", "halves") or kind == "glu":
            part[key] = nn.Conv2d(width, 2 * wide, 1)
            return wide
        elif kind == "gate":
            part[key] = nn.Conv2d(width, 4, 1)
            part[key + "b"] = nn.Conv2d(4, width, 1)
        elif kind == "pixels":
            part[key] = nn.Conv2d(width, 16, 1)
            return 4
        elif kind == "up":
            part[key] = nn.ConvTranspose2d(width, wide, 2, stride=2)
            return wide
        elif kind == "prelu":
            part[key] = nn.PReLU(width)
        elif kind == "scale":
            raw[key] = nn.Parameter(torch.randn(1, width, 1, 1))
        elif kind == "shared":
            part[key] = nn.Conv2d(width, width, 3, padding=1)
        elif kind == "stack":
            part[key] = nn.Conv2d(width, wide, 1)
            part[key + "b"] = nn.Conv2d(width, wide, 3, padding=1)
            return wide
        elif kind == "pair":
            part[key] = nn.Conv2d(width, 2 * width, 1)
        return width

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for number, (kind, _) in enumerate(self.steps):
            x = getattr(self, f"_{kind}", self._plain)(x, str(number))
        x = F.silu(x)  # the mean of an instance norm would not depend on anything
        return self.head(x.flatten(1) if self.flat else x.mean((2, 3)))

    def _plain(self, x: Tensor, key: str) -> Tensor:
        return self.parts[key](x)

    def _act(self, x: Tensor, key: str) -> Tensor:
        return F.silu(x)

    def _functional(self, x: Tensor, key: str) -> Tensor:
        return F.conv2d(x, self.raw[key], padding=1)

    def _branches(self, x: Tensor, key: str) -> Tensor:
        return torch.tanh(self.parts[key](x)) + self.parts[key + "b"](x)

    def _residual(self, x: Tensor, key: str) -> Tensor:
        return x + torch.tanh(self.parts[key](x))

    def _inplace(self, x: Tensor, key: str) -> Tensor:
        y = self.parts[key](x)
        y += x
        return y

    def _padded(self, x: Tensor, key: str) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 2, 2)) + self.parts[key](x)

    def _concat(self, x: Tensor, key: str) -> Tensor:
        return torch.cat([x, self.parts[key](x)], 1)

    def _dense(self, x: Tensor, key: str) -> Tensor:
        return torch.cat([torch.tanh(self.parts[key](x)), x], 1)

    def _chunk(self, x: Tensor, key: str) -> Tensor:
        a, b = self.parts[key](x).chunk(2, 1)
        return a * torch.sigmoid(b)

    def _halves(self, x: Tensor, key: str) -> Tensor:
        y = self.parts[key](x)
        half = y.shape[1] // 2
        return torch.tanh(y[:, :half]) + y[:, half:]

    def _glu(self, x: Tensor, key: str) -> Tensor:
        return F.glu(self.parts[key](x), 1)

    def _shuffle(self, x: Tensor, key: str) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    def _gate(self, x: Tensor, key: str) -> Tensor:
        inner = torch.tanh(self.parts[key](x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.parts[key + "b"](inner))

    def _pixels(self, x: Tensor, key: str) -> Tensor:
        return F.pixel_shuffle(self.parts[key](x), 2)

    def _scale(self, x: Tensor, key: str) -> Tensor:
        return x * self.raw[key]

    def _flip(self, x: Tensor, key: str) -> Tensor:
        return x.flip(1)

    def _shared(self, x: Tensor, key: str) -> Tensor:
        return self.parts[key](torch.tanh(self.parts[key](x)))

    def _pool(self, x: Tensor, key: str) -> Tensor:
        return F.avg_pool2d(x, 2)

    def _stack(self, x: Tensor, key: str) -> Tensor:
        both = torch.stack([self.parts[key](x), torch.tanh(self.parts[key + "b"](x))], 1)
        return both.sum(1)

    def _pair(self, x: Tensor, key: str) -> Tensor:
        y = self.parts[key](x)
        return y[:, ::2] + torch.tanh(y[:, 1::2])


def _sound(steps: list[tuple[str, int]]) -> bool:
    return sum(kind in ("pixels", "up") for kind, _ in steps) <= 2 and sum(kind == "pool" for kind, _ in steps) <= 2


networks = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), min_size=1, max_size=7).filter(_sound)


def _check(steps: list[tuple[str, int]], flat: bool, seed: int, reduce: float) -> None:
    torch.manual_seed(seed)
    net: Any = Net(steps, flat=flat).eval()
    inputs = ExampleInputs((torch.randn(1, 3, 8, 8),))
    graph = LabelGraph().prune_trace(net, inputs, ())
    floor = reachable(graph, Target(reduce=0.0)).smallest
    scores = {g.name: torch.rand(g.channels) for g in graph.groups}
    found = plan(graph, scores, Target(reduce=reduce * (1 - floor)))
    small, recipe = resize(net, graph, found.proposal)
    certificate = certify(net, small, recipe, inputs)
    assert certificate.verified, certificate.notes
    assert count(small, inputs) == found.cost
    assert disagreements(net, inputs, graph, found.proposal) == []


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks, st.booleans(), st.integers(0, 99), st.floats(0.2, 0.9))
def test_random_networks_are_cut_right(steps: list[tuple[str, int]], flat: bool, seed: int, reduce: float) -> None:
    _check(steps, flat, seed, reduce)


@pytest.mark.nightly
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks, st.booleans(), st.integers(0, 999), st.floats(0.2, 0.9))
def test_many_random_networks_are_cut_right(steps: list[tuple[str, int]], flat: bool, seed: int, reduce: float) -> None:
    _check(steps, flat, seed, reduce)
