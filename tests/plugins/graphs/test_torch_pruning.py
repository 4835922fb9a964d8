"""The graph engine `torch-pruning`: which channels are tied, what is frozen and why, and that every cut is proved."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from prunecore_plugins.graphs.torch_pruning import TorchPruningGraph
from torch import Tensor, nn

from prunecore.errors import ModelError
from prunecore.measure import CostModel, count
from prunecore.surgery import certify, resize
from prunecore.types import Certificate, ChannelGroup, DependencyGraph, ExampleInputs, Proposal

IMAGES = ExampleInputs((torch.zeros(1, 3, 16, 16),))


def trace(model: nn.Module, inputs: ExampleInputs = IMAGES) -> DependencyGraph:
    return TorchPruningGraph().prune_trace(model, inputs)


def positions(group: ChannelGroup) -> dict[tuple[str, int], list[list[int]]]:
    return {(m.tensor, m.dim): m.index.tolist() for m in group.members}


def column(count: int, start: int = 0) -> list[list[int]]:
    return [[i] for i in range(start, start + count)]


def half(graph: DependencyGraph, seed: int = 0) -> Proposal:
    """Half of every group, at random; equal counts in every part."""
    generator = np.random.default_rng(seed)
    kept = {}
    for group in graph.groups:
        parts = group.partitions[0].part if group.partitions else np.zeros(group.channels, dtype=np.int64)
        if group.frozen is None and group.channels > 1:
            chosen = [np.flatnonzero(parts == p) for p in range(int(parts.max()) + 1)]
            kept[group.name] = np.sort(
                np.concatenate([generator.choice(c, max(1, len(c) // 2), replace=False) for c in chosen])
            )
    return Proposal(kept)


def prove(model: nn.Module, inputs: ExampleInputs = IMAGES) -> tuple[Certificate, DependencyGraph]:
    """Cut half of everything; costs predicted from the graph must be those of the cut network."""
    graph = trace(model, inputs)
    proposal = half(graph)
    cut, recipe = resize(model, graph, proposal)
    counts = {name: len(kept) for name, kept in proposal.kept.items()}
    assert CostModel(graph).cost({}) == count(model, inputs)
    assert CostModel(graph).cost(counts) == count(cut, inputs)
    return certify(model, cut, recipe, inputs), graph


class Net(nn.Module):
    """Layers by keyword, and a forward given as a function of (net, x)."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def conv(inputs: int, outputs: int, size: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **more)


# ---------------------------------------------------------------- what is tied


def test_a_chain_with_a_norm() -> None:
    net = Net(lambda n, x: n.b(torch.relu(n.norm(n.a(x)))), a=conv(3, 4), norm=nn.BatchNorm2d(4), b=conv(4, 2))
    graph = trace(net)
    assert positions(graph.group("a")) == {
        ("a.weight", 0): column(4),
        ("a.bias", 0): column(4),
        ("norm.weight", 0): column(4),
        ("norm.bias", 0): column(4),
        ("norm.running_mean", 0): column(4),
        ("norm.running_var", 0): column(4),
        ("b.weight", 1): column(4),
    }
    assert {m.tensor: m.role for m in graph.group("a").members}["b.weight"] == "consumer"
    assert [(s.module, s.dim, s.index.tolist()) for s in graph.group("a").sites] == [
        ("a", 1, column(4)),
        ("norm", 1, column(4)),
    ]
    assert {g.name: g.frozen for g in graph.groups} == {
        "a": None,
        "a#2": "the network's input",
        "b": "the network's output",
    }
    assert [(u.module, u.reason) for u in graph.unprunable] == [("b", "the network's output")]


def test_residual_and_unequal_concat() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.a(x)
        y = x + n.b(x)
        return n.c(torch.cat([y, n.d(y)], 1))

    graph = trace(Net(forward, a=conv(3, 4), b=conv(4, 4), d=conv(4, 2), c=conv(6, 5)))
    tied = positions(graph.group("a"))
    assert tied[("b.weight", 0)] == tied[("b.weight", 1)] == tied[("d.weight", 1)] == tied[("c.weight", 1)] == column(4)
    assert positions(graph.group("d"))[("c.weight", 1)] == column(2, 4)


