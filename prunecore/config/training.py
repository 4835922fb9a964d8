"""Settings of training, evaluation and recalibration. No torch here: `prune --help` reads this."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Optimizer = Literal["adam", "sgd", "adamw"]
RateSchedule = Literal["constant", "one-cycle", "cosine"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoadingSettings(_Settings):
    """How data are loaded. workers: processes that do it, 0 = this one. timeout: the longest wait for a batch of theirs, in seconds."""

    workers: int = Field(default=0, ge=0)
    timeout: float = Field(default=300, gt=0, allow_inf_nan=False)


class TrainingSettings(LoadingSettings):
    """How a network is trained. The defaults are for fine-tuning a pruned convolutional network (AdamW, one cycle).

    epochs: passes over the data; 0 trains nothing. lr: the highest learning rate of the schedule. momentum: of `sgd`
    (Nesterov). weight_decay: of matrices and filters only; biases and norm parameters are never decayed.
    schedule: `constant`; `cosine` (down to 0); `one-cycle` (from lr/25 up to lr, then as a cosine down to 0).
    warmup: fraction of all steps in which the rate rises (linearly). clip: largest norm of the gradient; None: any.
    precision: `auto` is bf16 (where the GPU has it, else fp16) on CUDA, fp32 elsewhere.
    channels_last: memory layout of image networks; `auto` turns it on where it is faster: on CUDA, and on
    the CPU for networks with grouped convolutions (MobileNets: up to twice as fast; ResNets: no difference).
    batch_size: a data set that is smaller makes one batch. workers, timeout: as of `LoadingSettings`.
    max_batches: at most so many batches an epoch. shuffle: a new order every epoch. drop_last: leave out an incomplete
    last batch. pin_memory: page-locked host memory, for CUDA. unfreeze: train also the parameters that do not require a
    gradient (their flags come back as they were).
    """

    epochs: int = Field(default=10, ge=0)
    lr: float = Field(default=2e-3, gt=0)
    optimizer: Optimizer = "adamw"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.02, ge=0)
    schedule: RateSchedule = "one-cycle"
    warmup: float = Field(default=0.2, ge=0, lt=1)
    clip: float | None = Field(default=1.0, gt=0)
    precision: Precision = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    batch_size: int = Field(default=64, ge=1)
    max_batches: int | None = Field(default=None, ge=1)
    shuffle: bool = True
    drop_last: bool = True
    pin_memory: bool = False
    unfreeze: bool = False


class RetrainingSettings(TrainingSettings):
    """As `TrainingSettings`, for the short-term fine-tune of what a search tries: one epoch by default."""

    epochs: int = Field(default=1, ge=0)


class LatencySettings(_Settings):
    """How latency is measured where it is the target. device: that of the run, where not given. threads: of torch on the CPU.

    seconds: for the tables, all together; a few points are measured however long they take. check_seconds: for each
    measurement of a cut network beside the original.
    """

    device: str | None = None
    threads: int | None = Field(default=None, ge=1)
    batch: int = Field(default=1, ge=1)
    seconds: float = Field(default=60.0, gt=0)
    check_seconds: float = Field(default=5.0, gt=0)


class EvaluationSettings(LoadingSettings):
    """How a network is evaluated (always in fp32). `max_batches`: at most so many, for a quick look."""

    batch_size: int = Field(default=256, ge=1)
    max_batches: int | None = Field(default=None, ge=1)


class CompensationSettings(LoadingSettings):
    """How many images the means of removed channels are taken from."""

    images: int = Field(default=1024, ge=2)
    batch_size: int = Field(default=128, ge=2)


class DistillationSettings(_Settings):
    """How a fine-tune learns from the unpruned network.

    weight: of the teacher's logits against the task's own loss. temperature: both are softened by it. features: globs on
    names of convolutions and linear layers whose outputs are to stay like the teacher's; feature_weight: how much.
    """

    weight: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    features: tuple[str, ...] = ()
    feature_weight: float = Field(default=0.1, ge=0)


class RecalibrationSettings(LoadingSettings):
    """How BatchNorm statistics are estimated anew: the mean over batches of `batch_size`, `images` in all."""

    images: int = Field(default=1024, ge=2)
    batch_size: int = Field(default=128, ge=2)
