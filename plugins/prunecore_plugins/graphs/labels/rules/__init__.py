"""Operator rules: one file a family, one line an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prunecore.graph import OpRule
from prunecore_plugins.graphs.labels.rules import (
    attention,
    conv,
    indexing,
    matmul,
    norms,
    pointwise,
    pooling,
    reductions,
    shapes,
    views,
)

_FAMILIES = (attention, conv, indexing, matmul, norms, pointwise, pooling, reductions, shapes, views)


def table(further: Iterable[OpRule] = ()) -> dict[str, Callable[[Any], Any]]:
    """Operator name -> rule; `further` rules win over the built-in ones."""
    rules: dict[str, Callable[[Any], Any]] = {}
    for family in _FAMILIES:
        rules.update(family.RULES)
    for rule in further:
        rules.update(dict.fromkeys(rule.ops, rule.apply))
    return rules
