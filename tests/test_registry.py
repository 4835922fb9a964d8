"""Plugins: found, refused with one line, and held by one manager a run."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from prunecore import registry
from prunecore.config.reader import parse
from prunecore.errors import ConfigError, PluginError
from prunecore.hookspecs import hookimpl


class Good:
    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        power: int = 1
        share: float = 0.5

    def __init__(self, options: Options) -> None:
        self.options = options

    @hookimpl
    def prune_score(self, group: Any) -> Any:
        return ("scored", group, self.options.power)


class Misspelt:
    @hookimpl
    def prune_scor(self, group: Any) -> Any:
        return None


class WrongArgument:
    @hookimpl
    def prune_score(self, grup: Any) -> Any:
        return None


def entry(name: str, value: str, distribution: str) -> Any:
    found = EntryPoint(name, value, "prunecore.algorithms")
    return SimpleNamespace(
        name=found.name, value=value, load=found.load, dist=SimpleNamespace(name=distribution, version="1.0")
    )


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that these entry points are the ones installed."""

    def install(*entries: Any) -> None:
        found = SimpleNamespace(select=lambda group: entries if group == "prunecore.algorithms" else ())
        monkeypatch.setattr(registry, "entry_points", lambda: found)

    return install


def test_unknown_name_offers_the_nearest_and_lists_what_is_installed(offer: Any) -> None:
    offer(entry("fpgm", f"{__name__}:Good", "a"), entry("l2norm", f"{__name__}:Good", "a"))
    with pytest.raises(PluginError) as caught:
        registry.find("algorithm", "fgpm")
    assert str(caught.value) == "unknown algorithm 'fgpm', did you mean 'fpgm'?; installed: fpgm, l2norm"


def test_case_does_not_matter_and_old_names_are_accepted(offer: Any) -> None:
    offer(entry("taylor", f"{__name__}:Good", "a"), entry("fpgm", f"{__name__}:Good", "a"))
    assert registry.find("algorithm", "TaylorFOWeight").name == "taylor"
    assert registry.find("algorithm", "FPGM").name == "fpgm"


def test_two_distributions_of_one_name_are_both_named(offer: Any) -> None:
    offer(entry("mine", f"{__name__}:Good", "first"), entry("mine", f"{__name__}:Misspelt", "second"))
    with pytest.raises(PluginError, match=r"'mine' is offered by first 1\.0 and second 1\.0: uninstall one of them"):
        registry.find("algorithm", "mine")


def test_one_distribution_found_twice_counts_once(offer: Any) -> None:
    offer(entry("mine", f"{__name__}:Good", "first"), entry("mine", f"{__name__}:Good", "first"))
    assert registry.find("algorithm", "mine").distribution == "first"


def test_a_plugin_that_cannot_be_imported_is_named_with_its_distribution(offer: Any) -> None:
    offer(entry("broken", "no_such_module_at_all:X", "first"))
    with pytest.raises(PluginError, match=r"plugin 'broken' of first 1\.0 cannot be imported .* No module named"):
        registry.find("algorithm", "broken").load()


def test_options_are_filled_from_the_section(offer: Any) -> None:
    offer(entry("mine", f"{__name__}:Good", "first"))
    manager = registry.build_manager([registry.Choice("algorithm", "mine", {"power": 3}, "mine")])
    assert manager.hook.prune_score(group="g", weights={}, calibration=None, seed=0) == ("scored", "g", 3)


def test_every_fault_of_the_options_is_reported_at_once(offer: Any) -> None:
    offer(entry("mine", f"{__name__}:Good", "first"))
    choice = registry.Choice("algorithm", "mine", {"power": "x", "share": "y", "other": 1}, "mine")
    with pytest.raises(ConfigError) as caught:
        registry.build_manager([choice])
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["3 faults", "mine.power", "mine.share", "mine.other"]
    assert "mine knows: power, share" in lines[1]


def test_a_misspelt_hook_is_an_error_that_names_it_and_the_nearest(offer: Any) -> None:
    offer(entry("mine", f"{__name__}:Misspelt", "first"))
    with pytest.raises(PluginError, match="'prune_scor' is no hook, did you mean 'prune_score'"):
        registry.build_manager([registry.Choice("algorithm", "mine", {}, "mine")])


def test_a_hook_with_a_wrong_argument_is_an_error(offer: Any) -> None:
    offer(entry("mine", f"{__name__}:WrongArgument", "first"))
    with pytest.raises(PluginError, match="grup"):
        registry.build_manager([registry.Choice("algorithm", "mine", {}, "mine")])


def test_two_managers_share_nothing(offer: Any) -> None:
    offer(entry("mine", f"{__name__}:Good", "first"))
    choices = [registry.Choice("algorithm", "mine", {"power": p}, "mine") for p in (1, 2)]
    results = [
        registry.build_manager([c]).hook.prune_score(group="g", weights={}, calibration=None, seed=0) for c in choices
    ]
    assert [r[2] for r in results] == [1, 2]


def test_the_trace_variable_prints_every_call(
    offer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(registry.TRACE_VARIABLE, "1")
    offer(entry("mine", f"{__name__}:Good", "first"))
    manager = registry.build_manager([registry.Choice("algorithm", "mine", {}, "mine")])
    manager.hook.prune_score(group="g", weights={}, calibration=None, seed=7)
    printed = capsys.readouterr().err
    assert "[plugins] prune_score(group='g', weights={}, calibration=None, seed=7)" in printed
    assert "[plugins] prune_score -> ('scored', 'g', 1)" in printed


def test_distributions_are_looked_through_once_to_parse_and_once_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = []

    def counted() -> Any:
        scans.append(1)
        return entry_points()

    monkeypatch.setattr(registry, "entry_points", counted)
    parsed = parse({"model": "demo", "data": "digits", "algorithm": "agp", "target": {"reduce": 0.5}})
    assert len(scans) == 1
    registry.build_manager(parsed.choices)
    assert len(scans) == 2


def test_every_entry_point_of_ours_loads_and_implements_a_hook() -> None:
    ours = [p for each in registry.installed().values() for p in each if p.distribution == "prunecore"]
    assert len(ours) > 10
    assert [p.name for p in ours if not registry.hooks_of(p.load())] == []
