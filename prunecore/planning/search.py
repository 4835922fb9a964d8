"""How many steps go: as many of the common ranking as the goal needs, then as close to it as can be.

A state is one level for each bundle. `Space` turns states into costs; nothing here knows about layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from prunecore.measure.cost import CostModel
from prunecore.planning.bundles import dims_of
from prunecore.planning.ranking import merged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecore.planning.bundles import Bundle
    from prunecore.planning.ranking import Floats, Ranked
    from prunecore.types import Cost, DependencyGraph, Indices, Measure

MOST_MOVES = 200  # single moves after the thresholds
PAIRED = 24  # bundles nearest to the threshold of which pairs are tried


class Space:
    """The states of the bundles that may be cut, and what each costs."""

    def __init__(self, graph: DependencyGraph, bundles: Sequence[Bundle], measure: Measure) -> None:
        self._model = CostModel(graph)
        self._measure = measure
        self.levels: Indices = np.array([b.levels for b in bundles], dtype=np.int64)
        position = {name: i for i, name in enumerate(self._model.groups)}
        columns = [(i, j) for i, b in enumerate(bundles) for j in range(len(b.groups))]
        self._column = np.array([position[bundles[i].groups[j].name] for i, j in columns], dtype=np.int64)
        self._bundle = np.array([i for i, _ in columns], dtype=np.int64)
        self._table = np.concatenate([bundles[i].ladder[:, j] for i, j in columns] or [np.empty(0, dtype=np.int64)])
        lengths = np.array([bundles[i].levels for i, _ in columns], dtype=np.int64)
        self._offset = np.cumsum(lengths) - lengths
        self._together = shared_widths(bundles)
        # latency is a staircase: one channel less may change nothing, or make it slower
        most = int(self.levels.max(initial=2)).bit_length() if measure == "latency" else 1
        self.strides = tuple(2**i for i in range(most))

    def close(self, states: Indices) -> Indices:
        """Where a width is made of several bundles and one of them is cut, the uneven ones are aligned too."""
        closed = states
        while self._together:
            before = closed
            for members, uneven in self._together:
                cut = closed[:, members].max(axis=1, keepdims=True) > 0
                closed = closed.copy()
                closed[:, uneven] = np.maximum(closed[:, uneven], cut)
            if (closed == before).all():
                break
        return closed

    def counts(self, states: Indices) -> Indices:
        """Kept counts of every group of the graph, shape `(n, groups)`."""
        counts = np.repeat(self._model.full[None], len(states), axis=0)
        if len(self._column):
            counts[:, self._column] = self._table[self._offset + self.close(states)[:, self._bundle]]
        return counts

    def cost(self, state: Indices) -> Cost:
        """MACs, params and seconds of one state."""
        return self._model.at(self.counts(state[None])[0])

    def values(self, states: Indices) -> Floats:
        """The measure of each state, shape `(n,)`."""
        if self._measure == "latency":
            return self._model.seconds(self.counts(states))
        macs, params = self._model.costs(self.counts(states))
        return np.asarray(params if self._measure == "params" else macs, dtype=np.float64)

    def value(self, state: Indices) -> float:
        return float(self.values(state[None])[0])


def shared_widths(bundles: Sequence[Bundle]) -> list[tuple[Indices, Indices]]:
    """Widths made of several bundles, some of them uneven while whole: (all bundles, the uneven ones)."""
    uneven = {i for i, b in enumerate(bundles) if b.uneven}
    homes = {frozenset(number for number, _ in parts) for parts in dims_of(bundles, producers=False).values()}
    found = sorted((sorted(h), sorted(h & uneven)) for h in homes if len(h) > 1 and h & uneven)
    return [(np.array(h, dtype=np.int64), np.array(u, dtype=np.int64)) for h, u in found]


def settle(space: Space, ranked: Sequence[Ranked], goal: float, tolerance: float | None) -> tuple[Indices, float]:
    """The state that follows the common ranking down to the goal, and the threshold: the worth of the last step taken.

    A threshold lies between two neighbouring states. Where neither is within `tolerance` of the goal, the bundle whose
    step parts them keeps the nearer level, and the threshold of the others is moved; so on until the goal is met or no
    bundle is left. Without a tolerance the goal is never exceeded, and no step fits back: each bundle has stopped where
    one step less was too much, and the others only grew since. A threshold is found by bisection, so that the costs of
    `O(bundles * log(steps))` states are computed at the very most, of a few dozen as a rule.
    """
    order, worth = merged(ranked)
    base = np.zeros(len(ranked), dtype=np.int64)
    threshold = 0.0
    while space.value(base) > goal:
        steps = _last_above(space, base, order, goal)
        above = base + np.bincount(order[:steps], minlength=len(base))
        if steps == len(order):  # no step is left
            return above, threshold
        parting = int(order[steps])
        below = above.copy()
        below[parting] += 1
        miss = [abs(space.value(s) - goal) for s in (above, below)]
        state = below if tolerance is None or miss[1] < miss[0] else above
        threshold = float(worth[steps])
        if tolerance is not None and min(miss) <= tolerance:
            return state, threshold
        rest = order != parting
        order, worth = order[rest], worth[rest]
        base[parting] = state[parting]
    return base, threshold


def _last_above(space: Space, base: Indices, order: Indices, goal: float) -> int:
    """The most steps of `order` beyond `base` that leave the cost above the goal."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        if space.value(base + np.bincount(order[:middle], minlength=len(base))) > goal:
            low = middle
        else:
            high = middle - 1
    return low


