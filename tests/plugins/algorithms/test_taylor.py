"""taylor: squared first-order changes of the loss, gathered without changing the network."""

from __future__ import annotations

import copy

import pytest
import torch
from prunecore_plugins.algorithms.taylor import Taylor
from torch import nn
from torch.utils.data import TensorDataset

from prunecore.errors import ConfigError, ModelError, TrainingError
from prunecore.graph import GraphBuilder
from prunecore.scoring import Matrices
from prunecore.types import Calibration, ExampleInputs, Task


def task_of(inputs, targets=None):
    targets = torch.zeros(len(inputs)) if targets is None else targets
    data = TensorDataset(inputs, targets)
    return Task(
        "toy", data, data, loss=lambda out, y: out.flatten(1).sum(dim=1).mean(), metric=lambda: None, metric_name="m"
    )


def graph_of(model, *names):
    """Each named weight's dim 0 is a group of its own."""
    builder = GraphBuilder(model, "test")
    for name in names:
        builder.labels(name, 0, "producer")
    return builder.build()


def run(model, task, *names, seed=0, **options):
    """The calibration, and the saliency of each named weight's channels."""
    taylor = Taylor(Taylor.Options(**options))
    graph = graph_of(model, *names)
    evidence = taylor.prune_calibrate(model=model, graph=graph, inputs=ExampleInputs(), task=task, seed=seed)
    tensors = dict(model.named_parameters())
    scores = [
        taylor.prune_score(group=g, weights=Matrices(g, tensors), calibration=evidence, seed=seed) for g in graph.groups
    ]
    return evidence, [s.tolist() for s in scores]


@pytest.fixture
def chain():
    """Two linear layers: d out / d w[i, j] = v[i] * x[j]."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    model[1].weight.data = torch.tensor([[1.0, 10.0]])
    return model


INPUTS = torch.tensor([[1.0, 1.0], [2.0, 0.0]])


class TestNumbers:
    def test_each_weight_is_squared_by_itself_and_batches_are_averaged(self, chain):
        evidence, (scores,) = run(chain, task_of(INPUTS), "0.weight", batch_size=1)
        # batch (1, 1): (1·1)² + (2·1)² = 5 and (3·10)² + (4·10)² = 2500; batch (2, 0): (1·2)² = 4 and (3·20)² = 3600
        assert scores == [4.5, 3050.0]
        assert evidence.tensors["0.weight"].tolist() == [[2.5, 2.0], [2250.0, 800.0]]
        assert evidence.images == 2

    def test_within_a_batch_the_gradients_are_added_first(self, chain):
        # the mean input is (1.5, 0.5): (1.5)² + (2·0.5)² = 3.25 and (45)² + (20)² = 2425
        assert run(chain, task_of(INPUTS), "0.weight", batch_size=2)[1] == [[3.25, 2425.0]]

    def test_so_many_batches_and_no_more(self, chain):
        evidence, _ = run(chain, task_of(INPUTS.repeat(5, 1)), "0.weight", batch_size=2, batches=3)
        assert evidence.images == 6

    def test_the_seed_decides_which_images(self, chain):
        task = task_of(torch.arange(1.0, 41.0)[:, None].expand(-1, 2))
        first, again, other = (run(chain, task, "0.weight", seed=s, batches=1, batch_size=1)[1] for s in (1, 1, 2))
        assert first == again
        assert first != other

    def test_biases_and_later_layers_are_not_evidence(self, chain):
        evidence, _ = run(chain, task_of(INPUTS), "0.weight")
        assert list(evidence.tensors) == ["0.weight"]


class TestNetworkIsLeftAlone:
    def test_weights_statistics_modes_and_flags_stay(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Conv2d(2, 1, 1))
        model[0].weight.requires_grad_(False)
        model[1].eval()
        before = copy.deepcopy(model)
        task, generator = task_of(torch.randn(4, 1, 8, 8)), torch.get_rng_state()
        run(model, task, "0.weight")
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(
            torch.equal(a, b) for a, b in zip(before.state_dict().values(), model.state_dict().values(), strict=True)
        )
        assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
        assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
        assert all(p.grad is None for p in model.parameters())

    def test_frozen_weights_are_judged_as_well(self, chain):
        chain.requires_grad_(False)
        assert run(chain, task_of(INPUTS), "0.weight", batch_size=1)[1] == [[4.5, 3050.0]]


class Stem(nn.Module):
    """The first layer runs without gradients."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        self.a.weight.data = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        self.b.weight.data = torch.ones(1, 2)

    def forward(self, x):
        with torch.no_grad():
            x = self.a(x)
        return self.b(x)


class TestOddNetworks:
    def test_a_group_that_no_gradient_reaches_is_scored_by_its_weights(self):
        evidence, scores = run(Stem(), task_of(INPUTS), "a.weight", "b.weight", batch_size=2)
        assert list(evidence.tensors) == ["b.weight"]
        assert scores[0] == [5.0, 9.0]

    def test_no_gradient_anywhere_is_one_line(self):
        with pytest.raises(ModelError, match="taylor: the loss depends on no prunable weight"):
            run(Stem(), task_of(INPUTS), "a.weight")

    def test_a_loss_that_is_not_finite_is_one_line(self, chain):
        with pytest.raises(TrainingError, match="taylor: the loss is nan, expected a finite number"):
            run(chain, task_of(INPUTS * float("nan")), "0.weight")

    def test_no_task(self, chain):
        with pytest.raises(ConfigError, match=r"criterion 'taylor' needs data.*l2norm"):
            run(chain, None, "0.weight")

    def test_without_calibration_it_falls_back_to_the_weights(self, chain):
        (group,) = graph_of(chain, "0.weight").groups
        weights = Matrices(group, dict(chain.named_parameters()))
        score = Taylor(Taylor.Options()).prune_score(group=group, weights=weights, calibration=Calibration(), seed=0)
        assert score.tolist() == [5.0, 25.0]