def test_flatten_before_a_linear_layer() -> None:
    net = Net(lambda n, x: n.b(F.max_pool2d(n.a(x), 8).flatten(1)), a=conv(3, 3), b=nn.Linear(12, 2))
    assert positions(trace(net).group("a"))[("b.weight", 1)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_depthwise_and_squeeze_excite() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.b(F.hardswish(n.a(x)))
        return n.c(x * n.up(torch.relu(n.down(x.mean((2, 3), keepdim=True)))).sigmoid())

    net = Net(forward, a=conv(3, 4), b=conv(4, 4, groups=4), down=conv(4, 2, 1), up=conv(2, 4, 1), c=conv(4, 2))
    graph = trace(net)
    tied = positions(graph.group("a"))
    assert (
        tied[("b.weight", 0)]
        == tied[("down.weight", 1)]
        == tied[("up.weight", 0)]
        == tied[("c.weight", 1)]
        == column(4)
    )
    assert positions(graph.group("down")) == {
        ("down.weight", 0): column(2),
        ("down.bias", 0): column(2),
        ("up.weight", 1): column(2),
    }
    assert [(a.module, a.attribute, a.value({"a": 3})) for a in graph.attributes] == [("b", "groups", 3)]


def test_wide_groups_tie_inputs_by_position_and_balance_outputs() -> None:
    graph = trace(Net(lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 8), b=conv(8, 8, groups=2), c=conv(8, 2)))
    assert positions(graph.group("a"))[("a.weight", 0)] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert positions(graph.group("a"))[("b.weight", 1)] == column(4)
    (partition,) = graph.group("b").partitions
    assert partition.part.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert partition.reason == "the 2 groups of b"


def test_narrow_groups_go_as_a_whole() -> None:
    graph = trace(Net(lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 8), b=conv(8, 12, groups=4), c=conv(12, 2)))
    tied = positions(graph.group("a"))
    assert tied[("a.weight", 0)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert tied[("b.weight", 0)] == tied[("c.weight", 1)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


# ---------------------------------------------------------------- every cut is proved


def _dense(n: Any, x: Tensor) -> Tensor:
    x = n.a(x)
    x = torch.cat([x, n.b(x)], 1)
    return n.c(torch.cat([x, n.d(F.silu(x))], 1)).mean((2, 3))


def _channels_last(n: Any, x: Tensor) -> Tensor:
    x = n.a(x)
    y = n.up(n.norm(x.permute(0, 2, 3, 1)))
    return n.head((x + (n.down(F.gelu(y)) * n.scale.weight[0]).permute(0, 3, 1, 2)).mean((2, 3)))


PROVED: dict[str, Any] = {
    "dense": lambda: Net(_dense, a=conv(3, 6), b=conv(6, 4), d=conv(10, 6), c=conv(16, 3)),
    "transposed": lambda: Net(
        lambda n, x: n.c(F.relu(n.b(n.a(x)))), a=conv(3, 6), b=nn.ConvTranspose2d(6, 4, 2, stride=2), c=conv(4, 2)
    ),
    "transposed depthwise": lambda: Net(
        lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 6), b=nn.ConvTranspose2d(6, 6, 2, groups=6), c=conv(6, 2)
    ),
    "transposed groups": lambda: Net(
        lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 8), b=nn.ConvTranspose2d(8, 8, 2, groups=2), c=conv(8, 2)
    ),
    "depthwise multiplier": lambda: Net(
        lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 6), b=conv(6, 12, groups=6), c=conv(12, 2)
    ),
    "fewer outputs than inputs": lambda: Net(
        lambda n, x: n.c(n.b(n.a(x))), a=conv(3, 12), b=conv(12, 6, groups=6), c=conv(6, 2)
    ),
    "group norm": lambda: Net(
        lambda n, x: n.b(torch.sigmoid(n.norm(n.a(x)))), a=conv(3, 8), norm=nn.GroupNorm(2, 8), b=conv(8, 2)
    ),
    "instance norm": lambda: Net(
        lambda n, x: n.b(n.norm(n.a(x))), a=conv(3, 8), norm=nn.InstanceNorm2d(8), b=conv(8, 2)
    ),
    "prelu": lambda: Net(lambda n, x: n.b(n.q(n.p(n.a(x)))), a=conv(3, 8), p=nn.PReLU(8), q=nn.PReLU(), b=conv(8, 2)),
    "one layer twice": lambda: Net(
        lambda n, x: n.b(n.r(F.relu(n.r(n.a(x))))), a=conv(3, 6), r=conv(6, 6), b=conv(6, 2)
    ),
    "layer norm": lambda: Net(
        lambda n, x: n.b(n.norm(n.a(x.flatten(2).transpose(1, 2)))),
        a=nn.Linear(3, 6),
        norm=nn.LayerNorm(6),
        b=nn.Linear(6, 2),
    ),
    "channels last": lambda: Net(
        _channels_last,
        a=conv(3, 6),
        norm=nn.LayerNorm(6),
        up=nn.Linear(6, 8),
        down=nn.Linear(8, 6),
        scale=nn.Embedding(1, 6),
        head=nn.Linear(6, 2),
    ),
    "weight norm": lambda: Net(
        lambda n, x: n.b(n.a(x)), a=nn.utils.parametrizations.weight_norm(conv(3, 6)), b=conv(6, 2)
    ),
    "frozen parameters": lambda: Net(lambda n, x: n.b(n.a(x)), a=conv(3, 6), b=conv(6, 2)).requires_grad_(False),
    "tied": lambda: _tied(),
}


