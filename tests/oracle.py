"""An oracle for cuts that knows nothing of channel labels: it tags every element of every parameter by its gradient.

With the weights that *produce* the removed channels at zero (or those that read them), an element whose gradient is zero
whatever the random values can never matter again: it is inert. A right cut removes the inert elements, no fewer, no more.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from prunecore.types import DependencyGraph, ExampleInputs, Proposal

PRODUCES = ("producer", "bias", "norm", "other")


def removed_elements(
    model: nn.Module, graph: DependencyGraph, proposal: Proposal, *, roles: tuple[str, ...] | None = None
) -> dict[str, Tensor]:
    """For each parameter a mask of the elements that the proposal removes (through members of `roles` only, if given)."""
    masks = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    for name, kept in proposal.kept.items():
        group = graph.group(name)
        gone = np.setdiff1d(np.arange(group.channels), kept)
        for member in group.members:
            if member.tensor in masks and (roles is None or member.role in roles):
                masks[member.tensor].index_fill_(member.dim, torch.from_numpy(member.index[gone].ravel()), True)
    return masks


def inert_elements(
    model: nn.Module, inputs: ExampleInputs, dead: Mapping[str, Tensor], *, draws: int = 4
) -> dict[str, Tensor]:
    """Masks of the elements without any influence on any output while the elements `dead` are zero."""
    inert = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        probe = copy.deepcopy(model).double().eval()
        with torch.no_grad():
            for name, p in probe.named_parameters():
                p.requires_grad_(True)
                spread = (
                    max(p[0].numel(), 1) ** 0.5 if p.dim() > 1 else 4.0
                )  # small biases: no activation of one sign only
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / spread)
                p.masked_fill_(dead[name], 0.0)
            for name, buffer in probe.named_buffers():
                if buffer.is_floating_point():
                    buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
                    if name.endswith("running_mean"):
                        buffer.zero_()
        args = [4 * torch.randn(a.shape, generator=generator, dtype=torch.float64) for a in inputs.args]
        outputs = _tensors(probe(*args, **inputs.kwargs))
        total = sum((o * torch.randn(o.shape, generator=generator, dtype=torch.float64)).sum() for o in outputs)
        torch.as_tensor(total).backward()
        for name, p in probe.named_parameters():
            if p.grad is not None:
                inert[name] &= p.grad == 0
    return inert


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value
    return [t for item in items for t in _tensors(item)]  # type: ignore[attr-defined]


def disagreements(model: nn.Module, inputs: ExampleInputs, graph: DependencyGraph, proposal: Proposal) -> list[str]:
    """What the cut gets wrong, one line a parameter; empty where it removes exactly the inert elements.

    Twice: with what produces the removed channels at zero, what reads them must be inert; with what reads them at zero,
    what produces them must be.
    """
    removed = removed_elements(model, graph, proposal)
    nothing = {name: torch.zeros_like(mask) for name, mask in removed.items()}
    always = inert_elements(model, inputs, nothing)
    downstream = inert_elements(model, inputs, removed_elements(model, graph, proposal, roles=PRODUCES))
    upstream = inert_elements(model, inputs, removed_elements(model, graph, proposal, roles=("consumer",)))
    found = []
    for name, mask in removed.items():
        inert = downstream[name] | upstream[name]
        missed = int((inert & ~mask & ~always[name]).sum())
        alive = int((mask & ~inert).sum())
        if missed or alive:
            found.append(f"{name} {tuple(mask.shape)}: {missed} inert elements stay, {alive} live ones go")
    return found
