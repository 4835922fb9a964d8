"""Where candidates are evaluated: the executor contract, and its local implementation.

No torch until a worker needs it. Every name is loaded when it is first used, so that a worker imports little but its work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see of the lazy names below
    # isort: off
    from prunecore.execution.contract import (
        Executor as Executor,
        Fault as Fault,
        FaultKind as FaultKind,
        Job as Job,
        OnEvent as OnEvent,
        OnOutcome as OnOutcome,
        Outcome as Outcome,
        Session as Session,
        Setup as Setup,
        WorkerError as WorkerError,
    )
    from prunecore.execution.in_process import InProcessExecutor as InProcessExecutor
    from prunecore.execution.local import LocalExecutor as LocalExecutor, local_executor as local_executor
    from prunecore.execution.settings import ExecutionSettings as ExecutionSettings, Limits as Limits
    # isort: on

_HOMES = {
    **dict.fromkeys(
        (
            "Executor",
            "Fault",
            "FaultKind",
            "Job",
            "OnEvent",
            "OnOutcome",
            "Outcome",
            "Session",
            "Setup",
            "WorkerError",
        ),
        "contract",
    ),
    "InProcessExecutor": "in_process",
    **dict.fromkeys(("LocalExecutor", "local_executor"), "local"),
    **dict.fromkeys(("ExecutionSettings", "Limits"), "settings"),
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
