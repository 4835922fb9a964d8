"""The frozen values that pass between stages. Nothing here computes more than a view of itself.

Words (one word a thing): a *channel group* is a set of channels of several tensors that can only be removed together; a
*member* is one dimension of one parameter or buffer inside a group; a *proposal* says which channels stay; a *recipe* is
the portable description of the surgery that carried it out; a *certificate* is the proof that the cut was right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from prunecore.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from prunecore.measure.tables import LatencyTables

Indices = npt.NDArray[np.int64]
Role = Literal["producer", "consumer", "norm", "bias", "buffer", "other"]
Measure = Literal["macs", "params", "ptflops", "latency"]
Scope = Literal["global", "uniform"]
Phase = Literal["pretraining", "training", "retraining"]
NasBuilder = Callable[..., "nn.Module"]


# ---------------------------------------------------------------- dependency graph


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one parameter or buffer inside a group.

    `index`, shape `(channels, k)`: row `c` holds the positions along `dim` of `tensor` that channel `c` of the group owns
    (one for a convolution, H*W behind a flatten, several where a concatenation ties its parts).
    """

    tensor: str
    dim: int
    role: Role
    index: Indices

    @property
    def module(self) -> str:
        """The module that holds the tensor (`layer1.0.conv1` for `layer1.0.conv1.weight`)."""
        return self.tensor.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Site:
    """A module output where a group's channels are visible as activations.

    `index`, shape `(channels, k)`: positions along `dim` of the module's output (the `output`-th tensor of it).
    """

    module: str
    dim: int
    index: Indices
    output: int = 0


@dataclass(frozen=True, eq=False)
class Partition:
    """A split of a group's channels into parts that must keep equal counts; `part`, shape `(channels,)`, from 0."""

    part: Indices
    reason: str

    @property
    def parts(self) -> int:
        return int(self.part.max()) + 1


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that can only be removed together with all their members.

    `frozen` is None, or why no channel of the group may go. `name` is the module of the first producer.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    sites: tuple[Site, ...] = ()
    partitions: tuple[Partition, ...] = ()
    frozen: str | None = None

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that own a member, in order, without repeats."""
        return tuple(dict.fromkeys(m.module for m in self.members))


@dataclass(frozen=True)
class Link:
    """Groups whose kept counts are in a fixed proportion: `kept[groups[i]] = ratios[i] * t` for one integer `t`."""

    groups: tuple[str, ...]
    ratios: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Affine:
    """A size as an affine form of the kept counts: `(constant * divisor + sum(coef * kept[group])) / divisor`."""

    constant: int
    terms: tuple[tuple[str, int], ...] = ()
    divisor: int = 1

    def __call__(self, kept: Mapping[str, int]) -> int:
        return self.constant + sum(coef * kept[group] for group, coef in self.terms) // self.divisor


@dataclass(frozen=True)
class OpCost:
    """Multiply-accumulates of one operation for batch 1: `scale * product(factors)`."""

    module: str
    op: str
    scale: int
    factors: tuple[Affine, ...]


@dataclass(frozen=True)
class TensorForm:
    """The shape of one parameter or buffer as a function of the kept counts (shared tensors appear once)."""

    name: str
    dims: tuple[Affine, ...]
    is_parameter: bool


@dataclass(frozen=True)
class AttributeForm:
    """A number that a module keeps in Python and that follows the kept counts (`groups` of a depthwise convolution).

    index: which one, where the attribute is a tuple or a list of numbers.
    """

    module: str
    attribute: str
    value: Affine
    index: int | None = None


@dataclass(frozen=True)
class ValueForm:
    """Values that the code multiplies by `width ** power`: cut, they are scaled by `(old width / new width) ** power`.

    index: positions along `dim` of the whole tensor.
    """

    tensor: str
    dim: int
    index: tuple[int, ...]
    width: Affine
    power: float


@dataclass(frozen=True)
class Unprunable:
    """A module that stays whole, and why (the operation that stopped it)."""

    module: str
    reason: str


@dataclass(frozen=True, eq=False)
class DependencyGraph:
    """How the channels of a network are tied, and what it costs as a function of the kept counts.

    varies: the operation from which on costs depend on values (as many boxes as a detector finds); `ops` are then those of
    the values that the network itself computed. latency: tables measured on a device, where the target is latency.
    """

    groups: tuple[ChannelGroup, ...]
    links: tuple[Link, ...]
    ops: tuple[OpCost, ...]
    tensors: tuple[TensorForm, ...]
    attributes: tuple[AttributeForm, ...] = ()
    values: tuple[ValueForm, ...] = ()
    unprunable: tuple[Unprunable, ...] = ()
    engine: str = ""
    varies: str | None = None
    latency: LatencyTables | None = None

    def group(self, name: str) -> ChannelGroup:
        """The group of that name; KeyError where there is none."""
        return {g.name: g for g in self.groups}[name]

    @property
    def widths(self) -> dict[str, int]:
        """Channels of every group, uncut."""
        return {g.name: g.channels for g in self.groups}


@dataclass(frozen=True)
class Cost:
    """MACs for batch 1 and parameter count. seconds: by latency tables, 0 where there are none."""

    macs: int
    params: int
    seconds: float = 0.0

    def of(self, measure: Measure) -> float:
        """What `measure` counts; MACs stand in for what only a network itself shows."""
        if measure == "latency":
            return self.seconds
        return self.params if measure == "params" else self.macs


# ---------------------------------------------------------------- evidence, plan, surgery


@dataclass(frozen=True, eq=False)
class Calibration:
    """Evidence gathered from data. `tensors[name]` has the shape of the parameter or buffer `name`;
    `sites[(module, output)]` has shape `(size of the channel dim,)`. `images`: how many were seen."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    sites: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)
    images: int = 0

    def matrix(self, member: Member) -> Tensor:
        """The evidence of one member as `(channels, features)`, laid out as `weights[member]` is."""
        return member_matrix(self.tensors[member.tensor], member)


