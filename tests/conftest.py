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
    elsewhere = [i for i in items if i.get_closest_marker("nightly") or i.get_closest_marker("nni")]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [i for i in items if i not in elsewhere]
