"""RUN or MODEL: what `verify` and `eval` take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunecore.registry import Choice
    from prunecore.types import LoadedModel


def is_run(text: str) -> bool:
    """Whether `text` is the directory of a run."""
    from prunecore.run.directory import CONFIG

    return (Path(text) / CONFIG).is_file()


def refuse_options(options: Mapping[str, object]) -> None:
    """ConfigError for options that mean nothing for a RUN, which has its own network and settings."""
    from prunecore.errors import ConfigError

    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: for a MODEL only; a RUN has its own network and settings")


def choice_of(role: str, spec: str, assignments: Sequence[str] = ()) -> Choice:
    """The plugin that a SPEC names; `--set key=value` fills its options."""
    from prunecore.config.reader import assign
    from prunecore.config.schema import Spec
    from prunecore.registry import Choice, find

    settings: dict[str, Any] = {"spec": spec}
    for assignment in assignments:
        settings = assign(settings, assignment)
    parsed = Spec.model_validate(settings)
    return Choice(role, find(role, parsed.kind).name, parsed.options, role)


def loaded_of(spec: str, weights: Path | None, assignments: Sequence[str]) -> LoadedModel:
    """The network that a MODEL spec names."""
    from prunecore.api import load_by

    more = (*assignments, f"weights={weights}") if weights else assignments
    return load_by(choice_of("loader", spec, more))