def _tied() -> nn.Module:
    net = Net(lambda n, x: n.b(F.relu(n.a2(F.relu(n.a(x))))), a=conv(3, 3), a2=conv(3, 3), b=conv(3, 2))
    net.a2.weight = net.a.weight  # type: ignore[union-attr]
    return net


@pytest.mark.parametrize("name", PROVED)
def test_cuts_are_proved_and_costs_predicted(name: str) -> None:
    certificate, graph = prove(PROVED[name]())
    assert certificate.verified, certificate.notes
    cut = [g.name for g in graph.groups if g.frozen is None and g.channels > 1]
    assert cut or name == "tied"


def test_conv1d_and_conv3d_and_keyword_inputs() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(3, 6, 3), nn.Conv1d(6, 2, 1)

        def forward(self, *, signal: Tensor) -> dict[str, list[Tensor]]:
            return {"out": [self.b(F.avg_pool1d(F.relu(self.a(signal)), 2))]}

    certificate, graph = prove(Named(), ExampleInputs((), {"signal": torch.zeros(2, 3, 12)}))
    assert certificate.verified
    assert graph.group("a").frozen is None
    volume = Net(lambda n, x: n.b(F.relu(n.a(x))), a=nn.Conv3d(3, 4, 3), b=nn.Conv3d(4, 2, 1))
    assert prove(volume, ExampleInputs((torch.zeros(1, 3, 4, 4, 4),)))[0].verified


def test_branches_that_only_training_runs() -> None:
    def forward(n: Any, x: Tensor) -> Any:
        x = n.a(x)
        return (n.b(x), n.extra(x)) if n.training else n.b(x)

    certificate, graph = prove(Net(forward, a=conv(3, 6), b=conv(6, 2), extra=conv(6, 1)))
    assert certificate.verified
    assert ("extra.weight", 1) in positions(graph.group("a"))


# ---------------------------------------------------------------- what is frozen, by name


def _shuffle(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda n, x: n.b(n.a(x) + n.a(x).mean(1, keepdim=True)), "Mean cannot be followed"),
        (lambda n, x: n.b(n.a(x).softmax(1)), "Softmax cannot be followed"),
        (lambda n, x: n.b(torch.cat(n.a(x).chunk(2, 1)[::-1], 1)), "Split cannot be followed"),
        (lambda n, x: n.b(n.a(x).flip(1)), "Flip cannot be followed"),
        (lambda n, x: n.b(n.a(x)[:, ::2].repeat(1, 2, 1, 1)), "Slice cannot be followed"),
        (lambda n, x: n.b(n.a(x) + F.pad(x, (0, 0, 0, 0, 0, 1))), "the network's input"),
        (lambda n, x: n.b(n.a(x).cumprod(2)), "Cumprod cannot be followed"),
        (lambda n, x: n.b((n.a(x).flatten(2) @ n.a(x).flatten(2).mT)[..., None]), "Bmm cannot be followed"),
    ],
)
def test_operations_that_cannot_be_said_safely(forward: Any, reason: str) -> None:
    graph = trace(Net(forward, a=conv(3, 4), b=conv(4, 2)))
    assert graph.group("a").frozen == reason
    assert reason in {u.reason for u in graph.unprunable if u.module == "a"}


