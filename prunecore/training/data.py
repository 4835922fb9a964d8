"""Data sets in memory, batches, and the stratified split that separates choosing from reporting."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, Subset, default_collate

from prunecore.config.training import LoadingSettings
from prunecore.errors import ConfigError, DataError
from prunecore.training.patience import PatientLoader
from prunecore.training.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Sized

    from prunecore.types import Task


_HERE = LoadingSettings()


class Batch(NamedTuple):
    """Inputs and targets of several items."""

    inputs: Any
    targets: Any


@dataclasses.dataclass(frozen=True, eq=False)
class TensorData(Dataset[Any]):
    """A data set held in tensors, read a whole batch at a time (many times faster than item by item).

    inputs, targets: the items along dim 0. prepare(inputs): applied to every batch (uint8 to normalised float).
    augment(inputs): applied after it, random by torch's generator. The collate function of a task that uses it must be
    `prunecore.training.collate`.
    """

    inputs: Tensor
    targets: Tensor
    prepare: Callable[[Tensor], Tensor] | None = None
    augment: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        inputs = self.inputs[chosen]
        for step in (self.prepare, self.augment):
            inputs = inputs if step is None else step(inputs)
        return Batch(inputs, self.targets[chosen])

    def plain(self) -> TensorData:
        """The same items without augmentation."""
        return dataclasses.replace(self, augment=None)


def collate(items: Any) -> Any:
    """torch's default, but what is a batch already (of `TensorData`) is left as it is."""
    return items if isinstance(items, Batch) else default_collate(items)


class EpochSampler(Sampler[int]):
    """The order of an epoch, from (seed, epoch) alone; at most `limit` items."""

    def __init__(self, length: int, seed: int, *, limit: int | None = None, shuffle: bool = True) -> None:
        self._length = length
        self._seed = seed
        self._limit = length if limit is None else min(limit, length)
        self._shuffle = shuffle
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._limit

    def __iter__(self) -> Iterator[int]:
        if not self._shuffle:
            return iter(range(self._limit))
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "order", self._epoch))
        return iter(torch.randperm(self._length, generator=generator)[: self._limit].tolist())


def length_of(dataset: Dataset[Any], what: str) -> int:
    """Items in `dataset`; DataError where there are none."""
    length = len(cast("Sized", dataset))
    if length == 0:
        raise DataError(f"{what} is empty; it needs at least one item")
    return length


def batches(
    dataset: Dataset[Any],
    task: Task,
    *,
    batch_size: int,
    seed: int | None = None,
    images: int | None = None,
    loading: LoadingSettings = _HERE,
) -> PatientLoader:
    """A loader of `(inputs, targets)` batches of at most `batch_size` items.

    seed: random order (None: as stored). images: at most so many; without a seed they are spread evenly over the set.
    loading: by how many processes; StalledError, while one iterates, where they give no batch within their limit.
    """
    length = length_of(dataset, f"the data set of task {task.name!r}")
    count = length if images is None else min(images, length)
    if seed is not None:
        order = torch.randperm(length, generator=torch.Generator().manual_seed(seed))[:count].tolist()
    else:
        order = np.linspace(0, length, count, endpoint=False).astype(int).tolist()
    return PatientLoader(
        dataset, batch_size=batch_size, sampler=order, collate_fn=task.collate or collate, loading=loading
    )


def stratified(labels: Sequence[int], count: int, seed: int) -> npt.NDArray[np.int64]:
    """`count` positions, ascending; every class has the share that it has in `labels` (largest remainder)."""
    _classes, inverse, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    exact = sizes * (count / len(inverse))
    quota = np.floor(exact).astype(np.int64)
    short = count - int(quota.sum())
    quota[np.argsort(quota - exact, kind="stable")[:short]] += 1
    shuffled = np.random.default_rng(seed).permutation(len(inverse))
    # positions grouped by class, random within each; rank = place within its class
    grouped = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    rank = np.arange(len(inverse)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(grouped[rank < np.repeat(quota, sizes)]).astype(np.int64)


def split(task: Task, fraction: float, seed: int) -> tuple[Dataset[Any], Dataset[Any]]:
    """The training data as `(fit, search)`; search, to choose by, is `fraction` of it, stratified by `task.labels`.

    The search part is not augmented where the training set offers `plain()`: the same items without augmentation.
    Raises ConfigError where the fraction leaves one of the two empty.
    """
    length = length_of(task.train, f"the training split of task {task.name!r}")
    count = round(length * fraction)
    if not 0 < count < length:
        raise ConfigError(
            f"search_fraction {fraction} of {length} training items leaves a part empty; give a fraction such as 0.1"
        )
    if task.labels is not None and len(task.labels) != length:
        raise DataError(
            f"task {task.name!r} has {len(task.labels)} labels for {length} training items; give one a training item"
        )
    labels = task.labels if task.labels is not None else np.zeros(length, dtype=np.int64).tolist()
    chosen = stratified(labels, count, derive_seed(seed, "search split"))
    rest = np.setdiff1d(np.arange(length), chosen)
    plain = getattr(task.train, "plain", None)
    search = LabelledSubset(plain() if callable(plain) else task.train, chosen.tolist(), np.asarray(labels)[chosen])
    return Subset(task.train, rest.tolist()), search


class LabelledSubset(Subset[Any]):
    """Items of a data set, with a class for each (all the same where there are none)."""

    def __init__(self, dataset: Dataset[Any], indices: Sequence[int], labels: npt.NDArray[np.int64]) -> None:
        super().__init__(dataset, indices)
        self.labels = labels


def subset(data: LabelledSubset, images: int | None, seed: int) -> LabelledSubset:
    """`images` items of `data`, stratified, always the same for a seed; `data` itself where it has no more."""
    if images is None or images >= len(data):
        return data
    chosen = stratified(data.labels.tolist(), images, seed)
    return LabelledSubset(data.dataset, [data.indices[i] for i in chosen], data.labels[chosen])
