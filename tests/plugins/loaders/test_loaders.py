from __future__ import annotations

import socket

import pytest
import torch
from prunecore_plugins.loaders.demo import DemoLoader
from prunecore_plugins.loaders.python import PythonLoader
from prunecore_plugins.loaders.timm import TimmLoader
from prunecore_plugins.loaders.torchvision import TorchvisionLoader

from prunecore import ConfigError, ModelError


def load(loader, **options):
    return loader(loader.Options(**options)).prune_load_model()


def outputs(loaded):
    with torch.no_grad():
        return loaded.model(*loaded.inputs.args)


def test_the_demo_is_small_and_untrained():
    loaded = load(DemoLoader)
    assert outputs(loaded).shape == (1, 10)
    assert not loaded.pretrained
    assert loaded.provenance["spec"] == "demo"
    assert not loaded.model.training
    narrow = load(DemoLoader, widths=(8, 8, 16), depth=2)
    assert outputs(narrow).shape == (1, 10)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in narrow.model.modules()) == 15


def test_networks_of_the_users_own_code(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "def build(classes=2):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes))\n"
        "def wrong():\n"
        "    return 7\n"
    )
    loaded = load(PythonLoader, source=f"{file}:build", args={"classes": 5}, size=(8, 8))
    assert outputs(loaded).shape == (1, 5)
    assert not loaded.pretrained
    torch.save(loaded.model.state_dict(), tmp_path / "w.pth")
    again = load(PythonLoader, source=f"{file}:build", args={"classes": 5}, inputs=[1, 192], weights=tmp_path / "w.pth")
    assert again.pretrained
    assert torch.equal(again.model[1].weight, loaded.model[1].weight)
    assert again.inputs.args[0].shape == (1, 192)
    with pytest.raises(ModelError, match=r"of another shape: 1\.weight \(5, 192\) for \(2, 192\)"):
        load(PythonLoader, source=f"{file}:build", weights=tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"wrong returned a int, expected a torch\.nn\.Module"):
        load(PythonLoader, source=f"{file}:wrong")


def test_torchvision(tmp_path):
    loaded = load(TorchvisionLoader, source="squeezenet1_1", num_classes=4, size=(32, 32))
    assert outputs(loaded).shape == (1, 4)
    assert not loaded.pretrained
    assert loaded.provenance["class"] == "torchvision.models.squeezenet.SqueezeNet"
    torch.save(loaded.model.state_dict(), tmp_path / "w.pth")
    again = load(
        TorchvisionLoader, source="squeezenet1_1", num_classes=4, weights=str(tmp_path / "w.pth"), size=(32, 32)
    )
    assert again.pretrained
    assert torch.equal(outputs(again), outputs(loaded))


def test_torchvision_faults():
    with pytest.raises(ConfigError, match="torchvision has no model 'resnet5', did you mean 'resnet50'"):
        load(TorchvisionLoader, source="resnet5")
    with pytest.raises(ConfigError, match=r"no weights 'IMAGENET1K_V9' of squeezenet1_1, .* it has: IMAGENET1K_V1"):
        load(TorchvisionLoader, source="squeezenet1_1", weights="IMAGENET1K_V9")
    with pytest.raises(ConfigError, match=r"cannot make 'squeezenet1_1' with \{'depth': 3\}"):
        load(TorchvisionLoader, source="squeezenet1_1", args={"depth": 3})


def test_a_server_of_weights_that_falls_silent_is_one_line(monkeypatch):
    def silent(*_, **__):
        raise TimeoutError(f"timed out after {socket.getdefaulttimeout():g} s")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", silent)
    with pytest.raises(
        ModelError, match=r"^weights DEFAULT of squeezenet1_1 cannot be fetched \(timed out after 60 s\); give a file"
    ):
        load(TorchvisionLoader, source="squeezenet1_1", weights="DEFAULT")


def test_torchvision_weights_for_other_classes_keep_all_but_the_last_layer(monkeypatch):
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    given = squeezenet1_1().state_dict()
    monkeypatch.setattr(SqueezeNet1_1_Weights, "get_state_dict", lambda *a, **k: given)
    loaded = load(TorchvisionLoader, source="squeezenet1_1", num_classes=4, weights="DEFAULT", size=(32, 32))
    assert loaded.pretrained
    assert torch.equal(loaded.model.features[0].weight, given["features.0.weight"])
    assert loaded.model.classifier[1].weight.shape[0] == 4

    def offline(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(SqueezeNet1_1_Weights, "get_state_dict", offline)
    with pytest.raises(ModelError, match=r"cannot be fetched \(no route\); give a file: --weights FILE"):
        load(TorchvisionLoader, source="squeezenet1_1", weights="DEFAULT")


def test_timm():
    loaded = load(TimmLoader, source="test_resnet", num_classes=3)
    assert outputs(loaded).shape == (1, 3)
    assert loaded.inputs.args[0].shape == (1, 3, *loaded.model.pretrained_cfg["input_size"][1:])
    assert not loaded.pretrained
    small = load(TimmLoader, source="test_resnet", size=(32, 48), args={"in_chans": 1}, inputs=[2, 1, 32, 32])
    assert small.inputs.args[0].shape == (2, 1, 32, 32)
    with pytest.raises(ConfigError, match="timm has no model 'resnet5', did you mean 'resnet"):
        load(TimmLoader, source="resnet5")
    with pytest.raises(ModelError, match="timm cannot make 'test_resnet'"):
        load(TimmLoader, source="test_resnet", args={"nonsense": 1})
