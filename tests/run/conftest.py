"""A server of runs that can be killed, and what runs come to that are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.run.kills import SMALL, Server, end_of


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    made.warm({**SMALL, "algorithm": "l2norm", "criterion": None})
    yield made
    made.close()


@pytest.fixture(scope="session")
def uninterrupted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Any]:
    """settings -> their file, and the end of their run, which is made once a session."""
    made: dict[str, tuple[Path, dict[str, Any]]] = {}

    def of(settings: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        text = yaml.safe_dump(settings)
        if text not in made:
            where = tmp_path_factory.mktemp("uninterrupted")
            (where / "c.yaml").write_text(text)
            ended = server.run(["run", "-c", str(where / "c.yaml"), "--out", str(where / "out")])
            assert ended.code == 0, ended.text
            made[text] = (where / "c.yaml", end_of(where / "out"))
        return made[text]

    return of
