from __future__ import annotations

import torch
from torch import Tensor, nn

from prunecore.measure.calls import FILLED, OpCall, record_calls, replay_of
from prunecore.types import ExampleInputs

CPU = torch.device("cpu")


class Net(nn.Module):
    """Two convolutions of equal configuration, one on the output of the other; a view; a factor that follows a width."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.second(self.first(x)))
        return y.flatten(1).mul(y.shape[1] ** -0.5)


def calls(width: int = 4) -> dict[str, OpCall]:
    torch.manual_seed(0)
    found = record_calls(Net(width), ExampleInputs((torch.rand(2, width, 8, 8),)))
    return {call.name: call for call in found}


def test_every_call_that_does_work_is_named_by_its_module() -> None:
    assert list(calls()) == [
        "first (convolution)",
        "second (convolution)",
        "act (relu_)",
        "the network itself (mul)",
    ]


def test_layers_of_equal_configuration_make_equal_calls() -> None:
    found = calls()
    first, second = found["first (convolution)"], found["second (convolution)"]
    assert (first.form, first.sizes) == (second.form, second.sizes)
    assert first.form != found["act (relu_)"].form


def test_at_another_width_only_the_sizes_differ_also_where_a_factor_follows_it() -> None:
    wide, narrow = calls(4), calls(3)
    assert [c.form for c in wide.values()] == [c.form for c in narrow.values()]
    assert wide["first (convolution)"].sizes[:4] == (2, 4, 8, 8)
    assert narrow["first (convolution)"].sizes[:4] == (2, 3, 8, 8)
    assert wide["the network itself (mul)"].sizes == (2, 256)


def test_a_call_is_made_again_at_sizes_of_its_own() -> None:
    call = calls()["first (convolution)"]
    narrow = calls(3)["first (convolution)"]
    assert replay_of(call.form, narrow.sizes, CPU).call().shape == (2, 3, 8, 8)


def test_inputs_are_written_before_a_call_so_that_one_in_place_finds_them_as_they_were() -> None:
    call = calls()["the network itself (mul)"]
    again = replay_of(call.form, call.sizes, CPU)
    again.refresh()
    factor = 0.5  # as recorded: 4 ** -0.5
    assert torch.equal(again.call(), torch.full((2, 256), FILLED * factor))


def test_the_memory_order_of_an_input_is_kept() -> None:
    model = nn.Conv2d(4, 4, 3)
    given = torch.rand(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    (call,) = record_calls(model, ExampleInputs((given,)))
    plain = record_calls(model, ExampleInputs((given.contiguous(),)))[0]
    assert call.form != plain.form
    assert replay_of(call.form, call.sizes, CPU).call().is_contiguous(memory_format=torch.channels_last)


def test_the_network_is_left_as_it_was() -> None:
    model = Net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    record_calls(model, ExampleInputs((torch.rand(1, 4, 8, 8),)))
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model.first._forward_hooks