def member_matrix(tensor: Tensor, member: Member) -> Tensor:
    """The elements of `tensor` that each channel of `member` owns, as float32 `(channels, features)`."""
    import torch

    rows = tensor.detach().movedim(member.dim, 0).float()
    index = np.ascontiguousarray(member.index).ravel()
    if not (index.size == len(rows) and (index == np.arange(len(rows))).all()):  # else they lie there in order
        rows = rows[torch.from_numpy(index).to(tensor.device)]
    return rows.reshape(member.index.shape[0], -1)


@dataclass(frozen=True)
class Target:
    """What to remove and what must hold while doing so (one meaning a field; see docs/guide/targets.md).

    reduce: fraction of `measure` to remove, in [0, 1). multiple_of: whatever is cut ends as a multiple of it.
    align_all: every width that may be cut ends as a multiple. min_channels: no group goes below. max_reduction: largest
    fraction of one group that may go. skip: globs on module names; a skipped module keeps its inputs and outputs.
    """

    reduce: float
    measure: Measure = "macs"
    multiple_of: int | None = None
    align_all: bool = False
    min_channels: int = 1
    max_reduction: float = 1.0
    skip: tuple[str, ...] = ()
    scope: Scope = "global"
    sensitivity: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Proposal:
    """Which channels stay. `kept[group]`: ascending channel indices of the group; groups left out stay whole.

    notes: what stood in the way of the plan.
    `base`: number of the candidate that it is cut from (0 = the network as loaded). `reduce`: cumulative reduction aimed at.
    images: of the search split that measure what comes of it (None: all); always the same ones.
    trial: only to be measured, in a worker, on the search split; nothing can be cut from what comes of it. batches: of the
    fine-tune of a trial, at most; calibration: images that recalibrate it, also where it keeps everything (None: as configured,
    where it does not). why: in a few words, for the record.
    """

    kept: Mapping[str, Indices]
    base: int = 0
    reduce: float = 0.0
    tune: Phase | None = "training"
    notes: tuple[str, ...] = ()
    trial: bool = False
    batches: int | None = None
    images: int | None = None
    calibration: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Slice:
    """The ordered positions that stay along one dim of one tensor; `size` is the old length."""

    tensor: str
    dim: int
    size: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class AttributeEdit:
    """A Python attribute of a module that changed with the widths. `old` and `new`: int, or tuple of int."""

    module: str
    attribute: str
    old: int | tuple[int, ...]
    new: int | tuple[int, ...]


