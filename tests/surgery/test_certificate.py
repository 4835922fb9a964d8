"""Right cuts are proved, wrong cuts are caught, and nothing of the caller's is touched."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunecore
from prunecore.surgery import apply_recipe, certify, make_recipe, resize
from prunecore.types import Certificate, ChannelGroup, ExampleInputs, Member, Recipe, Slice, ValueEdit
from tests.surgery.small_nets import IMAGES, Depthwise, Plain, depthwise_graph, graph_of, keep, member, plain_graph


def _certify(model: nn.Module, graph: Any, kept: dict[str, list[int]], inputs: ExampleInputs = IMAGES) -> Certificate:
    cut, recipe = resize(model, graph, keep(kept))
    return certify(model, cut, recipe, inputs)


def test_a_right_cut_is_verified() -> None:
    found = _certify(Plain(), plain_graph(), {"conv": [0, 2, 5], "out": [1, 3]})
    assert found.verified
    assert found.max_abs_error < 1e-12
    assert (found.inputs, found.dtype, found.notes) == (((2, 3, 8, 8),), "float64", ())


def test_a_zero_initialised_branch_is_no_way_out() -> None:
    model = Plain()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert _certify(model, plain_graph(), {"conv": [1, 3]}).verified
    recipe = _wrong(make_recipe(model, plain_graph(), keep({"conv": [1, 3]})))
    assert not certify(model, apply_recipe(model, recipe), recipe, IMAGES).verified


def _wrong(recipe: Recipe) -> Recipe:
    """The consumer keeps other channels than the producer."""
    slices = tuple(replace(s, kept=(0, 3)) if s.tensor == "out.weight" else s for s in recipe.slices)
    return replace(recipe, slices=slices)


def test_a_wrong_index_is_caught_and_the_module_named() -> None:
    model = Plain()
    recipe = _wrong(make_recipe(model, plain_graph(), keep({"conv": [1, 3]})))
    found = certify(model, apply_recipe(model, recipe), recipe, IMAGES)
    assert not found.verified
    assert found.max_abs_error > 1e-3
    assert "differs from the masked one first in out (" in found.notes[0]


def test_a_norm_cut_at_the_wrong_place_is_caught() -> None:
    model = Plain()
    recipe = make_recipe(model, plain_graph(), keep({"conv": [1, 3]}))
    slices = tuple(replace(s, kept=(1, 4)) if s.tensor == "norm.running_mean" else s for s in recipe.slices)
    recipe = replace(recipe, slices=slices)
    assert not certify(model, apply_recipe(model, recipe), recipe, IMAGES).verified


def test_a_cut_that_cannot_run_is_named_not_raised() -> None:
    model = Plain()
    recipe = Recipe(slices=(Slice("conv.weight", 0, 6, (0, 1)), Slice("conv.bias", 0, 6, (0, 1))))
    found = certify(model, apply_recipe(model, recipe), recipe, IMAGES)
    assert not found.verified
    assert math.isinf(found.max_abs_error)
    assert found.notes[0].startswith("the cut network stops in norm: RuntimeError")


def test_a_recipe_of_another_network_is_named() -> None:
    model = Plain()
    cut, recipe = resize(model, plain_graph(), keep({"conv": [0]}))
    found = certify(model, cut, replace(recipe, slices=recipe.slices[:1]), IMAGES)
    assert not found.verified
    assert "of the cut network has shape" in found.notes[0]


def test_an_index_that_changes_nothing_proves_nothing() -> None:
    class Dead(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * super().forward(x) + 1

    found = _certify(Dead(), plain_graph(), {"conv": [0, 2]})
    assert not found.verified
    assert "negative control" in found.notes[-1]


def test_a_detector_that_finds_nothing_is_compared_before_its_outputs() -> None:
    class Nothing(Plain):
        """No output has an element, as after a non-maximum suppression that keeps no box."""

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y[torch.zeros(len(y), dtype=torch.bool)]

    model = Nothing()
    assert _certify(model, plain_graph(), {"conv": [1, 3]}).verified
    recipe = _wrong(make_recipe(model, plain_graph(), keep({"conv": [1, 3]})))
    found = certify(model, apply_recipe(model, recipe), recipe, IMAGES)
    assert not found.verified
    assert "differs from the masked one first in out" in found.notes[0]


def test_everything_of_the_callers_is_left_alone() -> None:
    model = Plain().train()
    cut, recipe = resize(model, plain_graph(), keep({"conv": [0, 2]}))
    before = [t.clone() for t in (*model.state_dict().values(), *cut.state_dict().values())]
    state = torch.get_rng_state()
    certify(model, cut, recipe, IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a, b)
        for a, b in zip((*model.state_dict().values(), *cut.state_dict().values()), before, strict=True)
    )
    assert model.training
    assert not model._forward_hooks
    assert not model.conv._forward_pre_hooks


def test_certificates_are_repeatable_and_depend_on_the_seed() -> None:
    model = Plain()
    cut, recipe = resize(model, plain_graph(), keep({"conv": [0, 2]}))
    assert certify(model, cut, recipe, IMAGES, seed=1) == certify(model, cut, recipe, IMAGES, seed=1)


def test_depthwise_groups() -> None:
    assert _certify(Depthwise(), depthwise_graph(), {"a": [0, 3, 4, 7]}).verified


def test_nothing_cut_is_said() -> None:
    model = Plain()
    assert certify(model, Plain(), Recipe(), IMAGES).notes == ("nothing was cut",)


def test_half_precision_and_casts_inside_the_forward() -> None:
    class Casts(Plain):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.conv(x.float().to(self.conv.weight.dtype))))
            ones = torch.ones(x.shape[-1], dtype=torch.float32)
            return self.head((self.out(x).float() * ones).mean((2, 3)).to(x.dtype))

    assert _certify(Casts(), plain_graph(), {"conv": [0, 2, 5]}).verified
    assert _certify(Casts().bfloat16(), plain_graph(), {"conv": [0, 2, 5]}).verified


def test_nested_outputs_keyword_and_whole_number_inputs() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, ids: Tensor, *, shift: Tensor, names: list[str]) -> dict[str, Any]:
            x = self.head(self.table(ids) * shift)
            return {"first": x, "rest": [x.sum(), (x.argmax(-1), names)]}

    group = ChannelGroup(
        "table", 6, (member("table.weight", 1, "producer", 6), member("head.weight", 1, "consumer", 6))
    )
    inputs = ExampleInputs((torch.tensor([[1, 8, 0]]),), {"shift": torch.ones(1, 3, 1), "names": ["a"]})
    found = _certify(Tokens(), graph_of(group), {"table": [0, 4]}, inputs)
    assert found.verified
    assert found.inputs == ((1, 3), (1, 3, 1))


def test_train_mode_is_run_too() -> None:
    class Auxiliary(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Any:
            x = torch.relu(self.norm(self.conv(x)))
            y = self.head(self.out(x).mean((2, 3)))
            return (y, self.extra(x)) if self.training else y

    found = _certify(Auxiliary(), plain_graph(), {"conv": [0, 2]})
    assert not found.verified
    assert found.notes[-1].startswith("train mode: the cut network stops: RuntimeError")


# ---------------------------------------------------------------- zero parameters are not enough


class _Inner(nn.Module):
    """linear -> `between` -> linear on (2, 5, 6); the inner width is 8."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.a, self.between, self.b = nn.Linear(6, 8), between, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


