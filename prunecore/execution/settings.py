"""Settings of the executors. No torch here: `prune --help` reads this."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Settings):
    """The longest that anything is waited for, in seconds.

    start_up: from the start of a process until it has imported what it needs. initialise: until it has its state.
    job: one attempt at a job. heartbeat: between two signs of life of a worker that is busy.
    shutdown: from the end of a session until the last worker has left; after half of it those that stay are killed.
    Time in which the waiting process was itself stopped (Ctrl-Z, a laptop asleep) does not count.
    """

    start_up: float = Field(default=120, gt=0, allow_inf_nan=False)
    initialise: float = Field(default=600, gt=0, allow_inf_nan=False)
    job: float = Field(default=6 * 3600, gt=0, allow_inf_nan=False)
    heartbeat: float = Field(default=60, gt=0, allow_inf_nan=False)
    shutdown: float = Field(default=10, gt=0, allow_inf_nan=False)


class ExecutionSettings(_Settings):
    """Workers on this machine.

    workers: the device of each, several on one where it is named more than once: `[cuda:0, cuda:0, cpu]`; bare numbers are CUDA
    devices. None, or a single one: no process is started, everything happens in this one, where no limit can be enforced.
    threads: of torch on the CPU, in every worker, and in this process while it is the worker. It may change the last digits of
    results, so it does not follow from the number of workers: with the default, 1, all cores are used by as many workers.
    retries: how often a job is tried again whose worker was lost. starts: how often in a row a worker may fail to start.
    """

    workers: tuple[int | str, ...] | None = None
    threads: int = Field(default=1, ge=1)
    retries: int = Field(default=2, ge=0)
    starts: int = Field(default=3, ge=1)
    limits: Limits = Limits()
