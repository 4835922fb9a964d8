"""YAML and `--set` -> RunConfig; every fault at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prunecore.config.reader import assign, parse, read_yaml
from prunecore.errors import ConfigError

BASE = {"model": "demo", "data": "digits", "algorithm": "fpgm"}


def test_specs_become_kind_source_and_options() -> None:
    parsed = parse({**BASE, "model": {"spec": "torchvision:resnet18", "weights": "DEFAULT"}})
    assert parsed.config.model.kind == "torchvision"
    assert parsed.config.model.options == {"source": "resnet18", "weights": "DEFAULT"}
    assert [(c.role, c.name) for c in parsed.choices][:2] == [("loader", "torchvision"), ("task", "digits")]
    assert parsed.criterion == "fpgm"


def test_three_faults_are_all_listed() -> None:
    settings = {**BASE, "algorithm": "fgpm", "target": {"reduce": 1.5, "measure": "flops"}, "trainig": {}}
    with pytest.raises(ConfigError) as caught:
        parse(settings)
    text = str(caught.value)
    assert text.splitlines()[0] == "3 faults:"
    assert "target.reduce: must be a fraction to remove" in text
    assert "(got 1.5)" in text
    assert "target.measure" in text
    assert "trainig: unknown key, did you mean 'training'?" in text


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan"), 2])
def test_a_reduction_outside_the_range_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"target\.reduce: must be a fraction to remove, at least 0 and below 1"):
        parse({**BASE, "target": {"reduce": value}})


def test_reduce_of_the_algorithms_section_stands_in_for_the_target() -> None:
    assert parse({**BASE, "fpgm": {"reduce": 0.3}}).config.target.reduce == 0.3
    assert parse({**BASE, "FPGM": {"reduce": 0.3}, "target": {"reduce": 0.4}}).config.target.reduce == 0.4


def test_a_criterion_besides_a_criterion_is_refused() -> None:
    with pytest.raises(ConfigError, match="fpgm is a criterion itself, got 'l2norm' besides"):
        parse({**BASE, "criterion": "l2norm"})


def test_set_reads_yaml_and_reaches_into_specs() -> None:
    settings = assign(assign(BASE, "training.epochs=3"), "model.width=8")
    assert settings["training"] == {"epochs": 3}
    assert settings["model"] == {"spec": "demo", "width": 8}
    assert BASE["model"] == "demo"
    with pytest.raises(ConfigError, match="expected key"):
        assign(BASE, "training.epochs")


def test_yaml_faults_name_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: demo\ntarget: {reduce: 0.5\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:3:1: not valid YAML"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "b.yaml")
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="got a list, expected a mapping"):
        read_yaml(path)


def test_a_configuration_written_and_read_again_is_the_same_also_where_it_says_null() -> None:
    from prunecore.run.pipeline import config_text

    nulls = {"recalibration": None, "compensation": None, "training": {"clip": None}, "pretraining": {"clip": None}}
    for settings in (BASE, {**BASE, **nulls}, {**BASE, "taylor": {"batches": 3}, "algorithm": "taylor"}):
        parsed = parse(settings)
        assert parse(yaml.safe_load(config_text(parsed))) == parsed


def test_a_section_that_is_no_mapping_and_a_key_that_is_no_text_are_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fpgm: expected a mapping of options \(got 5\)"):
        parse({**BASE, "fpgm": 5})
    (tmp_path / "a.yaml").write_text("on: 1\n")
    with pytest.raises(ConfigError, match="the key True is a bool, expected text; quote it"):
        read_yaml(tmp_path / "a.yaml")
