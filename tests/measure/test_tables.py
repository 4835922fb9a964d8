from __future__ import annotations

import json

import numpy as np
import pytest

from prunecore.errors import ConfigError
from prunecore.measure.tables import LatencyModel, LatencyTables, LayerTime, TimeTable
from prunecore.types import Affine

A, B, SUM = Affine(0, (("a", 1),)), Affine(0, (("b", 1),)), Affine(4, (("a", 2), ("b", 1)))
LINE = TimeTable(((2, 4, 8),), (1.0, 5.0, 6.0))
PLANE = TimeTable(((1, 3), (10, 20, 30)), (0.0, 10.0, 12.0, 4.0, 30.0, 20.0))


def model(*layers: LayerTime, rest: float = 0.0, scale: float = 1.0, fixed: float = 0.0) -> LatencyModel:
    return LatencyModel(LatencyTables(layers, (LINE, PLANE), fixed, rest, scale, 0.0, {}), ("a", "b"))


def at(found: LatencyModel, *counts: tuple[int, int]) -> list[float]:
    return found(np.array(counts, dtype=np.int64)).tolist()


def test_measured_points_are_given_back_as_they_are() -> None:
    line, plane = model(LayerTime("x", (A,), 0)), model(LayerTime("y", (A, B), 1))
    assert at(line, (2, 1), (4, 1), (8, 1)) == [1.0, 5.0, 6.0]
    assert at(plane, (1, 10), (1, 20), (1, 30), (3, 10), (3, 20), (3, 30)) == [0.0, 10.0, 12.0, 4.0, 30.0, 20.0]


def test_between_points_the_value_is_linear_along_each_axis() -> None:
    assert at(model(LayerTime("x", (A,), 0)), (3, 1), (5, 1), (7, 1)) == [3.0, 5.25, 5.75]
    plane = model(LayerTime("y", (A, B), 1))
    assert at(plane, (1, 25), (2, 20), (2, 25)) == [11.0, 20.0, (10 + 12 + 30 + 20) / 4]


@pytest.mark.parametrize(("count", "bounds"), [(1, "2 to 8"), (9, "2 to 8")])
def test_beyond_the_measured_points_there_is_no_value(count: int, bounds: str) -> None:
    with pytest.raises(ConfigError, match=rf"latency of stem: got the width {count}, measured from {bounds}"):
        at(model(LayerTime("stem", (A,), 0)), (count, 1))


def test_sizes_are_forms_of_several_groups_and_layers_add_up() -> None:
    both = model(LayerTime("x", (A,), 0), LayerTime("z", (A, SUM), 1), rest=100.0, scale=2.0, fixed=0.5)
    # a = 3: x takes 3.0; the sum is 4 + 2 * 3 + 15 = 25: z takes (30 + 20) / 2
    assert at(both, (3, 15)) == [100.0 + 2.0 * (0.5 + 3.0 + 25.0)]


def test_tables_are_the_same_after_json() -> None:
    layers = (LayerTime("x", (A,), 0), LayerTime("z", (A, SUM), 1))
    tables = LatencyTables(layers, (LINE, PLANE), 0.1, 0.2, 0.3, 0.4, {"device": "cpu", "untimed": []})
    assert LatencyTables.from_dict(json.loads(json.dumps(tables.to_dict()))) == tables


def test_without_layers_only_the_rest_is_left() -> None:
    assert at(model(rest=2.0, fixed=1.0), (1, 1), (5, 5)) == [3.0, 3.0]
