"""What a certificate costs: peak memory beside the network's own, and forwards run.

    python tests/benchmarks/certificate.py [--nets vgg16 regnet_y_32gf …] [--size 64]

`extra`: growth of the peak resident memory while the certificate is made, in GiB and as a multiple of the network in
single precision (Linux only, each network in a process of its own). `forwards`: how many were run; one of the cut network
counts as its share of the MACs, a backward as two.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torchvision

import prunecore
from prunecore.surgery import certify
from prunecore.types import ExampleInputs

NETS = ("vgg16", "resnet50", "regnet_y_32gf", "vit_b_16")


def peak() -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def measure(name: str, size: int) -> str:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    side = 224 if name.startswith("vit") else size
    inputs = ExampleInputs((torch.randn(1, 3, side, side),))
    pruned = prunecore.prune(model, inputs, algo="random", reduce=0.5)
    whole = sum(p.numel() for p in model.parameters()) * 4 / 2**30
    forwards: list[float] = []

    def seen(module: torch.nn.Module, _args: Any, output: Any) -> None:
        if type(module) is type(model):
            share = pruned.size if sum(p.numel() for p in module.parameters()) < whole * 2**28 else 1.0
            trained = isinstance(output, torch.Tensor) and output.requires_grad
            forwards.append(share * (3 if trained else 1))

    handle = torch.nn.modules.module.register_module_forward_hook(seen)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak(), time.process_time()
    certificate = certify(model, pruned.model, pruned.recipe, inputs)
    seconds, extra = time.process_time() - start, peak() - before
    handle.remove()
    verdict = "verified" if certificate.verified else certificate.notes
    return f"| {name} | {whole:.2f} | {extra:.2f} | {extra / whole:.1f} | {sum(forwards):.1f} | {seconds:.1f} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.one, options.size))
        return
    print("| network | GiB | extra GiB | times | forwards | CPU s | certificate |\n|---|---|---|---|---|---|---|")
    for name in options.nets:
        subprocess.run([sys.executable, __file__, "--one", name, "--size", str(options.size)], check=True)


if __name__ == "__main__":
    main()
