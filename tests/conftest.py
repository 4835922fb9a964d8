"""Shared fixtures. The seed is fixed for every test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    import torch

    torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `-m`, tests of other environments are left out."""
    if config.option.markexpr:
        return
    others = ("nightly", "nni", "ray")
    elsewhere = [i for i in items if any(i.get_closest_marker(other) for other in others)]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [i for i in items if i not in elsewhere]
