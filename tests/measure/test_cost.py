from __future__ import annotations

import pytest

from prunecore.measure import CostModel
from prunecore.types import Affine, ChannelGroup, Cost, DependencyGraph, OpCost, TensorForm

A, B = "a", "b"


def graph(ops: tuple[OpCost, ...], tensors: tuple[TensorForm, ...] = ()) -> DependencyGraph:
    groups = (ChannelGroup(A, 8, ()), ChannelGroup(B, 6, ()))
    return DependencyGraph(groups=groups, links=(), ops=ops, tensors=tensors)


def test_a_product_of_affine_forms() -> None:
    ops = (
        OpCost("m", "conv", 9, (Affine(3), Affine(0, ((A, 1),)))),
        OpCost("n", "mm", 2, (Affine(5, ((A, 1), (B, 2)), 1),)),
    )
    # 9 * 3 * 8 + 2 * (5 + 8 + 12)
    assert CostModel(graph(ops)).cost({}) == Cost(266, 0)
    # 9 * 3 * 4 + 2 * (5 + 4 + 6)
    assert CostModel(graph(ops)).cost({A: 4, B: 3}) == Cost(138, 0)


def test_a_divisor_divides_the_sum_of_the_terms() -> None:
    ops = (OpCost("m", "conv", 1, (Affine(1, ((A, 3), (B, 4)), 4),)),)
    assert CostModel(graph(ops)).cost({A: 4, B: 5}) == Cost(1 + (12 + 20) // 4, 0)


def test_parameters_count_and_buffers_do_not() -> None:
    width = Affine(0, ((A, 1),))
    tensors = (
        TensorForm("m.weight", (width, Affine(3), Affine(3)), True),
        TensorForm("m.scalar", (), True),
        TensorForm("m.running_mean", (width,), False),
    )
    assert CostModel(graph((), tensors)).cost({A: 5}) == Cost(0, 5 * 9 + 1)


def test_many_states_at_once_in_the_order_of_the_groups() -> None:
    model = CostModel(graph((OpCost("m", "mm", 1, (Affine(0, ((A, 1),)), Affine(0, ((B, 1),)))),)))
    counts = model.full[None].repeat(3, axis=0)
    counts[1, model.groups.index(B)] = 2
    counts[2] = 1
    assert model.costs(counts)[0].tolist() == [48, 16, 1]


def test_costs_beyond_64_bits_stay_exact() -> None:
    huge = 10**18 + 7
    model = CostModel(graph((OpCost("m", "mm", huge, (Affine(0, ((A, 1),)), Affine(10**6))),)))
    assert model.cost({A: 7}).macs == 7 * 10**6 * huge


def test_a_group_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        CostModel(graph(())).cost({"c": 1})


def test_a_graph_without_groups() -> None:
    bare = DependencyGraph(groups=(), links=(), ops=(OpCost("m", "mm", 2, (Affine(3),)),), tensors=())
    assert CostModel(bare).cost({}) == Cost(6, 0)
