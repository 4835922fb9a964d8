"""What the workers of these tests are told to do. No torch here unless a function uses it: workers then start in no time."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prunecore.execution import Setup


def device_of(device: str, *args: Any) -> dict[str, Any]:
    return {"device": device, "args": args}


def do(state: Any, payload: tuple[Any, ...]) -> Any:
    """payload: the name of a function of this module, and its arguments."""
    name, *args = payload
    return globals()[name](state, *args)


PLAIN = Setup(device_of, do, torch=False)


def double(state: Any, value: Any) -> Any:
    return value + value


def pid(state: Any) -> int:
    return os.getpid()


def sleep(state: Any, seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def drawn(state: Any) -> float:
    return random.random()


def asked(state: Any) -> dict[str, Any]:
    return {**state, "threads": os.environ.get("OMP_NUM_THREADS"), "torch": "torch" in sys.modules}


def fail(state: Any, kind: str, message: str) -> None:
    raise getattr(__import__("builtins"), kind)(message)


def unpicklable(state: Any) -> Any:
    return lambda: 0


def kill(state: Any, number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(state: Any, code: int) -> None:
    os._exit(code)


def segfault(state: Any) -> None:
    ctypes.string_at(0)


def hold_the_lock(state: Any, seconds: float) -> str:
    """A call into C that keeps the interpreter's lock: the thread that beats cannot."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return "woke"


def first_time_only(state: Any, marker: str, name: str, *args: Any) -> str:
    """Do `name` the first time, in whichever process; then answer."""
    path = Path(marker)
    if not path.exists():
        path.write_text(str(os.getpid()))
        globals()[name](state, *args)
    return "done"


def record(state: Any, log: str, name: str, *args: Any) -> Any:
    """Note who does it, then do it."""
    with Path(log).open("a") as file:
        file.write(f"{state['device']} {os.getpid()}\n")
    return globals()[name](state, *args)


def child(state: Any, seconds: float) -> int:
    """Leave a process behind that has nothing to do with this one's end."""
    return subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"]).pid


def fork_and_die(state: Any, seconds: float) -> None:
    """Leave a process behind that holds our end of the line open; then die."""
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------- initialise


def slow(device: str, seconds: float) -> None:
    time.sleep(seconds)


def broken(device: str, message: str) -> None:
    raise RuntimeError(message)


def dies(device: str, log: str) -> None:
    with Path(log).open("a") as file:
        file.write("x")
    ctypes.string_at(0)


def stops(device: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def broken_once_ready(device: str, log: str, allowed: int) -> dict[str, Any]:
    """The first `allowed` workers get their state; all others fail."""
    with Path(log).open("a") as file:
        file.write("x")
    if Path(log).stat().st_size > allowed:
        raise RuntimeError("no more of them")
    return {"device": device}


def draws(device: str) -> float:
    return random.random()


def whole_state(state: Any, payload: Any) -> Any:
    return state


# ---------------------------------------------------------------- torch


def tiny_net(device: str, task_seed: int) -> Any:
    import torch
    from torch import nn

    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 3)
    )
    images = torch.randn(64, 1, 8, 8)
    return net.to(device), images, torch.arange(64) % 3


def tune(state: Any, payload: dict[str, Any]) -> dict[str, Any]:
    """A few steps of a copy of the net on batches that are drawn."""
    import copy

    import torch

    net, images, labels = state
    net = copy.deepcopy(net)
    for _ in range(payload["steps"]):
        batch = torch.randint(0, 64, (16,))
        loss = torch.nn.functional.cross_entropy(net(images[batch]), labels[batch])
        with torch.no_grad():  # by hand: importing torch.optim takes as long as importing torch
            for parameter, gradient in zip(
                net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True
            ):
                parameter -= payload["lr"] * gradient
    return {"weights": net.state_dict(), "threads": torch.get_num_threads(), "draw": float(torch.rand(()))}


def echo(state: Any, payload: Any) -> Any:
    return payload


def switches(state: Any, payload: Any) -> Any:
    from prunecore.execution.switches import current_switches

    return current_switches(1)
