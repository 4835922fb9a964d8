from __future__ import annotations

import pytest
import torch

from prunecore.errors import ConfigError
from prunecore.training import available_devices, derive_seed, resolve_device


def test_devices_by_name():
    assert available_devices()[-1] == "cpu"
    assert resolve_device("cpu") == torch.device("cpu")
    assert str(resolve_device("auto")).split(":")[0] == available_devices()[0].split(":")[0]


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "tpu:0"])
def test_a_device_that_is_not_there_lists_what_is(name):
    with pytest.raises(ConfigError, match=f"device '{name}' is not on this machine, which has: .*cpu"):
        resolve_device(name)


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "epoch", 1) == 150860977749904891
    assert derive_seed(0, "epoch", 1) != derive_seed(0, "epoch", 2)
    assert derive_seed(0, "epoch", 1) != derive_seed(1, "epoch", 1)
