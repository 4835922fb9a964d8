"""The mean of what was removed is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunecore.surgery import apply_recipe, compensate, resize
from prunecore.types import ExampleInputs, Recipe, Slice, ValueEdit
from tests.surgery.small_nets import Plain, keep, plain_graph


class Normed(nn.Module):
    """conv -> batch norm -> relu -> `reader` (no bias) -> batch norm."""

    def __init__(self, reader: nn.Module, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.reader, self.last = reader, nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.reader(torch.relu(self.norm(self.conv(x)))))


def _constant(norm: nn.BatchNorm2d, channels: list[int]) -> None:
    """These channels give out a constant behind the norm."""
    with torch.no_grad():
        norm.weight[channels] = 0
        norm.bias[channels] = torch.linspace(0.5, 2, len(channels))


@pytest.mark.parametrize("data", [True, False])
def test_constant_channels_are_folded_exactly_into_a_bias(data: bool) -> None:
    model = Plain().eval()
    model.out.padding = (0, 0)
    _constant(model.norm, [1, 3, 4])
    cut, recipe = resize(model, plain_graph(), keep({"conv": [0, 2, 5], "out": [1, 3]}))
    x = torch.randn(4, 3, 8, 8)
    batches = [ExampleInputs((x,))] if data else []
    repaired = compensate(model, cut, recipe, ExampleInputs((torch.zeros(1, 3, 8, 8),)), batches=batches)

    def inner(net: Plain) -> Tensor:
        return net.out(torch.relu(net.norm(net.conv(x))))

    assert torch.allclose(inner(repaired), inner(model)[:, [1, 3]], atol=1e-5)
    assert not torch.allclose(inner(cut), inner(model)[:, [1, 3]], atol=1e-2)


@pytest.mark.parametrize(
    ("reader", "dim"),
    [
        (nn.Conv2d(6, 4, 2, bias=False), 1),
        (nn.Conv2d(6, 4, 1, bias=False), 1),
        (nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False), 0),
        (nn.ConvTranspose2d(6, 4, 1, bias=False), 0),
    ],
)
def test_without_a_bias_the_running_mean_behind_takes_it(reader: nn.Module, dim: int) -> None:
    torch.nn.init.uniform_(reader.weight, 0.5, 1.5)
    model = Normed(reader, 4).eval()
    _constant(model.norm, [0, 5])
    kept = (1, 2, 3, 4)
    names = [("conv.weight", 0), *((f"norm.{n}", 0) for n in ("weight", "bias", "running_mean", "running_var"))]
    slices = tuple(Slice(name, d, 6, kept) for name, d in [*names, ("reader.weight", dim)])
    recipe = Recipe(slices=slices)
    cut = apply_recipe(model, recipe)
    cut.conv.out_channels = cut.norm.num_features = cut.reader.in_channels = 4
    x = torch.randn(2, 3, 8, 8)
    repaired = compensate(model, cut, recipe, ExampleInputs((x,)))
    if reader.kernel_size == (1, 1) or not reader.transposed:
        assert torch.allclose(repaired(x), model(x), atol=1e-5)
    else:  # the taps differ by position: right on average
        assert torch.allclose(repaired(x).mean((0, 2, 3)), model(x).mean((0, 2, 3)), atol=1e-5)
    assert torch.equal(repaired.reader.weight, cut.reader.weight)


def test_grouped_readers_add_up_per_group() -> None:
    reader = nn.Conv2d(6, 4, 1, groups=2, bias=False)
    model = Normed(reader, 4).eval()
    _constant(model.norm, [1, 4])
    kept = (0, 2, 3, 5)
    names = [("conv.weight", 0), *((f"norm.{n}", 0) for n in ("weight", "bias", "running_mean", "running_var"))]
    slices = (*(Slice(name, d, 6, kept) for name, d in names), Slice("reader.weight", 1, 3, (0, 2)))
    recipe = Recipe(slices=slices)
    cut = apply_recipe(model, recipe)
    cut.reader.in_channels = cut.norm.num_features = 4
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(compensate(model, cut, recipe, ExampleInputs((x,)))(x), model(x), atol=1e-5)


def test_nothing_of_the_callers_changes() -> None:
    model = Plain().train()
    cut, recipe = resize(model, plain_graph(), keep({"conv": [0, 2, 5]}))
    before = [t.clone() for t in (*model.state_dict().values(), *cut.state_dict().values())]
    inputs = ExampleInputs((torch.randn(1, 3, 8, 8),))
    state = torch.get_rng_state()
    repaired = compensate(model, cut, recipe, inputs)
    after = [*model.state_dict().values(), *cut.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert repaired.training
    assert not torch.equal(repaired.out.bias, cut.out.bias)
    assert not repaired.conv._forward_hooks


def test_outputs_that_the_recipe_scales_get_the_scaled_share() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    with torch.no_grad():
        model[0].weight[[1, 4]] = 0
        model[0].bias[[1, 4]] = torch.tensor([0.5, 2.0])
    kept = (0, 2, 3, 5)
    slices = (Slice("0.weight", 0, 6, kept), Slice("0.bias", 0, 6, kept), Slice("2.weight", 1, 6, kept))
    values = (ValueEdit("2.weight", 2.0, 0, (0, 1)), ValueEdit("2.bias", 2.0, 0, (0, 1)))
    recipe = Recipe(slices=slices, values=values)
    x = torch.randn(3, 5)
    repaired = compensate(
        model, apply_recipe(model, recipe), recipe, ExampleInputs((x,)), batches=[ExampleInputs((x,))]
    )
    assert torch.allclose(repaired(x), model(x) * torch.tensor([2.0, 2.0, 1.0, 1.0]), atol=1e-5)
