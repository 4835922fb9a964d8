from pathlib import Path

import pytest

from tests.loading.fixtures import scene
from tests.plugins.loaders.interface_files import foreign
from tests.plugins.loaders.interface_nets import cut

__all__ = ["scene"]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """An interface file that the old tool pruned."""
    return foreign(tmp_path / "i.pt", cut("plain"), "old")
