"""Calling a network on a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunecore.errors import OutOfMemory
from prunecore.training.forward import call, plain_strides


def test_a_batch_of_one_channel_gets_plain_strides() -> None:
    batch = torch.zeros(4, 16, 16, 1).permute(0, 3, 1, 2)
    assert batch.stride() == (256, 1, 16, 1)
    assert plain_strides(batch).stride() == (256, 256, 16, 1)
    colour = torch.zeros(4, 16, 16, 3).permute(0, 3, 1, 2)
    assert plain_strides(colour) is colour


class Hungry(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_memory_that_is_short_is_no_misfit_of_the_data() -> None:
    with pytest.raises(OutOfMemory) as fault:
        call(Hungry(), torch.zeros(2, 3))
    assert str(fault.value) == (
        "not enough memory to run Hungry on data of shape (2, 3): CUDA out of memory. Tried to allocate 2.00 GiB"
    )
