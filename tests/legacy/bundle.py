"""What an existing user of the old tool has: a network by architecture search or as a whole module, images in a table, one YAML.

`dataset-fashion-mnist` of Debian gives real pictures.
"""

from __future__ import annotations

import csv
import gzip
import random
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

DATA = Path("/usr/share/datasets/fashion-mnist")

NET = """\
from torch import nn

from {blocks} import Block


class Net(nn.Module):
    def __init__(self, width=8, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
"""
BLOCKS = """\
from torch import nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 1)
        self.act = F.relu

    def forward(self, x):
        return x + self.conv2(self.act(self.bn1(self.conv1(x))))
"""


def write_table(directory: Path, *, train: int, validation: int, size: int = 28) -> Path:
    """`data.csv` and the images that it names, in RGB."""
    images, labels = _fashion(train + validation)
    directory.mkdir(parents=True, exist_ok=True)
    rows = [("path", "label", "is_val")]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = f"images/{number:05d}.png"
        (directory / "images").mkdir(exist_ok=True)
        Image.fromarray(image).convert("RGB").resize((size, size)).save(directory / name)
        rows.append((name, str(label), "True" if number >= train else "False"))
    with (directory / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return directory / "data.csv"


def _fashion(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if not DATA.is_dir():
        raise FileNotFoundError(f"{DATA}: these tests need Debian's pictures: apt-get install dataset-fashion-mnist")
    with gzip.open(DATA / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(DATA / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images[:count], labels[:count]


def ofa_resnet50d(*, classes: int = 10) -> torch.nn.Module:
    """A static subnet of the once-for-all ResNet50D, the smallest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ofa.imagenet_classification.elastic_nn import networks

        random.seed(0)
        lists = {"depth_list": [0, 1, 2], "expand_ratio_list": [0.2, 0.25, 0.35], "width_mult_list": [0.65, 0.8, 1.0]}
        supernet = networks.OFAResNets(n_classes=classes, **lists)
        supernet.set_active_subnet(d=0, e=0.2, w=0)
        found: torch.nn.Module = supernet.get_active_subnet(preserve_weight=True)
    return found.eval()


def write_interface(path: Path, net: Any) -> Path:
    """An unpruned `interface.pt`, as an architecture search leaves it."""
    nas = {"algname": "ofa", "net_config": net.config, "accuracy": 0.5, "latency": [1, 2]}
    torch.save(OrderedDict(nas=nas, params=net.state_dict(), comment="kept"), path)
    return path


def write_whole_module(directory: Path, name: str, *, width: int = 8) -> Path:
    """A network in two files, saved as a whole module beside them. `name`: of the entry point; it must be unique in a process."""
    import sys

    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.py").write_text(NET.format(blocks=f"{name}_blocks"))
    (directory / f"{name}_blocks.py").write_text(BLOCKS)
    sys.path.insert(0, str(directory))
    try:
        module = __import__(name)
        torch.manual_seed(0)
        torch.save(module.Net(width), directory / f"{name}.pth")
    finally:
        sys.path.remove(str(directory))
        for left in (name, f"{name}_blocks"):
            sys.modules.pop(left, None)
    return directory / f"{name}.pth"


def old_yaml(**changes: Any) -> dict[str, Any]:
    """The file that the authors of the old tool recommend, for this machine and scaled down; `a__b=c` changes `a.b`."""
    loader = {
        **{f"batch_size_{p}": 16 for p in "tv"},
        **{f"num_workers_{p}": 0 for p in "tv"},
        **{f"pin_memory_{p}": False for p in "tv"},
        **{"drop_last_t": True, "drop_last_v": False, "shuffle_t": True, "shuffle_v": False},
    }
    found: dict[str, Any] = {
        "path": {"exp_save": "exp", "model_name": "net"},
        "model": {
            "type_save_load": "interface",
            "path_to_resurs": ".",
            "name_resurs": "interface",
            "size": [32, 32],
            "gpu": "cpu",
        },
        "task": {"type": "classification", "detection": "None", "loss": "None", "metrics": "None"},
        "dataset": {"num_classes": 10, "annotation_path": "data", "annotation_name": "data.csv"},
        "mask": {"type": "mask", "sours_mask": "None"},
        "class_name": ["None"],
        "algorithm": "FPGM",
        "my_pruning": {
            **{
                "alf": 8,
                "P": 0.5,
                "cart": ["cpu", "cpu"],
                "iskl": [],
                "algoritm": "TaylorFOWeight",
                "resize_alf": True,
            },
            **{"delta_crop": 0.1, "top_n": 100, "restart": {"start_iteration": 0, "load": "exp/net/orig_model.pth"}},
        },
        "nni_pruning": {"P": 0.3, "training": True, "total_iteration": 2, "gpu": "cpu"},
        "retraining": {"num_epochs": 1, "lr": "1e-5", "dataLoader": loader},
        "training": {"num_epochs": 1, "lr": "1e-5", "dataLoader": loader},
    }
    for key, value in changes.items():
        found = changed(found, key.replace("__", "."), value)
    return found


def changed(settings: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with the dotted key set."""
    root, _, inner = key.partition(".")
    return {**settings, root: changed(settings.get(root) or {}, inner, value) if inner else value}


def write_yaml(path: Path, settings: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    return path
