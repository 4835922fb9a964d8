"""Cut networks as ONNX and PT2 files: how far their outputs are from the networks' own.

    python tests/benchmarks/export.py [NET …]

Every network is cut by l2norm to half its MACs, and written and compared as `prune export` does it. The weights are random,
but BatchNorm has seen data and the last layer is scaled, so that outputs depend on the inputs by about 1. Needs the extras
`vision`, `ofa` and `onnx`. Exit code 1 where a difference is above the tolerance or a batch is fixed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import prunecore
from prunecore.errors import PrunecoreError
from prunecore.export import TOLERANCE, Exported, export_onnx, export_pt2
from prunecore.surgery.observe import leaves
from prunecore.types import ExampleInputs

SIZES = {
    "resnet18": 64,
    "mobilenet_v3_small": 64,
    "deeplabv3_mobilenet_v3_large": 64,
    "vit_b_16": 224,
    "ofa_mobilenetv3": 64,
}
FORMATS = {"onnx": export_onnx, "pt2": export_pt2}


@dataclass(frozen=True)
class Row:
    """largest: magnitude of the outputs. moved: how far apart two random inputs put them."""

    name: str
    size: float
    largest: float
    moved: float
    kind: str
    exported: Exported | None
    fault: str
    seconds: float

    @property
    def holds(self) -> bool:
        return self.exported is not None and self.exported.batch_sizes == (1, 2, 3)

    def line(self) -> str:
        cells = [self.name, f"{self.size:.4f}", f"{self.largest:.2f}", f"{self.moved:.2f}", self.kind]
        if self.exported is None:
            return f"| {' | '.join([*cells, self.fault, '-', '-'])} | {self.seconds:.0f} |"
        sizes = ", ".join(map(str, self.exported.batch_sizes))
        mib = self.exported.path.stat().st_size / 2**20
        return f"| {' | '.join([*cells, f'{self.exported.max_abs_error:.1e}', sizes, f'{mib:.1f}'])} | {self.seconds:.0f} |"


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "ofa_mobilenetv3":
        from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

        random.seed(0)
        supernet = OFAMobileNetV3(ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4])
        supernet.sample_active_subnet()
        subnet: nn.Module = supernet.get_active_subnet(preserve_weight=True)
        return subnet
    from torchvision import models

    backbone = {"weights_backbone": None} if name.startswith("deeplab") else {}
    model: nn.Module = models.get_model(name, weights=None, **backbone)
    return model


def settled(model: nn.Module, size: int) -> nn.Module:
    """`model` with statistics of random images in BatchNorm, and a last layer whose outputs vary by about 1 between images."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if not layers[-1].weight.any():
        nn.init.normal_(layers[-1].weight)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train(bool(norms))
        for _ in range(4 if norms else 0):
            model(torch.randn(16, 3, size, size))
        spread = leaves(model.eval()(torch.randn(4, 3, size, size)))[0].std(dim=0).mean()
        layers[-1].weight /= spread
    return model


def outputs(model: nn.Module, size: int) -> list[Tensor]:
    with torch.no_grad():
        return leaves(model(torch.randn(1, 3, size, size)))


def rows(name: str, directory: Path) -> list[Row]:
    size = SIZES[name]
    inputs = ExampleInputs((torch.randn(1, 3, size, size),))
    pruned = prunecore.prune(settled(built(name), size), inputs, algo="l2norm", reduce=0.5)
    model = settled(pruned.model, size)
    first, second = outputs(model, size), outputs(model, size)
    largest = max(float(t.abs().max()) for t in (*first, *second))
    moved = max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))
    found = []
    for kind, export in FORMATS.items():
        start, exported, fault = time.monotonic(), None, ""
        try:
            exported = export(model, inputs, directory / f"{name}.{kind}")
        except PrunecoreError as error:
            fault = str(error)
        seconds = time.monotonic() - start
        found.append(Row(name, pruned.size, largest, moved, kind, exported, fault, seconds))
        print(found[-1].line(), flush=True)
        for note in exported.notes if exported is not None else ():
            print(f"  {name}: {note}", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", help=f"which networks (default: {' '.join(SIZES)})")
    given = parser.parse_args()
    unknown = [n for n in given.nets if n not in SIZES]
    if unknown:
        parser.error(f"unknown network {unknown[0]!r}; choose from {', '.join(SIZES)}")
    print(
        "| network | size | outputs up to | moved by the input | format | max abs difference | batch sizes | MiB | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        made = [row for name in given.nets or SIZES for row in rows(name, Path(directory))]
    print(f"\n{sum(r.holds for r in made)} of {len(made)} within {TOLERANCE:g}, with a free batch")
    return 0 if all(r.holds for r in made) else 1


if __name__ == "__main__":
    sys.exit(main())
