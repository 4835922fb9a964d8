"""Which weights stay, which numbers follow, and that the input model is left alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunecore.errors import ModelError
from prunecore.surgery import apply_recipe, make_recipe, resize
from prunecore.types import AttributeEdit, ChannelGroup, Recipe, Slice, TensorShape, ValueEdit, Width
from tests.surgery.small_nets import Depthwise, Plain, depthwise_graph, graph_of, keep, member, plain_graph


def test_kept_channels_are_the_ones_named_in_every_member() -> None:
    model = Plain()
    cut, recipe = resize(model, plain_graph(), keep({"conv": [0, 2, 5], "out": [1, 3]}))
    assert isinstance(cut, Plain)
    assert torch.equal(cut.conv.weight, model.conv.weight[[0, 2, 5]])
    assert torch.equal(cut.norm.running_var, model.norm.running_var[[0, 2, 5]])
    assert torch.equal(cut.out.weight, model.out.weight[[1, 3]][:, [0, 2, 5]])
    assert torch.equal(cut.head.weight, model.head.weight[:, [1, 3]])
    assert (cut.conv.out_channels, cut.norm.num_features, cut.out.in_channels, cut.out.out_channels) == (3, 3, 3, 2)
    assert (cut.head.in_features, cut.head.out_features) == (2, 5)
    assert recipe.widths == (Width("conv", 6, 3), Width("out", 4, 2))
    assert AttributeEdit("norm", "num_features", 6, 3) in recipe.attributes
    assert TensorShape("out.weight", (4, 6, 3, 3), (2, 3, 3, 3)) in recipe.shapes
    assert cut(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


def test_positions_that_no_group_owns_stay() -> None:
    half = ChannelGroup("conv", 2, (member("conv.weight", 0, "producer", [1, 3]),))
    recipe = make_recipe(Plain(), graph_of(half), keep({"conv": [1]}))
    assert recipe.slices == (Slice("conv.weight", 0, 6, (0, 2, 3, 4, 5)),)


def test_the_input_model_is_bit_equal_and_keeps_mode_flags_and_hooks() -> None:
    model = Plain().train()
    model.conv.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cut, _ = resize(model, plain_graph(), keep({"conv": [4]}))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.conv.out_channels == 6
    assert cut.training
    assert not cut.conv.weight.requires_grad
    assert cut.out.weight.requires_grad


def test_hooks_are_carried_over_not_copied() -> None:
    class Logger:
        def __init__(self) -> None:
            self.lock = threading.Lock()  # cannot be copied
            self.calls = 0

        def hook(self, module: nn.Module, args: Any, output: Tensor) -> None:
            self.calls += 1

    logger, model = Logger(), Plain()
    model.conv.register_forward_hook(logger.hook)
    cut, _ = resize(model, plain_graph(), keep({"conv": [0, 1]}))
    assert logger.calls == 0
    cut(torch.zeros(1, 3, 8, 8))
    assert logger.calls == 1


def test_shared_tensors_stay_shared() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.table.weight

    group = ChannelGroup("table", 4, (member("table.weight", 1, "producer", 4),))
    cut, recipe = resize(Tied(), graph_of(group), keep({"table": [0, 3]}))
    assert cut.head.weight is cut.table.weight
    assert cut.table.weight.shape == (7, 2)
    edits = {(a.module, a.attribute): a.new for a in recipe.attributes}
    assert edits == {("table", "embedding_dim"): 2, ("head", "in_features"): 2}


def test_channels_last_and_dtype_are_kept() -> None:
    model = Plain().to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    cut, _ = resize(model, plain_graph(), keep({"conv": [0, 1, 2]}))
    assert cut.out.weight.dtype == torch.bfloat16
    assert cut.out.weight.is_contiguous(memory_format=torch.channels_last)
    assert not cut.out.weight.is_contiguous()


def test_groups_of_a_convolution_follow_the_graph() -> None:
    cut, recipe = resize(Depthwise(), depthwise_graph(), keep({"a": [0, 3, 4, 7]}))
    assert (cut.b.groups, cut.b.in_channels, cut.b.out_channels) == (4, 4, 4)
    assert AttributeEdit("b", "groups", 8, 4) in recipe.attributes
    assert cut(torch.zeros(1, 3, 8, 8)).shape == (1, 2, 6, 6)


def test_a_subclass_is_edited_in_place_and_keeps_the_rest() -> None:
    class Active(nn.BatchNorm2d):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.act = nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(super().forward(x))

    class Net(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.norm = Active(6)

    cut, _ = resize(Net(), plain_graph(), keep({"conv": [5]}))
    assert type(cut.norm) is Active
    assert cut.norm.num_features == 1
    assert isinstance(cut.norm.act, nn.SiLU)


@pytest.mark.parametrize("new_style", [False, True])
def test_weight_norm_is_cut_at_its_originals(new_style: bool) -> None:
    model = Plain()
    with pytest.warns(FutureWarning) if not new_style else _nothing():
        wrap = nn.utils.parametrizations.weight_norm if new_style else nn.utils.weight_norm
        wrap(model.conv)
    names = [name for name, _ in model.named_parameters() if name.startswith("conv") and not name.endswith("bias")]
    group = ChannelGroup(
        "conv",
        6,
        (*(member(name, 0, "producer", 6) for name in names), *plain_graph().groups[0].members[1:]),
    )
    model(torch.zeros(1, 3, 8, 8))  # old-style weight norm now holds a tensor with a history
    cut, _ = resize(model, graph_of(group), keep({"conv": [1, 4]}))
    assert cut.conv.out_channels == 2
    assert torch.allclose(cut.conv.weight, model.conv.weight[[1, 4]])
    assert cut(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind: type[nn.RNNBase], gates: int) -> None:
    model = nn.Sequential(kind(5, 4, batch_first=True))
    rows = [[g * 4 + c for g in range(gates)] for c in range(4)]
    members = tuple(
        _rows(name, 0, rows) for name in ("0.weight_ih_l0", "0.weight_hh_l0", "0.bias_ih_l0", "0.bias_hh_l0")
    )
    hidden = ChannelGroup("0", 4, (*members, member("0.weight_hh_l0", 1, "consumer", 4)))
    inputs = ChannelGroup("in", 5, (member("0.weight_ih_l0", 1, "consumer", 5),))
    cut, _ = resize(model, graph_of(hidden, inputs), keep({"0": [1, 2], "in": [0, 4]}))
    assert (cut[0].hidden_size, cut[0].input_size) == (2, 2)
    assert torch.equal(cut[0].weight_hh_l0[:2], model[0].weight_hh_l0[1:3][:, 1:3])
    assert cut[0](torch.zeros(1, 3, 2))[0].shape == (1, 3, 2)


def _rows(tensor: str, dim: int, rows: list[list[int]]) -> Any:
    import numpy as np

    from prunecore.types import Member

    return Member(tensor, dim, "producer", np.array(rows))


@pytest.mark.parametrize(
    ("layer", "tensor", "dim", "attribute", "expected"),
    [
        (nn.ConvTranspose2d(4, 6, 3), "weight", 1, "out_channels", 2),
        (nn.ConvTranspose2d(4, 6, 3), "weight", 0, "in_channels", 2),
        (nn.Conv1d(4, 6, 3), "weight", 1, "in_channels", 2),
        (nn.GroupNorm(1, 4), "weight", 0, "num_channels", 2),
        (nn.LayerNorm(4), "weight", 0, "normalized_shape", (2,)),
        (nn.InstanceNorm2d(4, affine=True), "weight", 0, "num_features", 2),
        (nn.PReLU(4), "weight", 0, "num_parameters", 2),
        (nn.Bilinear(4, 3, 2), "weight", 1, "in1_features", 2),
        (nn.LSTMCell(4, 3), "weight_ih", 1, "input_size", 2),
    ],
)
def test_known_layers(layer: nn.Module, tensor: str, dim: int, attribute: str, expected: int) -> None:
    size = layer.get_parameter(tensor).shape[dim]
    group = ChannelGroup("g", size, (member(f"0.{tensor}", dim, "producer", size),))
    cut, _ = resize(nn.Sequential(layer), graph_of(group), keep({"g": [0, size - 1]}))
    assert getattr(cut[0], attribute) == expected


def test_value_edits_scale_the_cut_tensor() -> None:
    model = Plain()
    recipe = Recipe(slices=(Slice("head.weight", 1, 4, (1, 3)),), values=(ValueEdit("head.weight", 2.0, 1, (1,)),))
    cut = apply_recipe(model, recipe)
    assert torch.equal(cut.head.weight, model.head.weight[:, [1, 3]] * torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        ({"conf": [0]}, "'conf', which is no channel group of the network, did you mean 'conv'"),
        ({"conv": []}, "keeps no channel of 6"),
        ({"conv": [2, 1]}, "must ascend within 0 … 5, got 2, 1"),
        ({"conv": [0, 6]}, "must ascend within 0 … 5"),
        ({"head": [0]}, "head: its channels may not be cut \\(the network's output\\)"),
    ],
)
def test_bad_proposals_are_refused(proposal: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_recipe(Plain(), plain_graph(), keep(proposal))


def test_unequal_parts_are_refused() -> None:
    with pytest.raises(ModelError, match=r"a: equal counts expected in every part \(halves\), got 2, 1"):
        make_recipe(Depthwise(), depthwise_graph(), keep({"a": [0, 1, 4]}))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 3), "Linear has no tensor .conv.weight. that the recipe names.*; it needs the original class"),
        (nn.Sequential(), "Sequential has no tensor"),
    ],
)
def test_a_recipe_on_the_wrong_class_is_one_clear_error(model: nn.Module, message: str) -> None:
    recipe = make_recipe(Plain(), plain_graph(), keep({"conv": [0]}))
    with pytest.raises(ModelError, match=message):
        apply_recipe(model, recipe)


def test_a_recipe_on_the_wrong_width_names_tensor_got_and_expected() -> None:
    recipe = make_recipe(Plain(), plain_graph(), keep({"conv": [0]}))
    other = Plain()
    other.conv = nn.Conv2d(3, 7, 3)
    with pytest.raises(ModelError, match=r"conv.weight has shape \(7, 3, 3, 3\), the recipe expects \(6, 3, 3, 3\)"):
        apply_recipe(other, recipe)
    other = Plain()
    other.norm.num_features = 9
    with pytest.raises(ModelError, match=r"norm.num_features is 9, the recipe expects 6"):
        apply_recipe(other, recipe)
