"""The graph engine `torch-pruning`: Torch-Pruning's dependency graph, translated to channel groups and checked by shape.

Torch-Pruning (DepGraph, arXiv 2301.12900) finds the operations of a network by walking its autograd graph and says how
indices pass from layer to layer. It takes every operation that it does not know for an element-wise one; here each is
held against the shapes that autograd recorded, and what cannot be followed safely (channel shuffles, splits of channels,
attention, reductions over channels) is frozen with the name of the operation.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import prunecore
from prunecore.graph import GraphBuilder
from prunecore.measure import trace_ops
from prunecore.surgery import copy_model
from prunecore.types import DependencyGraph, ExampleInputs
from prunecore_plugins.graphs.torch_pruning.layers import LAYERS, Layers
from prunecore_plugins.graphs.torch_pruning.ops import Flow, follow

INPUT = "the network's input"
OUTPUT = "the network's output"


class TorchPruningGraph:
    """Finds channel groups with Torch-Pruning."""

    @prunecore.hookimpl
    def prune_trace(self, model: nn.Module, inputs: ExampleInputs) -> DependencyGraph:
        """Trace a copy of `model` in eval mode with every gradient on; `model` is untouched.

        Raises ModelError where the network does not run on `inputs`, or Torch-Pruning cannot follow it.
        """
        traced = _copy(model)
        builder = GraphBuilder(traced, "torch-pruning")
        layers = Layers(builder, traced)
        trace = _trace(traced, inputs)
        _sites(trace, _follow(trace, layers), builder)
        if any(isinstance(m, LAYERS) and not layers.reached(m) for m in traced.modules()):
            # branches for training only (auxiliary heads) hang on channels too; not every network can run them here
            with contextlib.suppress(prunecore.ModelError):
                _follow(_trace(traced, _doubled(inputs), train=True), layers)
        for op in trace_ops(model, inputs):
            # a weight that the forward computes (weight standardisation) is as wide as its layer's parameter
            weight = layers.weights.get(op.module) if op.weight is None else layers.by_tensor.get(op.weight)
            if weight is None or weight.shape != op.weight_shape:
                builder.op(op.module, op.op, op.macs, [])
                continue
            rows, columns = weight.shape[:2]
            builder.op(op.module, op.op, op.macs // (rows * columns), [weight.first, weight.second])
        return builder.build()


# ---------------------------------------------------------------- tracing


@dataclass(frozen=True)
class Call:
    """One call of a layer: the autograd nodes of its tensor inputs (None = no history) and of its output."""

    module: nn.Module
    inputs: tuple[Any, ...]
    input_shape: tuple[int, ...]
    output: Any
    output_shape: tuple[int, ...]


@dataclass
class Trace:
    """A forward of the copy: calls of known layers in order, what every leaf module gave, Torch-Pruning's nodes."""

    model: nn.Module
    names: dict[nn.Module, str]
    calls: list[Call] = field(default_factory=list)
    given: list[Call] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    nodes: dict[Any, Any] = field(default_factory=dict)
    parameters: dict[int, str] = field(default_factory=dict)


def _copy(model: nn.Module) -> nn.Module:
    traced = copy_model(model).eval()
    for parameter in traced.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)
    return traced


def _trace(traced: nn.Module, inputs: ExampleInputs, *, train: bool = False) -> Trace:
    try:
        tp = importlib.import_module("torch_pruning")
    except ImportError as error:
        raise prunecore.ConfigError("the graph engine torch-pruning needs: pip install torch-pruning") from error
    trace = Trace(traced, {module: name for name, module in traced.named_modules()})
    trace.parameters = {id(p): name for name, p in traced.named_parameters()}
    args, kwargs = tree_map_only(Tensor, _with_history, (tuple(inputs.args), dict(inputs.kwargs)))

    def forward(network: nn.Module, given: Any) -> list[Tensor]:
        network.train(train)
        outputs = [t for t in _tensors(network(*args, **kwargs)) if t.grad_fn is not None]
        trace.outputs = [t.grad_fn for t in outputs]
        return outputs

    graph = tp.DependencyGraph()
    with _silence(), torch.enable_grad(), _recorded(trace):
        try:
            graph.build_dependency(traced, example_inputs=args, forward_fn=forward, verbose=False)
        except prunecore.ModelError:
            raise
        except Exception as error:  # of the network's code or of Torch-Pruning's
            message = f"Torch-Pruning cannot follow {type(traced).__name__}: {type(error).__name__}: {error}"
            raise prunecore.ModelError(message.splitlines()[0]) from error
    if not trace.outputs:
        raise prunecore.ModelError(
            f"{type(traced).__name__}: no output depends on a parameter, so nothing can be traced"
        )
    trace.nodes = {node.grad_fn: node for node in graph.module2node.values()}
    return trace


