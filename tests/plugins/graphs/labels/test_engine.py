"""The trace leaves the model as it was, names what it cannot cut, and takes the branches of training along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from prunecore_plugins.graphs.labels import LabelGraph
from prunecore_plugins.graphs.labels.layers import Info
from torch import Tensor, nn
from torch.nn import functional as F

import prunecore
from prunecore.errors import ModelError
from prunecore.graph import OpRule
from prunecore.measure import CostModel, count
from prunecore.planning import plan, uniform_scores
from prunecore.surgery import certify, resize
from prunecore.types import ExampleInputs, Proposal, Target
from tests.plugins.graphs.labels.cases import cut, free, frozen, image, trace


class Untidy(nn.Module):
    """Writes to a buffer and a parameter in its forward, and counts its calls."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.conv, self.drop, self.head = nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Conv2d(4, 2, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        with torch.no_grad():
            self.conv.weight.mul_(0.5)
        x = self.head(self.drop(self.conv(x.sub_(1.0))))
        if self.fails:
            raise RuntimeError("out of luck")
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_bit_equal_in_its_mode_with_its_hooks(fails: bool) -> None:
    net = Untidy(fails).train()
    net.drop.eval()
    net.conv.weight.requires_grad_(False)
    net.register_forward_hook(lambda *_: None)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    x = torch.randn(1, 3, 6, 6)
    given, random = x.clone(), torch.get_rng_state()
    if fails:
        with pytest.raises(ModelError, match=r"fails on inputs \(1, 3, 6, 6\): \w+: out of luck"):
            trace(net, ExampleInputs((x,)))
    else:
        trace(net, ExampleInputs((x,)))
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert (net.training, net.drop.training, net.conv.weight.requires_grad) == (True, False, False)
    assert len(net._forward_hooks) == 1
    assert not nn.modules.module._global_forward_pre_hooks
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), random)
    assert "_prunecore_labels" not in net.conv.weight.__dict__
    assert torch.backends.mha.get_fastpath_enabled()


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(self.a(x).sort(1).values)))


def test_what_an_operation_stops_is_named_and_the_rest_is_cut() -> None:
    found = cut(Sorted(), image(), {"b": [0, 4]})
    assert frozen(found.graph)["a"] == "channels are put in order (aten.sort in the network itself)"
    assert found.kept["c.weight", 1] == [0, 4]
    assert {u.module: u.reason for u in found.graph.unprunable} == {
        "a": "channels are put in order (aten.sort in the network itself)",
        "c": "network output",
    }


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.linalg.qr(self.a(x)).Q)


def test_an_operation_without_a_rule_freezes_what_goes_in() -> None:
    assert frozen(trace(Unknown(), image()))["a"] == "no rule for this operation (aten.linalg_qr in the network itself)"


def test_a_further_rule_wins() -> None:
    def carry(call: Any) -> list[Info]:
        return [call.info(call.args[0]), Info()]

    graph = LabelGraph().prune_trace(Sorted(), image(), [OpRule(("aten.sort",), carry)])
    assert free(graph) == {"a": 8, "b": 6}


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.extra, self.b = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        x = F.dropout(self.bn(self.a(x)), training=self.training)
        return (self.b(x), self.extra(x)) if self.training else self.b(x)


def test_branches_of_training_are_tied_and_cost_nothing() -> None:
    net = Auxiliary()
    found = cut(net, image(), {"a": [1, 5]})
    assert found.kept["extra.weight", 1] == [1, 5]
    assert [op.module for op in found.graph.ops] == ["a", "b"]
    assert torch.equal(net.bn.running_mean, torch.zeros(8))


