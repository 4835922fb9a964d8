"""Layers as Torch-Pruning knows them: which tensors their channels live in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, instancenorm
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm

from prunecore.graph import GraphBuilder
from prunecore.types import Indices, Role
from prunecore_plugins.graphs.torch_pruning.ops import Flow

_NORMS = (batchnorm._BatchNorm, instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
LAYERS = (conv._ConvNd, nn.Linear, nn.Embedding, *_NORMS)


@dataclass(frozen=True, eq=False)
class Weight:
    """The matrix of a layer: its whole shape and the labels along its first two dims."""

    shape: tuple[int, ...]
    first: Indices
    second: Indices


class Layers:
    """Labels of the inputs and outputs of every layer that the walk reaches; `weights` holds their matrices by module,
    `by_tensor` by parameter."""

    def __init__(self, builder: GraphBuilder, model: nn.Module) -> None:
        self.builder = builder
        self.weights: dict[str, Weight] = {}
        self.by_tensor: dict[str, Weight] = {}
        self._names = {module: name for name, module in model.named_modules()}
        # a shared tensor has its first name only
        self._tensors = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
        self._inputs: dict[nn.Module, Indices | None] = {}
        self._outputs: dict[nn.Module, Indices | None] = {}

    # ------------------------------------------------------------ what the walk asks

    def reached(self, module: nn.Module) -> bool:
        return module in self._inputs

    def produce(self, module: nn.Module, shape: tuple[int, ...], given: Flow | None) -> Flow:
        """The channels that leave a layer as a tensor of `shape`; norms pass on what they are given."""
        self._prepare(module)
        labels = self._outputs[module]
        if isinstance(module, conv._ConvNd):
            dim = len(shape) - len(module.kernel_size) - 1
        elif isinstance(module, nn.Linear | nn.Embedding):
            dim = len(shape) - 1
        elif given is None:
            return Flow(None, 0, shape, f"{self._names[module]}: its input comes from outside the graph")
        else:
            dim, labels = given.dim, given.labels if labels is None else labels
        if labels is None or not self._sound(module, labels, shape, dim):
            return Flow(
                None, dim, shape, given.reason if given and given.reason else f"{self._kind(module)} cannot be followed"
            )
        return Flow(labels, dim, shape)

    def consume(self, module: nn.Module, source: Any, flows: Mapping[Any, Flow], shape: tuple[int, ...]) -> None:
        """Tie what a layer is given to its input channels; freeze both where they do not fit."""
        self._prepare(module)
        labels = self._inputs[module]
        if labels is None:
            return
        flow = flows.get(source)
        if flow is None or flow.labels is None:
            self.builder.freeze(labels, flow.reason if flow and flow.reason else "the network's input")
            return
        dim = len(shape) - len(module.kernel_size) - 1 if isinstance(module, conv._ConvNd) else len(shape) - 1
        if isinstance(module, _NORMS):
            dim = flow.dim
        if dim != flow.dim or len(flow.labels) != len(labels) or not self._sound(module, labels, shape, dim):
            reason = f"{self._kind(module)} over another dim than the channels"
            self.builder.freeze(labels, reason)
            self.builder.freeze(flow.labels, reason)
            return
        self.builder.tie(labels, flow.labels)

    def parameter(self, name: str, shape: tuple[int, ...], nodes: Mapping[Any, Any]) -> Flow:
        """A parameter that the network uses by itself (layer scale, position embedding): its last dim that is not 1."""
        wide = [d for d, size in enumerate(shape) if size > 1]
        if not wide:
            return Flow(None, 0, shape, None)
        return Flow(self.builder.labels(name, wide[-1], "other"), wide[-1], shape)

    def _kind(self, module: nn.Module) -> str:
        return f"{type(module).__name__} {self._names[module]}"

    def _sound(self, module: nn.Module, labels: Indices, shape: tuple[int, ...], dim: int) -> bool:
        """The tensor has its channels where the layer acts on them."""
        if not 0 <= dim < len(shape) or shape[dim] != len(labels):
            return False
        if type(module).forward is nn.LayerNorm.forward:
            return dim == len(shape) - 1
        if isinstance(module, batchnorm._BatchNorm | instancenorm._InstanceNorm | nn.GroupNorm | nn.PReLU):
            return dim == 1 or (isinstance(module, instancenorm._InstanceNorm) and dim == 0)
        return True

    # ------------------------------------------------------------ labels of one layer

    def _prepare(self, module: nn.Module) -> None:
        if module in self._inputs:
            return
        if isinstance(module, conv._ConvNd | nn.Linear | nn.Embedding) and not self._plain(module):
            self._closed(module)
        elif isinstance(module, conv._ConvNd):
            self._convolution(module)
        elif isinstance(module, nn.Linear):
            inputs, outputs = self._label(module, "weight", 1, "consumer"), self._label(module, "weight", 0, "producer")
            self._note(module, outputs, inputs)
            self._inputs[module], self._outputs[module] = inputs, outputs
            self._tie(module, "bias", outputs, "bias")
        elif isinstance(module, nn.Embedding):
            self.builder.freeze(self._label(module, "weight", 0, "other"), "the rows of an embedding")
            self._inputs[module] = None
            self._outputs[module] = self._label(module, "weight", 1, "producer")
        else:
            self._norm(module)

    def _convolution(self, module: conv._ConvNd) -> None:
        builder, groups = self.builder, module.groups
        first = self._label(module, "weight", 0, "consumer" if module.transposed else "producer")
        second = self._label(module, "weight", 1, "producer" if module.transposed else "consumer")
        self._note(module, first, second)
        inputs, outputs = (first, second) if module.transposed else (second, first)
        if groups > 1:
            # dim 1 holds one group's share: its side of the convolution gets labels of its own
            share = second
            whole = builder.fresh(groups * len(share))
            inputs, outputs = (first, whole) if module.transposed else (whole, first)
            rows, columns = first.reshape(groups, -1), whole.reshape(groups, -1)
            name = self._names[module]
            if groups >= len(share):  # a group of the convolution goes as a whole
                heads = np.broadcast_to(rows[:, :1], rows.shape)
                builder.tie(rows, heads)
                builder.tie(columns, np.broadcast_to(rows[:, :1], columns.shape))
                builder.freeze(share, f"the inside of the groups of {name}")
                builder.attribute(name, "groups", rows[:, 0])
            else:
                builder.tie(columns, np.broadcast_to(share, columns.shape))
                builder.equal_parts(rows, f"the {groups} groups of {name}")
        self._inputs[module], self._outputs[module] = inputs, outputs
        self._tie(module, "bias", outputs, "bias")

    def _norm(self, module: nn.Module) -> None:
        labels = None
        for key, role in (("weight", "norm"), ("bias", "bias"), ("running_mean", "buffer"), ("running_var", "buffer")):
            tensor = getattr(module, key, None)
            if tensor is None or tensor.dim() == 0:
                continue
            if tensor.dim() > 1 or (isinstance(module, nn.PReLU) and tensor.numel() == 1):
                for dim in range(tensor.dim()):
                    self.builder.freeze(
                        self._label(module, key, dim, "norm"), f"{self._kind(module)} over several dims"
                    )
                continue
            own = self._label(module, key, 0, cast(Role, role))
            if labels is not None:
                self.builder.tie(labels, own)
            labels = own if labels is None else labels
        if labels is None and isinstance(module, nn.GroupNorm | batchnorm._BatchNorm | instancenorm._InstanceNorm):
            attribute = "num_channels" if isinstance(module, nn.GroupNorm) else "num_features"
            labels = self.builder.fresh(int(getattr(module, attribute)))
            self.builder.attribute(self._names[module], attribute, labels)
        if isinstance(module, nn.GroupNorm) and module.num_groups > 1 and labels is not None:
            reason = f"the {module.num_groups} groups of {self._names[module]}"
            self.builder.equal_parts(labels.reshape(module.num_groups, -1), reason)
        self._inputs[module] = self._outputs[module] = labels

    def _plain(self, module: nn.Module) -> bool:
        """Its weight is a parameter (or weight norm's), and it has no tensors that we do not know."""
        known = {"weight", "bias", "weight_g", "weight_v"}
        return bool(self._names_of(module, "weight")) and known >= {*module._parameters, *module._buffers}

    def _closed(self, module: conv._ConvNd | nn.Linear | nn.Embedding) -> None:
        """A weight that is computed in a way that we do not know: both sides stay whole."""
        shape = tuple(module.weight.shape)
        transposed = isinstance(module, conv._ConvNd) and module.transposed
        groups = module.groups if isinstance(module, conv._ConvNd) else 1
        sizes = (shape[0], shape[1] * groups) if transposed else (shape[1] * groups, shape[0])
        inputs, outputs = self.builder.fresh(sizes[0]), self.builder.fresh(sizes[1])
        for labels in (inputs, outputs):
            self.builder.freeze(labels, f"{self._kind(module)} has tensors that Torch-Pruning does not know")
        self._inputs[module], self._outputs[module] = inputs, outputs

    def _note(self, module: conv._ConvNd | nn.Linear, first: Indices, second: Indices) -> None:
        weight = Weight(tuple(module.weight.shape), first, second)
        self.weights[self._names[module]] = weight
        self.by_tensor |= dict.fromkeys(self._names_of(module, "weight"), weight)

    def _names_of(self, module: nn.Module, key: str) -> list[str]:
        """Names of the tensors behind `module.key`: itself, or direction and magnitude of weight norm; else none."""
        own = module._parameters.get(key, module._buffers.get(key))
        found = [] if own is None else [own]
        if isinstance(module._parameters.get(f"{key}_v"), Tensor):
            found = [t for t in (module._parameters[f"{key}_v"], module._parameters[f"{key}_g"]) if t is not None]
        elif parametrize.is_parametrized(module, key):
            chain: Any = module.parametrizations[key]  # type: ignore[index]
            if len(chain) == 1 and isinstance(chain[0], _WeightNorm):
                found = [chain.original1, chain.original0]
        return [self._tensors[id(t)] for t in found]

    def _label(self, module: nn.Module, key: str, dim: int, role: Role) -> Indices:
        """Labels along `dim` of `module.key`; those of weight norm's magnitude are tied to them where it varies."""
        first, *others = self._names_of(module, key)
        labels = self.builder.labels(first, dim, role)
        for other in others:
            own = self.builder.labels(other, dim, role)
            if len(own) == len(labels):
                self.builder.tie(labels, own)
        return labels

    def _tie(self, module: nn.Module, key: str, labels: Indices | None, role: Role) -> None:
        if getattr(module, key, None) is not None and labels is not None:
            self.builder.tie(self._label(module, key, 0, role), labels)
