from __future__ import annotations

import hashlib

import pytest
import torch
from prunecore_plugins.tasks.digits import DigitsTask, load_digits

from prunecore.training import seeded, split


def task_of(**options):
    return DigitsTask(DigitsTask.Options(**options)).prune_task()


def test_the_shipped_images_are_those_of_scikit_learn():
    images, labels = load_digits(8)
    # sklearn.datasets.load_digits(): images and target as uint8
    pixels = (images * 16).round().to(torch.uint8).numpy().tobytes() + labels.to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest() == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_splits_are_fixed_stratified_and_normal():
    task = task_of()
    assert (len(task.train), len(task.validation), task.num_classes) == (1348, 449, 10)
    held = torch.bincount(task.validation.targets)
    everything = torch.bincount(load_digits(8)[1])
    assert (held - everything / 4).abs().max() < 1
    assert task.train.inputs.shape == (1348, 1, 16, 16)
    assert float(task.train.inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(task.train.inputs.std()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(task.validation.inputs, task_of().validation.inputs)
    assert task.labels == task.train.targets.tolist()


def test_training_images_are_shifted_and_the_search_split_is_not():
    task = task_of(size=8)
    assert task.train.inputs.shape[-2:] == (8, 8)
    _, search = split(task, 0.1, seed=0)
    first = search.indices[0]
    assert torch.equal(search[0][0], task.train.inputs[first])
    with seeded(0):
        changed = [not torch.equal(task.train[first][0], task.train.inputs[first]) for _ in range(20)]
    assert any(changed)
    assert task_of(augment=False).train.augment is None
