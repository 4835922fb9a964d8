"""`prunecore.prune` and its neighbours on tiny networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import prunecore


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 16, 3, padding=1)
        self.outer = nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.outer(self.inner(x).relu())
        return self.head(x.mean((2, 3)))


INPUT = torch.zeros(1, 3, 16, 16)
GRAPHS = ["labels", "torch-pruning"]


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_weakest_filters_go(graph: str) -> None:
    model = Residual()
    strength = torch.tensor([5, 1, 7, 3, 8, 2, 6, 4, 15, 11, 17, 13, 18, 12, 16, 14])
    with torch.no_grad():
        model.inner.weight.copy_(strength[:, None, None, None].expand(16, 8, 3, 3))
    pruned = prunecore.prune(model, INPUT, algo="l2norm", reduce=0.4, skip=["stem"], graph=graph)
    kept = next(s.kept for s in pruned.recipe.slices if s.tensor == "inner.weight" and s.dim == 0)
    strongest = strength.argsort(descending=True)[: len(kept)].sort().values
    assert list(kept) == strongest.tolist()
    assert pruned.model.inner.weight[:, 0, 0, 0].tolist() == strength[strongest].tolist()
    assert pruned.model.outer.in_channels == len(kept)
    assert abs(pruned.size - 0.6) <= 0.03
    assert pruned.certificate.verified


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_callers_model_stays_bit_equal_in_its_mode_with_its_hooks_and_flags(graph: str) -> None:
    model = Residual().train()
    model.norm.eval()
    model.stem.weight.requires_grad_(False)
    calls: list[int] = []
    model.inner.register_forward_hook(lambda *_: calls.append(1))
    state = copy.deepcopy(model.state_dict())
    facts = [(n, m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()]
    flags = [(n, p.requires_grad, p.grad, id(p)) for n, p in model.named_parameters()]
    prunecore.prune(model, INPUT, algo="fpgm", reduce=0.5, graph=graph)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert facts == [
        (n, m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()
    ]
    assert flags == [(n, p.requires_grad, p.grad, id(p)) for n, p in model.named_parameters()]


def test_a_recipe_applied_to_a_fresh_network_gives_the_same_shapes_and_weights_fit() -> None:
    pruned = prunecore.prune(Residual(), INPUT, reduce=0.5)
    again = prunecore.apply_recipe(Residual(), pruned.recipe)
    again.load_state_dict(pruned.model.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again.eval()(x), pruned.model.eval()(x))


def test_the_same_seed_gives_the_same_random_cut_and_another_seed_another() -> None:
    recipes = [prunecore.prune(Residual(), INPUT, algo="random", reduce=0.5, seed=s).recipe for s in (3, 3, 4)]
    assert recipes[0] == recipes[1] != recipes[2]


def test_costs_are_those_of_the_networks() -> None:
    pruned = prunecore.prune(Residual(), INPUT, reduce=0.5)
    assert pruned.before.macs == 256 * (27 * 8 + 72 * 16 + 144 * 8) + 8 * 5
    assert pruned.after.params == sum(p.numel() for p in pruned.model.parameters())
    assert pruned.size == pruned.after.macs / pruned.before.macs


WIDTHS = [(3, 40), (40, 64), (64, 48)]


@pytest.mark.parametrize("measure", ["macs", "params", "ptflops"])
def test_every_measure_is_hit(measure: Any) -> None:
    layers = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in WIDTHS]
    net = nn.Sequential(*layers, nn.Conv2d(48, 4, 1))
    pruned = prunecore.prune(net, INPUT, reduce=0.5, measure=measure)
    assert abs(pruned.size - 0.5) <= 0.005


def test_taylor_without_data_says_what_to_give() -> None:
    with pytest.raises(prunecore.ConfigError, match=r"'taylor' needs data, got no task; give one"):
        prunecore.prune(Residual(), INPUT, algo="taylor")


@pytest.mark.parametrize("reduce", [1.0, -0.5, float("nan")])
def test_a_bad_reduction_is_refused(reduce: float) -> None:
    with pytest.raises(prunecore.ConfigError, match=r"target\.reduce"):
        prunecore.prune(Residual(), INPUT, reduce=reduce)


def test_a_target_out_of_reach_shows_the_range() -> None:
    with pytest.raises(prunecore.TargetError, match=r"out of reach.*%"):
        prunecore.prune(Residual(), INPUT, reduce=0.9, skip=["inner"])


def test_a_skip_pattern_without_a_match_is_refused_with_the_nearest() -> None:
    with pytest.raises(prunecore.ConfigError, match=r"iner.*inner"):
        prunecore.prune(Residual(), INPUT, skip=["iner"])


class Counting(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return super().forward(x)


def test_a_network_that_changes_itself_in_its_forward_stays_as_it_was() -> None:
    model = Counting()
    prunecore.prune(model, INPUT, reduce=0.3)
    prunecore.trace(model, INPUT)
    assert model.calls.item() == 0


def test_a_size_that_cannot_be_hit_is_explained() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3))
    pruned = prunecore.prune(net, INPUT, reduce=0.2)
    assert abs(pruned.size - 0.8) > 0.005
    assert any("0.8" in note or "nearest" in note for note in pruned.notes)


def test_a_size_that_multiples_miss_is_explained() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    pruned = prunecore.prune(net, INPUT, reduce=0.2, multiple_of=8)
    assert pruned.size < 0.795
    told = f"size {pruned.size:.4f} is below the 0.8000 asked for: the cuts chosen in multiples of 8 came no nearer"
    assert told in pruned.notes


def test_inputs_that_do_not_fit_are_one_line_with_their_shape() -> None:
    with pytest.raises(prunecore.ModelError, match=r"fails on inputs \(1, 1, 16, 16\) float32: RuntimeError"):
        prunecore.prune(Residual(), torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("seed", range(6))
def test_a_cut_to_very_few_channels_is_certified_whatever_the_seed(seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    assert prunecore.prune(net, INPUT, reduce=0.9, seed=seed).certificate.verified
