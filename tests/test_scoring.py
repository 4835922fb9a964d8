"""The scoring stage: matrices, the reduction over members, seeds, and what is said about a faulty criterion."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pluggy
import pytest
import torch
from torch import nn

import prunecore
from prunecore.errors import ConfigError, PluginError, PrunecoreError
from prunecore.graph import GraphBuilder
from prunecore.hookspecs import PROJECT
from prunecore.scoring import (
    Matrices,
    group_seed,
    mean_over_producers,
    require_task,
    score_all,
    speakers,
)
from prunecore.types import Calibration, ChannelGroup, DependencyGraph, Member


def member(tensor, role, index, dim=0):
    return Member(tensor, dim, role, np.asarray(index, dtype=np.int64))


def group_of(*members, name="g", channels=2):
    return ChannelGroup(name, channels, members)


class Constant:
    """A criterion that returns what it was made with, whatever the group."""

    def __init__(self, result):
        self.result = result

    @prunecore.hookimpl
    def prune_score(self, group):
        return self.result


def hook_of(*plugins):
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(prunecore.hookspecs)
    for plugin in plugins:
        manager.register(plugin, f"algorithm:{type(plugin).__name__.lower()}")
    return manager.hook


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 4, 1))


@pytest.fixture
def graph(model):
    builder = GraphBuilder(model, "test")
    width = builder.labels("0.weight", 0, "producer")
    for tensor, dim, role in (
        ("0.bias", 0, "bias"),
        ("1.weight", 0, "norm"),
        ("1.bias", 0, "bias"),
        ("1.running_mean", 0, "buffer"),
        ("1.running_var", 0, "buffer"),
        ("2.weight", 1, "consumer"),
    ):
        builder.tie(width, builder.labels(tensor, dim, role))
    out = builder.labels("2.weight", 0, "producer")
    builder.tie(out, builder.labels("2.bias", 0, "bias"))
    builder.freeze(out, "output of the network")
    builder.freeze(builder.labels("0.weight", 1, "consumer"), "input of the network")
    return builder.build()


class TestMatrices:
    def test_rows_are_what_each_channel_owns(self):
        weight = torch.arange(12.0).reshape(2, 6)
        consumer = member("fc.weight", "consumer", [[4, 5], [0, 1]], dim=1)
        found = Matrices(group_of(consumer), {"fc.weight": weight})[consumer]
        assert found.tolist() == [[4.0, 10.0, 5.0, 11.0], [0.0, 6.0, 1.0, 7.0]]

    def test_gathers_only_what_is_asked_for(self):
        class Tensors(dict):
            asked: tuple = ()

            def __getitem__(self, name):
                self.asked += (name,)
                return super().__getitem__(name)

        tensors = Tensors(a=torch.ones(2, 3), b=torch.ones(5, 2))
        group = group_of(member("a", "producer", [[0], [1]]), member("b", "consumer", [[0], [1]], dim=1))
        mean_over_producers(group, Matrices(group, tensors), lambda w: w.sum(dim=1))
        assert tensors.asked == ("a",)

    def test_members_without_a_tensor_are_not_in_it(self):
        here, missing = member("a", "producer", [[0], [1]]), member("b", "producer", [[0], [1]])
        matrices = Matrices(group_of(here, missing), {"a": torch.ones(2, 1)})
        assert list(matrices) == [here]
        assert missing not in matrices
        with pytest.raises(KeyError):
            matrices[missing]


class TestMeanOverProducers:
    weights: ClassVar = {
        "a": torch.tensor([[1.0], [2.0]]),
        "b": torch.tensor([[5.0], [10.0]]),
        "n": torch.tensor([7.0, 8.0]),
    }

    def score(self, *members):
        group = group_of(*members)
        return mean_over_producers(group, Matrices(group, self.weights), lambda w: w.sum(dim=1)).tolist()

    def test_two_producers_are_averaged_and_other_roles_ignored(self):
        a, b = member("a", "producer", [[0], [1]]), member("b", "producer", [[0], [1]])
        assert self.score(a, member("n", "norm", [[0], [1]]), b) == [3.0, 6.0]

    def test_a_producer_in_another_order_is_read_in_the_order_of_the_group(self):
        assert self.score(member("a", "producer", [[1], [0]])) == [2.0, 1.0]

    def test_without_a_producer_the_norm_speaks(self):
        assert self.score(member("a", "consumer", [[0], [1]]), member("n", "norm", [[0], [1]])) == [7.0, 8.0]

    def test_buffers_alone_leave_all_channels_equal(self):
        assert self.score(member("n", "buffer", [[0], [1]])) == [1.0, 1.0]

    def test_speakers_without_evidence_are_passed_over(self):
        a, missing = member("a", "producer", [[0], [1]]), member("gone", "producer", [[0], [1]])
        assert self.score(missing, a) == [1.0, 2.0]
        assert speakers(group_of(missing, a)) == (missing, a)


class TestScoreAll:
    def test_calls_the_criterion_for_every_group_that_may_be_cut(self, model, graph):
        calls = []

        class Spy:
            @prunecore.hookimpl
            def prune_score(self, group, weights, calibration, seed):
                calls.append((group.name, seed, calibration))
                return mean_over_producers(group, weights, lambda w: w.abs().sum(dim=1))

        evidence = Calibration(images=3)
        scores = score_all(graph, model, hook_of(Spy()), evidence, 5)
        assert calls == [("0", 5, evidence)]
        assert list(scores) == ["0"]
        assert torch.equal(scores["0"], model[0].weight.detach().abs().sum(dim=(1, 2, 3)))
        assert not scores["0"].requires_grad

    @pytest.mark.parametrize(
        ("result", "got"),
        [
            (torch.ones(3), "float32 of shape (3,)"),
            (torch.ones(2, 1), "float32 of shape (2, 1)"),
            (torch.ones(2, dtype=torch.float64), "float64 of shape (2,)"),
            ([1.0, 2.0], "list"),
        ],
    )
    def test_a_wrong_shape_or_type_names_criterion_group_got_and_expected(self, model, graph, result, got):
        with pytest.raises(PluginError) as caught:
            score_all(graph, model, hook_of(Constant(result)), Calibration(), 0)
        wanted = f"criterion 'constant', group '0': got {got}, expected float32 of shape (2,)"
        assert str(caught.value) == wanted

    def test_a_criterion_that_answers_nothing_is_named(self, model, graph):
        with pytest.raises(PluginError, match="criterion 'constant', group '0': got NoneType"):
            score_all(graph, model, hook_of(Constant(None)), Calibration(), 0)

    def test_no_criterion_at_all(self, model, graph):
        with pytest.raises(ConfigError, match=r"no criterion is loaded.*--criterion"):
            score_all(graph, model, hook_of(), Calibration(), 0)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_saliency_that_is_not_finite_stops_the_run(self, model, graph, value):
        with pytest.raises(
            PrunecoreError, match=r"group '0': 1 of 2 saliencies are not finite.*NaN or infinite weights"
        ):
            score_all(graph, model, hook_of(Constant(torch.tensor([1.0, value]))), Calibration(), 0)

    def test_a_graph_without_groups_has_no_scores(self, model):
        empty = DependencyGraph((), (), (), ())
        assert score_all(empty, model, hook_of(Constant(None)), Calibration(), 0) == {}


def test_a_groups_seed_is_fixed_and_its_own():
    a, b = group_of(name="layer1.0.conv1"), group_of(name="layer1.0.conv2")
    assert group_seed(0, a) == 1053600861
    assert len({group_seed(0, a), group_seed(0, b), group_seed(1, a)}) == 3


def test_a_criterion_without_a_task_says_what_to_give():
    with pytest.raises(ConfigError, match=r"criterion 'taylor' needs data.*--data.*l2norm"):
        require_task(None, "taylor")