@dataclass(frozen=True)
class ValueEdit:
    """A declared change of values: `tensor *= factor` on the positions `index` of `dim` (of the cut tensor), all if None."""

    tensor: str
    factor: float
    dim: int = 0
    index: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TensorShape:
    """The whole shape of a sliced tensor before and after."""

    tensor: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Width:
    """A group's channel count before and after."""

    group: str
    before: int
    after: int


@dataclass(frozen=True)
class Recipe:
    """Everything needed to repeat a surgery on a fresh network of the original class; JSON in `recipe.json`.

    `shapes`: of every sliced tensor, so that a recipe applied to the wrong network is refused.
    """

    slices: tuple[Slice, ...] = ()
    attributes: tuple[AttributeEdit, ...] = ()
    values: tuple[ValueEdit, ...] = ()
    widths: tuple[Width, ...] = ()
    shapes: tuple[TensorShape, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """The proof that the cut network computes what the masked one computes.

    max_abs_error: largest difference of any compared output. inputs: shapes of the inputs used. notes: what the comparison
    was restricted to, and what was changed on the masked side.
    """

    verified: bool
    max_abs_error: float
    inputs: tuple[tuple[int, ...], ...]
    dtype: str
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------- models, tasks, candidates


@dataclass(frozen=True, eq=False)
class ExampleInputs:
    """Positional and keyword inputs that the network can be called with."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network and where it came from.

    provenance: plain values that end in `result.json` (spec, class, source). pretrained: whether the weights are trained.
    recipe: surgery already carried out on it, relative to the original class (empty for a fresh network).
    rebuild: a fresh network of the original class, for a `model` that is not one itself.
    """

    model: nn.Module
    inputs: ExampleInputs
    provenance: Mapping[str, Any]
    pretrained: bool
    recipe: Recipe = Recipe()
    rebuild: Callable[[], nn.Module] | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """Data, loss and metric.

    Items of both datasets are `(input, target)`. loss(outputs, targets) -> scalar tensor. metric() -> an object with
    `update(outputs, targets)` and `compute()`, higher = better (torchmetrics' interface). labels: one int per training item, for the
    stratified search split (None: split at random).
    """

    name: str
    train: Dataset[Any]
    validation: Dataset[Any]
    loss: Callable[[Any, Any], Tensor]
    metric: Callable[[], Any]
    metric_name: str
    labels: Sequence[int] | None = None
    num_classes: int | None = None
    collate: Callable[[list[Any]], Any] | None = None


@dataclass(frozen=True)
class Score:
    """What an evaluation found. images: how many were seen."""

    name: str
    value: float
    loss: float
    images: int


@dataclass(frozen=True, eq=False)
class Candidate:
    """A proposal applied, repaired, tuned as asked, measured on the search split.

    number: 0 is the network as loaded. network: itself, or what reads it from the disk (`model` is it either way); None for
    trials, which are measured and thrown away. recipe: relative to the network as loaded (empty for a trial). size: what is left
    of the target's measure. score: None where a trial failed; `notes` say why.
    facts: what a trial took (`forward`, `backward`: images; `seconds`), or the `latency` that a step measured.
    """

    number: int
    network: nn.Module | Callable[[], nn.Module] | None
    recipe: Recipe
    cost: Cost
    size: float
    score: Score | None = None
    certificate: Certificate | None = None
    stages: Mapping[str, Score] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The network. Raises PluginError for a trial."""
        from torch import nn

        if self.network is None:
            raise PluginError(
                f"candidate {self.number} was a trial and has no network; propose it again with trial=False"
            )
        return self.network if isinstance(self.network, nn.Module) else self.network()
