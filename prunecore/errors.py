"""One exception tree. A user meets every one of these as a single line and an exit code, never as a traceback."""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable, Sequence

_OURS = os.path.dirname(__file__)


class PrunecoreError(Exception):
    """The run failed for a reason that we understand (exit code 1)."""

    exit_code = 1


class ConfigError(PrunecoreError):
    """Usage or configuration: what was got, what was expected, how to mend it (exit code 2)."""

    exit_code = 2


class PluginError(ConfigError):
    """A plugin is unknown, ambiguous, broken, or names a hook that does not exist."""


class TargetError(ConfigError):
    """The target cannot be reached; the message holds the reachable range."""


class DataError(PrunecoreError):
    """The data set is damaged: the message lists the first faults with their places."""


class StalledError(DataError):
    """Processes that load data gave nothing within the limit; another try may go well."""


class ModelError(PrunecoreError):
    """The network cannot be loaded, run or traced."""


class ForwardError(ModelError):
    """The network's own code raised on the inputs that it was given; `__cause__` is what it raised."""

    @classmethod
    def of(cls, error: BaseException, inputs: str) -> ForwardError:
        """The one line; inputs: what the network was given, in words. Raise it from `error`."""
        first = str(error).splitlines()[0] if str(error) else "no message"
        return cls(f"the network fails on {inputs}: {type(error).__name__}: {first}; give example inputs that fit it")

    def traceback(self) -> str:
        """Where it stopped: the frames of the network's code, without ours and without torch's calling machinery."""
        if self.__cause__ is None:
            return ""
        frames = traceback.extract_tb(self.__cause__.__traceback__)
        inner = [
            f for f in frames if not f.filename.startswith(_OURS) and "torch/nn/modules/module.py" not in f.filename
        ]
        return "".join(traceback.format_list(inner))


class CertificateError(PrunecoreError):
    """A cut network does not compute what the masked one computes."""


class OutOfMemory(PrunecoreError):  # noqa: N818 - torch calls it so
    """There is not enough memory for a step; what the step needs says nothing about the network."""

    @classmethod
    def of(cls, error: BaseException, step: str) -> OutOfMemory | None:
        """Of an error that `step` ended with, itself where it is one; None where `step` ended for another reason."""
        if isinstance(error, cls):
            return error
        text = str(error)
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
            return cls(f"not enough memory to {step}: {text.splitlines()[0][:200] if text else type(error).__name__}")
        return None


class TrainingError(PrunecoreError):
    """Training cannot go on (for example: the loss is not finite)."""


class RunDirectoryError(PrunecoreError):
    """The run directory is taken, incomplete or cannot be written."""


def enumerated(where: object, faults: Sequence[str], *, most: int = 10) -> str:
    """`where: 12 faults:`, then the first ten, a line each, and how many more there are."""
    more = [f"and {len(faults) - most} more"] if len(faults) > most else []
    return "\n  ".join([f"{where}: {len(faults)} faults:", *faults[:most], *more])


def nearest(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'x'?"` for the known name closest to `name`, or an empty string."""
    lowered = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), list(lowered), n=1)
    return f", did you mean {lowered[found[0]]!r}?" if found else ""


def listing(names: Iterable[str], *, most: int = 20) -> str:
    """`a, b, c (and 4 more)`: names for a one-line message."""
    all_names = list(names)
    tail = f" (and {len(all_names) - most} more)" if len(all_names) > most else ""
    return ", ".join(all_names[:most]) + tail
