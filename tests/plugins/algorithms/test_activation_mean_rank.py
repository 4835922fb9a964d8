"""activation_mean_rank: mean responses behind the activation, gathered without changing the network."""

from __future__ import annotations

import copy

import pytest
import torch
from prunecore_plugins.algorithms.activation_mean_rank import ActivationMeanRank
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import prunecore
from prunecore.errors import ConfigError
from prunecore.scoring import Matrices
from prunecore.types import Calibration, ExampleInputs, Task

IMAGES = torch.tensor([[1.0, 0.0], [0.0, 2.0], [4.0, 4.0]])


def task() -> Task:
    data = TensorDataset(IMAGES, torch.zeros(3))
    return Task("toy", data, data, loss=lambda out, y: out.sum(), metric=lambda: None, metric_name="m")


def saliencies(model: nn.Module, **options: int) -> tuple[Calibration, dict[str, list[float]]]:
    criterion = ActivationMeanRank(ActivationMeanRank.Options(**options))
    graph = prunecore.trace(model, IMAGES[:1])
    found = criterion.prune_calibrate(model=model, graph=graph, inputs=ExampleInputs(), task=task(), seed=0)
    tensors = dict(model.named_parameters())
    free = [g for g in graph.groups if g.frozen is None]
    scores = {
        g.name: criterion.prune_score(group=g, weights=Matrices(g, tensors), calibration=found, seed=0) for g in free
    }
    assert all(s.dtype == torch.float32 for s in scores.values())
    return found, {name: s.tolist() for name, s in scores.items()}


class Net(nn.Module):
    """Gives x0, -x1 and x0 - x1, activated; `shared` is used again behind."""

    def __init__(self, activation: nn.Module | None) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False), nn.Linear(2, 1)
        self.a.weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, -1.0]])
        self.b.weight.data = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]])
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:
        act = F.relu if self.act is None else self.act
        out: Tensor = self.head(act(self.b(act(self.a(x)))))
        return out


# a gives (1, 0, 1), (0, -2, -2), (4, -4, 0)
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_mean_response_behind_the_activation_over_all_images(batch_size: int) -> None:
    found, scores = saliencies(Net(nn.ReLU()), batch_size=batch_size)
    assert scores["a"] == pytest.approx([5 / 3, 0.0, 1 / 3])
    assert found.images == 3
    _, scores = saliencies(Net(nn.Identity()), batch_size=batch_size)
    assert scores["a"] == pytest.approx([5 / 3, 0.0, 1 / 3])  # no activation: what is negative counts nothing


def test_a_smooth_activation_counts_as_it_is() -> None:
    _, scores = saliencies(Net(nn.ELU()))
    negative = [torch.expm1(torch.tensor(v)).item() for v in (-2.0, -4.0)]
    assert scores["a"] == pytest.approx([5 / 3, sum(negative) / 3, (1 + negative[0]) / 3])


def test_a_functional_activation_and_a_module_that_runs_twice_give_the_same() -> None:
    _, functional = saliencies(Net(None))
    assert functional["a"] == pytest.approx([5 / 3, 0.0, 1 / 3])
    # b on the activated: (2, 2), (0, 0), (4, 8)
    assert functional["b"] == pytest.approx([2.0, 10 / 3])
    # the activation module is seen at its first call, where it gives the channels of a; b is seen at its own output
    _, modules = saliencies(Net(nn.ReLU()))
    assert modules == functional


def test_the_network_is_left_as_it_was_and_limits_are_kept() -> None:
    model = Net(nn.ReLU()).train()
    before = copy.deepcopy(model.state_dict())
    found, _ = saliencies(model, batches=1, batch_size=2)
    assert found.images == 2
    assert model.training
    assert model.a.training
    assert not model.act._forward_hooks  # type: ignore[union-attr]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.tensor([[3.0, 4.0], [1.0, 0.0]])), nn.Parameter(torch.ones(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.w)), self.v)


def test_raw_parameters_are_scored_by_their_norm() -> None:
    (scores,) = saliencies(Raw())[1].values()
    assert scores == [5.0, 1.0]


def test_without_data_it_says_what_to_give() -> None:
    criterion = ActivationMeanRank(ActivationMeanRank.Options())
    graph = prunecore.trace(Net(nn.ReLU()), IMAGES[:1])
    with pytest.raises(ConfigError, match=r"activation_mean_rank.*needs data"):
        criterion.prune_calibrate(model=Net(nn.ReLU()), graph=graph, inputs=ExampleInputs(), task=None, seed=0)