def approach(
    space: Space, ranked: Sequence[Ranked], state: Indices, *, threshold: float, goal: float, tolerance: float
) -> Indices:
    """Where a state is not within `tolerance` of the goal, steps of one bundle are added or taken back, then of pairs of
    them, as long as that comes closer."""
    for _ in range(MOST_MOVES):
        distance = abs(space.value(state) - goal)
        if distance <= tolerance:
            break
        moves, strain = _single_moves(space, ranked, state, threshold)
        found = _nearer(space, state + moves, strain, goal, min(distance, tolerance))
        if found is None:
            pairs, strains = _pairs(moves, strain)
            found = _nearer(space, state + pairs, strains, goal, min(distance, tolerance))
        if found is None:  # nothing is close enough, but something may be closer
            tried = state + np.concatenate([moves, pairs])
            away = np.abs(space.values(tried) - goal)
            if not len(away) or away.min() >= distance:
                break
            found = tried[int(away.argmin())]
        state = found
    return state


def _single_moves(space: Space, ranked: Sequence[Ranked], state: Indices, threshold: float) -> tuple[Indices, Floats]:
    """One stride more of each bundle, one less of each; and how far from the threshold each of them reaches."""
    bundles = np.arange(len(state))
    step = np.eye(len(state), dtype=np.int64)
    moves, worth = [], []
    for stride in space.strides:
        more = bundles[state + stride < space.levels]
        moves.append(stride * step[more])
        worth += [ranked[b].worth[state[b] + stride - 1] for b in more]
    for stride in space.strides:
        less = bundles[state >= stride]
        moves.append(-stride * step[less])
        worth += [ranked[b].worth[state[b] - stride] for b in less]
    return np.concatenate(moves), np.abs(np.array(worth, dtype=np.float64) - threshold)


def _pairs(moves: Indices, strain: Floats) -> tuple[Indices, Floats]:
    """One move more here and one less there, of the moves nearest to the threshold."""
    more = np.flatnonzero(moves.sum(axis=1) > 0)
    less = np.flatnonzero(moves.sum(axis=1) < 0)
    more = more[np.argsort(strain[more], kind="stable")[:PAIRED]]
    less = less[np.argsort(strain[less], kind="stable")[:PAIRED]]
    left, right = np.repeat(more, len(less)), np.tile(less, len(more))
    apart = ((moves[left] != 0) & (moves[right] != 0)).sum(axis=1) == 0  # of one bundle they would be a single move
    left, right = left[apart], right[apart]
    return moves[left] + moves[right], strain[left] + strain[right]


def _nearer(space: Space, states: Indices, strain: Floats, goal: float, within: float) -> Indices | None:
    """Of the states within that distance of the goal the one that strains the ranking least."""
    near = np.flatnonzero(np.abs(space.values(states) - goal) <= within) if len(states) else np.empty(0, dtype=np.int64)
    return None if not len(near) else np.asarray(states[near[int(strain[near].argmin())]], dtype=np.int64)
