"""Does a segmentation network hold its quality? A small UNet on collages of Fashion-MNIST, cut in half by its MACs.

    python tests/benchmarks/segmentation.py [--criterion taylor] [--reduce 0.5] [--images 1200] [--epochs 12]

Needs Debian's package `dataset-fashion-mnist`. Every image is a 2x2 collage of garments on a noisy background; its mask holds
the kind of garment + 1 where there is one, 0 elsewhere. Trained, cut, repaired and fine-tuned by `prune run`'s own
pipeline from a table on disk, beside a control that is cut at random. Three minutes on one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from prunecore.config.reader import parse
from prunecore.registry import Choice, build_manager
from prunecore.run.pipeline import run

SIDE = 56
NOISE = 40  # grey values below it are background


def convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Three levels (Ronneberger et al., arXiv 1505.04597), padded; `(batch, 1, h, w)` to `(batch, 11, h, w)`."""

    def __init__(self, widths: tuple[int, int, int] = (12, 24, 48)) -> None:
        super().__init__()
        high, middle, low = widths
        self.pool = nn.MaxPool2d(2)
        self.down1, self.down2, self.bottom = (
            convolutions(1, high),
            convolutions(high, middle),
            convolutions(middle, low),
        )
        self.rise2, self.up2 = nn.ConvTranspose2d(low, middle, 2, 2), convolutions(2 * middle, middle)
        self.rise1, self.up1 = nn.ConvTranspose2d(middle, high, 2, 2), convolutions(2 * high, high)
        self.head = nn.Conv2d(high, 11, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        middle = self.down2(self.pool(high))
        low = self.bottom(self.pool(middle))
        middle = self.up2(torch.cat([middle, self.rise2(low)], 1))
        logits: Tensor = self.head(self.up1(torch.cat([high, self.rise1(middle)], 1)))
        return logits


def unet() -> nn.Module:
    """What the loader `python` calls."""
    return UNet()


def write_collages(directory: Path, images: int) -> Path:
    """The table of `images` collages that train and a quarter as many (of the test images) that validate."""
    task = build_manager([Choice("task", "fashion-mnist", {"augment": False}, "data")]).hook.prune_task()
    generator = np.random.default_rng(0)
    rows = ["path,label,is_val"]
    for part, data, count in (("train", task.train, images), ("test", task.validation, images // 4)):
        garments = data.inputs[: 4 * count, 0].numpy().reshape(count, 2, 2, 28, 28)
        kinds = data.targets[: 4 * count].numpy().reshape(count, 2, 2).repeat(28, axis=1).repeat(28, axis=2)
        for number, (garment, kind) in enumerate(zip(garments.transpose(0, 1, 3, 2, 4), kinds, strict=True)):
            pixels = garment.reshape(SIDE, SIDE)
            mask = np.where(pixels > NOISE, kind + 1, 0).astype(np.uint8)
            noisy = np.maximum(pixels, generator.integers(0, NOISE, pixels.shape)).astype(np.uint8)
            Image.fromarray(noisy).save(directory / f"{part}{number}.png")
            Image.fromarray(mask).save(directory / f"{part}{number}-mask.png")
            rows.append(f"{part}{number}.png,{part}{number}-mask.png,{part == 'test'}")
    table = directory / "collages.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def settings_of(table: Path, given: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": {"spec": f"python:{Path(__file__).resolve()}:unet", "inputs": [1, 1, SIDE, SIDE]},
        "data": {"spec": f"segmentation:{table}", "size": [SIDE, SIDE], "grey": True},
        "algorithm": given.criterion,
        "target": {"reduce": given.reduce},
        "pretraining": {"epochs": given.epochs, "lr": 0.01, "batch_size": 16},
        "training": {"epochs": max(1, given.epochs // 4), "lr": 5e-3, "batch_size": 16},
        "evaluation": {"batch_size": 64},
        "control": "full",
        "device": "cpu",
        "seed": given.seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--criterion", default="taylor")
    parser.add_argument("--reduce", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    with TemporaryDirectory() as directory:
        table = write_collages(Path(directory), given.images)
        result = run(parse(settings_of(table, given)), Path(directory) / "run")
    print("| cut by | size | mIoU before | after cut | after repair | after fine-tune |")
    print("|---|---|---|---|---|---|")
    for name, found in ((given.criterion, {**result["metric"], "size": result["size"]}), ("random", result["control"])):
        cells = [f"{100 * found[key]:.1f}" for key in ("after_cut", "after_repair", "after")]
        print(f"| {name} | {found['size']:.4f} | {100 * result['metric']['before']:.1f} | {' | '.join(cells)} |")
    verdict = "verified" if result["certificate"]["verified"] else "FAILED"
    print(f"\ncertificate {verdict}; {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
