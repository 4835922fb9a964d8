"""The task `python:module_or_file.py:callable`: whatever the user's own code makes a task of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from prunecore import DataError, Task, hookimpl
from prunecore.loading import absolute, run_named


class PythonTask:
    """Calls the callable with `args`; it returns a `prunecore.Task`."""

    class Options(BaseModel):
        """source: `module:callable` or `path/to/file.py:callable`. args: keyword arguments."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        source: Annotated[str, AfterValidator(absolute)]
        args: dict[str, Any] = {}

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_task(self) -> Task:
        made = run_named(self._options.source, self._options.args)
        if not isinstance(made, Task):
            raise DataError(f"{self._options.source} returned a {type(made).__name__}, expected a prunecore.Task")
        return made
