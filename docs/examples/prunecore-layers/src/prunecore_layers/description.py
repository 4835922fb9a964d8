"""The format: a network as a list of layers, in JSON; each kind of layer knows its module, and how to read itself off one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

import prunecore
from prunecore.loading import Trust, trusted_callable

Width = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Conv(_Strict):
    type: Literal["conv"]
    inputs: Width
    outputs: Width
    kernel: Width = 3
    stride: Width = 1
    groups: Width = 1

    def module(self, trust: Trust) -> nn.Module:
        padding = self.kernel // 2
        return nn.Conv2d(self.inputs, self.outputs, self.kernel, self.stride, padding, groups=self.groups, bias=False)

    def resized(self, module: Any) -> Conv:
        widths = {"inputs": module.in_channels, "outputs": module.out_channels, "groups": module.groups}
        return self.model_copy(update=widths)


class Norm(_Strict):
    type: Literal["norm"]
    channels: Width

    def module(self, trust: Trust) -> nn.Module:
        return nn.BatchNorm2d(self.channels)

    def resized(self, module: Any) -> Norm:
        return self.model_copy(update={"channels": module.num_features})


class Linear(_Strict):
    type: Literal["linear"]
    inputs: Width
    outputs: Width

    def module(self, trust: Trust) -> nn.Module:
        return nn.Linear(self.inputs, self.outputs)

    def resized(self, module: Any) -> Linear:
        return self.model_copy(update={"inputs": module.in_features, "outputs": module.out_features})


class Plain(_Strict):
    """relu; mean: over height and width."""

    type: Literal["relu", "mean"]

    def module(self, trust: Trust) -> nn.Module:
        return nn.ReLU() if self.type == "relu" else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def resized(self, module: Any) -> Plain:
        return self


class Code(_Strict):
    """A module of the user's own, `file.py:callable` or `package.module:callable`; it may have no tensors."""

    type: Literal["code"]
    call: str

    def module(self, trust: Trust) -> nn.Module:
        made = trusted_callable(self.call, trust)()
        if not isinstance(made, nn.Module) or made.state_dict():
            raise prunecore.ModelError(
                f"{self.call}: expected a torch.nn.Module without tensors; describe it as layers"
            )
        return made

    def resized(self, module: Any) -> Code:
        return self


Layer = Annotated[Conv | Norm | Linear | Plain | Code, Field(discriminator="type")]


class Description(_Strict):
    """input: shape of one item. pruned: what the run that wrote the file found."""

    input: tuple[Width, ...]
    layers: tuple[Layer, ...]
    pruned: dict[str, Any] | None = None

    @classmethod
    def parse(cls, text: str, where: str | Path) -> Description:
        """The description that `text` holds. Raises ModelError with the place of the first fault."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, fault["loc"])) or "the file"
            raise prunecore.ModelError(f"{where}: {place}: {fault['msg']}") from error

    def network(self, trust: Trust) -> nn.Sequential:
        """The network, with random weights."""
        return nn.Sequential(*(layer.module(trust) for layer in self.layers))

    def resized(self, network: nn.Module) -> Description:
        """The description with the widths of `network`, whose modules are those of `self.network`, cut."""
        pairs = zip(self.layers, network.children(), strict=True)
        return self.model_copy(update={"layers": tuple(layer.resized(module) for layer, module in pairs)})
