"""What may not be cut, and how far the rest may go: skip patterns, frozen groups, floors, alignment steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, get_args

from prunecore.errors import ConfigError, nearest
from prunecore.types import Measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prunecore.types import ChannelGroup, DependencyGraph, Target


@dataclass(frozen=True)
class Limits:
    """whole: why a group stays as it is, for each that does. floor: fewest channels of the others. step: the multiple
    of channels on which a cut must end (1 without `multiple_of`)."""

    whole: Mapping[str, str]
    floor: Mapping[str, int]
    step: Mapping[str, int]
    multiple_of: int | None = None


def limits_of(
    graph: DependencyGraph, target: Target, *, frozen: frozenset[str], widths: Mapping[str, int] | None = None
) -> Limits:
    """The limits of every group. `widths`: channel counts that `max_reduction` counts from (default: the graph's).

    Raises ConfigError for values out of range and for patterns and names that match nothing.
    """
    check(graph, target)
    skipped = skipped_groups(graph, target.skip)
    whole: dict[str, str] = {}
    floor: dict[str, int] = {}
    step: dict[str, int] = {}
    for group in graph.groups:
        before = max((widths or {}).get(group.name, group.channels), group.channels)
        step[group.name] = alignment(group, target.multiple_of)
        least = math.ceil(before * (1.0 - target.max_reduction) - 1e-9)
        floor[group.name] = max(1, target.min_channels, least)
        reason = _whole(group, target, step[group.name], skipped, frozen)
        if reason is not None:
            whole[group.name] = reason
    return Limits(whole, floor, step, target.multiple_of)


def _whole(
    group: ChannelGroup, target: Target, step: int, skipped: Mapping[str, str], frozen: frozenset[str]
) -> str | None:
    if group.frozen is not None:
        return f"frozen: {group.frozen}"
    if group.name in frozen:
        return "frozen: a cut of it failed its certificate"
    if group.name in skipped:
        return f"skip {skipped[group.name]!r}"
    if target.multiple_of is not None and group.channels <= step:
        return f"multiple_of {target.multiple_of}: no wider than {step}"
    return None


def alignment(group: ChannelGroup, multiple_of: int | None) -> int:
    """The least channel count at which the width of every member is a multiple.

    A member with `k` positions a channel is `k * channels` wide. Consumers count too: the inputs of one group of a
    grouped convolution are a width of their own.
    """
    if multiple_of is None:
        return 1
    positions = {int(m.index.shape[1]) for m in group.members} or {1}
    return math.lcm(*(multiple_of // math.gcd(multiple_of, k) for k in positions))


# ---------------------------------------------------------------- skip


def module_names(graph: DependencyGraph) -> tuple[str, ...]:
    """Every module that the graph knows of (owners of tensors, operations and sites, and what contains them)."""
    owners = [t.name.rpartition(".")[0] for t in graph.tensors]
    owners += [op.module for op in graph.ops]
    owners += [m for g in graph.groups for m in _touched(g)]
    return tuple(dict.fromkeys(prefix for owner in dict.fromkeys(owners) for prefix in _prefixes(owner)))


def _touched(group: ChannelGroup) -> tuple[str, ...]:
    return (*group.modules, *dict.fromkeys(s.module for s in group.sites))


def _prefixes(module: str) -> list[str]:
    parts = module.split(".") if module else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def skipped_groups(graph: DependencyGraph, patterns: Iterable[str]) -> dict[str, str]:
    """Group name -> the pattern that keeps it whole: a skipped module keeps its inputs and its outputs.

    Raises ConfigError for a pattern that matches no module.
    """
    known = module_names(graph)
    matched: dict[str, str] = {}
    for pattern in patterns:
        hits = [name for name in known if fnmatchcase(name, pattern)]
        if not hits:
            raise ConfigError(
                f"target.skip: {pattern!r} matches no module{nearest(pattern, known)}; "
                "give a module name of the network or a glob such as 'layer4.*'"
            )
        matched.update({name: pattern for name in hits if name not in matched})
    found: dict[str, str] = {}
    for group in graph.groups:
        reason = next((matched[p] for m in _touched(group) for p in _prefixes(m) if p in matched), None)
        if reason is not None:
            found[group.name] = reason
    return found


# ---------------------------------------------------------------- values of the target


def check(graph: DependencyGraph, target: Target) -> None:
    """ConfigError for values out of range and for sensitivities of groups that do not exist."""
    check_reduce(target.reduce)
    if target.multiple_of is not None and target.multiple_of < 1:
        raise ConfigError(f"target.multiple_of: got {target.multiple_of}, expected a whole number from 1, or nothing")
    if target.align_all and target.multiple_of is None:
        raise ConfigError("target.align_all needs target.multiple_of: say to which multiple the widths are brought")
    if target.min_channels < 1:
        raise ConfigError(f"target.min_channels: got {target.min_channels}, expected at least 1")
    if not 0.0 <= target.max_reduction <= 1.0:
        raise ConfigError(f"target.max_reduction: got {target.max_reduction}, expected a fraction from 0 to 1")
    if target.measure not in get_args(Measure):
        raise ConfigError(f"target.measure: got {target.measure!r}, expected one of {', '.join(get_args(Measure))}")
    if target.scope not in ("global", "uniform"):
        raise ConfigError(f"target.scope: got {target.scope!r}, expected global or uniform")
    known = graph.widths
    for name, factor in target.sensitivity.items():
        if name not in known:
            raise ConfigError(f"target.sensitivity: no channel group {name!r}{nearest(name, known)}")
        if not (math.isfinite(factor) and factor > 0.0):
            raise ConfigError(
                f"target.sensitivity: got {factor} for {name!r}, expected a number above 0 (1 = as it is)"
            )


def check_reduce(reduce: float) -> None:
    """ConfigError unless `reduce` is a fraction in [0, 1)."""
    if not (isinstance(reduce, (int, float)) and 0.0 <= reduce < 1.0):  # NaN fails both comparisons
        raise ConfigError(
            f"target.reduce: got {reduce}, expected the fraction to remove, at least 0 and below 1 (0.5 removes half)"
        )


def computed(graph: DependencyGraph, measure: Measure) -> Measure:
    """The measure that a plan can compute from the graph: MACs stand in for what only a network itself shows."""
    if measure == "ptflops" or (measure == "latency" and graph.latency is None):
        return "macs"
    return measure
