"""l1norm, l2norm, fpgm, bn_scale and random: the numbers of the formulas, on every kind of layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunecore_plugins.algorithms import fpgm
from prunecore_plugins.algorithms.bn_scale import BNScale
from prunecore_plugins.algorithms.fpgm import FPGM, distance_sums
from prunecore_plugins.algorithms.l1norm import L1Norm
from prunecore_plugins.algorithms.l2norm import L2Norm
from prunecore_plugins.algorithms.random import Random
from torch import nn

from prunecore.graph import GraphBuilder
from prunecore.scoring import Matrices
from prunecore.types import Calibration

# layer, the dim of its weight that is its output, and how to bring that dim first
LAYERS = {
    "conv1d": (lambda: nn.Conv1d(3, 5, 3), 0),
    "conv2d": (lambda: nn.Conv2d(3, 5, 3), 0),
    "conv3d": (lambda: nn.Conv3d(2, 5, 2), 0),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), 0),
    "depthwise": (lambda: nn.Conv2d(5, 5, 3, groups=5), 0),
    "transposed": (lambda: nn.ConvTranspose2d(3, 5, 2), 1),
    "grouped transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), 1),
    "linear": (lambda: nn.Linear(7, 5), 0),
    "embedding": (lambda: nn.Embedding(6, 5), 1),
}


def fill(module, dim, rows):
    """Put `rows` `(channels, features)` into the weight, channel by channel."""
    moved = module.weight.detach().movedim(dim, 0)
    moved.copy_(rows.reshape(moved.shape))


@pytest.fixture(params=LAYERS)
def layer(request):
    """A layer with weights of powers and signs whose norms can be said in advance: channel c holds ±(c + 1)."""
    make, dim = LAYERS[request.param]
    module = make()
    channels = module.weight.shape[dim]
    features = module.weight.numel() // channels
    signs = torch.where(torch.arange(features) % 2 == 0, 1.0, -1.0)
    fill(module, dim, torch.arange(1.0, channels + 1)[:, None] * signs)
    return module, dim, channels, features


class TestLayers:
    def test_l1_is_the_sum_of_absolute_weights(self, layer, saliency):
        module, dim, channels, features = layer
        assert saliency(L1Norm(), module, dim=dim).tolist() == [c * features for c in range(1, channels + 1)]

    def test_l2_is_the_root_of_the_sum_of_squares(self, layer, saliency):
        module, dim, channels, features = layer
        expected = torch.arange(1.0, channels + 1) * features**0.5
        torch.testing.assert_close(saliency(L2Norm(), module, dim=dim), expected, rtol=1e-6, atol=0)

    def test_fpgm_is_the_sum_of_distances(self, layer, saliency):
        module, dim, channels, features = layer
        steps = torch.arange(channels)
        expected = (steps[:, None] - steps).abs().sum(dim=1) * features**0.5
        torch.testing.assert_close(saliency(FPGM(), module, dim=dim), expected, rtol=1e-6, atol=0)


def test_a_grouped_transposed_convolution_ties_a_channel_of_every_group(saliency):
    module = nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False)
    module.weight.data = torch.arange(12.0).reshape(4, 3, 1, 1)
    assert saliency(L1Norm(), module, dim=1).tolist() == [0 + 3 + 6 + 9, 1 + 4 + 7 + 10, 2 + 5 + 8 + 11]


class TestFPGM:
    def test_filters_of_opposite_sign_are_not_the_same_filter(self, saliency):
        module = nn.Linear(1, 4, bias=False)
        module.weight.data = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]])
        assert saliency(FPGM(), module).tolist() == [6.0, 6.0, 8.0, 8.0]

    def test_equal_filters_are_at_distance_zero(self):
        assert distance_sums(torch.full((3, 100), 0.1)).tolist() == [0.0, 0.0, 0.0]

    def test_one_filter_alone(self):
        assert distance_sums(torch.ones(1, 4)).tolist() == [0.0]

    @settings(max_examples=25, deadline=None)
    @given(channels=st.integers(1, 13), features=st.integers(1, 9), seed=st.integers(0, 99))
    def test_in_blocks_it_is_the_same_and_equals_float64(self, channels, features, seed):
        rows = torch.randn(channels, features, generator=torch.Generator().manual_seed(seed))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fpgm, "BLOCK", 4)
            blocked = distance_sums(rows)
        exact = (rows.double()[:, None] - rows.double()).norm(dim=2).sum(dim=1)
        torch.testing.assert_close(blocked.double(), exact, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(distance_sums(rows).double(), exact, rtol=1e-6, atol=1e-7)


class TestBNScale:
    def score(self, model, ties):
        """Saliency of the channels of `0.weight`, tied to the members (tensor, role)."""
        builder = GraphBuilder(model, "test")
        width = builder.labels("0.weight", 0, "producer")
        for tensor, role in ties:
            builder.tie(width, builder.labels(tensor, 0, role))
        group = builder.build().groups[0]
        weights = Matrices(group, model.state_dict())
        return BNScale().prune_score(group=group, weights=weights, calibration=Calibration(), seed=0).tolist()

    def test_is_the_absolute_scale_whatever_the_filters(self):
        model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3))
        model[1].weight.data = torch.tensor([0.5, -2.0, 0.0])
        model[1].bias.data = torch.tensor([9.0, 9.0, 9.0])
        # engines that call every tensor of a norm a norm member give the same
        ties = [("1.weight", "norm"), ("1.bias", "norm"), ("1.running_mean", "norm"), ("1.running_var", "norm")]
        assert self.score(model, ties) == [0.5, 2.0, 0.0]
        assert self.score(model, [("1.weight", "norm"), ("1.bias", "bias")]) == [0.5, 2.0, 0.0]

    def test_several_norms_are_averaged(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.GroupNorm(1, 2))
        model[1].weight.data, model[2].weight.data = torch.tensor([1.0, -4.0]), torch.tensor([3.0, 0.0])
        assert self.score(model, [("1.weight", "norm"), ("2.weight", "norm")]) == [2.0, 2.0]

    def test_without_a_norm_it_is_the_l2_norm(self):
        model = nn.Sequential(nn.Linear(2, 2, bias=False))
        model[0].weight.data = torch.tensor([[3.0, 4.0], [0.0, -1.0]])
        assert self.score(model, []) == [5.0, 1.0]


class TestRandom:
    def test_is_fixed_by_the_seed_and_leaves_the_global_generator_alone(self, saliency):
        layer = nn.Linear(2, 4)
        state = torch.get_rng_state()
        first, again, other = (saliency(Random(), layer, seed=s) for s in (3, 3, 4))
        assert first.tolist() == again.tolist()
        assert first.tolist() != other.tolist()
        assert bool(((first >= 0) & (first < 1)).all())
        assert torch.equal(torch.get_rng_state(), state)

    def test_groups_of_one_width_differ(self):
        model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4))
        builder = GraphBuilder(model, "test")
        builder.labels("0.weight", 0, "producer")
        builder.labels("1.weight", 0, "producer")
        first, second = builder.build().groups
        scores = [Random().prune_score(group=g, weights={}, calibration=Calibration(), seed=0) for g in (first, second)]
        assert scores[0].tolist() != scores[1].tolist()
