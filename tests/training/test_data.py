from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecore.errors import ConfigError, DataError
from prunecore.training import Batch, TensorData, batches, split, stratified
from prunecore.training.data import EpochSampler


def test_tensor_data_reads_items_and_batches():
    data = TensorData(
        torch.arange(4, dtype=torch.uint8).reshape(4, 1),
        torch.tensor([5, 6, 7, 8]),
        prepare=lambda x: x.float() / 2,
        augment=lambda x: x + 100,
    )
    item = data[3]
    assert (item[0].tolist(), int(item[1])) == ([101.5], 8)
    batch = data.__getitems__([0, 2])
    assert isinstance(batch, Batch)
    assert batch.inputs.tolist() == [[100.0], [101.0]]
    assert batch.targets.tolist() == [5, 7]
    assert data.plain()[3][0].tolist() == [1.5]


def test_the_order_of_an_epoch_comes_from_seed_and_epoch():
    def order(seed, epoch, **kwargs):
        sampler = EpochSampler(6, seed, **kwargs)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0, 0)) == [0, 1, 2, 3, 4, 5]
    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3)[:2] == order(0, 3, limit=2)
    assert order(0, 3, shuffle=False) == [0, 1, 2, 3, 4, 5]


def test_batches_of_items_and_of_tensors_are_alike(task):
    plain = task.train.plain()
    items = [plain[i] for i in range(len(plain))]
    for ours, theirs in zip(
        batches(plain, task, batch_size=40, seed=1), batches(items, task, batch_size=40, seed=1), strict=True
    ):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_stratified_keeps_the_shares():
    labels = [0] * 60 + [1] * 30 + [2] * 10
    chosen = stratified(labels, 10, seed=0)
    assert np.bincount(np.asarray(labels)[chosen]).tolist() == [6, 3, 1]
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == stratified(labels, 10, seed=0).tolist()
    assert chosen.tolist() != stratified(labels, 10, seed=1).tolist()


def test_stratified_gives_what_is_left_over_to_the_largest_remainder_then_the_lower_class():
    labels = np.asarray([3, 3, 3, 7, 7, 7, 9, 9, 9])
    assert np.bincount(labels[stratified(labels.tolist(), 4, seed=0)], minlength=10)[[3, 7, 9]].tolist() == [2, 1, 1]


@settings(deadline=None)
@given(st.lists(st.integers(-2, 5), min_size=1, max_size=60), st.data())
def test_stratified_always_chooses_as_many_as_asked(labels, data):
    count = data.draw(st.integers(0, len(labels)))
    chosen = stratified(labels, count, seed=0)
    assert len(set(chosen.tolist())) == count
    for value in set(labels):
        share = labels.count(value) * count / len(labels)
        got = sum(labels[i] == value for i in chosen)
        assert share - 1 < got < share + 1


def test_split_is_stratified_disjoint_and_plain(task):
    fit, search = split(task, 0.25, seed=0)
    assert (len(fit), len(search)) == (72, 24)
    assert set(fit.indices).isdisjoint(search.indices)
    assert sum(task.labels[i] for i in search.indices) == 12
    assert fit.dataset.augment is not None
    assert search.dataset.augment is None
    assert split(task, 0.25, seed=0)[1].indices == search.indices
    assert split(task, 0.25, seed=1)[1].indices != search.indices


def test_split_without_labels_and_with_wrong_ones(task):
    _, search = split(dataclasses.replace(task, labels=None), 0.25, seed=0)
    assert len(search) == 24
    with pytest.raises(DataError, match="task 'bright' has 3 labels for 96 training items"):
        split(dataclasses.replace(task, labels=[0, 1, 0]), 0.25, seed=0)
    with pytest.raises(ConfigError, match=r"search_fraction 0.0 of 96 training items leaves a part empty"):
        split(task, 0.0, seed=0)
