"""A network that does mischief while it is trained: as many times as there are files that ask for it.

`PRUNECORE_MISCHIEF` names a directory. A file `raise.1` is taken away by the first forward in training mode that sees it, which then
raises; `raise.always` stays. The same with `nan`, `memory`, `sleep`, `kill`, `stop`. `log` has a line a forward: process and batch.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

VARIABLE = "PRUNECORE_MISCHIEF"


class Mischievous(nn.Module):
    """Input `(batch, 1, 16, 16)`, output `(batch, 10)`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, 2, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
        )
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        where = os.environ.get(VARIABLE)
        if not self.training or where is None or torch.compiler.is_compiling():
            return out
        with (Path(where) / "log").open("a") as log:
            log.write(f"{os.getpid()} {len(x)}\n")
        return act(asked(Path(where)), out)


def asked(where: Path) -> str:
    """What is to be done now; an empty string for nothing."""
    for path in sorted(where.glob("*.*")):
        if path.suffix == ".always":
            return path.stem
        try:
            path.unlink()
        except FileNotFoundError:  # another process was faster
            continue
        return path.stem
    return ""


def act(what: str, out: Tensor) -> Tensor:
    if what == "raise":
        raise OSError("a disk went away")
    if what == "memory":
        raise MemoryError("no more of it")
    if what == "sleep":
        time.sleep(60)
    if what in {"kill", "stop"}:
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGSTOP)
    return out * float("nan") if what == "nan" else out


def build() -> nn.Module:
    return Mischievous()