def _doubled(inputs: ExampleInputs) -> ExampleInputs:
    """A batch of one becomes two: batch norm cannot train on one value per channel."""

    def double(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]) if tensor.dim() > 1 and tensor.shape[0] == 1 else tensor

    args, kwargs = tree_map_only(Tensor, double, (tuple(inputs.args), dict(inputs.kwargs)))
    return ExampleInputs(args, kwargs)


def _with_history(tensor: Tensor) -> Tensor:
    """An input that autograd follows, so that what it is added to is known to hang on it."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor.detach().clone().requires_grad_(True).clone()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _recorded(trace: Trace) -> Iterator[None]:
    starts: list[tuple[tuple[Any, ...], tuple[int, ...]]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = _tensors((args, kwargs))
        starts.append((tuple(t.grad_fn for t in tensors), tuple(tensors[0].shape) if tensors else ()))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs, shape = starts.pop()
        tensors = _tensors(output)
        if not tensors or tensors[0].grad_fn is None:
            if isinstance(module, LAYERS) and any(_behind_a_layer(i, trace) for i in inputs):
                name = trace.names[module]
                raise prunecore.ModelError(
                    f"{name} runs without gradients on channels of the network; use the engine 'labels'"
                )
            return
        call = Call(module, inputs, shape, tensors[0].grad_fn, tuple(tensors[0].shape))
        (trace.calls if isinstance(module, LAYERS) else trace.given).append(call)

    handles = []
    for module in trace.names:
        if isinstance(module, LAYERS) or not any(True for _ in module.children()):
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _behind_a_layer(node: Any, trace: Trace) -> bool:
    layers = {call.output for call in trace.calls}
    todo, seen = [node], set()
    while todo:
        node = todo.pop()
        if node in layers:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(f for f, _ in node.next_functions)
    return False


def _tensors(value: Any) -> list[Tensor]:
    from torch.utils._pytree import tree_leaves

    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


# ---------------------------------------------------------------- following the channels


def _follow(trace: Trace, layers: Layers) -> dict[Any, Flow]:
    """Tie and freeze what one forward says."""
    flows = _flows(trace, layers)
    for call in trace.calls:
        layers.consume(call.module, call.inputs[0] if call.inputs else None, flows, call.input_shape)
    for output in trace.outputs:
        flow = flows.get(output)
        if flow is not None and flow.labels is not None:
            layers.builder.freeze(flow.labels, OUTPUT)
    return flows


def _flows(trace: Trace, layers: Layers) -> dict[Any, Flow]:
    """Which channels every autograd node carries, from the layers onwards, in the order of execution."""
    made = {call.output: call for call in trace.calls}
    needed: dict[Any, None] = {}
    todo = [*trace.outputs, *made]
    while todo:
        node = todo.pop()
        if node is None or node in needed:
            continue
        needed[node] = None
        todo.extend(made[node].inputs if node in made else (f for f, _ in node.next_functions))
    flows: dict[Any, Flow] = {}
    for node in sorted(needed, key=lambda n: n._sequence_nr()):
        if node in made:
            call = made[node]
            flows[node] = layers.produce(
                call.module, call.output_shape, flows.get(call.inputs[0]) if call.inputs else None
            )
        elif not hasattr(node, "variable"):
            operands = [_operand(f, flows, trace, layers) for f, _ in node.next_functions]
            flows[node] = follow(node, operands, trace.nodes, layers.builder)
    return flows


def _operand(node: Any, flows: dict[Any, Flow], trace: Trace, layers: Layers) -> Flow | None:
    if node is None or not hasattr(node, "variable"):
        return flows.get(node)
    name = trace.parameters.get(id(node.variable))
    shape = tuple(node.variable.shape)
    if name is None:
        return Flow(None, 0, shape, INPUT)
    return layers.parameter(name, shape, trace.nodes)


def _sites(trace: Trace, flows: dict[Any, Flow], builder: GraphBuilder) -> None:
    """Module outputs in which channels are visible; modules called more than once are left out."""
    calls = [*trace.calls, *trace.given]
    modules = [call.module for call in calls]
    for call in calls:
        flow = flows.get(call.output)
        if flow is not None and flow.labels is not None and modules.count(call.module) == 1:
            builder.site(trace.names[call.module], 0, flow.dim, flow.labels)