class Heads(nn.Module):
    """A fused qkv layer with the width of a head read off the tensor."""

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.scale = scale
        self.stem, self.qkv, self.out = nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.qkv(torch.tanh(self.stem(x)))
        q, k, v = y.reshape(y.shape[0], y.shape[1], 3, 2, y.shape[2] // 6).permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(z.transpose(1, 2).flatten(2))


def test_a_given_scale_lets_query_and_key_go_together_within_each_head() -> None:
    net, inputs = Heads(0.5), ExampleInputs((torch.randn(1, 6, 5),))
    graph = trace(net, inputs)
    assert free(graph) == {"stem": 8, "qkv": 8, "qkv#2": 8}
    assert graph.group("qkv").members[0].index[:2].tolist() == [[0, 8], [1, 9]]
    assert graph.group("qkv").partitions[0].part.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    found = cut(net, inputs, {"stem": [0, 7], "qkv": [0, 1, 6, 7], "qkv#2": [1, 2, 4, 7]})
    assert found.kept["qkv.weight", 0] == [0, 1, 6, 7, 8, 9, 14, 15, 17, 18, 20, 23]
    assert found.kept["out.weight", 1] == [1, 2, 4, 7]


def test_where_the_scale_follows_the_width_of_a_head_the_query_makes_up_for_it() -> None:
    net, inputs = Heads(None), ExampleInputs((torch.randn(1, 6, 5),))
    kept = {"stem": np.array([0, 7]), "qkv": np.array([0, 1, 6, 7]), "qkv#2": np.array([1, 2, 4, 7])}
    small, recipe = resize(net, trace(net, inputs), Proposal(kept))
    half = round(0.5**0.5, 12)
    assert [(v.tensor, v.index, round(v.factor, 12)) for v in recipe.values] == [
        ("qkv.weight", (0, 1, 2, 3), half),
        ("qkv.bias", (0, 1, 2, 3), half),
    ]
    assert certify(net, small, recipe, inputs).verified
    assert not certify(net, small, replace(recipe, values=()), inputs).verified


def test_inputs_of_any_batch_cost_the_same() -> None:
    one, four = (trace(Sorted(), ExampleInputs((torch.randn(n, 3, 4, 4),))) for n in (1, 4))
    assert one.ops == four.ops
    assert np.prod([op.scale for op in one.ops]) == 16**3


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.f = (nn.Conv2d(i, o, 1) for i, o in ((3, 8), (8, 8), (8, 8), (8, 2)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.f(self.b(y) if y.mean() > 1e9 else self.c(y))


def test_a_forward_that_decides_by_its_data_is_refused_with_what_it_leaves_out() -> None:
    with pytest.raises(
        ModelError, match=r"decides by its data \(.*in the network itself\) and does not reach b\.weight, b\.bias"
    ):
        trace(Deciding(), image())


class ByNumpy(nn.Module):
    """Values that nobody can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().clip(0))


class Rounded(torch.autograd.Function):
    """Written in torch, with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Round(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Rounded.apply(x)


def _around(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 1), middle, nn.Conv2d(6, 8, 1), nn.Conv2d(8, 2, 1)).eval()


def test_values_that_leave_torch_are_frozen_by_name() -> None:
    graph = prunecore.trace(_around(ByNumpy()), torch.randn(1, 3, 4, 4))
    assert graph.group("0").frozen == "values leave PyTorch by Tensor.numpy() (in 1)"
    assert graph.group("2").frozen is None


def test_an_operation_without_a_rule_is_frozen_by_name() -> None:
    @torch.library.custom_op("prunecore_test::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return 2 * x

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return twice(x)

    pruned = prunecore.prune(_around(Twice()), torch.randn(1, 3, 4, 4), reduce=0.3)
    assert pruned.certificate.verified
    reasons = {u.module: u.reason for u in pruned.unprunable}
    assert reasons["0"] == "no rule for this operation (prunecore_test.twice in 1)"


def test_a_custom_autograd_function_made_of_torch_operations_is_followed() -> None:
    graph = prunecore.trace(_around(Round()), torch.randn(1, 3, 4, 4))
    assert graph.group("0").frozen is None
    assert [m.tensor for m in graph.group("0").members] == ["0.weight", "0.bias", "2.weight"]


class Encoder(nn.Module):
    """Tokens, positions, an encoder layer of torch's own, classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(11, 8), nn.Parameter(torch.zeros(1, 5, 8))
        self.layer, self.head = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(self.embed(tokens) + self.position).mean(1))
        return out


def test_a_network_on_the_meta_device_gives_the_same_graph_and_plan() -> None:
    torch.manual_seed(0)
    real = Encoder().eval()
    with torch.device("meta"):
        meta = Encoder().eval()
        nothing = torch.zeros(1, 5, dtype=torch.long)
    graphs = [prunecore.trace(real, torch.zeros(1, 5, dtype=torch.long)), prunecore.trace(meta, nothing)]
    assert graphs[0].links == graphs[1].links
    assert CostModel(graphs[0]).cost({"embed#2": 4}) == CostModel(graphs[1]).cost({"embed#2": 4})
    assert [(g.name, g.channels, g.frozen) for g in graphs[0].groups] == [
        (g.name, g.channels, g.frozen) for g in graphs[1].groups
    ]
    made = plan(graphs[1], uniform_scores(graphs[1].groups), Target(0.5))
    small, recipe = resize(real, graphs[1], made.proposal)
    inputs = ExampleInputs((torch.zeros(1, 5, dtype=torch.long),))
    assert certify(real, small, recipe, inputs).verified
    assert count(small, inputs) == made.cost
