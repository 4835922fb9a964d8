"""Losses and metrics of classification, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from prunecore.errors import ModelError
from prunecore.training import Objective, classification_task

# four images of class 0, two of class 1, none of classes 2 and 3
TARGETS = torch.tensor([0, 0, 0, 0, 1, 1])
FOUND = torch.tensor([0, 0, 0, 1, 1, 2])


def task_of(loss="cross_entropy", metric="accuracy", classes=4):
    return classification_task("t", [], [], num_classes=classes, objective=Objective(loss, metric))


def sure(classes):
    return torch.nn.functional.one_hot(classes, 4).float() * 9


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 4 / 6),
        ("balanced_accuracy", (3 / 4 + 1 / 2) / 2),
        # 2 right / (images + found): class 0: 6/7, class 1: 2/4, class 2: found but not there, class 3 does not count
        ("f1", (6 / 7 + 1 / 2 + 0) / 3),
    ],
)
def test_metrics_over_all_batches(metric, expected):
    task = task_of(metric=metric)
    found = task.metric()
    for part in (slice(0, 4), slice(4, 6)):
        found.update(SimpleNamespace(logits=sure(FOUND[part])), TARGETS[part])
    assert float(found.compute()) == pytest.approx(expected)
    assert task.metric_name == metric


def test_auroc_is_the_mean_over_the_classes_with_images():
    # of class 0 against the rest the order is right, 0 0 | 1; of class 1: 1 | 0 0; class 2 has no image
    metric = task_of(metric="auroc", classes=3).metric()
    logits = torch.tensor([[3.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [2.0, 1.9, 0.0]])
    targets = torch.tensor([0, 0, 1, 1])
    p = logits.softmax(1)
    areas = []
    for c in (0, 1):
        pairs = [(a, b) for a in p[targets == c, c] for b in p[targets != c, c]]
        areas.append(sum(float(a > b) for a, b in pairs) / len(pairs))
    assert areas == [0.75, 0.5]
    for part in (slice(0, 3), slice(3, 4)):
        metric.update(logits[part], targets[part])
    assert float(metric.compute()) == pytest.approx(0.625)


def test_auroc_tells_very_sure_images_apart_and_is_undefined_for_one_class():
    metric = task_of(metric="auroc", classes=2).metric()
    metric.update(torch.tensor([[40.0, 0.0], [30.0, 0.0], [20.0, 0.0]]), torch.tensor([0, 0, 1]))
    assert float(metric.compute()) == 1.0
    alone = task_of(metric="auroc", classes=2).metric()
    alone.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert math.isnan(float(alone.compute()))


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1", "auroc"])
def test_metrics_of_all_classes_need_a_logit_for_each(metric):
    with pytest.raises(ModelError, match=r"gives logits \(6, 4\), expected \(batch, 5\)"):
        task_of(metric=metric, classes=5).metric().update(sure(FOUND), TARGETS)


def test_losses_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    targets = torch.tensor([0, 1])
    right = (-math.log(0.7), -math.log(0.3))
    means = [-(math.log(0.7) + math.log(0.2) + math.log(0.1)) / 3, -(2 * math.log(0.3) + math.log(0.4)) / 3]
    expected = {
        "cross_entropy": sum(right) / 2,
        "label_smoothing": sum(0.9 * r + 0.1 * m for r, m in zip(right, means, strict=True)) / 2,
        "focal": (0.3**2 * right[0] + 0.7**2 * right[1]) / 2,
    }
    for name, value in expected.items():
        assert float(task_of(loss=name).loss(p.log(), targets)) == pytest.approx(value)
        assert float(task_of(loss=name).loss(SimpleNamespace(logits=p.log()), targets)) == pytest.approx(value)
