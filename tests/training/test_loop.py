from __future__ import annotations

import copy
import dataclasses
import os
import random

import numpy as np
import pytest
import torch

from prunecore.config.training import TrainingSettings
from prunecore.errors import ConfigError, DataError, ModelError, RunDirectoryError, TrainingError
from prunecore.training import TensorData, evaluate, fine_tune, fit_epochs
from prunecore.training.rates import rate_factor

QUICK = TrainingSettings(epochs=4, lr=0.05, batch_size=16)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_learns_and_leaves_its_input_as_it_was(net, task):
    net.eval()
    net[1].train()
    before = copy.deepcopy(net)
    tuned = fine_tune(net, task, QUICK, device="cpu")
    assert same(net, before)
    assert [m.training for m in tuned.modules()] == [m.training for m in before.modules()]
    assert all(p.grad is None for p in tuned.parameters())
    assert evaluate(tuned, task.validation, task, device="cpu").value > 0.9


def test_the_seed_decides_and_the_surroundings_do_not(net, task):
    first = fine_tune(net, task, QUICK, device="cpu", seed=1)
    torch.rand(3), random.random(), np.random.rand()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    again = fine_tune(net, task, QUICK, device="cpu", seed=1)
    assert same(first, again)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    assert not same(first, fine_tune(net, task, QUICK, device="cpu", seed=2))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_resuming_after_any_epoch_ends_with_the_same_bits(net, task, tmp_path, optimizer):
    settings = QUICK.model_copy(update={"optimizer": optimizer})
    whole = fine_tune(net, task, settings, device="cpu", seed=5)
    for stop in (1, 3):
        saved = tmp_path / f"{stop}.pt"
        for epoch in fit_epochs(net, task, settings, device="cpu", seed=5):
            torch.save(epoch.state, saved)
            if epoch.number == stop:
                break
        assert same(fine_tune(net, task, settings, device="cpu", seed=5, checkpoint=saved), whole)
        # the file now holds the end: nothing is left to do
        assert same(fine_tune(net, task, settings, device="cpu", seed=5, checkpoint=saved), whole)


def test_a_foreign_or_damaged_checkpoint_is_refused(net, task, tmp_path):
    saved = tmp_path / "state.pt"
    fine_tune(net, task, QUICK, device="cpu", seed=0, checkpoint=saved)
    with pytest.raises(ConfigError, match="4 epochs with seed 0, this one has 4 and 1"):
        fine_tune(net, task, QUICK, device="cpu", seed=1, checkpoint=saved)
    saved.write_bytes(b"nothing")
    with pytest.raises(RunDirectoryError, match="is not a training state"):
        fine_tune(net, task, QUICK, device="cpu", checkpoint=saved)
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_full_disk_leaves_the_last_state(net, task, tmp_path, monkeypatch):
    saved = tmp_path / "state.pt"
    calls = []

    def sync(descriptor, sync=os.fsync):
        calls.append(1)
        if len(calls) > 4:  # two a state: the file, and the directory that holds it
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(RunDirectoryError, match=r"state\.pt: not written, the disk is full; free some space"):
        fine_tune(net, task, QUICK, device="cpu", checkpoint=saved)
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]
    assert torch.load(saved, weights_only=True)["epoch"] == 2


def test_frozen_parameters_stay_unless_asked(net, task):
    net[0].requires_grad_(False)
    tuned = fine_tune(net, task, QUICK, device="cpu")
    assert torch.equal(tuned[0].weight, net[0].weight)
    assert not torch.equal(tuned[6].weight, net[6].weight)
    asked = fine_tune(net, task, QUICK.model_copy(update={"unfreeze": True}), device="cpu")
    assert not torch.equal(asked[0].weight, net[0].weight)
    assert [p.requires_grad for p in asked.parameters()] == [False, False, True, True, True, True]
    with pytest.raises(TrainingError, match=r"training\.unfreeze"):
        fine_tune(net.requires_grad_(False), task, QUICK, device="cpu")


def poisoned(task, call):
    """The task with a loss that is not finite from the given call on."""
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        return task.loss(outputs, targets) * (float("nan") if len(calls) >= call else 1.0)

    return dataclasses.replace(task, loss=loss)


