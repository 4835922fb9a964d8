"""The executor `ray` where the package ray is not installed."""

from __future__ import annotations

import sys

import pytest
from prunecore_plugins.executors.ray import RayExecutor

from prunecore.errors import ConfigError


def test_the_package_that_is_missing_is_named_before_anything_else_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"executor ray needs the package ray: pip install 'prunecore\[ray\]'"):
        RayExecutor(RayExecutor.Options(workers=1))
