"""The global switches of torch that change results: a new process gets those of the process that starts it."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Switches:
    """Plain values, so that reading them needs no torch. threads: of one operation on the CPU. dtype: the default one, by name."""

    threads: int
    dtype: str = "float32"
    matmul_precision: str = "highest"
    deterministic: bool = False
    warn_only: bool = False
    cudnn_deterministic: bool = False
    cudnn_benchmark: bool = False


def current_switches(threads: int) -> Switches:
    """Those of this process, with `threads`; torch's own where it is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return Switches(threads)
    return Switches(
        threads,
        dtype=str(torch.get_default_dtype()).removeprefix("torch."),
        matmul_precision=torch.get_float32_matmul_precision(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn_deterministic=torch.backends.cudnn.deterministic,
        cudnn_benchmark=torch.backends.cudnn.benchmark,
    )


def set_switches(switches: Switches) -> None:
    """Imports torch. Only what is different is set: setting some of them imports half of torch's compiler, seconds for nothing."""
    import torch

    torch.set_num_threads(switches.threads)
    here = current_switches(switches.threads)
    if switches.dtype != here.dtype:
        torch.set_default_dtype(getattr(torch, switches.dtype))
    if switches.matmul_precision != here.matmul_precision:
        torch.set_float32_matmul_precision(switches.matmul_precision)
    if (switches.deterministic, switches.warn_only) != (here.deterministic, here.warn_only):
        torch.use_deterministic_algorithms(switches.deterministic, warn_only=switches.warn_only)
    if switches.cudnn_deterministic != here.cudnn_deterministic:
        torch.backends.cudnn.deterministic = switches.cudnn_deterministic
    if switches.cudnn_benchmark != here.cudnn_benchmark:
        torch.backends.cudnn.benchmark = switches.cudnn_benchmark
