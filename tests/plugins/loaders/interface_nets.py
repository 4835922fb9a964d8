"""Networks for the tests of interface files: hand-made ones, each with something that is easily lost, and small ones of libraries."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.utils.prune
from torch import Tensor, nn

import prunecore

IMAGE = (1, 3, 16, 16)


class Plain(nn.Module):
    """What the users' old reader accepts: convolutions without bias, batch norms, a linear layer; one depthwise."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=bias)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 1, bias=bias) for _ in range(2))
        self.norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x)).relu()
        for block in self.blocks:
            x = block(x).relu()
        return self.classifier(self.norm(x).mean((2, 3)))


class Grouped(nn.Module):
    """Grouped, depthwise with a multiplier, biased; group norm; a linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.norm = nn.GroupNorm(4, 16)
        self.multiplied = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.back = nn.Conv2d(32, 8, 1)
        self.fc = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.grouped(self.a(x).relu())).relu()
        return self.fc(self.back(self.multiplied(x).relu()).relu().mean((2, 3)))


class Tied(nn.Module):
    """One weight in two layers, one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 8, bias=False)
        self.b = nn.Linear(8, 8, bias=False)
        self.c = nn.Linear(8, 8, bias=False)
        self.c.weight = self.b.weight
        self.again = self.b
        self.d = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.again(self.c(self.b(self.a(x.flatten(1)[:, :12]).relu()).relu()).relu()))


class Names(nn.Module):
    """Names that are no identifiers, numbers in the middle of a name, a parameter and a buffer of the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"3x3": nn.Conv2d(3, 8, 3, padding=1), "conv-1": nn.Conv2d(8, 8, 1)})
        self.a = nn.ModuleList([nn.ModuleDict({"b": nn.ModuleList([nn.Conv2d(8, 8, 1, bias=False)])})])
        self.gain = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.register_buffer("offset", torch.randn(8, 1, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.branches["conv-1"](self.branches["3x3"](x).relu()).relu()
        return self.head(self.a[0]["b"][0](x * self.gain + self.offset).relu().mean((2, 3)))


class Brackets(nn.Module):
    """A name that looks like an index."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"k[0]": nn.ModuleList([nn.Conv2d(3, 8, 1)])})
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem["k[0]"][0](x).relu().mean((2, 3)))


class Numbers(nn.Conv2d):
    """A layer that keeps a number of its own which follows its width."""

    def __init__(self) -> None:
        super().__init__(8, 8, 1)
        self.half = 4

    def forward(self, x: Tensor) -> Tensor:
        a, b = super().forward(x).split([self.half, self.half], 1)
        return a * b.sigmoid()


class Unexpressible(nn.Module):
    """What a resize list cannot say: group counts of norms, numbers of the code, buffers that are not in `params`."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(8, 8)
        self.b = Numbers()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 4)[:, None, None], persistent=False)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.norm(self.a(x)).relu()) * self.scale
        return self.head(x.mean((2, 3)))


class Norms(nn.Module):
    """Norms without tensors of their own, PReLU, a transposed convolution with groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.instance = nn.InstanceNorm2d(16)
        self.batch = nn.BatchNorm2d(16, affine=False)
        self.act = nn.PReLU(16)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2, groups=2)
        self.middle = nn.Linear(16, 12)
        self.layer = nn.LayerNorm(12, elementwise_affine=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.act(self.batch(self.instance(self.a(x)))))
        return self.head(self.layer(self.middle(x.mean((2, 3)))))


class Reparametrized(nn.Module):
    """Weight norm of both kinds, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.b = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu().mean(3).transpose(1, 2)).relu()
        return self.head(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    """Attention, layer norm, RMS norm, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Linear(3, 16)
        self.places = nn.Embedding(16, 16)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.last = nn.RMSNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(nn.functional.adaptive_avg_pool2d(x, 4).flatten(2).transpose(1, 2))
        x = self.norm(x + self.places(torch.arange(16)))
        return self.head(self.last(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


class OneDimensional(nn.Module):
    """Convolutions of one dimension, one of them transposed, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.up = nn.ConvTranspose1d(8, 8, 2)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.norm(self.a(x.mean(3)))).transpose(1, 2)
        return self.head(self.gru(x)[0][:, -1])


def sequential() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def hooked(change: Callable[[nn.Module], object]) -> nn.Module:
    """A network whose first layer's weight is computed before every forward."""
    first = nn.Conv2d(3, 8, 3, padding=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old functions are deprecated, the networks are there
        change(first)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def timm_net(name: str) -> nn.Module:
    import timm

    found: nn.Module = timm.create_model(name, num_classes=5)
    return found


@functools.cache
def supernet(kind: str) -> Any:
    """A narrow once-for-all supernet (arXiv 1908.09791)."""
    from ofa.imagenet_classification.elastic_nn import networks

    torch.manual_seed(0)
    if kind == "OFAResNets":
        return networks.OFAResNets(5, depth_list=[0, 1], expand_ratio_list=[0.2, 0.25], width_mult_list=[0.125, 0.25])
    space = {"width_mult": 0.25, "ks_list": [3, 5], "expand_ratio_list": [2, 3], "depth_list": [1, 2]}
    return getattr(networks, kind)(5, **space)


def subnet(kind: str) -> nn.Module:
    """A static subnet, drawn with a fixed seed."""
    state = random.getstate()
    random.seed(0)
    supernet(kind).sample_active_subnet()
    random.setstate(state)
    found: nn.Module = supernet(kind).get_active_subnet(preserve_weight=True)
    return found


OFA = ("OFAResNets", "OFAMobileNetV3", "OFAProxylessNASNets")
HAND: Mapping[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "biased": lambda: Plain(bias=True),
    "half": lambda: Plain(bias=True).half(),
    "double": lambda: Plain(bias=True).double(),
    "grouped": Grouped,
    "tied": Tied,
    "names": Names,
    "brackets": Brackets,
    "sequential": sequential,
    "unexpressible": Unexpressible,
    "norms": Norms,
    "reparametrized": Reparametrized,
    "old_weight_norm": lambda: hooked(nn.utils.weight_norm),
    "spectral_norm": lambda: hooked(nn.utils.spectral_norm),
    "masked": lambda: hooked(lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.3)),
    "attention": Attention,
    "one_dimensional": OneDimensional,
}


def build(name: str) -> nn.Module:
    """The unpruned network of that name, in eval mode; always the same values, statistics that are not the initial ones."""
    torch.manual_seed(1)
    if name in OFA:
        return subnet(name).eval()
    net = HAND[name]() if name in HAND else timm_net(name)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for parameter in net.parameters():
            if parameter.ndim == 1:  # biases and scales that are zero or one say little
                parameter.add_(torch.rand_like(parameter) * 0.1)
    return net.eval()


def inputs(net: nn.Module, name: str = "") -> Tensor:
    torch.manual_seed(2)
    shape = IMAGE if name in HAND else (1, 3, 32, 32)
    return torch.randn(shape).to(next(net.parameters()).dtype)


@dataclass(frozen=True, eq=False)
class Cut:
    """net: unpruned. Tests leave all of it as it is."""

    name: str
    net: nn.Module
    pruned: nn.Module
    recipe: prunecore.Recipe
    x: Tensor

    @property
    def outputs(self) -> Tensor:
        return outputs(self.pruned, self.x)


@functools.cache
def cut(name: str) -> Cut:
    """The network with half of its MACs gone."""
    net = build(name)
    x = inputs(net, name)
    found = prunecore.prune(net, x, reduce=0.5)
    return Cut(name, net, found.model, found.recipe, x)


def outputs(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = net(x)
    return found