def test_a_channel_shuffle_is_never_cut_wrongly() -> None:
    graph = trace(Net(lambda n, x: n.b(_shuffle(n.a(x))), a=conv(3, 4), b=conv(4, 2)))
    assert graph.group("a").frozen == "View cannot be followed"


def test_linear_over_tokens_is_frozen() -> None:
    net = Net(
        lambda n, x: n.b(n.t(n.a(x).flatten(2).expand(-1, -1, 4)).transpose(1, 2)),
        a=nn.Conv2d(3, 4, 16),
        t=nn.Linear(4, 4),
        b=nn.Linear(4, 2),
    )
    graph = trace(net)
    assert graph.group("a").frozen == "Linear t over another dim than the channels"


def test_attention_stays_whole_but_the_layers_beside_it_are_cut() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = Net(
        lambda n, x: n.head(n.layer(n.a(x).flatten(2).transpose(1, 2)).mean(1)),
        a=conv(3, 8),
        layer=layer,
        head=nn.Linear(8, 2),
    )
    certificate, graph = prove(net)
    assert certificate.verified
    assert graph.group("layer.linear1").frozen is None
    assert graph.group("a").frozen


def test_a_layer_with_tensors_of_its_own() -> None:
    class Gained(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 4, 1)
            self.gain = nn.Parameter(torch.ones(4, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight * self.gain, self.bias)

    graph = trace(Net(lambda n, x: n.b(n.a(x)), a=Gained(), b=conv(4, 2)))
    assert graph.group("b#2").frozen == "Gained a has tensors that Torch-Pruning does not know"


def test_a_stem_without_gradients() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = n.stem(x)
        return n.b(n.a(x))

    certificate, graph = prove(Net(forward, stem=conv(3, 4), a=conv(4, 6), b=conv(6, 2)))
    assert certificate.verified
    assert graph.group("a").frozen is None
    assert "stem" not in graph.widths


def test_a_layer_that_hides_its_channels_from_autograd_is_refused() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.a(x)
        with torch.no_grad():
            weight = n.gate(x).mean()
        return n.b(x * weight)

    with pytest.raises(
        ModelError, match="gate runs without gradients on channels of the network; use the engine 'labels'"
    ):
        trace(Net(forward, a=conv(3, 4), gate=conv(4, 1), b=conv(4, 2)))


def test_a_network_that_does_not_run_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"^Torch-Pruning cannot follow Net: RuntimeError: [^\n]*$"):
        trace(Net(lambda n, x: n.b(n.a(x)), a=conv(3, 4), b=conv(5, 2)))


# ---------------------------------------------------------------- manners


def test_the_model_is_left_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    net = Net(lambda n, x: n.b(n.norm(n.a(x))), a=conv(3, 4), norm=nn.BatchNorm2d(4), b=conv(4, 2)).train()
    net.a.weight.requires_grad_(False)  # type: ignore[union-attr]
    before = {name: t.clone() for name, t in net.state_dict().items()}
    trace(net)
    assert net.training
    assert not net.a.weight.requires_grad  # type: ignore[union-attr]
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "regnet_y_400mf", "convnext_tiny"]
)
def test_torchvision(name: str) -> None:
    torchvision = importlib.import_module("torchvision")
    model = getattr(torchvision.models, name)(weights=None)
    certificate, graph = prove(model, ExampleInputs((torch.zeros(1, 3, 32, 32),)))
    assert certificate.verified, certificate.notes
    reasons = {g.frozen for g in graph.groups if g.frozen}
    assert {r for r in reasons if not r.startswith("the inside of")} == {"the network's input", "the network's output"}