def test_a_loss_that_stops_being_finite_keeps_the_last_good_weights(net, task):
    events = []
    epochs = list(fit_epochs(net, poisoned(task, 15), QUICK, device="cpu", on_event=events.append))
    assert [e.stopped for e in epochs[:-1]] == [None, None]
    assert epochs[-1].stopped == ("the loss is not finite in epoch 3; the weights of epoch 2 are kept; try a lower lr")
    assert [e["event"] for e in events if e["event"] != "step"] == ["epoch", "epoch", "training_stopped", "epoch"]
    good = next(e.model for e in fit_epochs(net, task, QUICK, device="cpu") if e.number == 2)
    assert same(fine_tune(net, poisoned(task, 15), QUICK, device="cpu"), good)


def test_a_loss_that_is_never_finite_is_one_line(net, task):
    with pytest.raises(TrainingError, match=r"loss of Sequential on the first batch of task 'bright' is nan"):
        fine_tune(net, poisoned(task, 1), QUICK, device="cpu")


def test_data_of_a_wrong_shape_is_one_line(net, task):
    data = TensorData(torch.zeros(32, 3, 8, 8), torch.zeros(32, dtype=torch.long))
    with pytest.raises(ModelError, match=r"Sequential cannot be run on data of shape \(16, 3, 8, 8\)") as fault:
        fine_tune(net, task, QUICK, dataset=data, device="cpu")
    assert "\n" not in str(fault.value)
    classes = TensorData(torch.zeros(32, 1, 8, 8), torch.full((32,), 7))
    with pytest.raises(TrainingError, match=r"outputs \(16, 2\) and targets \(16,\)"):
        fine_tune(net, task, QUICK, dataset=classes, device="cpu")
    with pytest.raises(DataError, match="the training split of task 'bright' is empty"):
        fine_tune(net, task, QUICK, dataset=TensorData(torch.zeros(0, 1, 8, 8), torch.zeros(0)), device="cpu")


def test_max_batches_and_events(net, task):
    events = []
    settings = QUICK.model_copy(update={"max_batches": 2, "epochs": 2, "schedule": "constant", "warmup": 0.0})
    epochs = list(fit_epochs(net, task, settings, device="cpu", on_event=events.append))
    assert [(e.number, e.images, e.rate) for e in epochs] == [(1, 32, 0.05), (2, 32, 0.05)]
    steps = [e for e in events if e["event"] == "step"]
    assert [(e["step"], e["steps"]) for e in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_epochs_and_a_small_data_set(net, task):
    assert same(fine_tune(net, task, QUICK.model_copy(update={"epochs": 0}), device="cpu"), net)
    few = TensorData(torch.randn(5, 1, 8, 8), torch.arange(5) % 2)
    assert [e.images for e in fit_epochs(net, task, QUICK, dataset=few, device="cpu")] == [5, 5, 5, 5]


def test_bf16_and_channels_last_learn_too(net, task):
    settings = QUICK.model_copy(update={"precision": "bf16", "channels_last": True})
    tuned = fine_tune(net, task, settings, device="cpu")
    assert tuned[0].weight.dtype == torch.float32
    assert tuned[0].weight.is_contiguous()
    assert evaluate(tuned, task.validation, task, device="cpu").value > 0.9


def test_the_callers_accelerator_comes_back(net, task):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    own = Accelerator(cpu=True, gradient_accumulation_steps=3)
    fine_tune(net, task, QUICK, device="cpu")
    assert own.device.type == "cpu"
    assert GradientState().num_steps == 3
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    fine_tune(net, task, QUICK, device="cpu")
    assert not PartialState._shared_state


def test_rates_of_the_schedules():
    def rates(schedule, warmup):
        return [round(rate_factor(schedule, i, 10, warmup=warmup), 4) for i in range(10)]

    assert rates("constant", 0.0) == [1.0] * 10
    assert rates("constant", 0.4)[:5] == [0.25, 0.4375, 0.625, 0.8125, 1.0]
    assert rates("cosine", 0.0)[::5] == [1.0, 0.5]
    assert rates("one-cycle", 0.2)[:3] == [0.04, 0.52, 1.0]
    assert rates("one-cycle", 0.2)[-1] == 0.0381
