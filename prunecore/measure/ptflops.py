"""What `ptflops.get_model_complexity_info` says of a network: norms, activations and pooling included.

Its parameter count holds trainable parameters only. Existing users know these numbers, so they stand beside ours.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from prunecore.errors import ModelError
from prunecore.types import Cost, ExampleInputs


def ptflops_cost(model: nn.Module, inputs: ExampleInputs) -> Cost:
    """MACs and params as ptflops' pytorch backend counts them, for batch 1, on a copy of `model`; nothing is printed.

    Raises `ModelError` where ptflops cannot run the network.
    """
    from ptflops import get_model_complexity_info

    batch = _single(inputs)
    said = io.StringIO()
    with torch.no_grad(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        macs, params = get_model_complexity_info(
            copy.deepcopy(model),
            (1,),
            print_per_layer_stat=False,
            as_strings=False,
            input_constructor=lambda _: _one_argument(model, batch),
            ost=said,
            backend="pytorch",
        )
    if macs is None or params is None:
        reason = next((line for line in said.getvalue().splitlines() if line.startswith("<class")), "no reason given")
        raise ModelError(f"ptflops cannot count this network: {reason}; use target.measure: macs instead")
    return Cost(int(macs), int(params))


def _single(inputs: ExampleInputs) -> ExampleInputs:
    """The first sample of every tensor that has the batch of the first one: functional ops are not averaged there."""
    tensors = [x for x in tree_leaves((inputs.args, dict(inputs.kwargs))) if isinstance(x, Tensor) and x.ndim]
    batch = tensors[0].shape[0] if tensors else 1

    def first(x: Tensor) -> Tensor:
        return x[:1].clone() if x.ndim and x.shape[0] == batch else x.clone()

    args, kwargs = tree_map_only(Tensor, first, (tuple(inputs.args), dict(inputs.kwargs)))
    return ExampleInputs(args, kwargs)


def _one_argument(model: nn.Module, inputs: ExampleInputs) -> Any:
    """ptflops calls `model(batch)` or `model(**batch)` and nothing else, so several arguments go by name."""
    if len(inputs.args) == 1 and not inputs.kwargs:
        return inputs.args[0]
    bound = inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = inspect.signature(model.forward).parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD and isinstance(value, Mapping):
            named.update(value)
        else:
            named[name] = value
    return named
