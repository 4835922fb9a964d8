from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from prunecore.errors import ForwardError, ModelError
from prunecore.export.checking import Differs, compared, reason, refuse, remarks, runner, subject_of
from prunecore.types import ExampleInputs
from tests.export.export_nets import IMAGE, ROWS, Conv, Folding


def outputs_of(first: Tensor, second: Tensor, tolerance: float = 1e-4) -> float:
    """What the comparison says of a network that gives `first` and a file that gives `second`."""

    class Fixed(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return first

    subject = subject_of(Fixed(), ROWS)
    return compared(subject, lambda inputs: [second], (1,), tolerance).error


def test_the_largest_absolute_difference_counts() -> None:
    assert outputs_of(torch.tensor([1.0, -2.0]), torch.tensor([1.25, -2.0]), 1.0) == 0.25
    assert outputs_of(torch.tensor([True, False]), torch.tensor([True, True]), 1.0) == 1.0
    assert outputs_of(torch.tensor([1 + 1j]), torch.tensor([1 + 2j]), 1.0) == 1.0


def test_equal_infinities_and_nan_agree_others_are_infinitely_apart() -> None:
    odd = torch.tensor([math.inf, -math.inf, math.nan])
    assert outputs_of(odd, odd.clone()) == 0.0
    for other in (torch.tensor([math.inf, math.inf, math.nan]), torch.tensor([math.inf, -math.inf, 0.0])):
        with pytest.raises(Differs, match="max abs difference inf on a batch of 1"):
            outputs_of(odd, other)


def test_a_difference_above_the_tolerance_names_both_and_the_size_of_the_outputs() -> None:
    refuse(1e-4, 1.0, 1e-4, 1)
    with pytest.raises(Differs, match=r"difference 2\.0e-04 on a batch of 3 \(outputs up to 1\.5e\+01\).* 0\.0001"):
        refuse(2e-4, 15.0, 1e-4, 3)


def test_other_shapes_and_failures_are_one_line() -> None:
    with pytest.raises(ModelError, match=r"gives shapes \[\(1,\)\] on a batch of 1, the network gives \[\(2,\)\]"):
        outputs_of(torch.zeros(2), torch.zeros(1))

    def broken(inputs: ExampleInputs) -> list[Tensor]:
        raise ValueError("first line\nsecond") from KeyError("root")

    with pytest.raises(ModelError, match="fails on a batch of 1: KeyError: 'root'"):
        compared(subject_of(Conv(), IMAGE), broken, (1,), 1.0)
    assert reason(RuntimeError("\x1b[96mstep\x1b[0m failed\nmore")) == "RuntimeError: step failed"


def test_outputs_that_do_not_depend_on_the_inputs_are_remarked() -> None:
    subject = subject_of(Conv(), IMAGE)
    assert remarks(compared(subject, runner(subject.model), (1,), 1e-4), 1e-4) == ()
    nn.init.zeros_(subject.model.head.weight)  # type: ignore[union-attr]
    (note,) = remarks(compared(subject, runner(subject.model), (1,), 1e-4), 1e-4)
    assert note.startswith("two random inputs move the outputs by 0 only")


def test_a_network_is_tried_at_other_batches_in_eval_mode_and_left_as_it_was() -> None:
    model = Conv().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    subject = subject_of(model, IMAGE)
    assert subject.sizes == (2, 1, 3)
    assert model.training
    assert not subject.model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    folding = subject_of(Folding(4), ExampleInputs((torch.randn(4, 6),)))
    assert folding.sizes == (4,)
    assert folding.obstacle is not None
    assert folding.obstacle.startswith("the network fails on a batch of 2: RuntimeError: shape")


def test_a_network_that_fails_on_its_own_inputs_is_refused() -> None:
    with pytest.raises(ForwardError, match=r"fails on inputs \(1, 6\) float32"):
        subject_of(Conv(), ROWS)
