"""`RunConfig`: everything a run can be told, validated at once. No torch here: `prune --help` reads this."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prunecore.config.training import (
    CompensationSettings,
    DistillationSettings,
    EvaluationSettings,
    LatencySettings,
    RecalibrationSettings,
    RetrainingSettings,
    TrainingSettings,
)
from prunecore.types import Measure, Scope, Target

DEFAULT_GRAPH = "labels"


class Section(BaseModel):
    """A frozen part of the configuration; unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spec(BaseModel):
    """`kind:source`, or a mapping with `kind`, `source` and the options of the plugin of that kind."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str
    source: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            kind, _, source = value.partition(":")
            return {"kind": kind, "source": source or None}
        if isinstance(value, dict) and "spec" in value:
            kind, _, source = str(value["spec"]).partition(":")
            return {"kind": kind, "source": source or None, **{k: v for k, v in value.items() if k != "spec"}}
        return value

    @property
    def options(self) -> dict[str, Any]:
        """What the plugin's `Options` are filled from: `source` where given, and every further key."""
        extra = dict(self.model_extra or {})
        return {"source": self.source, **extra} if self.source is not None else extra

    def __str__(self) -> str:
        return self.kind if self.source is None else f"{self.kind}:{self.source}"


class TargetSection(Section):
    """See `prunecore.Target`."""

    reduce: float = 0.5
    measure: Measure = "macs"
    multiple_of: int | None = Field(default=None, ge=1)
    align_all: bool = False
    min_channels: int = Field(default=1, ge=1)
    max_reduction: float = Field(default=Target(0.0).max_reduction, gt=0, le=1)
    skip: tuple[str, ...] = ()
    scope: Scope = "global"
    sensitivity: dict[str, float] = Field(default_factory=dict)

    @field_validator("reduce")
    @classmethod
    def _fraction(cls, value: float) -> float:
        if math.isnan(value) or not 0 <= value < 1:
            raise ValueError("must be a fraction to remove, at least 0 and below 1, such as 0.5")
        return value

    def target(self) -> Target:
        return Target(**self.model_dump())


class RunConfig(BaseModel):
    """A whole run. Keys that are no field must be the section of an installed plugin (`fpgm: {…}`)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: Spec
    data: Spec | None = None
    algorithm: str = "l2norm"
    criterion: str | None = None
    graph: str = DEFAULT_GRAPH
    target: TargetSection = TargetSection()
    pretraining: TrainingSettings | None = None
    training: TrainingSettings = TrainingSettings()
    retraining: RetrainingSettings = RetrainingSettings()
    distillation: DistillationSettings | None = None
    compensation: CompensationSettings | None = CompensationSettings()
    recalibration: RecalibrationSettings | None = RecalibrationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    latency: LatencySettings = LatencySettings()
    search_fraction: float = Field(default=0.1, gt=0, lt=1)
    control: Literal["none", "cut", "full"] = "cut"
    device: str = "auto"
    seed: int = Field(default=0, ge=0)
    out: Path | None = None
    share_directory: bool = False
    executor: Spec = Spec(kind="local")
    trackers: tuple[str, ...] = ()

    @field_validator("executor", mode="before")
    @classmethod
    def _local(cls, value: Any) -> Any:
        return {"kind": "local", **value} if isinstance(value, dict) and not {"kind", "spec"} & set(value) else value

    @property
    def sections(self) -> dict[str, Any]:
        """The sections of plugins, by name as written."""
        return dict(self.model_extra or {})
