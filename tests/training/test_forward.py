"""Calling a network on a batch."""

from __future__ import annotations

import torch

from prunecore.training.forward import plain_strides


def test_a_batch_of_one_channel_gets_plain_strides() -> None:
    batch = torch.zeros(4, 16, 16, 1).permute(0, 3, 1, 2)
    assert batch.stride() == (256, 1, 16, 1)
    assert plain_strides(batch).stride() == (256, 256, 16, 1)
    colour = torch.zeros(4, 16, 16, 3).permute(0, 3, 1, 2)
    assert plain_strides(colour) is colour
