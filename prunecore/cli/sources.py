"""RUN or MODEL: what `verify` and `eval` take."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from prunecore.registry import Choice
    from prunecore.types import LoadedModel


def trust_flags(prefix: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds `--trust-code`, `--trust-package` and `--allow-pickle`, which arrive as further `assignments` of loader options."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(
            "--trust-code",
            multiple=True,
            type=click.Path(exists=True, file_okay=False),
            metavar="DIR",
            help="Directory whose code the model's file may use.",
        )
        @click.option(
            "--trust-package", multiple=True, metavar="NAME", help="Installed package whose modules it may use."
        )
        @click.option(
            "--allow-pickle",
            is_flag=True,
            help="Unpickle the model's file as a program, whatever it does. Only for files that you would run.",
        )
        @functools.wraps(command)
        def with_trust(
            *,
            assignments: tuple[str, ...],
            trust_code: tuple[str, ...],
            trust_package: tuple[str, ...],
            allow_pickle: bool,
            **rest: Any,
        ) -> Any:
            if allow_pickle:
                click.echo("warning: --allow-pickle: whatever code the model's file holds is executed", err=True)
            given = {"trust_code": trust_code, "trust_package": trust_package, "allow_pickle": allow_pickle}
            # JSON is YAML, which assignments are read as
            more = (f"{prefix}{name}={json.dumps(value)}" for name, value in given.items() if value)
            return command(assignments=(*assignments, *more), **rest)

        return with_trust

    return decorate


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
