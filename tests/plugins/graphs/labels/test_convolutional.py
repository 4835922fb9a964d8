"""Which positions go, and in which order, in every convolutional pattern."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecore.types import ExampleInputs
from tests.plugins.graphs.labels.cases import cut, free, frozen, image, trace


class Body(nn.Module):
    """A stem `a` (3 -> 8), what the test adds, and a head on the mean over positions."""

    def __init__(self, last: int, **parts: nn.Module) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        for name, part in parts.items():
            self.add_module(name, part)
        self.head = nn.Linear(last, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.tanh(self.body(torch.tanh(self.a(x)))).mean((2, 3)))
        return y

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def conv(inputs: int, outputs: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Residual(Body):
    def body(self, x: Tensor) -> Tensor:
        return x + self.bn(self.b(x))


def test_a_residual_ties_both_ends() -> None:
    found = cut(Residual(8, b=conv(8, 8), bn=nn.BatchNorm2d(8)), image(), {"a": [0, 3, 7]})
    for place in [("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.weight", 1), ("b.bias", 0), ("bn.weight", 0),
                  ("bn.bias", 0), ("bn.running_mean", 0), ("bn.running_var", 0), ("head.weight", 1)]:  # fmt: skip
        assert found.kept[place] == [0, 3, 7]
    assert free(found.graph) == {"a": 8}
    assert found.attributes["bn", "num_features"] == 3


class Dense(Body):
    def body(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.b(x)], 1)
        return torch.cat([self.c(x), x], 1)


def test_unequal_concatenations_shift_the_positions() -> None:
    found = cut(Dense(17, b=conv(8, 4), c=conv(12, 5)), image(), {"a": [1, 6], "b": [0, 3], "c": [2]})
    assert found.kept["b.weight", 1] == [1, 6]
    assert found.kept["c.weight", 1] == [1, 6, 8, 11]
    assert found.kept["head.weight", 1] == [2, 6, 11, 13, 16]


class Padded(Body):
    def body(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + self.b(x)


def test_a_zero_padded_shortcut_keeps_the_padding_whole() -> None:
    net = Padded(12, b=conv(8, 12, stride=2))
    found = cut(net, image(), {"a": [0, 5]})
    assert found.kept["b.weight", 0] == [0, 1, 2, 7, 10, 11]
    assert found.kept["b.weight", 1] == [0, 5]
    assert frozen(found.graph)["b"].startswith("tied to positions without channels (aten.add")


class Gate(Body):
    def body(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.hardswish(self.down(x.mean((2, 3), keepdim=True)))))


def test_squeeze_and_excitation() -> None:
    found = cut(Gate(8, down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1)), image(), {"a": [2, 4], "down": [1, 3]})
    assert found.kept["up.weight", 0] == [2, 4]
    assert found.kept["up.weight", 1] == [1, 3]
    assert found.kept["down.weight", 1] == [2, 4]


class Chain(Body):
    def body(self, x: Tensor) -> Tensor:
        for name in [n for n in self._modules if n not in ("a", "head")]:
            x = self._modules[name](x)  # type: ignore[misc]
        return x


def test_a_depthwise_convolution_sets_its_groups() -> None:
    found = cut(Chain(8, b=conv(8, 8, groups=8)), image(), {"a": [1, 2, 5]})
    assert found.kept["b.weight", 0] == [1, 2, 5]
    assert ("b.weight", 1) not in found.kept
    assert found.attributes["b", "groups"] == 3


def test_a_depthwise_multiplier_takes_two_outputs_for_each_input() -> None:
    found = cut(Chain(16, b=conv(8, 16, groups=8)), image(), {"a": [1, 4]})
    assert found.kept["b.weight", 0] == [2, 3, 8, 9]
    assert found.kept["head.weight", 1] == [2, 3, 8, 9]
    assert found.attributes["b", "groups"] == 2


def test_many_convolution_groups_go_as_a_whole() -> None:
    found = cut(Chain(8, b=conv(8, 8, groups=4)), image(), {"a": [0, 3]})
    assert found.graph.group("a").channels == 4
    assert found.kept["a.weight", 0] == [0, 1, 6, 7]
    assert found.kept["b.weight", 0] == [0, 1, 6, 7]
    assert found.attributes["b", "groups"] == 2


def test_few_convolution_groups_keep_equal_counts() -> None:
    net = Chain(6, b=conv(8, 6, groups=2))
    found = cut(net, image(), {"a": [1, 3], "b": [0, 5]})
    assert found.kept["a.weight", 0] == [1, 3, 5, 7]
    assert found.kept["b.weight", 1] == [1, 3]
    assert found.graph.group("b").partitions[0].part.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.kept["head.weight", 1] == [0, 5]
    assert ("b", "groups") not in found.attributes


class Shuffle(Body):
    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.b(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def test_a_shuffle_ties_position_by_position() -> None:
    found = cut(Shuffle(5, b=conv(8, 5)), image(), {"a": [1, 2]})
    assert found.kept["a.weight", 0] == [1, 2, 5, 6]
    # after the shuffle: 0 4 1 5 2 6 3 7
    assert found.kept["b.weight", 1] == [2, 3, 4, 5]


def test_a_shuffle_before_a_grouped_convolution() -> None:
    net = Shuffle(4, b=conv(8, 4, groups=2))
    found = cut(net, image(), {"a": [1]})
    # shuffled 0 4 1 5 | 2 6 3 7; position i of both halves: {0, 2}, {4, 6}, {1, 3}, {5, 7}, and i with i + 4
    assert found.graph.group("a").channels == 2
    assert found.kept["a.weight", 0] == [1, 3, 5, 7]
    assert found.kept["b.weight", 1] == [2, 3]


class ThreeShuffles(Body):
    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        for _ in range(3):
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return x


def test_shuffles_in_a_row_tie_across_what_is_tied_already() -> None:
    # 8 channels, three times by position of two halves: all of them
    assert free(trace(ThreeShuffles(8), image())) == {"a": 1}


class Chunk(Body):
    def body(self, x: Tensor) -> Tensor:
        a, b = self.b(x).chunk(2, 1)
        return self.c(a) + self.d(b)


def test_the_halves_of_a_chunk_lose_equally_many() -> None:
    net = Chunk(4, b=conv(8, 6), c=conv(3, 4), d=conv(3, 4))
    found = cut(net, image(), {"b": [0, 2], "b#2": [0, 1]})
    assert found.graph.links[0].groups == ("b", "b#2")
    assert found.graph.links[0].ratios == (1, 1)
    assert found.kept["b.weight", 0] == [0, 2, 3, 4]
    assert found.kept["c.weight", 1] == [0, 2]
    assert found.kept["d.weight", 1] == [0, 1]


class Gated(Body):
    def body(self, x: Tensor) -> Tensor:
        return F.glu(self.b(x), 1)


def test_a_gated_unit_ties_value_and_gate() -> None:
    found = cut(Gated(4, b=conv(8, 8)), image(), {"b": [1, 2]})
    assert found.kept["b.weight", 0] == [1, 2, 5, 6]
    assert found.kept["head.weight", 1] == [1, 2]


class UNet(Body):
    def body(self, x: Tensor) -> Tensor:
        low = torch.tanh(self.down(x))
        return self.out(torch.cat([self.up(low), x], 1))


def test_a_u_net_with_a_transposed_convolution() -> None:
    net = UNet(4, down=conv(8, 6, stride=2), up=nn.ConvTranspose2d(6, 5, 2, stride=2), out=conv(13, 4))
    found = cut(net, image(), {"a": [7], "down": [0, 1], "up": [4]})
    assert found.kept["up.weight", 0] == [0, 1]
    assert found.kept["up.weight", 1] == [4]
    assert found.kept["up.bias", 0] == [4]
    assert found.kept["out.weight", 1] == [4, 12]


@pytest.mark.parametrize(("groups", "kept"), [(2, [0, 2, 4, 6]), (4, [0, 1])])
def test_a_grouped_transposed_convolution(groups: int, kept: list[int]) -> None:
    net = Chain(8, b=nn.ConvTranspose2d(8, 8, 2, stride=2, groups=groups))
    found = cut(net, image(), {"a": [0, 2, 4, 6] if groups == 2 else [0], **({"b": [0, 1]} if groups == 2 else {})})
    assert found.kept["b.weight", 0] == kept
    assert found.kept["head.weight", 1] == ([0, 1, 4, 5] if groups == 2 else [0, 1])


def test_pixel_shuffle_takes_the_pixels_of_a_channel_together() -> None:
    found = cut(Chain(2, b=conv(8, 8), up=nn.PixelShuffle(2)), image(), {"b": [1]})
    assert found.kept["b.weight", 0] == [4, 5, 6, 7]
    assert found.kept["head.weight", 1] == [1]


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.head = conv(3, 4, stride=2), nn.Linear(16, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.linear(torch.tanh(self.conv(x)).flatten(1))))


def test_a_flattened_channel_owns_all_its_pixels() -> None:
    found = cut(Flat(), image(size=4), {"conv": [1, 3], "linear": [5]})
    assert found.kept["linear.weight", 1] == [4, 5, 6, 7, 12, 13, 14, 15]
    assert found.graph.group("conv").members[-1].index.tolist()[1] == [4, 5, 6, 7]


class OneAndThree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 5, 1)
        self.three, self.four = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 5, 1)

    def forward(self, x: Tensor, *, volume: Tensor) -> dict[str, list[Tensor]]:
        return {"a": [self.two(torch.tanh(self.one(x)))], "b": [self.four(torch.tanh(self.three(volume)))]}


def test_one_and_three_dims_keyword_inputs_and_dict_outputs() -> None:
    inputs = ExampleInputs((torch.randn(1, 2, 8),), {"volume": torch.randn(1, 1, 4, 4, 4)})
    found = cut(OneAndThree(), inputs, {"one": [0, 2], "three": [3]})
    assert found.kept["two.weight", 1] == [0, 2]
    assert found.kept["four.weight", 1] == [3]
    assert frozen(found.graph)["two"] == frozen(found.graph)["four"] == "network output"


class Raw(Body):
    def __init__(self, last: int) -> None:
        super().__init__(last)
        self.weight, self.scale = nn.Parameter(torch.randn(6, 8, 3, 3)), nn.Parameter(torch.randn(6, 1, 1))
        self.register_buffer("shift", torch.randn(1, 6, 1, 1))

    def body(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=1) * self.scale + self.shift


def test_raw_parameters_layer_scale_and_buffers_along_channels() -> None:
    found = cut(Raw(6), image(), {"a": [3, 4]})
    assert found.kept == {("a.weight", 0): [3, 4], ("a.bias", 0): [3, 4], ("weight", 1): [3, 4]}
    name = next(g.name for g in found.graph.groups if any(m.tensor == "scale" for m in g.members))
    found = cut(Raw(6), image(), {name: [0, 5]})
    assert found.kept == {
        ("weight", 0): [0, 5], ("scale", 0): [0, 5], ("shift", 1): [0, 5], ("head.weight", 1): [0, 5],
    }  # fmt: skip


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, padding=1)


def test_weight_standardisation_passes_ties_on_to_the_weight() -> None:
    found = cut(Chain(6, b=Standardised(8, 6, 3)), image(), {"a": [0, 1, 6], "b": [2, 3]})
    assert found.kept["b.weight", 1] == [0, 1, 6]
    assert found.kept["b.weight", 0] == [2, 3]


def test_prelu_and_norms_over_positions_follow() -> None:
    net = Chain(8, p=nn.PReLU(8), i=nn.InstanceNorm2d(8, affine=True), g=nn.GroupNorm(8, 8))
    found = cut(net, image(), {"a": [2, 7]})
    assert found.kept["p.weight", 0] == found.kept["i.weight", 0] == found.kept["g.bias", 0] == [2, 7]
    assert found.attributes["g", "num_groups"] == 2
    assert found.attributes["p", "num_parameters"] == 2


def test_a_group_norm_keeps_equal_counts_in_its_groups() -> None:
    graph = trace(Chain(8, g=nn.GroupNorm(2, 8)), image())
    assert graph.group("a").partitions[0].part.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert cut(Chain(8, g=nn.GroupNorm(2, 8)), image(), {"a": [0, 3, 4, 6]}).kept["g.weight", 0] == [0, 3, 4, 6]


class Twice(Body):
    def body(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.b(x)))


def test_a_layer_used_twice_ties_its_input_to_its_output() -> None:
    found = cut(Twice(8, b=conv(8, 8)), image(), {"a": [0, 6]})
    assert found.kept["b.weight", 0] == found.kept["b.weight", 1] == [0, 6]


class Stem(Body):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.tanh(self.a(x))
        return self.head(self.b(x).mean((2, 3)))


def test_frozen_parameters_and_no_grad_are_cut_like_any_other() -> None:
    net = Stem(4, b=conv(8, 4))
    net.a.requires_grad_(False)
    found = cut(net, image(), {"a": [1, 2]})
    assert found.kept["b.weight", 1] == [1, 2]
    assert [p.requires_grad for p in found.model.a.parameters()] == [False, False]


class Written(Body):
    def body(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        half = x.shape[1] // 2
        y[:, :half] = self.b(x)
        y[:, half:] += x[:, half:]
        return y


def test_slice_writes_reach_the_tensor_behind_the_view() -> None:
    found = cut(Written(8, b=conv(8, 4)), image(), {"a": [0, 2], "a#2": [1, 2]})
    assert found.kept["a.weight", 0] == [0, 2, 5, 6]
    assert found.kept["b.weight", 0] == [0, 2]
    assert found.kept["head.weight", 1] == [0, 2, 5, 6]


class IntoConstant(Body):
    def body(self, x: Tensor) -> Tensor:
        y = torch.zeros(x.shape[0], 8, 8, 8)
        y.copy_(x)
        return y


def test_a_write_into_a_constant_is_frozen_with_the_operation_named() -> None:
    reason = frozen(trace(IntoConstant(8), image()))["a"]
    assert reason == "tied to a constant made in the forward (aten.copy_ in the network itself)"


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 3, padding=1)
        self.rnn = kind(6, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(torch.tanh(self.conv(x)).transpose(1, 2))
        return self.head(states[:, -1])


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_layers_behind_convolutions(kind: type[nn.RNNBase], gates: int) -> None:
    found = cut(Recurrent(kind), ExampleInputs((torch.randn(1, 2, 5),)), {"conv": [0, 4], "rnn": [1, 2]})
    assert found.kept["rnn.weight_ih_l0", 1] == [0, 4]
    assert found.kept["rnn.weight_hh_l0", 1] == [1, 2]
    assert found.kept["rnn.weight_hh_l0", 0] == [4 * g + i for g in range(gates) for i in (1, 2)]
    assert found.kept["head.weight", 1] == [1, 2]
    assert found.attributes["rnn", "hidden_size"] == 2


class PaddedNorm(Body):
    def body(self, x: Tensor) -> Tensor:
        return self.g(F.pad(x, (0, 0, 0, 0, 2, 2)))


def test_a_norm_over_padded_channels_counts_those_that_always_stay() -> None:
    found = cut(PaddedNorm(12, g=nn.GroupNorm(12, 12)), image(), {"a": [0, 5]})
    assert found.kept["g.weight", 0] == [0, 1, 2, 7, 10, 11]
    assert found.attributes["g", "num_groups"] == 6
