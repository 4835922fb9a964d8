"""The training loop. An epoch depends on the weights before it, the seed and its number, so it can be resumed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from prunecore.config.training import TrainingSettings
from prunecore.errors import ConfigError, TrainingError
from prunecore.training.accelerator import is_first_process, own_accelerator
from prunecore.training.checkpoint import read_state, write_state
from prunecore.training.data import EpochSampler, collate, length_of
from prunecore.training.devices import resolve_device
from prunecore.training.distillation import Distiller, Teacher
from prunecore.training.forward import call, device_of, images_in, loss_of, plain_strides
from prunecore.training.patience import patient
from prunecore.training.rates import make_optimizer, rate_factor, set_rate
from prunecore.training.seeds import derive_seed, seeded

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

    from prunecore.types import Task

_DEFAULT = TrainingSettings()
# Reading a loss waits for the GPU; a loss that is not finite stays so in the sum until it is looked at.
_LOOK_EVERY = 16

OnEvent = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Epoch:
    """What an epoch left. number: from 1. loss: mean over `images`. rate: learning rate of the last step.

    model: the network being trained, live: look at it, copy it, but let it be. state: all that resuming needs, plain
    values and tensors (`torch.load(weights_only=True)` reads it), live as well: write it before asking for the next.
    stopped: why training ends here, early, with the last good weights; else None.
    """

    number: int
    epochs: int
    loss: float
    rate: float
    images: int
    seconds: float
    model: nn.Module
    state: Mapping[str, Any]
    stopped: str | None = None


def fine_tune(
    model: nn.Module,
    task: Task,
    settings: TrainingSettings = _DEFAULT,
    *,
    dataset: Dataset[Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    checkpoint: Path | None = None,
    teacher: Teacher | None = None,
    on_event: OnEvent | None = None,
) -> nn.Module:
    """Train a copy of `model` on `dataset` (default: `task.train`) and return it, with the device and modes of `model`.

    checkpoint: a file that holds the state after every epoch; where it exists, training goes on from it, and the result
    is bit-identical to an uninterrupted training (same CPU, same thread count). It is left for the caller to delete.
    teacher: the unpruned network, to learn from besides the data (`prunecore.training.Teacher`).
    on_event: told `step`, `epoch`, `training_stopped`. Parameters that do not require a gradient stay as they are,
    unless `settings.unfreeze`.

    Raises TrainingError where there is nothing to train, or where the very first loss is not finite; where a later one
    is, training stops, and the last good weights are returned. ConfigError: no such device, a foreign checkpoint.
    """
    state = read_state(checkpoint) if checkpoint is not None else None
    epochs = fit_epochs(
        model,
        task,
        settings,
        dataset=dataset,
        device=device,
        seed=seed,
        state=state,
        teacher=teacher,
        on_event=on_event,
    )
    trained: nn.Module | None = None
    for epoch in epochs:
        trained = epoch.model
        if checkpoint is not None and is_first_process():
            write_state(checkpoint, epoch.state)
    if trained is None:  # no epochs (left): the state, where there is one, is the result
        trained = copy.deepcopy(model)
        if state is not None:
            trained.load_state_dict(state["model"])
    return _as_before(trained, model)


def fit_epochs(
    model: nn.Module,
    task: Task,
    settings: TrainingSettings = _DEFAULT,
    *,
    dataset: Dataset[Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    state: Mapping[str, Any] | None = None,
    teacher: Teacher | None = None,
    on_event: OnEvent | None = None,
) -> Iterator[Epoch]:
    """As `fine_tune`, an epoch at a time, for callers that decide in between; `state`: the `Epoch.state` to go on from."""
    place = resolve_device(device)
    if state is not None and (state["epochs"], state["seed"]) != (settings.epochs, seed):
        raise ConfigError(
            f"the saved state is of a training of {state['epochs']} epochs with seed {state['seed']}, this one has "
            f"{settings.epochs} and {seed}; resume with the settings it was started with"
        )
    if settings.epochs == 0 or (state is not None and (state["stopped"] or state["epoch"] >= settings.epochs)):
        return
    data = task.train if dataset is None else dataset
    with own_accelerator(place, settings.precision) as accelerator:
        training = _Training(
            copy.deepcopy(model), task, settings, _Surroundings(accelerator, data, seed, on_event, teacher)
        )
        if state is not None:
            training.restore(state)
        while training.epoch < settings.epochs and training.stopped is None:
            yield training.run_epoch()


@dataclass(frozen=True)
class _Surroundings:
    accelerator: Accelerator
    dataset: Dataset[Any]
    seed: int
    on_event: OnEvent | None
    teacher: Teacher | None = None


class _Training:
    """The network, its optimiser and the number of epochs done."""

    def __init__(self, network: nn.Module, task: Task, settings: TrainingSettings, around: _Surroundings) -> None:
        self._task, self._settings, self._around = task, settings, around
        self._accelerator, self._device = around.accelerator, around.accelerator.device
        self.epoch = 0
        self.stopped: str | None = None
        self._network = _prepared(network, settings, self._device)
        self._layout = self._channels_last()
        if self._layout:
            self._network.to(memory_format=torch.channels_last)
        self._several = self._accelerator.num_processes > 1
        self._called = self._accelerator.prepare_model(self._network) if self._several else self._network
        self._optimizer = self._accelerator.prepare_optimizer(make_optimizer(self._network, settings))
        self._loader = self._accelerator.prepare_data_loader(self._make_loader())
        self._steps = len(self._loader)
        self._distiller = (
            None
            if around.teacher is None
            else Distiller(
                replace(around.teacher, network=copy.deepcopy(around.teacher.network)),
                self._network,
                task,
                self._device,
            )
        )
        self._good = _snapshot(self._network)

    def restore(self, state: Mapping[str, Any]) -> None:
        self._network.load_state_dict(state["model"])
        # a copy: load_state_dict of an optimiser keeps tensors that it then changes in place
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if state["scaler"] and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch = state["epoch"]
        self._good = _snapshot(self._network)

    def run_epoch(self) -> Epoch:
        """One pass over the data; where it fails, the last good weights are put back."""
        start = time.perf_counter()
        self._loader.set_epoch(self.epoch)
        # several processes must not draw the same dropout and augmentation for different items
        own = [self._accelerator.process_index] if self._several else []
        with seeded(derive_seed(self._around.seed, "epoch", self.epoch, *own), self._device):
            self._network.train()
            loss, images, fault = self._pass()
        self._agree()
        if fault is None and not all(bool(p.isfinite().all()) for p in self._network.parameters()):
            fault = "the weights are not finite"
        self.epoch += 1
        if fault is None:
            self._good = _snapshot(self._network)
        else:
            self._network.load_state_dict(self._good)
            self.stopped = (
                f"{fault} in epoch {self.epoch}; the weights of epoch {self.epoch - 1} are kept; try a lower lr"
            )
            self._tell("training_stopped", epoch=self.epoch, reason=self.stopped)
        done = Epoch(
            number=self.epoch,
            epochs=self._settings.epochs,
            loss=loss,
            rate=float(self._optimizer.param_groups[0]["lr"]),
            images=images,
            seconds=time.perf_counter() - start,
            model=self._network,
            state=self._state(),
            stopped=self.stopped,
        )
        told = {"loss": loss, "rate": done.rate, "images": images, "seconds": done.seconds}
        self._tell("epoch", epoch=done.number, epochs=done.epochs, **told)
        return done

    def _pass(self) -> tuple[float, int, str | None]:
        """Mean loss, images, and what went wrong (None: nothing)."""
        total, images = torch.zeros((), device=self._device), 0
        look = 1 if self._device.type == "cpu" else _LOOK_EVERY
        for step, (inputs, targets) in enumerate(patient(self._loader.__iter__, self._settings)):
            loss = self._step(step, inputs, targets)
            count = images_in(inputs)
            total, images = total + loss * count, images + count
            if (step % look == 0 or step + 1 == self._steps) and not math.isfinite(float(total)):
                if self.epoch == 0 and step == 0:
                    raise TrainingError(
                        f"the loss of {type(self._network).__name__} on the first batch of task {self._task.name!r} is "
                        f"{float(loss)}; expected a finite number: check the weights and the normalisation of the data"
                    )
                return float(total), images, "the loss is not finite"
            self._tell("step", stage="fine_tune", step=self.epoch * self._steps + step + 1, steps=self._total_steps)
        return float(total) / images, images, None

    def _step(self, step: int, inputs: Any, targets: Any) -> Tensor:
        settings = self._settings
        factor = rate_factor(
            settings.schedule, self.epoch * self._steps + step, self._total_steps, warmup=settings.warmup
        )
        set_rate(self._optimizer, settings.lr * factor)
        inputs = inputs.contiguous(memory_format=torch.channels_last) if self._layout else plain_strides(inputs)
        mixed = self._accelerator.mixed_precision != "no"
        with self._accelerator.autocast() if mixed else nullcontext():
            loss = self._loss(inputs, targets)
        self._accelerator.backward(loss)
        if settings.clip is not None:
            self._accelerator.clip_grad_norm_(self._network.parameters(), settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        # every process must see the same loss, so that all of them stop or none
        return self._accelerator.reduce(loss.detach().float(), "mean") if self._several else loss.detach().float()

    def _loss(self, inputs: Any, targets: Any) -> Tensor:
        if self._distiller is None:
            return loss_of(self._task, call(self._called, inputs), targets)
        with self._distiller.watching() as features:
            outputs = call(self._called, inputs)
        return self._distiller.loss(loss_of(self._task, outputs, targets), outputs, features, inputs)

    def _agree(self) -> None:
        """Give every process the buffers (BatchNorm statistics) of the first; the weights are the same already."""
        if self._several:
            for buffer in self._network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    @property
    def _total_steps(self) -> int:
        return self._settings.epochs * self._steps

    def _make_loader(self) -> DataLoader[Any]:
        settings = self._settings
        length = length_of(self._around.dataset, f"the training split of task {self._task.name!r}")
        several = settings.batch_size * self._accelerator.num_processes
        limit = None if settings.max_batches is None else settings.max_batches * several
        return DataLoader(
            self._around.dataset,
            batch_size=min(settings.batch_size, length),
            sampler=EpochSampler(length, self._around.seed, limit=limit, shuffle=settings.shuffle),
            num_workers=settings.workers,
            pin_memory=settings.pin_memory and self._device.type == "cuda",
            drop_last=settings.drop_last,
            collate_fn=self._task.collate or collate,
        )

    def _channels_last(self) -> bool:
        wanted, on_gpu = self._settings.channels_last, self._device.type == "cuda"
        convolutions = [m for m in self._network.modules() if isinstance(m, nn.Conv2d)]
        grouped = any(m.groups > 1 for m in convolutions)
        if wanted is False or (wanted == "auto" and not on_gpu and not grouped):
            return False
        # oneDNN's backward of a strided 1x1 convolution in this layout writes past its buffer at odd widths (torch 2.14, AVX2)
        if not on_gpu and any(m.kernel_size == (1, 1) and m.stride != (1, 1) for m in convolutions):
            return False
        item = self._around.dataset[0][0]
        return isinstance(item, Tensor) and item.ndim == 3 and item.is_floating_point()

    def _state(self) -> Mapping[str, Any]:
        scaler = self._accelerator.scaler
        return {
            "epoch": self.epoch,
            "epochs": self._settings.epochs,
            "seed": self._around.seed,
            "stopped": self.stopped or "",
            "model": dict(self._network.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def _tell(self, name: str, **values: Any) -> None:
        if self._around.on_event is not None and self._accelerator.is_main_process:
            self._around.on_event({"event": name, **values})


def _prepared(network: nn.Module, settings: TrainingSettings, device: torch.device) -> nn.Module:
    if settings.unfreeze:
        network.requires_grad_(True)
    if not any(p.requires_grad for p in network.parameters()):
        raise TrainingError(
            f"{type(network).__name__} has no parameter that requires a gradient, so nothing can be trained; "
            "set `training.unfreeze: true` to train all of them"
        )
    network.zero_grad(set_to_none=True)
    return network.to(device)


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in network.state_dict().items()}


def _as_before(trained: nn.Module, model: nn.Module) -> nn.Module:
    """`trained` with the device, layout, modes and flags of `model`."""
    trained.zero_grad(set_to_none=True)
    trained.to(device_of(model)).to(memory_format=torch.contiguous_format)
    for ours, theirs in zip(trained.modules(), model.modules(), strict=True):
        ours.training = theirs.training
    for mine, given in zip(trained.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(given.requires_grad)
    return trained
