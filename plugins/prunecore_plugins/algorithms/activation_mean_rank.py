"""ActivationMeanRank: channels that respond least on average go first (arXiv:1611.06440, section 2.2)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import prunecore
from prunecore.scoring import CalibrationOptions, calibration_batches, mean_over_producers, require_task
from prunecore.training import seeded
from prunecore.training.forward import call, device_of, images_in, modes_kept, tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"


class ActivationMeanRank:
    """Saliency of a channel: its mean response behind the activation, over images and positions.

    Where the activation is a function of the forward and no module, the response in front of it counts, its negative part
    as nothing (as ReLU does). Weights and statistics are only read: the network runs in eval mode. Groups that no module
    gives (raw parameters) are scored by the norm of their weights.
    """

    Options = CalibrationOptions

    def __init__(self, options: CalibrationOptions) -> None:
        self._options = options

    @prunecore.hookimpl
    def prune_calibrate(
        self,
        model: nn.Module,
        graph: prunecore.DependencyGraph,
        inputs: prunecore.ExampleInputs,
        task: prunecore.Task | None,
        seed: int,
    ) -> prunecore.Calibration:
        task = require_task(task, "activation_mean_rank")
        modules = dict(model.named_modules())
        chosen = {(s.module, s.output): s.dim for g in graph.groups if g.frozen is None for s in _speaking(g, modules)}
        device, options = device_of(model), self._options
        batches = calibration_batches(
            task, batch_size=options.batch_size, limit=options.batches, seed=seed, device=device
        )
        sums: dict[tuple[str, int], Tensor] = {}
        images = 0
        with seeded(seed, device), torch.no_grad(), modes_kept(model), _watched(modules, chosen, sums) as began:
            model.eval()
            for x, _ in batches:
                began(images_in(x))
                images += images_in(x)
                call(model, x)
        return prunecore.Calibration(
            sites={site: total / max(images, 1) for site, total in sums.items()}, images=images
        )

    @prunecore.hookimpl
    def prune_score(
        self,
        group: prunecore.ChannelGroup,
        weights: Mapping[prunecore.Member, Tensor],
        calibration: prunecore.Calibration,
        seed: int,
    ) -> Tensor:
        found = [s for s in group.sites if (s.module, s.output) in calibration.sites]
        if not found:
            return mean_over_producers(group, weights, lambda w: w.norm(dim=1))
        responses = [calibration.sites[s.module, s.output][torch.from_numpy(s.index.copy())].mean(dim=1) for s in found]
        return torch.stack(responses).mean(dim=0).float()


def _speaking(group: prunecore.ChannelGroup, modules: Mapping[str, nn.Module]) -> list[prunecore.Site]:
    """The outputs of activations; without any, of whatever module shows the channels last."""
    behind = [s for s in group.sites if _is_activation(modules[s.module])]
    return behind or list(group.sites[-1:])


@contextmanager
def _watched(
    modules: Mapping[str, nn.Module], chosen: Mapping[tuple[str, int], int], sums: dict[tuple[str, int], Tensor]
) -> Iterator[Any]:
    """Adds up the responses of each chosen output, images times their mean; a module that runs again counts once a batch.

    What is yielded is called with the number of images before each batch.
    """
    seen: set[str] = set()
    images = 0

    def began(count: int) -> None:
        nonlocal images
        images = count
        seen.clear()

    def hook(name: str) -> Any:
        def add(module: nn.Module, _args: Any, output: Any) -> None:
            if name in seen:
                return
            seen.add(name)
            for number, tensor in enumerate(tensors_in(output)):
                dim = chosen.get((name, number))
                if dim is not None:
                    response = tensor if _is_activation(module) else tensor.clamp(min=0)
                    mean = response.double().movedim(dim, 0).flatten(1).mean(1)
                    sums[name, number] = sums.get((name, number), 0) + images * mean

        return add

    handles = [modules[name].register_forward_hook(hook(name)) for name in dict.fromkeys(name for name, _ in chosen)]
    try:
        yield began
    finally:
        for handle in handles:
            handle.remove()
