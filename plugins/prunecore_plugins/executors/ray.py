"""Workers on a Ray cluster: actors that are placed where there is room, on machines that may leave and join meanwhile."""

from __future__ import annotations

import atexit
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

import prunecore
from prunecore.errors import ConfigError
from prunecore.execution import Fault, Job, Limits, OnEvent, Session, Setup, WorkerError
from prunecore.execution.attempt import Attempt, attempt, decode, fault_of, initialised, pickled
from prunecore.execution.crew import CrewSession, LastWords, Rules, Said
from prunecore.execution.ledger import silent
from prunecore.execution.slot import Slot
from prunecore.execution.switches import Switches, current_switches, set_switches

Value = TypeVar("Value")
_PULSE = "pulse"
_MISSING = "executor ray needs the package ray: pip install 'prunecore[ray]'"
_PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False); ray.shutdown()"


class RayExecutor:
    """See `prunecore.execution.Executor`."""

    class Options(BaseModel):
        """Where the cluster is, and what a worker asks of it.

        address: `HOST:PORT`, or `auto` for the cluster that this machine belongs to; None: the cluster that RAY_ADDRESS names, else
        one that is started on this machine and ended with the session. connect: the longest wait for it, in seconds.
        workers: as many as there is ever to be room for: those without room wait for machines to join. None: as many as fit
        when the session is opened. cpus, gpus, resources: of each. threads: of torch, on the CPU, of each; retries, starts, limits:
        as of local workers, but `limits.start_up` is how long there may be no worker at all.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")

        address: str | None = None
        connect: float = Field(default=30, gt=0, allow_inf_nan=False)
        workers: int | None = Field(default=None, ge=1)
        cpus: float = Field(default=1, ge=0)
        gpus: float = Field(default=0, ge=0)
        resources: dict[str, float] = Field(default_factory=dict)
        threads: int = Field(default=1, ge=1)
        retries: int = Field(default=2, ge=0)
        starts: int = Field(default=3, ge=1)
        limits: Limits = Limits()

    def __init__(self, options: Options) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(_MISSING)
        self._options = options

    @prunecore.hookimpl
    def prune_executor(self) -> RayExecutor:
        return self

    def open(self, setup: Setup, on_event: OnEvent | None = None) -> Session:
        """Reach the cluster and wait until one worker is there. Raises ConfigError (no ray), WorkerError."""
        options = self._options
        data = pickled(setup)
        ours = connected(options)
        actors = _Actors(setup, data, options, ours=ours)
        try:
            count = options.workers or actors.room()
            device = "cuda:0" if options.gpus else "cpu"  # ray hides the other GPUs from an actor
            slots = [Slot(number, device, f"ray#{number}") for number in range(count)]
            rules = Rules(options.retries, options.starts, options.limits)
            session = CrewSession(actors, slots, rules, on_event or silent)
        except BaseException:
            actors.end((), options.limits.shutdown)
            raise
        session.start()
        return session


# ---------------------------------------------------------------- on the cluster


class RayWorker:
    """The actor. One thread does its jobs; another, of the group `pulse`, answers that it lives."""

    def __init__(self, device: str, switches: Switches, torch: bool) -> None:
        self._device = device
        self._switches = switches
        self._torch = torch
        self._setup: Setup | None = None
        self._state: Any = None

    def hello(self) -> dict[str, Any]:
        import ray

        if self._torch:
            set_switches(self._switches)
        return {"pid": os.getpid(), "node": ray.util.get_node_ip_address()}

    def initialise(self, data: bytes) -> Fault | None:
        try:
            self._setup = decode(data)
            self._state = initialised(self._setup, self._device)
        except BaseException as error:
            return fault_of(error, "initialise the worker")
        return None

    def work(self, payload: bytes, seed: int) -> Attempt:
        if self._setup is None:
            raise RuntimeError("a job came before the setup")
        return attempt(self._setup, self._state, payload, seed=seed, device=self._device)

    def pulse(self) -> None:
        return None


# ---------------------------------------------------------------- here


@dataclass
class _Actor:
    """A worker as it is seen from here. pending: what it was asked last, and for which it has not answered yet."""

    handle: Any
    about: Mapping[str, Any]
    asked: Literal["hello", "initialise", "work", ""] = ""
    pending: Any = None
    pulse: Any = None
    pulse_sent: float = 0.0
    dead: str = ""


class _Actors:
    """See `prunecore.execution.crew.Means`."""

    elastic = True

    def __init__(self, setup: Setup, data: bytes, options: RayExecutor.Options, *, ours: bool) -> None:
        self._ray = _imported()
        self._ours = ours
        self._options = options
        self._limit = options.limits.heartbeat
        self._torch = setup.torch
        self._data = answered(lambda: self._ray.put(data), self._limit)
        self._switches = current_switches(options.threads)
        self._interval = min(1.0, options.limits.heartbeat / 4)
        self._at: dict[int, _Actor] = {}

    def room(self) -> int:
        """How many workers fit into the cluster as it is now, at least one."""
        there = answered(self._ray.cluster_resources, self._limit)
        fits = [there.get(name, 0) / each for name, each in self._demands().items() if each]
        return max(1, int(min(fits, default=1)))

    def _demands(self) -> dict[str, float]:
        return {"CPU": self._options.cpus, "GPU": self._options.gpus, **self._options.resources}

    def hire(self, slot: Slot) -> None:
        remote = self._ray.remote(
            num_cpus=self._options.cpus,
            num_gpus=self._options.gpus,
            resources=self._options.resources or None,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={_PULSE: 1},
        )(RayWorker)
        handle = answered(lambda: remote.remote(slot.device, self._switches, self._torch), self._limit)
        actor = self._at[slot.number] = _Actor(handle, {}, "hello")
        actor.pending = answered(handle.hello.remote, self._limit)

    def initialise(self, slot: Slot) -> None:
        actor = self._at[slot.number]
        actor.asked = "initialise"
        actor.pending = answered(lambda: actor.handle.initialise.remote(self._data), self._limit)

    def hand(self, slot: Slot, job: Job, payload: bytes) -> None:
        actor = self._at[slot.number]
        actor.asked = "work"
        actor.pending = answered(lambda: actor.handle.work.remote(payload, job.seed), self._limit)

    def listen(self, wait: float) -> Sequence[Said]:
        now = time.monotonic()
        for actor in self._at.values():
            busy = actor.asked in ("initialise", "work") and not actor.dead
            if busy and actor.pulse is None and now >= actor.pulse_sent + self._interval:
                actor.pulse, actor.pulse_sent = actor.handle.pulse.options(concurrency_group=_PULSE).remote(), now
        waited = {ref: n for n, actor in self._at.items() for ref in (actor.pending, actor.pulse) if ref is not None}
        if not waited:
            time.sleep(wait)
            return ()
        ready, _ = self._ray.wait(list(waited), num_returns=1, timeout=wait)
        if ready:
            ready, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
        return [said for ref in ready for said in self._answer(waited[ref], ref)]

    def _answer(self, number: int, ref: Any) -> Iterator[Said]:
        actor = self._at[number]
        of_pulse = ref is actor.pulse
        try:
            value = self._ray.get(ref, timeout=self._options.limits.heartbeat)
        except Exception as error:  # whatever ray raises here: the actor, its machine or its answer is lost
            actor.dead = actor.dead or _why(error)
            actor.pending = actor.pulse = None
            return
        if of_pulse:
            actor.pulse = None
            yield Said(number, "beat")
            return
        asked, actor.asked, actor.pending = actor.asked, "", None
        if asked == "hello":
            actor.about = value
            yield Said(number, "hello")
        elif asked == "initialise" and value is None:
            yield Said(number, "ready", about=actor.about)
        elif asked == "initialise":
            yield Said(number, "broken", fault=value)
        else:
            yield Said(number, "done", made=value)

    def gone(self, slot: Slot) -> bool:
        return bool(self._at[slot.number].dead)

    def dismiss(self, slot: Slot, *, at_once: bool) -> LastWords:
        actor = self._at.pop(slot.number)
        answered(lambda: self._ray.kill(actor.handle), self._limit)  # returns at once; ray forces it after some seconds
        return LastWords(actor.dead or "was ended")

    def end(self, idle: Sequence[Slot], limit: float) -> None:
        actors, self._at = list(self._at.values()), {}

        def leave() -> None:
            try:
                for actor in actors:
                    self._ray.kill(actor.handle)
            finally:
                if self._ours:
                    self._ray.shutdown()

        try:
            answered(leave, limit)
        except WorkerError:  # what is left of the cluster notices by itself that nobody is here
            atexit.unregister(self._ray.shutdown)  # python would wait in it when it ends, and without a limit

    def shortage(self) -> str:
        asked = {name: each for name, each in self._demands().items() if each}
        free = answered(self._ray.available_resources, self._limit)
        return f"each asks for {_listed(asked)}; the cluster has free {_listed(free)}"


def _listed(resources: Mapping[str, float]) -> str:
    shown = {k: v for k, v in resources.items() if ":" not in k and "memory" not in k}
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(shown.items())) or "nothing"


def _why(error: Exception) -> str:
    """The first telling line of what ray says, in words that follow the name of a worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if line.startswith("The actor is dead because")), lines[0] if lines else "")
    return f"is lost: {type(error).__name__}: {telling[:300]}"


