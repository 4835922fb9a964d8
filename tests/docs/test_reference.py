"""The reference names every key of the configuration and every field of `result.json`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields

import pytest
from pydantic import BaseModel

from prunecore import Problem, Proposal
from prunecore.config import training
from prunecore.config.schema import RunConfig
from prunecore.run.phases import PHASES, REST
from tests.docs.pages import ROOT
from tests.report.hand_runs import RESULT


def missing(page: str, names: Iterable[str]) -> list[str]:
    """Those that stand nowhere in the page as code."""
    told = set(re.findall(r"`([\w.]+)[`:(=]", (ROOT / "docs" / page).read_text(encoding="utf-8")))
    return [name for name in names if name not in told]


@pytest.mark.parametrize(
    "section",
    [
        RunConfig,
        training.TrainingSettings,
        training.EvaluationSettings,
        training.DistillationSettings,
        training.LatencySettings,
    ],
)
def test_every_key_is_in_the_reference(section: type[BaseModel]) -> None:
    assert missing("reference/configuration.md", section.model_fields) == []


def test_every_field_of_a_result_is_in_the_reference() -> None:
    assert missing("reference/result.md", [*RESULT, *RESULT["ledger"], *PHASES, REST]) == []


def test_everything_that_a_search_is_given_and_may_ask_for_is_in_the_guide() -> None:
    names = [field.name for kind in (Problem, Proposal) for field in fields(kind)]
    assert missing("guide/writing-plugins.md", names) == []


def test_a_name_that_is_not_there_is_missed() -> None:
    assert missing("reference/result.md", ["latency", "no_such_field"]) == ["no_such_field"]
