from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from prunecore.config.training import RecalibrationSettings
from prunecore.training import TensorData, recalibrate


def test_statistics_are_the_mean_over_whole_batches(task):
    images = torch.randn(50, 1, 4, 4) * 3 + 7
    data = TensorData(images, torch.zeros(50, dtype=torch.long))
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5)).train()
    net[0].running_mean.fill_(99.0)
    fixed = recalibrate(net, data, task, RecalibrationSettings(images=50, batch_size=25), device="cpu", seed=3)
    # two equal batches: the mean of their means is the mean of all
    assert float(fixed[0].running_mean) == pytest.approx(float(images.mean()), rel=1e-5)
    assert float(fixed[0].running_var) == pytest.approx(float(images.var()), rel=0.05)
    assert float(net[0].running_mean) == 99.0
    assert fixed[0].momentum == 0.1
    assert all(m.training for m in fixed.modules())


def test_only_norms_are_in_train_mode_meanwhile(task):
    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)
            self.drop = nn.Dropout(0.5)
            self.modes = set()

        def forward(self, x):
            self.modes.add((self.training, self.norm.training, self.drop.training))
            return self.drop(self.norm(x))

    fixed = recalibrate(Watch().eval(), task.train, task, device="cpu")
    assert fixed.modes == {(False, True, False)}
    assert not fixed.norm.training


def test_weights_stay_and_the_seed_decides(net, task):
    settings = RecalibrationSettings(images=32, batch_size=16)
    first = recalibrate(net, task.train, task, settings, device="cpu", seed=0)
    again = recalibrate(net, task.train, task, settings, device="cpu", seed=0)
    other = recalibrate(net, task.train, task, settings, device="cpu", seed=1)
    assert torch.equal(first[1].running_mean, again[1].running_mean)
    assert not torch.equal(first[1].running_mean, other[1].running_mean)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), net.parameters(), strict=True))


def test_a_network_without_norms_is_copied(task):
    net = nn.Linear(3, 2)
    copied = recalibrate(net, task.train, task, device="cpu")
    assert copied is not net
    assert torch.equal(copied.weight, copy.deepcopy(net).weight)
