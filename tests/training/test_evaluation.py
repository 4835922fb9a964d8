from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from prunecore.config.training import EvaluationSettings
from prunecore.errors import DataError, ModelError
from prunecore.training import TensorData, evaluate


def test_score_is_the_mean_over_images_whatever_the_batch_size(net, task):
    data = task.validation
    logits = net.eval()(data.inputs).detach()
    expected = (logits.argmax(1) == data.targets).float().mean()
    loss = nn.functional.cross_entropy(logits, data.targets)
    for size in (5, 32):
        score = evaluate(net, data, task, EvaluationSettings(batch_size=size), device="cpu")
        assert (score.name, score.images) == ("accuracy", 32)
        assert score.value == pytest.approx(float(expected))
        assert score.loss == pytest.approx(float(loss), rel=1e-5)


def test_the_model_is_left_as_it_was(net, task):
    net.train()
    net[1].eval()
    before = copy.deepcopy(net)
    evaluate(net, task.validation, task, device="cpu")
    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.state_dict().values(), strict=True))


def test_a_quick_look_is_spread_over_the_set(task):
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.extend(x[:, 0, 0, 0].tolist())
            return torch.zeros(len(x), 2)

    data = TensorData(torch.arange(100.0).reshape(100, 1, 1, 1), torch.zeros(100, dtype=torch.long))
    score = evaluate(Watch(), data, task, EvaluationSettings(batch_size=5, max_batches=2), device="cpu")
    assert seen == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert (score.images, score.value) == (10, 1.0)


def test_networks_that_return_nan_are_named(net, task):
    net[6].weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="Sequential returns NaN on the data of task 'bright'"):
        evaluate(net, task.validation, task, device="cpu")
    net[6].weight.data.fill_(0.0)
    endless = dataclasses.replace(task, loss=lambda outputs, targets: outputs.sum() + float("inf"))
    with pytest.raises(ModelError, match=r"Sequential has the loss inf on the data of task 'bright'"):
        evaluate(net, task.validation, endless, device="cpu")


def test_an_empty_set_is_one_line(net, task):
    with pytest.raises(DataError, match="the data set of task 'bright' is empty"):
        evaluate(net, TensorData(torch.zeros(0, 1, 8, 8), torch.zeros(0)), task, device="cpu")