def _inner_graph(*more: Member) -> Any:
    members = (
        member("a.weight", 0, "producer", 8),
        member("a.bias", 0, "bias", 8),
        member("b.weight", 1, "consumer", 8),
    )
    return graph_of(ChannelGroup("a", 8, (*members, *more)))


class _Call(nn.Module):
    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def _rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def _linear_attention(x: Tensor) -> Tensor:
    key = F.elu(x) + 1
    return key @ (key.transpose(1, 2) @ x) / (key * key.sum(1, keepdim=True)).sum(-1, keepdim=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.softmax(-1),
        lambda x: x.log_softmax(-1),
        lambda x: x - x.mean(-1, keepdim=True),
        lambda x: x / x.std(-1, keepdim=True),
        lambda x: x - x.amax(-1, keepdim=True),
        lambda x: x - x.max(-1, keepdim=True).values,
        lambda x: x - x.logsumexp(-1, keepdim=True),
        lambda x: x * x.norm(dim=-1, keepdim=True),
        lambda x: (x.sigmoid() * x.cos()).transpose(1, 2).flip(2).roll(1, 2).transpose(1, 2).exp().softmax(-1),
        lambda x: (x.exp() @ x.cos().transpose(1, 2)).softmax(-1) @ x.exp(),
        _rms,
        _linear_attention,
        lambda x: F.scaled_dot_product_attention(x, x, x.cos(), scale=0.3),
    ],
)
def test_what_runs_over_the_channels_is_restricted_to_the_kept_ones(call: Any) -> None:
    inputs = ExampleInputs((torch.zeros(2, 5, 6),))
    found = _certify(_Inner(_Call(call)), _inner_graph(), {"a": [0, 2, 3, 7]}, inputs)
    assert found.verified, found.notes
    model = _Inner(_Call(call))
    recipe = make_recipe(model, _inner_graph(), keep({"a": [0, 2, 3, 7]}))
    slices = tuple(replace(s, kept=(0, 2, 4, 7)) if s.tensor == "a.weight" else s for s in recipe.slices)
    wrong = replace(recipe, slices=slices)
    assert not certify(model, apply_recipe(model, wrong), wrong, inputs).verified


