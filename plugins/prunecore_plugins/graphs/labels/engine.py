"""`LabelGraph`: trace a network once and hand its ties to the graph builder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from prunecore import DependencyGraph, ExampleInputs, GraphBuilder, ModelError, hookimpl
from prunecore.errors import ForwardError, listing
from prunecore.graph import OpRule
from prunecore_plugins.graphs.labels.attributes import remembered
from prunecore_plugins.graphs.labels.call import tensors_in
from prunecore_plugins.graphs.labels.frontier import Frontier
from prunecore_plugins.graphs.labels.restore import Originals, evaluation, hooked, plain_kernels, training_branches
from prunecore_plugins.graphs.labels.rules import table
from prunecore_plugins.graphs.labels.scales import remembered_roots
from prunecore_plugins.graphs.labels.trace import Trace, first_batch


class LabelGraph:
    """Graph engine `labels`."""

    @hookimpl
    def prune_trace(self, model: nn.Module, inputs: ExampleInputs, rules: Sequence[OpRule]) -> DependencyGraph:
        """Run `model` once in eval mode on `inputs` and find its channel groups.

        The model is left bit-equal, in its mode, with its hooks. Raises ModelError where the forward fails.
        """
        builder = GraphBuilder(model, "labels")
        originals = Originals(model)
        trace = Trace(model, builder, table(tuple(rules)), originals)
        try:
            with plain_kernels(), remembered_roots(), hooked(trace.enter, trace.leave), remembered(model, trace.ledger):
                _run(model, inputs, trace, evaluation(model))
                if any(n not in trace.reached for n, _ in model.named_parameters()):
                    _try_branches(model, inputs, trace)
        finally:
            originals.put_back()
        refuse_branches(model, trace)
        trace.finish()
        return builder.build()


def refuse_branches(model: nn.Module, trace: Trace) -> None:
    """A forward that decides by its data, and leaves parameters out that another input may reach, cannot be followed."""
    missed = [name for name, _ in model.named_parameters() if name not in trace.reached]
    if trace.decided is not None and missed:
        raise ModelError(
            f"the forward decides by its data (bool() or item() of a tensor in {trace.decided}) and does not reach "
            f"{listing(missed, most=3)} on the example inputs; make the branch a module of its own, or give inputs that reach it"
        )


def _run(model: nn.Module, inputs: ExampleInputs, trace: Trace, mode: AbstractContextManager[None]) -> None:
    args, kwargs = tree_map(_detached, inputs.args), tree_map(_detached, dict(inputs.kwargs))
    trace.batch = first_batch((args, kwargs))
    trace.inputs((args, kwargs))
    try:
        with mode, Frontier(trace), trace:
            outputs = model(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in((args, kwargs)))
        raise ForwardError.of(error, f"inputs {shapes}") from error
    trace.outputs(outputs)


def _try_branches(model: nn.Module, inputs: ExampleInputs, trace: Trace) -> None:
    """A second forward through branches that only training takes (auxiliary heads); it may well not run."""
    before, trace.costs = set(trace.reached), False
    try:
        _run(model, inputs, trace, training_branches(model))
    except ModelError:
        trace.stack[1:] = []
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            for dim in range(tensor.dim()) if name in trace.reached - before else ():
                trace.builder.freeze(trace.builder.labels(name, dim), "the forward in train mode stops halfway")


def _detached(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
