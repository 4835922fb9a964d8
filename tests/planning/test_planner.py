"""Which channels stay, and what is refused, on graphs small enough to reckon by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prunecore.errors import ConfigError, TargetError
from prunecore.planning import plan, reachable, remarks, uniform_scores, with_remarks
from prunecore.types import (
    Affine,
    ChannelGroup,
    Cost,
    DependencyGraph,
    Link,
    Member,
    OpCost,
    Partition,
    Site,
    Target,
    TensorForm,
)
from tests.planning.hand_graphs import chain, counts_of, index, macs


def test_the_least_salient_channels_go() -> None:
    graph = chain([4, 4], areas=[1, 1, 1], inputs=1, outputs=1)  # 4 + 16 + 4 = 24 MACs
    scores = {"c0": torch.tensor([0.1, 2.0, 0.2, 1.7]), "c1": torch.tensor([3.0, 1.0, 3.0, 1.0])}
    made = plan(graph, scores, Target(reduce=13 / 24))
    # saliency over the group's mean (1 and 2), times gone : left, root: c0[0] 0.12, c1[3] 0.27, c0[2] 0.35, c1[1] 0.55
    assert made.proposal.kept["c0"].tolist() == [1, 3]
    assert made.proposal.kept["c1"].tolist() == [0, 1, 2]
    assert made.cost.macs == 2 + 2 * 3 + 3
    assert made.size == 11 / 24
    assert made.proposal.reduce == 13 / 24


def test_numpy_scores_and_the_widths_of_the_plan() -> None:
    graph = chain([4], inputs=1, outputs=1)
    made = plan(graph, {"c0": np.array([4, 1, 3, 2])}, Target(reduce=0.5))
    assert made.proposal.kept["c0"].tolist() == [0, 2]
    assert [(w.group, w.before, w.after) for w in made.widths] == [("c0", 4, 2)]


def test_of_equal_channels_the_lower_index_stays() -> None:
    graph = chain([8], inputs=1, outputs=1)
    made = plan(graph, {"c0": torch.ones(8)}, Target(reduce=0.5))
    assert made.proposal.kept["c0"].tolist() == [0, 1, 2, 3]
    some = plan(graph, {"c0": torch.tensor([1.0, 2, 1, 2, 1, 2, 1, 2])}, Target(reduce=0.25))
    assert some.proposal.kept["c0"].tolist() == [0, 1, 2, 3, 5, 7]


def test_equal_worths_spread_over_the_groups() -> None:
    graph = chain([10, 10])
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.5))
    widths = counts_of(made.proposal.kept)
    assert abs(widths["c0"] - widths["c1"]) <= 1


def test_one_channel_of_every_part_goes_and_parts_stay_equal() -> None:
    graph = chain([6], parts={0: 2}, inputs=1, outputs=1)
    scores = {"c0": torch.tensor([5.0, 1.0, 6.0, 2.0, 9.0, 8.0])}
    made = plan(graph, scores, Target(reduce=1 / 3))
    assert made.proposal.kept["c0"].tolist() == [0, 2, 4, 5]


def test_crossing_partitions_are_all_kept() -> None:
    crossing = (Partition(index(8).ravel() // 4, "rows"), Partition(index(8).ravel() % 2, "columns"))
    one = chain([8], inputs=1, outputs=1)
    group = ChannelGroup("c0", 8, one.groups[0].members, (), crossing)
    graph = DependencyGraph(groups=(group,), links=(), ops=one.ops, tensors=one.tensors)
    made = plan(graph, {"c0": torch.arange(8.0)}, Target(reduce=0.5))
    # cells {0,2} {1,3} {4,6} {5,7}: the lower of each goes
    assert made.proposal.kept["c0"].tolist() == [2, 3, 6, 7]


def test_partitions_that_no_equal_cut_serves_keep_the_group_whole() -> None:
    crossing = (Partition(np.array([0, 0, 0, 1, 1, 1]), "a"), Partition(np.array([0, 0, 0, 0, 1, 1]), "b"))
    one = chain([6], inputs=1, outputs=1)
    group = ChannelGroup("c0", 6, one.groups[0].members, (), crossing)
    graph = DependencyGraph(groups=(group,), links=(), ops=one.ops, tensors=one.tensors)
    with pytest.raises(TargetError, match=r"1 group stays whole \(c0\): partitions: those of c0 cross"):
        plan(graph, {"c0": torch.arange(6.0)}, Target(reduce=0.5))


def test_linked_groups_keep_their_proportion() -> None:
    graph = chain([4, 8, 6], links=[Link(("c0", "c1"), (1, 2), "heads"), Link(("c1", "c2"), (4, 3), "split")])
    scores = {"c0": torch.tensor([4.0, 1, 3, 2]), "c1": torch.arange(8.0), "c2": torch.arange(6.0, 0, -1)}
    made = plan(graph, scores, Target(reduce=0.6))
    # c0 : c1 : c2 = 2 : 4 : 3, so the only smaller widths are half of all
    assert made.proposal.kept["c0"].tolist() == [0, 2]
    assert made.proposal.kept["c1"].tolist() == [4, 5, 6, 7]
    assert made.proposal.kept["c2"].tolist() == [0, 1, 2]
    assert "closest" in made.notes[0]


@pytest.mark.parametrize(
    "links",
    [
        [Link(("c0", "c1"), (1, 2), "x"), Link(("c0", "c1"), (1, 1), "y")],
        [Link(("c0", "c1"), (1, 3), "x")],
        [Link(("c0", "gone"), (1, 1), "x"), Link(("c0", "c1"), (1, 2), "y")],
    ],
)
def test_links_that_contradict_keep_the_groups_whole(links: list[Link]) -> None:
    graph = chain([4, 8, 6], links=links)
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.2))
    assert set(made.proposal.kept) == {"c2"}


def test_a_link_of_one_group_is_a_step() -> None:
    graph = chain([12, 6], links=[Link(("c0",), (4,), "heads"), Link(("c0", "c1"), (2, 1), "half")])
    scores = uniform_scores(graph.groups)
    seen = {
        len(plan(graph, scores, Target(reduce=r)).proposal.kept.get("c0", range(12))) for r in (0.1, 0.4, 0.6, 0.76)
    }
    assert seen <= {12, 8, 4}
    assert len(seen) > 1


def test_a_link_to_a_frozen_group_freezes() -> None:
    graph = chain([4, 8, 6], links=[Link(("c0", "c1"), (1, 2), "x")], frozen={0: "output"})
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.2))
    assert set(made.proposal.kept) == {"c2"}


def test_frozen_names_stay_whole() -> None:
    graph = chain([8, 8])
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.3), frozen=frozenset({"c0"}))
    assert set(made.proposal.kept) == {"c1"}


# ---------------------------------------------------------------- limits


def test_skip_keeps_inputs_and_outputs() -> None:
    graph = chain([8, 8, 8, 8])
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.2, skip=("c1",)))
    assert set(made.proposal.kept) == {"c2", "c3"}


def nested() -> DependencyGraph:
    """stem -> stage.block.conv -> head, with an activation `stage.act` behind the stem."""
    groups = (
        ChannelGroup(
            "stem",
            8,
            (
                Member("stem.weight", 0, "producer", index(8)),
                Member("stage.block.conv.weight", 1, "consumer", index(8)),
            ),
            (Site("stem", 1, index(8)),),
        ),
        ChannelGroup("stage.block.conv", 8, (Member("stage.block.conv.weight", 0, "producer", index(8)),)),
        ChannelGroup("other", 8, (Member("other.weight", 0, "producer", index(8)),), (Site("act", 1, index(8)),)),
    )
    names = ["stem", "stage.block.conv", "other"]
    ops = tuple(OpCost(n, "conv", 1, (Affine(0, ((n, 1),)),)) for n in names)
    tensors = tuple(TensorForm(f"{n}.weight", (Affine(0, ((n, 1),)),), True) for n in names)
    return DependencyGraph(groups=groups, links=(), ops=ops, tensors=tensors)


@pytest.mark.parametrize(
    ("pattern", "cut"),
    [
        ("stage", {"other"}),
        ("stage.*", {"other"}),
        ("*.conv", {"other"}),
        ("stem", {"stage.block.conv", "other"}),
        ("act", {"stem", "stage.block.conv"}),
    ],
)
def test_skip_reaches_into_submodules(pattern: str, cut: set[str]) -> None:
    graph = nested()
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.25, skip=(pattern,)))
    assert set(made.proposal.kept) == cut


def test_a_pattern_without_a_match_names_the_nearest_module() -> None:
    with pytest.raises(ConfigError, match=r"target.skip: 'stage.blok' matches no module, did you mean 'stage.block'\?"):
        reachable(nested(), Target(reduce=0.1, skip=("stage.blok",)))


def test_min_channels_and_max_reduction() -> None:
    graph = chain([10, 20])
    least = reachable(graph, Target(reduce=0, min_channels=4))
    assert least.least.macs == macs(graph, {"c0": 4, "c1": 4})
    half = reachable(graph, Target(reduce=0, max_reduction=0.55))
    assert half.least.macs == macs(graph, {"c0": 5, "c1": 9})


def test_min_channels_above_a_width_keeps_it_whole() -> None:
    graph = chain([4, 20])
    assert reachable(graph, Target(reduce=0, min_channels=8)).least.macs == macs(graph, {"c1": 8})


def test_max_reduction_may_count_from_earlier_widths() -> None:
    graph = chain([6])
    found = reachable(graph, Target(reduce=0, max_reduction=0.5), widths={"c0": 8})
    assert found.least.macs == macs(graph, {"c0": 4})


def test_sensitivity_shifts_the_cut() -> None:
    graph = chain([20, 20])
    scores = {name: torch.arange(1.0, 21.0) for name in ("c0", "c1")}
    even = counts_of(plan(graph, scores, Target(reduce=0.5)).proposal.kept)
    shifted = counts_of(plan(graph, scores, Target(reduce=0.5, sensitivity={"c0": 3.0})).proposal.kept)
    assert shifted["c0"] > even["c0"]
    assert shifted["c1"] < even["c1"]


def test_uniform_scope_takes_the_same_fraction_everywhere() -> None:
    graph = chain([10, 20, 40], outputs=100)
    generator = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.channels, generator=generator) ** 4 for g in graph.groups}
    made = plan(graph, scores, Target(reduce=0.5, scope="uniform"))
    fractions = [len(made.proposal.kept[g.name]) / g.channels for g in graph.groups]
    assert max(fractions) - min(fractions) <= 0.1
    for group in graph.groups:
        best = scores[group.name].argsort(descending=True)[: len(made.proposal.kept[group.name])]
        assert made.proposal.kept[group.name].tolist() == sorted(best.tolist())


# ---------------------------------------------------------------- alignment


def test_cut_widths_are_multiples_and_narrow_ones_stay() -> None:
    graph = chain([20, 8, 44], outputs=50)
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.5, multiple_of=8))
    widths = counts_of(made.proposal.kept)
    assert "c1" not in widths
    assert all(w % 8 == 0 for w in widths.values())
    assert made.size <= 0.5
    assert made.notes == ("1 group stays whole (c1): multiple_of 8: no wider than 8",)


def test_no_step_fits_back_above_an_aligned_plan() -> None:
    graph = chain([64, 64, 64], outputs=64)
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.5, multiple_of=8))
    widths = counts_of(made.proposal.kept)
    total = macs(graph)
    assert made.cost.macs <= total / 2
    for name, width in widths.items():
        assert macs(graph, {**widths, name: width + 8}) > total / 2


def test_a_channel_of_two_positions_needs_half_as_many() -> None:
    graph = chain([20], inputs=1, outputs=1)
    wide = ChannelGroup("c0", 20, (Member("c0.weight", 0, "producer", index(20, 2)),))
    doubled = TensorForm("c0.weight", (Affine(0, (("c0", 2),)), Affine(1)), True)
    graph = DependencyGraph(groups=(wide,), links=(), ops=graph.ops, tensors=(doubled,))
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.1, multiple_of=8))
    assert counts_of(made.proposal.kept) == {"c0": 16}
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.3, multiple_of=8))
    assert counts_of(made.proposal.kept) == {"c0": 12}


def test_alignment_and_parts_together() -> None:
    graph = chain([48], parts={0: 3}, inputs=1, outputs=1)
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.1, multiple_of=8))
    assert counts_of(made.proposal.kept) == {"c0": 24}  # multiples of 8 and of 3 below 48


def test_align_all_brings_every_width_to_the_multiple() -> None:
    graph = chain([20, 8, 44, 5], outputs=50)
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.0, multiple_of=8, align_all=True))
    assert counts_of(made.proposal.kept) == {"c0": 16, "c2": 40}
    assert made.cost.macs == macs(graph, {"c0": 16, "c2": 40})
    cut = plan(graph, uniform_scores(graph.groups), Target(reduce=0.5, multiple_of=8, align_all=True))
    assert {n: w % 8 for n, w in counts_of(cut.proposal.kept).items()} == {"c0": 0, "c2": 0}


def shared(widths: tuple[int, int], frozen: str | None = None) -> DependencyGraph:
    """One producer whose output is split into two groups."""
    first, second = widths
    groups = (
        ChannelGroup("a", first, (Member("conv.weight", 0, "producer", index(first)),)),
        ChannelGroup("b", second, (Member("conv.weight", 0, "producer", first + index(second)),), frozen=frozen),
    )
    b = Affine(second) if frozen else Affine(0, (("b", 1),))
    both = Affine(0, (("a", 1), ("b", 1))) if not frozen else Affine(second, (("a", 1),))
    ops = (OpCost("conv", "conv", 1, (both,)), OpCost("after", "conv", 5, (Affine(0, (("a", 1),)),)))
    return DependencyGraph(
        groups=groups,
        links=(),
        ops=(*ops, OpCost("last", "mm", 1, (b,))),
        tensors=(TensorForm("conv.weight", (both,), True),),
    )


def test_a_width_of_two_groups_is_aligned_in_all() -> None:
    graph = shared((20, 28))
    scores = {"a": torch.linspace(0.1, 1, 20), "b": torch.linspace(0.9, 1, 28)}
    made = plan(graph, scores, Target(reduce=0.1, multiple_of=8))
    widths = {**graph.widths, **counts_of(made.proposal.kept)}
    assert widths["a"] < 20
    assert (widths["a"] + widths["b"]) % 8 == 0


def test_a_width_that_cannot_end_aligned_stays_whole() -> None:
    with pytest.raises(TargetError, match=r"multiple_of 8: 3 positions of conv\.weight that may not be cut"):
        plan(shared((20, 3), "output"), {"a": torch.ones(20)}, Target(reduce=0.2, multiple_of=8))
    made = plan(shared((20, 16), "output"), {"a": torch.ones(20)}, Target(reduce=0.2, multiple_of=8))
    assert counts_of(made.proposal.kept) == {"a": 8}


# ---------------------------------------------------------------- targets


def test_params_are_a_measure() -> None:
    graph = chain([16, 16], areas=[100, 1, 1])
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.4, measure="params"))
    total = 3 * 16 + 256 + 160
    assert abs(made.cost.params / total - 0.6) <= 0.005 or "closest" in made.notes[0]
    assert made.size == made.cost.params / total


def test_reduce_counts_from_the_original() -> None:
    graph = chain([32, 32])
    whole = macs(graph)
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.5), original=Cost(2 * whole, 0))
    assert made.proposal.kept == {}
    assert made.size == 0.5
    later = plan(graph, uniform_scores(graph.groups), Target(reduce=0.75), original=Cost(2 * whole, 0))
    assert abs(later.cost.macs / (2 * whole) - 0.25) <= 0.005


def test_a_network_that_is_small_already_stays() -> None:
    graph = chain([8, 8])
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.5), original=Cost(4 * macs(graph), 0))
    assert made.proposal.kept == {}
    assert made.notes == ("size 0.2500 is below the 0.5000 asked for: the network is that small already",)


def test_nothing_to_remove() -> None:
    graph = chain([8, 8])
    made = plan(graph, uniform_scores(graph.groups), Target(reduce=0.0))
    assert (made.proposal.kept, made.size, made.notes) == ({}, 1.0, ())


def test_out_of_reach_is_refused_with_the_range_and_the_reason() -> None:
    graph = chain([10, 10], inputs=10, outputs=10)  # 300 MACs, at least 10 * 5 + 5 * 10 + 10 * 10
    target = Target(reduce=0.5, max_reduction=0.5, skip=("head",))
    # scores are not looked at: the refusal comes before any other work
    with pytest.raises(TargetError) as error:
        plan(graph, {}, target)
    assert str(error.value) == (
        "target.reduce: 0.5 of macs is out of reach; between 0.0 % and 33.3 % can go. "
        "What limits it: 1 group stays whole (c1): skip 'head'; max_reduction 0.5"
    )
    found = reachable(graph, target)
    assert (found.smallest, found.largest) == (200 / 300, 1.0)
    found.require(0.33)
    with pytest.raises(TargetError):
        found.require(0.34)


@pytest.mark.parametrize("reduce", [1.0, 1.5, -0.1, math.nan, math.inf])
def test_a_reduction_that_is_none(reduce: float) -> None:
    graph = chain([8, 8])
    with pytest.raises(ConfigError, match=r"target.reduce: got .*, expected the fraction to remove") as error:
        plan(graph, uniform_scores(graph.groups), Target(reduce=reduce))
    assert not isinstance(error.value, TargetError)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(0.1, multiple_of=0), "target.multiple_of: got 0"),
        (Target(0.1, align_all=True), "align_all needs target.multiple_of"),
        (Target(0.1, min_channels=0), "target.min_channels: got 0"),
        (Target(0.1, max_reduction=1.5), "target.max_reduction: got 1.5"),
        (Target(0.1, sensitivity={"c00": 1.0}), "no channel group 'c00', did you mean 'c0'"),
        (Target(0.1, sensitivity={"c0": 0.0}), "got 0.0 for 'c0', expected a number above 0"),
        (Target(0.1, measure="ptflops"), "plan_measured"),
        (Target(0.1, measure="flops"), "expected one of macs, params, ptflops, latency"),  # type: ignore[arg-type]
        (Target(0.1, scope="local"), "expected global or uniform"),  # type: ignore[arg-type]
    ],
)
def test_values_out_of_range(target: Target, message: str) -> None:
    graph = chain([8])
    with pytest.raises(ConfigError, match=message):
        plan(graph, uniform_scores(graph.groups), target)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "no saliency for the channel group 'c0'"),
        ({"c0": torch.ones(7)}, r"got the shape \(7,\), expected \(8,\)"),
        ({"c0": torch.tensor([1.0, math.nan, 1, 1, 1, 1, 1, 1])}, "saliency of 'c0': channel 1 has the value nan"),
    ],
)
def test_saliencies_that_cannot_be_used(scores: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(chain([8]), scores, Target(reduce=0.3))


def test_a_group_without_any_saliency_counts_as_average() -> None:
    graph = chain([10, 10])
    made = plan(graph, {"c0": torch.zeros(10), "c1": torch.ones(10)}, Target(reduce=0.5))
    widths = counts_of(made.proposal.kept)
    assert abs(widths["c0"] - widths["c1"]) <= 1
    assert "c0: every saliency is 0, so its channels count as average ones" in made.notes


def test_saliencies_may_be_negative() -> None:
    graph = chain([4], inputs=1, outputs=1)
    made = plan(graph, {"c0": torch.tensor([-1.0, 2.0, -3.0, 0.5])}, Target(reduce=0.5))
    assert made.proposal.kept["c0"].tolist() == [1, 3]


def test_a_coarse_network_comes_as_near_as_pairs_of_steps_allow() -> None:
    # steps of 10 and of 3 MACs: from 10 a + 3 b = 65 the nearest to 44.2 is 44 = 2 * 10 + 8 * 3
    groups = tuple(
        ChannelGroup(n, c, (Member(f"{n}.weight", 0, "producer", index(c)),)) for n, c in (("a", 3), ("b", 12))
    )
    ops = tuple(OpCost(n, "mm", s, (Affine(0, ((n, 1),)),)) for n, s in (("a", 10), ("b", 3)))
    graph = DependencyGraph(groups=groups, links=(), ops=ops, tensors=())
    made = plan(graph, uniform_scores(groups), Target(reduce=1 - 44.2 / 66))
    assert made.cost.macs == 44
    assert counts_of(made.proposal.kept) == {"a": 2, "b": 8}
    assert made.notes == ()


def test_a_step_too_big_for_the_rest_is_made_up_for_by_many_small_ones() -> None:
    # one wide stream whose step is 1/8 of everything, and 300 groups that are a thousandth of it together
    groups = tuple(
        ChannelGroup(n, c, (Member(f"{n}.weight", 0, "producer", index(c)),))
        for n, c in (("stream", 8), *((f"g{i}", 16) for i in range(300)))
    )
    ops = tuple(OpCost(g.name, "mm", 1 if g.name != "stream" else 2400, (Affine(0, ((g.name, 1),)),)) for g in groups)
    graph = DependencyGraph(groups=groups, links=(), ops=ops, tensors=())
    made = plan(graph, uniform_scores(groups), Target(reduce=0.3), original=None)
    assert abs(made.size - 0.7) <= 0.005
    widths = counts_of(made.proposal.kept)
    small = [widths.get(f"g{i}", 16) for i in range(300)]
    # they obey one threshold: equal groups differ by one step at most
    assert max(small) - min(small) <= 1
    aligned = plan(graph, uniform_scores(groups), Target(reduce=0.3, multiple_of=4))
    widths = {g.name: g.channels for g in groups} | counts_of(aligned.proposal.kept)
    total = macs(graph)
    assert aligned.cost.macs <= 0.7 * total
    for name, width in widths.items():
        if width < graph.widths[name]:
            assert macs(graph, {**widths, name: width + 4}) > 0.7 * total


def test_remarks_on_a_network_that_was_cut_group_by_group() -> None:
    graph = chain([4, 32])
    assert remarks(graph, Target(reduce=0.5), 0.504) == ()
    assert remarks(graph, Target(reduce=0.5), 0.506) == (
        "size 0.5060 is above the 0.5000 asked for: the search came no nearer",
    )
    assert remarks(graph, Target(reduce=0.5, measure="latency"), 0.515) == ()
    whole, above = remarks(graph, Target(reduce=0.5, multiple_of=8), 0.501)
    assert whole.startswith("1 group stays whole (c0): multiple_of 8")
    assert above == "size 0.5010 is above the 0.5000 asked for: the cuts chosen in multiples of 8 came no nearer"
    assert remarks(graph, Target(reduce=0.0), 0.7) == ()


def test_a_group_that_an_earlier_cut_brought_to_the_multiple_is_not_said_to_stay_whole() -> None:
    """c0 came with 8 channels, c1 with 32."""
    graph = chain([8, 8, 32])
    target = Target(reduce=0.3, multiple_of=8)
    (both,) = plan(graph, uniform_scores(graph.groups), target).notes
    assert both.startswith("2 groups stay whole (c0, c1): multiple_of 8")
    (first,) = plan(graph, uniform_scores(graph.groups), target, widths={"c0": 8, "c1": 32, "c2": 32}).notes
    assert first.startswith("1 group stays whole (c0): multiple_of 8")


def test_remarks_add_what_a_plan_does_not_say() -> None:
    assert with_remarks(["size 0.5 is …", "a"], ["a", "b", "size 0.5 is …, else"]) == ("size 0.5 is …", "a", "b")
    assert with_remarks([], ["size 0.5 is …"]) == ("size 0.5 is …",)
    assert with_remarks(["latency: measured 0.8"], ["size 0.8 is …"]) == ("latency: measured 0.8",)
