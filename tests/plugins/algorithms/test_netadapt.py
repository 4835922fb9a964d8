"""NetAdapt's two loops, told candidates with known scores: what they ask for, whom they choose, where they end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from prunecore_plugins.algorithms.netadapt import NetAdapt
from torch import nn

from prunecore import Candidate, Cost, Problem, Proposal, Recipe, Score, Target, TrainingError
from prunecore.planning import BlockCut

WIDTHS = {"a": 10, "b": 10, "c": 10}  # each channel is 1/30 of the measure
LOSS = {"a": 0.01, "b": 0.02, "c": 0.3}  # of each channel that goes


class World:
    """A network of three blocks whose loss grows by known amounts; remembers what was asked."""

    def __init__(self, *, fails=()):
        self.widths = {0: dict(WIDTHS)}
        self.rounds, self.planned = [], []
        self.fails = set(fails)

    def candidate(self, number, widths, *, trial=False):
        size = sum(widths.values()) / 30
        loss = sum(LOSS[n] * (WIDTHS[n] - w) for n, w in widths.items())
        score = (
            None
            if trial and self.fails & {n for n, w in widths.items() if w < 10}
            else Score("accuracy", 1 - loss, loss, 9)
        )
        network = None if trial else nn.Identity()
        return Candidate(
            number, network, Recipe(), Cost(int(30 * size), 1), size, score, notes=() if score else ("error: broken",)
        )

    def problem(self, reduce, **target):
        start = dataclasses.replace(self.candidate(0, WIDTHS), score=None)
        return Problem(start, Target(reduce, **target), (reduce,), 0, self.plan, self.block_cuts)

    def plan(self, candidate, reduce):
        """All from block c."""
        self.planned.append(reduce)
        gone = round(30 * (candidate.size - 1 + reduce))
        return Proposal({"c": np.arange(self.widths[candidate.number]["c"] - gone)}, candidate.number, reduce)

    def block_cuts(self, candidate, delta, saving):
        widths = self.widths[candidate.number]
        wanted = {n: max(1, int(w * delta) if saving is None else round(30 * saving)) for n, w in widths.items()}
        gone = {n: k for n, k in wanted.items() if widths[n] > k}
        return tuple(
            BlockCut(
                n,
                {n: np.arange(widths[n] - k)},
                widths[n],
                widths[n] - k,
                candidate.size - k / 30,
            )
            for n, k in gone.items()
        )

    def drive(self, search):
        """The chosen candidate; `rounds` holds the proposals of each turn."""
        number, asked = 1, next(search)
        while True:
            self.rounds.append(asked)
            sent = []
            for proposal in asked:
                widths = {**self.widths[proposal.base], **{n: len(k) for n, k in proposal.kept.items()}}
                if not proposal.trial:
                    self.widths[number] = widths
                sent.append(self.candidate(number, widths, trial=proposal.trial))
                number += 1
            try:
                asked = search.send(sent)
            except StopIteration as stop:
                return stop.value


def run(world, reduce, *, target=None, **options):
    return world.drive(
        NetAdapt(NetAdapt.Options(**options)).prune_search(problem=world.problem(reduce, **(target or {})))
    )


def test_exact_tries_every_block_and_keeps_the_most_accurate():
    world = World()
    chosen = run(world, 0.1, exact=True)
    trials, step = world.rounds[0], world.rounds[1]
    assert [list(p.kept) for p in trials] == [["a"], ["b"], ["c"]]
    assert all((p.trial, p.tune, p.images, p.batches) == (True, "retraining", None, None) for p in trials)
    assert [(list(p.kept), p.trial, p.tune) for p in step] == [(["a"], False, "training")]
    assert world.widths[chosen.number] == {"a": 7, "b": 10, "c": 10}
    assert chosen.size == pytest.approx(0.9)


def test_of_equals_the_lower_loss_then_the_greater_saving_wins():
    from prunecore_plugins.algorithms.netadapt.common import better

    def made(value, loss, macs):
        return Candidate(1, None, Recipe(), Cost(macs, 1), 0.5, Score("accuracy", value, loss, 9))

    order = [made(0.9, 0.3, 9), made(0.9, 0.3, 5), made(0.9, 0.2, 9), made(0.8, 0.1, 1)]
    assert sorted(order, key=better) == [order[2], order[1], order[0], order[3]]


def test_exact_with_top_n_tries_the_best_until_they_do_worse_than_the_next():
    world = World()
    run(world, 0.15, exact=True, top_n=1)
    tried = [[next(iter(p.kept)) for p in asked] for asked in world.rounds[::2]]
    assert tried[0] == ["a", "b", "c"]
    # the second cut of a costs 0.02 in all, as much as the first of b: not worse yet; the third costs more
    assert tried[1] == ["a"]
    flat = [[next(iter(p.kept)) for p in asked] for asked in world.rounds if asked[0].trial]
    assert flat.count(["a", "b", "c"]) >= 2


def test_fast_tries_every_block_without_training_and_cuts_the_cheapest_together():
    world = World()
    chosen = run(world, 0.2, step=0.2, blocks=2, balance=0.0)
    trials, step, training = world.rounds
    assert [list(p.kept) for p in trials] == [[], ["a"], ["b"], ["c"]]  # the network before the round is measured too
    assert all((p.trial, p.tune, p.images, p.calibration) == (True, None, 512, 128) for p in trials)
    assert [({n: len(k) for n, k in p.kept.items()}, p.trial, p.tune) for p in step] == [
        ({"a": 7, "b": 7}, False, "retraining")  # each a half of the step, 3 of 30 channels
    ]
    assert step[0].reduce == pytest.approx(0.2)
    assert step[0].why == "the cheapest by the loss that each adds: a (+0.0300), b (+0.0600)"
    assert [(p.kept, p.base, p.tune) for p in training] == [({}, 5, "training")]
    assert world.widths[5] == {"a": 7, "b": 7, "c": 10}
    assert chosen.size == pytest.approx(0.8)


def test_narrow_blocks_get_dearer():
    """Of three more channels each: 0.03 of a, of which six go then, counts (6/4)² times, 0.06 of b (3/7)² times."""
    by_loss, balanced = World(), World()
    run(by_loss, 0.2, step=0.1, blocks=1, balance=0.0)
    run(balanced, 0.2, step=0.1, blocks=1, balance=2.0)
    assert [list(asked[0].kept) for asked in by_loss.rounds if asked[0].tune == "retraining"] == [["a"], ["a"]]
    assert [list(asked[0].kept) for asked in balanced.rounds if asked[0].tune == "retraining"] == [["a"], ["b"]]


def tried(world):
    """The blocks of every turn of trials; `-` is the network before the round."""
    return ["".join(next(iter(p.kept), "-") for p in asked) for asked in world.rounds if asked[0].trial]


def cut(world):
    return ["".join(asked[0].kept) for asked in world.rounds if asked[0].kept and not asked[0].trial]


def test_blocks_that_cost_more_when_last_tried_are_left_alone_until_all_are_tried_anew():
    world = World()
    run(world, 0.4, step=0.1, blocks=1, balance=0.0, refresh=3)  # the fourth cut is planned
    # a costs 0.03 each time, b cost 0.06, c 0.9: b and c cannot be the cheapest
    assert (tried(world), cut(world)) == (["-abc", "-a", "-a"], ["a", "a", "a", "c"])
    anew = World()
    run(anew, 0.4, step=0.1, blocks=1, balance=0.0, refresh=2)
    assert tried(anew) == ["-abc", "-a", "-abc"]


def test_a_block_that_was_cut_is_tried_again_before_it_is_cut_further():
    """a cost 0.03, b 0.06: a is tried again first, turns out at 0.15, and b is tried before it is cut."""

    class Convex(World):
        def candidate(self, number, widths, *, trial=False):
            found = super().candidate(number, widths, trial=trial)
            extra = 0.04 * max(0, 7 - widths["a"])  # beyond the first cut of 3 channels
            return (
                found
                if found.score is None
                else dataclasses.replace(found, score=Score("accuracy", 0.5, found.score.loss + extra, 9))
            )

    world = Convex()
    run(world, 0.3, step=0.1, blocks=1, balance=0.0)
    assert (tried(world)[:3], cut(world)[:2]) == (["-abc", "-a", "b"], ["a", "b"])


def test_narrower_blocks_are_expected_to_cost_more_before_they_are_tried():
    """Cut twice a would count 0.03 · (6/4)², more than b, which costs 0.06 · (3/7)²."""
    world = World()
    run(world, 0.3, step=0.1, blocks=1, balance=2.0)
    assert (tried(world), cut(world)) == (["-abc", "-b", "-a"], ["a", "b", "a"])


def test_no_block_is_tried_that_there_is_no_room_for():
    world = World()
    run(world, 0.35, step=0.2, blocks=2, balance=0.0)
    # after a and b, there is room for one more share of 3 channels; b and c cost more than a, which costs that again
    assert (tried(world), cut(world)[:2]) == (["-abc", "-a"], ["ab", "a"])


def test_a_block_that_cannot_give_its_share_is_offered_for_a_part_and_priced_as_for_a_whole():
    class Narrow(World):
        def block_cuts(self, candidate, delta, saving):
            """Block a can give one channel."""
            return tuple(c for c in super().block_cuts(candidate, delta, saving) if c.block != "a" or c.after == 9)

    world = Narrow()
    run(world, 0.2, step=2 / 15, blocks=1, balance=0.0)  # a share is 4 channels, a quarter of it 1
    trials, step = world.rounds[:2]
    assert {n: len(k) for p in trials for n, k in p.kept.items()} == {"b": 6, "c": 6, "a": 9}
    # a costs 0.01 for one channel, so 0.04 for four; b 0.08
    assert {n: len(k) for n, k in step[0].kept.items()} == {"a": 9}


def test_what_is_left_of_the_target_is_planned_by_the_criterion():
    world = World()
    run(world, 0.1, step=0.24, blocks=2)
    step, training = world.rounds
    assert ([list(p.kept) for p in step], world.planned) == ([["c"]], [0.1])
    assert step[0].why == "the rest, planned by the criterion"
    assert training[0].tune == "training"


def test_the_rest_is_planned_once_also_where_the_target_is_missed():
    world = World()
    world.plan = lambda candidate, reduce: Proposal({"c": np.arange(9)}, candidate.number, reduce)
    chosen = run(world, 0.1, step=0.24, blocks=2)
    assert [[p.tune for p in asked] for asked in world.rounds] == [["retraining"], ["training"]]
    assert chosen.size == pytest.approx(29 / 30)


def test_cuts_with_a_group_in_common_are_not_joined():
    class Linked(World):
        def block_cuts(self, candidate, delta, saving):
            """A cut of a takes channels of b with it."""
            cuts = super().block_cuts(candidate, delta, saving)
            both = {"b": np.arange(self.widths[candidate.number]["b"] - 1)}
            return tuple(dataclasses.replace(c, kept={**c.kept, **both}) if c.block == "a" else c for c in cuts)

    world = Linked()
    run(world, 0.2, step=0.2, blocks=2, balance=0.0)
    # a and what it takes: 0.03 + 0.02, less than 0.06 of b; then only c has no group in common with it
    assert [list(p.kept) for p in world.rounds[1]] == [["a", "b", "c"]]


def test_a_block_whose_trial_fails_is_not_cut():
    world = World(fails=["a"])
    run(world, 0.2, step=0.2, blocks=2)
    assert [list(p.kept) for p in world.rounds[1]] == [["b", "c"]]


def test_aligning_comes_first_and_is_all_where_nothing_is_to_be_removed():
    world = World()
    world.plan = lambda candidate, reduce: Proposal({"c": np.arange(8)}, candidate.number, reduce)
    chosen = run(world, 0.0, target={"align_all": True, "multiple_of": 8})
    assert (len(world.rounds), world.widths[chosen.number]["c"]) == (1, 8)


def test_a_network_that_is_aligned_already_is_not_trained_before_the_first_cut():
    world = World()
    asked = world.plan
    world.plan = lambda candidate, reduce: asked(candidate, reduce) if reduce else Proposal({}, candidate.number)
    run(world, 0.2, step=0.2, blocks=2, target={"align_all": True, "multiple_of": 1})
    assert [list(p.kept) for p in world.rounds[0]] == [[], ["a"], ["b"], ["c"]]


def test_where_nothing_is_cut_the_network_is_trained():
    world = World()
    chosen = run(world, 0.0)
    assert [(p.kept, p.tune) for p in world.rounds[0]] == [({}, "training")]
    assert (len(world.rounds), world.widths[chosen.number]) == (1, WIDTHS)


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        ({"step": 0.1, "blocks": 1}, ["retraining", "retraining", "training"]),
        ({"step": 0.1, "blocks": 1, "long_term": "each"}, ["training", "training"]),
        ({"exact": True}, ["training"] * 6),
        ({"exact": True, "long_term": "end"}, ["retraining"] * 6 + ["training"]),
    ],
)
def test_the_long_term_fine_tune_comes_at_the_end_or_after_each_cut(options, phases):
    world = World()
    run(world, 0.2, **options)
    steps = [asked[0] for asked in world.rounds if not asked[0].trial]
    assert [p.tune for p in steps] == phases
    assert [not p.kept for p in steps] == [False] * (len(phases) - 1) + ["retraining" in phases]


def test_with_a_step_all_proposals_of_a_round_save_the_same_and_less_in_each():
    world = World()
    run(world, 0.3, exact=True, step=0.2, decay=0.5)
    saved = [{len(k) for k in p.kept.values()} for asked in world.rounds if asked[0].trial for p in asked]
    # a fifth of 30 channels, then a tenth: both together are the target
    assert saved[:3] == [{4}, {4}, {4}]
    assert [len(asked) for asked in world.rounds] == [3, 1, 3, 1]


def test_a_failed_trial_drops_its_block_and_all_failed_is_an_error():
    world = World(fails=["a"])
    chosen = run(world, 0.1, exact=True)
    assert world.widths[chosen.number]["a"] == 10
    with pytest.raises(TrainingError, match=r"every trial of a round failed, the first: error: broken"):
        run(World(fails=["a", "b", "c"]), 0.1, exact=True)


def test_where_all_of_the_top_n_fail_a_full_round_follows():
    class Later(World):
        """Block a can be tried once."""

        def candidate(self, number, widths, *, trial=False):
            found = super().candidate(number, widths, trial=trial)
            return dataclasses.replace(found, score=None, notes=("error: broken",)) if widths["a"] < 9 else found

    world = Later()
    chosen = run(world, 0.1, exact=True, top_n=1)
    assert [[next(iter(p.kept)) for p in asked] for asked in world.rounds if asked[0].trial][:3] == [
        ["a", "b", "c"],
        ["a"],
        ["a", "b", "c"],
    ]
    assert world.widths[chosen.number] == {"a": 9, "b": 8, "c": 10}


def test_where_every_cut_lowers_the_loss_the_lowest_is_still_the_cheapest():
    class Generous(World):
        """A network that is better with less; the more goes from c the more so."""

        def candidate(self, number, widths, *, trial=False):
            found = super().candidate(number, widths, trial=trial)
            return dataclasses.replace(found, score=Score("accuracy", 0.5, 1.0 - found.score.loss, 9))

    world = Generous()
    run(world, 0.2, step=0.1, blocks=1, balance=0.5)
    assert [list(p.kept) for p in world.rounds[1]] == [["c"]]
    assert world.rounds[1][0].why == "the cheapest by the loss that each adds: c (-0.9000)"


@pytest.mark.parametrize("lost", [None, float("nan")])
def test_a_trial_without_a_loss_is_not_chosen_also_where_it_is_that_of_the_whole_network(lost):
    class Broken(World):
        """Of the first round, the trial of the whole network and that of block a have no loss."""

        def candidate(self, number, widths, *, trial=False):
            found = super().candidate(number, widths, trial=trial)
            if not trial or number > 2:
                return found
            score = None if lost is None else dataclasses.replace(found.score, loss=lost)
            return dataclasses.replace(found, score=score)

    world = Broken()
    run(world, 0.2, step=0.1, blocks=1, balance=0.0)
    assert [list(p.kept) for p in world.rounds[1]] == [["b"]]


def test_where_no_trial_has_a_finite_loss_that_is_one_line():
    class Lost(World):
        def candidate(self, number, widths, *, trial=False):
            found = super().candidate(number, widths, trial=trial)
            return dataclasses.replace(found, score=Score("accuracy", 0.1, float("nan"), 9))

    with pytest.raises(TrainingError, match=r"^netadapt: no trial of a round has a finite loss: check the weights"):
        run(Lost(), 0.2, step=0.1)


def test_where_every_cut_passes_the_target_those_that_pass_it_least_are_tried():
    class Coarse(World):
        """A cut of block c takes three channels, the others four."""

        def block_cuts(self, candidate, delta, saving):
            widths = self.widths[candidate.number]
            gone = {n: 3 if n == "c" else 4 for n in widths}
            return tuple(
                BlockCut(n, {n: np.arange(widths[n] - k)}, widths[n], widths[n] - k, candidate.size - k / 30)
                for n, k in gone.items()
                if widths[n] > k
            )

    world = Coarse()
    chosen = run(world, 0.05, exact=True)
    assert [list(p.kept) for p in world.rounds[0]] == [["c"]]  # though a would cost less
    assert world.widths[chosen.number] == {"a": 10, "b": 10, "c": 7}
