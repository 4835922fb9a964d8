"""Two plugins for prunecore: the criterion `l1` and the model loader `chain`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor, nn

import prunecore
from prunecore.scoring import mean_over_producers


class L1:
    """Saliency of a channel: the sum of |w| over the weights that produce it (arXiv:1608.08710)."""

    class Options(BaseModel):
        """per_weight: the mean of |w| instead of the sum, so that layers of different sizes weigh the same in a group."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        per_weight: bool = False

    def __init__(self, options: Options) -> None:
        self._options = options

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        def rule(matrix: Tensor) -> Tensor:
            size = matrix.abs()
            return size.mean(dim=1) if self._options.per_weight else size.sum(dim=1)

        return mean_over_producers(group, weights, rule)


class ChainLoader:
    """`chain:8-16`: 3x3 convolutions of these widths one after the other, for 1x16x16 pictures of ten classes."""

    class Options(BaseModel):
        """source: the widths, such as `8-16`. seed: of the initial weights."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        source: str
        seed: int = 0

        @field_validator("source")
        @classmethod
        def _widths(cls, value: str) -> str:
            if not all(part.isdecimal() and int(part) > 0 for part in value.split("-")):
                raise ValueError("expected widths such as 8-16")
            return value

    def __init__(self, options: Options) -> None:
        self._options = options

    @prunecore.hookimpl
    def prune_load_model(self) -> prunecore.LoadedModel:
        widths = [int(part) for part in self._options.source.split("-")]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._options.seed)
            model = chain(widths)
        return prunecore.LoadedModel(
            model,
            prunecore.ExampleInputs((torch.zeros(1, 1, 16, 16),)),
            provenance={"spec": f"chain:{self._options.source}", "seed": self._options.seed},
            pretrained=False,
        )


def chain(widths: list[int]) -> nn.Sequential:
    """Blocks of convolution, BatchNorm and ReLU (the later ones of stride 2), then a mean and a linear layer."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip([1, *widths[:-1]], widths, strict=True)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2 if number else 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))