# ---------------------------------------------------------------- reaching the cluster


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(_MISSING) from error
    return ray


def connected(options: RayExecutor.Options) -> bool:
    """Connect this process to the cluster; whether it was not connected before. WorkerError within the limit where it is not there."""
    ray = _imported()
    if ray.is_initialized():
        return False
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        _probe(address, options.connect)
    with _without_reports():
        # in this thread, where it sets its handlers of signals; it gives up by itself
        ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=_dashboard(address))
    return True


def answered(call: Callable[[], Value], limit: float) -> Value:
    """What a call of ray returns, many of which wait for the cluster without a limit; WorkerError where it takes longer."""
    made: list[Value] = []
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            made.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit)
    if failed:
        raise failed[0]
    if not made:
        raise WorkerError(f"the ray cluster gave no answer in {limit:g} s; see `ray status` there, then --resume")
    return made[0]


def _dashboard(address: str) -> bool | None:
    return False if address == "local" else None


def _probe(address: str, limit: float) -> None:
    """Another process tries first: ray itself waits for minutes, and then may end the process that asked."""
    end = time.monotonic() + limit
    what = f"the ray cluster at {address!r} cannot be reached"
    mend = "start one there (`ray start --head`), give another address, or none to start one here"
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=limit).close()
        except OSError as error:
            raise WorkerError(f"{what}: {error}; {mend}") from error
    try:
        command = [sys.executable, "-c", _PROBE, address]
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=max(0.1, end - time.monotonic()), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"{what} in {limit:g} s (executor.connect); {mend}") from error
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WorkerError(f"{what}: {last[:300]}; {mend}", found.stderr)


@contextmanager
def _without_reports() -> Iterator[None]:
    """A cluster that we start tells nobody that it was, unless the user has said so."""
    name = "RAY_USAGE_STATS_ENABLED"
    told = name in os.environ
    os.environ.setdefault(name, "0")
    try:
        yield
    finally:
        if not told:
            os.environ.pop(name, None)