def test_norms_over_channels_and_what_the_certificate_says() -> None:
    members = (member("between.weight", 0, "norm", 8), member("between.bias", 0, "bias", 8))
    inputs = ExampleInputs((torch.zeros(2, 5, 6),))
    found = _certify(_Inner(nn.LayerNorm(8)), _inner_graph(*members), {"a": [1, 2, 6]}, inputs)
    assert found.verified
    assert found.notes == ("restricted to the kept channels: native_layer_norm (1)",)
    found = _certify(_Inner(nn.RMSNorm(8)), _inner_graph(members[0]), {"a": [1, 2, 6]}, inputs)
    assert found.verified


def test_group_norm_and_weight_standardisation() -> None:
    class Standard(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
            return F.conv2d(x, weight.reshape_as(self.weight), self.bias)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.b = Standard(3, 8, 3), nn.GroupNorm(2, 8), Standard(8, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.sigmoid(self.n(self.a(x))))

    names = ("a.weight", "a.bias", "n.weight", "n.bias")
    group = ChannelGroup("a", 8, (*(member(n, 0, "producer", 8) for n in names), member("b.weight", 1, "consumer", 8)))
    found = _certify(Net(), graph_of(group), {"a": [0, 3, 4, 5]})
    assert found.verified, found.notes
    assert {n.split(" (")[0] for n in found.notes[0].removeprefix("restricted to the kept channels: ").split(", ")} == {
        "native_group_norm",
        "batch_norm",
    }
    # 1 of the first half and 3 of the second: the groups of the norm would be others
    assert not _certify(Net(), graph_of(group), {"a": [0, 4, 5, 6]}).verified


class _Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (2, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).flatten(2))


def test_a_declared_value_edit_is_part_of_what_is_proved() -> None:
    rows = np.array([[0, 3], [1, 4], [2, 5]])
    members = tuple(Member(f"{m}.{t}", 0, "producer", rows) for m in ("q", "k", "v") for t in ("weight", "bias"))
    graph = graph_of(ChannelGroup("q", 3, (*members, Member("o.weight", 1, "consumer", rows))))
    model, inputs = _Heads(), ExampleInputs((torch.zeros(2, 5, 6),))
    recipe = make_recipe(model, graph, keep({"q": [0, 2]}))
    assert not certify(model, apply_recipe(model, recipe), recipe, inputs).verified
    factor = math.sqrt(2 / 3)  # the code divides by the square root of the new width
    right = replace(recipe, values=(ValueEdit("q.weight", factor), ValueEdit("q.bias", factor)))
    assert certify(model, apply_recipe(model, right), right, inputs).verified


def test_slice_writes_and_unknown_operations_are_named() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.zeros(x.shape[0], x.shape[1] + 1, x.shape[2], dtype=x.dtype)
            y[:, :-1] = x.sigmoid()
            return y.softmax(-1)[:, :-1]

    inputs = ExampleInputs((torch.zeros(2, 5, 6),))
    assert _certify(_Inner(Writes()), _inner_graph(), {"a": [0, 1, 5]}, inputs).verified
    found = _certify(_Inner(_Call(lambda x: x.sort(-1).values)), _inner_graph(), {"a": [0, 1, 5]}, inputs)
    assert not found.verified
    assert any("dead channels end at: sort (1)" in note for note in found.notes)


class Table(nn.Module):
    """Owns a table that is as wide as `a`, and gives what `b` gives, which is as wide before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table, self.b = nn.Linear(5, 6), nn.Parameter(torch.randn(6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.tanh(self.a(x) * self.table))
        return out


def test_a_module_need_not_be_as_wide_as_its_own_table() -> None:
    net = nn.Sequential(Table(), nn.LayerNorm(6), nn.Linear(6, 3)).eval()
    inputs = ExampleInputs((torch.randn(2, 5),))
    found = _certify(net, prunecore.trace(net, inputs.args), {"0.a": [0, 1, 2, 3], "0.b": [2, 3, 4, 5]}, inputs)
    assert found.verified, found.notes
