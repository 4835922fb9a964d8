"""`Pruning.yaml` of the old tool -> settings: every key, what is told of it, and everything that may be wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecore.cli.init import translated
from prunecore.cli.settings import base_settings
from prunecore.config.legacy import Translated, is_legacy, is_legacy_key, translate
from prunecore.config.legacy_keys import KNOWN, PLAIN
from prunecore.config.reader import parse
from prunecore.errors import ConfigError
from tests.legacy.bundle import changed, old_yaml

HERE = Path()
ALGORITHMS = {
    "My_pruning": "netadapt",
    "AGP": "agp",
    "Linear": "linear",
    "LotteryTicket": "lottery_ticket",
    "TaylorFOWeight": "taylor",
    "ActivationMeanRank": "activation_mean_rank",
    "FPGM": "fpgm",
    "L2Norm": "l2norm",
}
SHORTEST: dict[str, Any] = {
    "model": {"type_save_load": "interface", "name_resurs": "interface"},
    "algorithm": "FPGM",
    "nni_pruning": {"P": 0.3},
}
SEARCH = {**SHORTEST, "algorithm": "My_pruning", "my_pruning": {"P": 0.8}}
ROUNDS = {**SHORTEST, "algorithm": "AGP"}
MASKS = {**SHORTEST, "task": {"type": "segmentation"}}


def translate_here(settings: Mapping[str, Any], base: Path = HERE) -> Translated:
    return translate(settings, base=base)


def value_at(settings: Mapping[str, Any], key: str) -> Any:
    found: Any = settings
    for part in key.split("."):
        found = found[part]
    return found


def fault_of(settings: Mapping[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        translate(settings, base=HERE)
    return str(caught.value)


# ---------------------------------------------------------------- one key at a time

LOADERS = [
    (section, f"{section}.dataLoader.{old}_t", given, f"{section}.{new}", wanted, f"-> {section}.{new}: {wanted}")
    for section in ("training", "retraining")
    for old, new, given, wanted in (
        ("batch_size", "batch_size", 16, 16),
        ("num_workers", "workers", "2", 2),
        ("pin_memory", "pin_memory", True, True),
        ("drop_last", "drop_last", "False", False),
        ("shuffle", "shuffle", False, False),
    )
]


@pytest.mark.parametrize(
    ("old", "key", "given", "new", "wanted", "line"),
    [
        (SHORTEST, "path.exp_save", "exp", "out", "exp/interface", "-> out: exp/interface; beside it interface_log.csv"),
        (SHORTEST, "path.model_name", "mine", "out", "mine", "path.exp_save, model_name -> out: mine"),
        (SHORTEST, "path.modelName", "mine", "out", "mine", "-> out: mine; beside it mine_log.csv and mine.txt"),
        (SHORTEST, "modelName", "mine", "out", "mine", "-> out: mine"),
        (SHORTEST, "model.type_save_load", "pth", "model.source", "interface.pth", "-> model: pth:interface.pth"),
        (SHORTEST, "model.type_save_load", "Interface", "model.kind", "interface", "-> model: interface:interface.pt"),
        (SHORTEST, "model.path_to_resurs", "nets", "model.source", "nets/interface.pt", "interface:nets/interface.pt"),
        (SHORTEST, "model.name_resurs", "v1.5", "model.source", "v1.5.pt", "-> model: interface:v1.5.pt"),
        (SHORTEST, "model.name_resurs", "x.pt", "model.source", "x.pt", "-> model: interface:x.pt"),
        (SHORTEST, "model.size", [24, 40], "model.size", [24, 40], "model.size: [24, 40] -> model.size: [24, 40]"),
        (SHORTEST, "model.size", ["24", "40"], "data.size", [24, 40], "-> data.size: [24, 40]"),
        (SHORTEST, "model.gpu", 0, "device", "cuda:0", "model.gpu: 0 -> device: cuda:0"),
        (SHORTEST, "model.gpu", "2", "device", "cuda:2", "model.gpu: 2 -> device: cuda:2"),
        (SHORTEST, "model.gpu", "cuda:1", "device", "cuda:1", "model.gpu: cuda:1 -> device: cuda:1"),
        (SHORTEST, "model.gpu", "CPU", "device", "cpu", "model.gpu: CPU -> device: cpu"),
        (SHORTEST, "task.type", "segmentation", "data.kind", "segmentation", "-> data: segmentation:data.csv"),
        (SHORTEST, "task.type", "Classification", "data.kind", "csv", "-> data: csv:data.csv"),
        (SHORTEST, "task.loss", "CrossEntropyLoss", "data.loss", "cross_entropy", "task.loss: CrossEntropyLoss ->"),
        (SHORTEST, "task.loss", "torch.nn.CrossEntropyLoss", "data.loss", "cross_entropy", "-> data.loss: cross"),
        (SHORTEST, "task.loss", ["FocalLoss"], "data.loss", "focal", "-> data.loss: focal"),
        (SHORTEST, "task.metrics", "accuracy", "data.metric", "accuracy", "task.metrics: accuracy -> data.metric: acc"),
        (SHORTEST, "task.metrics", "MulticlassF1Score", "data.metric", "f1", "-> data.metric: f1"),
        (SHORTEST, "task.metrics", "ROC-AUC", "data.metric", "auroc", "-> data.metric: auroc"),
        (MASKS, "task.metrics", "IoU", "data.metric", "miou", "task.metrics: IoU -> data.metric: miou"),
        (MASKS, "task.metrics", "f1", "data.metric", "dice", "-> data.metric: dice"),
        (SHORTEST, "dataset.num_classes", "10", "data.num_classes", 10, "-> data.num_classes: 10"),
        (SHORTEST, "dataset.num_classes", 10, "model.num_classes", 10, "-> data.num_classes: 10"),
        (SHORTEST, "dataset.annotation_path", "d", "data.source", "d/data.csv", "-> data: csv:d/data.csv"),
        (SHORTEST, "dataset.annotation_name", "my.v2", "data.source", "my.v2.csv", "-> data: csv:my.v2.csv"),
        (SEARCH, "my_pruning.alf", 32, "target.multiple_of", 32, "my_pruning.alf: 32 -> target.multiple_of: 32"),
        (SEARCH, "my_pruning.P", "0.8", "target.reduce", 0.8, "--set target.measure=macs"),
        (SEARCH, "my_pruning.P", 0, "target.reduce", 0.0, "my_pruning.P: 0 -> target.reduce: 0.0"),
        (SEARCH, "my_pruning.cart", [0, 0, "cuda:1", "cpu"], "executor.workers", ["cuda:0", "cuda:0", "cuda:1", "cpu"], "-> exec"),
        (SEARCH, "my_pruning.cart", 1, "executor.workers", ["cuda:1"], "my_pruning.cart: 1 -> executor.workers"),
        (SEARCH, "my_pruning.iskl", ["a.0.conv", "b"], "target.skip", ["a.0.conv", "b"], "-> target.skip: ['a.0.conv', 'b']"),
        (SEARCH, "my_pruning.iskl", [0, "3"], "target.skip", ["0", "3"], "-> target.skip: ['0', '3']"),
        (SEARCH, "my_pruning.iskl", "a.0.conv", "target.skip", ["a.0.conv"], "my_pruning.iskl: a.0.conv -> target.skip"),
        (SEARCH, "my_pruning.algoritm", "TaylorFOWeight", "criterion", "taylor", "-> criterion: taylor"),
        (SEARCH, "my_pruning.algoritm", "L2Norm", "criterion", "l2norm", "my_pruning.algoritm: L2Norm -> criterion: l2"),
        (SEARCH, "my_pruning.resize_alf", True, "target.align_all", True, "-> target.align_all: True"),
        (SEARCH, "my_pruning.resize_alf", "False", "target.align_all", False, "-> target.align_all: False"),
        (SEARCH, "my_pruning.delta_crop", "1e-1", "netadapt.delta_crop", 0.1, "-> netadapt.delta_crop: 0.1"),
        (SEARCH, "my_pruning.top_n", 100, "netadapt.top_n", 100, "my_pruning.top_n: 100 -> netadapt.top_n: 100"),
        (SEARCH, "my_pruning.exact", True, "netadapt.exact", True, "my_pruning.exact: True -> netadapt.exact: True"),
        (SEARCH, "my_pruning.restart.start_iteration", "7", "legacy-files.start", 7, "-> legacy-files.start: 7"),
        (SEARCH, "model.gpu", 1, "device", "cuda:1", "model.gpu: 1 -> device: cuda:1"),
        (SHORTEST, "nni_pruning.P", 0.1, "target.reduce", 0.1, "nni_pruning.P: 0.1 -> target.reduce: 0.1"),
        (SHORTEST, "nni_pruning.training", False, "training.epochs", 0, "nni_pruning.training: False -> training.epochs: 0"),
        (SHORTEST, "nni_pruning.training", "False", "training.epochs", 0, "-> training.epochs: 0"),
        (SHORTEST, "nni_pruning.gpu", "cuda:1", "device", "cuda:1", "nni_pruning.gpu: cuda:1 -> device: cuda:1"),
        (SHORTEST, "nni_pruning.alf", 8, "target.multiple_of", 8, "nni_pruning.alf: 8 -> target.multiple_of: 8"),
        (SHORTEST, "nni_pruning.iskl", ["stem"], "target.skip", ["stem"], "-> target.skip: ['stem']"),
        (ROUNDS, "nni_pruning.total_iteration", "100", "agp.n", 100, "-> agp.n: 100"),
        (ROUNDS, "nni_pruning.algoritm", "L2Norm", "criterion", "l2norm", "-> criterion: l2norm"),
        (SHORTEST, "training.num_epochs", 10, "training.epochs", 10, "training.num_epochs: 10 -> training.epochs: 10"),
        (SHORTEST, "training.lr", "1e-5", "training.lr", 1e-5, "training.lr: 1e-5 -> training.lr: 1e-05"),
        (SHORTEST, "training.lr", "1e-5", "training.optimizer", "adam", "training.lr means Adam with a constant rate"),
        (SEARCH, "retraining.num_epochs", 2, "retraining.epochs", 2, "retraining.num_epochs: 2 -> retraining.epochs: 2"),
        (SEARCH, "retraining.lr", 1e-4, "retraining.schedule", "constant", "retraining.lr means Adam"),
        *((SEARCH, *case[1:]) for case in LOADERS),
        (SHORTEST, "training.dataLoader.batch_size_v", 32, "evaluation.batch_size", 32, "-> evaluation.batch_size: 32"),
        (SHORTEST, "training.dataLoader.num_workers_v", 1, "evaluation.workers", 1, "-> evaluation.workers: 1"),
    ],
    ids=lambda value: value if isinstance(value, str) and "->" not in value else "",
)  # fmt: skip
def test_a_key_and_the_line_that_tells(
    old: dict[str, Any], key: str, given: Any, new: str, wanted: Any, line: str
) -> None:
    found = translate_here(changed(old, key, given))
    assert value_at(found.settings, new) == wanted
    assert type(value_at(found.settings, new)) is type(wanted)
    assert [note for note in found.notes if line in note] != []


@pytest.mark.parametrize(
    ("old", "key", "given", "why"),
    [
        (SHORTEST, "mask.type", "mask", "dependency groups are always used and found by tracing"),
        (SHORTEST, "mask.sours_mask", "groups.pickle", "dependency groups are always used and found by tracing"),
        (SHORTEST, "class_name", ["my.Norm"], "layers are found by tracing"),
        (SHORTEST, "task.detection", "yolo", "belongs to a detection task"),
        (SHORTEST, "model.anchors", [[1, 2]], "belongs to a detection task"),
        (SHORTEST, "model.feature_maps", [1], "belongs to a detection task"),
        (SHORTEST, "feature_maps_w", [1], "belongs to a detection task"),
        (SHORTEST, "model.feature_maps_h", [1], "belongs to a detection task"),
        (SHORTEST, "aspect_ratios", [1], "belongs to a detection task"),
        (SHORTEST, "dataset.annotation_name_train", "t.json", "belongs to a detection task"),
        (SHORTEST, "dataset.annotation_name_val", "v.json", "belongs to a detection task"),
        (SHORTEST, "is_self_traner", True, "a trainer of your own goes with --data python:FILE.py:CALLABLE"),
        (SHORTEST, "task.self_traner", "file.py", "a trainer of your own goes with --data python:FILE.py:CALLABLE"),
        (SHORTEST, "nni_pruning.total_iteration", 3, "fpgm does not need it"),
        (SHORTEST, "nni_pruning.algoritm", "L2Norm", "fpgm does not need it"),
        (SHORTEST, "training.dataLoader.shuffle_v", False, "evaluated on every image once, in order"),
        (SHORTEST, "training.dataLoader.drop_last_v", True, "evaluated on every image once, in order"),
        (SHORTEST, "training.dataLoader.pin_memory_v", True, "evaluated on every image once, in order"),
        (SEARCH, "retraining.dataLoader.batch_size_v", 8, "in batches of training.dataLoader.batch_size_v"),
        (changed(SHORTEST, "nni_pruning.gpu", 0), "model.gpu", 1, "nni_pruning.gpu is the device"),
    ],
)
def test_a_key_that_means_nothing_is_told_with_the_reason(old: dict[str, Any], key: str, given: Any, why: str) -> None:
    before, found = translate_here(old), translate_here(changed(old, key, given))
    assert found.settings == before.settings
    assert [n for n in found.notes if n not in before.notes] == [n for n in found.notes if key in n and why in n] != []


def test_sections_of_another_algorithm_are_told_whole() -> None:
    told = translate_here(old_yaml(algorithm="FPGM")).notes
    assert "my_pruning, retraining: not used (fpgm does not have it)" in told
    told = translate_here(old_yaml(algorithm="My_pruning")).notes
    assert "nni_pruning: not used (netadapt does not have it)" in told


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_key_of_a_file_is_in_some_line(algorithm: str) -> None:
    old = old_yaml(algorithm=algorithm, my_pruning__iskl=["a"])
    told = "\n".join(translate_here(old).notes)
    foreign = ("nni_pruning",) if algorithm == "My_pruning" else ("my_pruning", "retraining")
    missing = [
        key
        for key, value in leaves(old)
        if value not in ("None", ["None"]) and key.split(".")[0] not in foreign and key.split(".")[-1] not in told
    ]
    assert missing == []


def leaves(settings: Mapping[str, Any], where: str = "") -> list[tuple[str, Any]]:
    return [
        pair
        for key, value in settings.items()
        for pair in (leaves(value, f"{where}{key}.") if isinstance(value, dict) else [(f"{where}{key}", value)])
    ]


@pytest.mark.parametrize(("old", "new"), ALGORITHMS.items())
def test_algorithms_and_where_their_section_goes(old: str, new: str) -> None:
    found = translate_here(old_yaml(algorithm=old.upper()))
    assert found.settings["algorithm"] == new
    assert f"algorithm: {old.upper()} -> algorithm: {new}" in found.notes
    assert found.settings["target"]["reduce"] == (0.5 if new == "netadapt" else 0.3)
    rounds = {key: found.settings[key] for key in ("agp", "linear", "lottery_ticket") if key in found.settings}
    assert rounds == ({new: {"n": 2}} if new in ("agp", "linear", "lottery_ticket") else {})
    assert ("retraining" in found.settings) is ("executor" in found.settings) is (new == "netadapt")


# ---------------------------------------------------------------- whole files


def test_the_shortest_file_gets_the_defaults() -> None:
    found = translate_here(SHORTEST)
    assert found.settings == {
        "model": {"kind": "interface", "source": "interface.pt", "size": [224, 224]},
        "data": {"kind": "csv", "source": "data.csv", "size": [224, 224]},
        "algorithm": "fpgm",
        "target": {"reduce": 0.3, "measure": "params"},
        "out": "interface",
        "share_directory": True,
        "trackers": ["legacy-files"],
        "legacy-files": {},
    }
    config = parse(found.settings).config
    assert config.device == "auto"
    assert config.training.epochs == 10
    assert config.evaluation.batch_size == 256


def test_the_file_that_the_authors_recommend() -> None:
    found = translate_here(
        old_yaml(
            algorithm="My_pruning",
            my_pruning__alf=32,
            my_pruning__P=0.8,
            my_pruning__cart=[0, 0, 1, 1, 1, 2],
            training__num_epochs=10,
        )
    )
    adam = {"optimizer": "adam", "schedule": "constant", "weight_decay": 0.0, "warmup": 0.0, "clip": None, "lr": 1e-5}
    loader = {"batch_size": 16, "workers": 0, "pin_memory": False, "drop_last": True, "shuffle": True}
    assert found.settings == {
        "model": {"kind": "interface", "source": "interface.pt", "size": [32, 32], "num_classes": 10},
        "data": {"kind": "csv", "source": "data/data.csv", "size": [32, 32], "num_classes": 10},
        "algorithm": "netadapt",
        "criterion": "taylor",
        "target": {"reduce": 0.8, "measure": "params", "multiple_of": 32, "align_all": True},
        "netadapt": {"delta_crop": 0.1, "top_n": 100},
        "executor": {"kind": "local", "workers": ["cuda:0", "cuda:0", "cuda:1", "cuda:1", "cuda:1", "cuda:2"]},
        "training": {**adam, "epochs": 10, **loader},
        "retraining": {**adam, "epochs": 1, **loader},
        "evaluation": {"batch_size": 16, "workers": 0},
        "device": "cpu",
        "out": "exp/net",
        "share_directory": True,
        "trackers": ["legacy-files"],
        "legacy-files": {"start": 0},
    }
    assert "my_pruning runs in fast mode; `--set netadapt.exact=true` is the old loop" in found.notes


@pytest.mark.parametrize("none", ["None", None, [], ["None"], ""])
@pytest.mark.parametrize(
    "key",
    [
        *("task.loss", "task.metrics", "task.detection", "mask.sours_mask", "my_pruning.iskl", "my_pruning.cart"),
        *("my_pruning.restart.load", "my_pruning.alf", "model.gpu", "path.model_name", "training.lr", "class_name"),
    ],
)
def test_none_in_any_spelling_is_as_if_the_key_were_not_there(key: str, none: Any) -> None:
    full = changed(old_yaml(algorithm="My_pruning"), key, "1")
    section, _, inner = key.rpartition(".")
    without = changed(full, key, None)
    if section:
        del value_at(without, section)[inner]
    else:
        del without[inner]
    assert translate_here(changed(full, key, none)) == translate_here(without)


def test_a_short_fine_tune_without_num_epochs_is_one_epoch() -> None:
    assert "retraining" not in translate_here(SEARCH).settings
    assert translate_here(changed(SEARCH, "retraining.lr", 1e-5)).settings["retraining"]["epochs"] == 1
    assert "epochs" not in translate_here(changed(SEARCH, "training.lr", 1e-5)).settings["training"]


def test_segmentation_has_one_loss_and_needs_no_name_for_it() -> None:
    found = translate_here(changed(MASKS, "task.loss", "CrossEntropyLoss"))
    assert "loss" not in found.settings["data"]
    parse(found.settings)
    assert "task.loss: got 'FocalLoss', unknown name; known are crossentropyloss, crossentropy" in fault_of(
        changed(MASKS, "task.loss", "FocalLoss")
    )


def test_home_is_found_and_a_file_is_looked_for_from_here_then_beside_the_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    old = changed(changed(SHORTEST, "path.exp_save", "~/exp"), "model.path_to_resurs", "~/nets")
    found = translate_here(old).settings
    assert found["out"] == str(tmp_path / "exp" / "interface")
    assert found["model"]["source"] == str(tmp_path / "nets" / "interface.pt")
    beside = tmp_path / "project"
    (beside / "data").mkdir(parents=True)
    for name in ("interface.pt", "data/data.csv"):
        (beside / name).touch()
    (beside / "interface").mkdir()  # of the same name, but no file
    old = changed(SHORTEST, "dataset.annotation_path", "data")
    found = translate_here(old, base=beside).settings
    assert found["model"]["source"] == str(beside / "interface.pt")
    assert found["data"]["source"] == str(beside / "data" / "data.csv")
    monkeypatch.chdir(beside)
    assert translate_here(old, base=Path("elsewhere")).settings["model"]["source"] == "interface.pt"


# ---------------------------------------------------------------- restart


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `exp/net` holds models of an earlier run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp" / "net").mkdir(parents=True)
    for name in ("orig_model.pth", "it57.pth", "interface_it57.pt"):
        (tmp_path / "exp" / "net" / name).touch()
    return tmp_path


def restarted(load: Any, start: Any, algorithm: str = "My_pruning") -> Translated:
    return translate_here(
        old_yaml(
            algorithm=algorithm, my_pruning__restart={"start_iteration": start, "load": load}, model__name_resurs="own"
        )
    )


@pytest.mark.parametrize(
    ("load", "start", "spec"),
    [
        ("exp/net/it57.pth", 57, "pth:exp/net/it57.pth"),
        ("exp/net/it57.pth", 0, "pth:exp/net/it57.pth"),
        ("exp/net/interface_it57.pt", 57, "interface:exp/net/interface_it57.pt"),
        ("None", 3, "pth:exp/net/orig_model.pth"),
        ("None", 0, None),
        ("exp/net/gone.pth", 3, None),
    ],
)
def test_what_a_restart_goes_on_from(there: Path, load: str, start: int, spec: str | None) -> None:
    found = restarted(load, start)
    model = found.settings["model"]
    assert f"{model['kind']}:{model['source']}" == (spec or "interface:own.pt")
    assert found.settings["legacy-files"] == {"start": start}
    gone = "my_pruning.restart.load: exp/net/gone.pth is not there, so the network of model.* is taken"
    assert (gone in found.notes) is ("gone" in load)
    assert (f"my_pruning.restart.load -> model: {spec}" in found.notes) is (spec is not None)
    assert any(n.startswith("model.type_save_load") for n in found.notes) is (spec is None)


def test_a_default_that_is_not_there_leaves_the_network_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = restarted("None", 3)
    assert found.settings["model"]["source"] == "own.pt"
    assert (
        "my_pruning.restart.load: exp/net/orig_model.pth is not there, so the network of model.* is taken"
        in found.notes
    )


def test_a_restart_belongs_to_my_pruning(there: Path) -> None:
    found = restarted("exp/net/it57.pth", 57, algorithm="FPGM")
    assert found.settings["model"]["source"] == "own.pt"
    assert found.settings["legacy-files"] == {}


def test_a_result_never_takes_the_place_of_its_source(there: Path) -> None:
    old = old_yaml(model__path_to_resurs="exp/net")
    assert fault_of(old) == (
        "model: the result would overwrite exp/net/interface.pt; give another --set path.model_name=NAME"
    )
    assert translate_here(changed(old, "path.model_name", "other")).settings["out"] == "exp/other"
    result = old_yaml(model__type_save_load="pth", model__name_resurs="rezalt")
    found = translate_here(result)
    assert "beside" not in found.settings["model"]
    assert "model: the result is not written beside the source, which is called rezalt.pth itself" in found.notes
    assert "would overwrite exp/net/rezalt.pth" in fault_of(changed(result, "model.path_to_resurs", "exp/net"))
    usual = translate_here(old_yaml(model__type_save_load="pth", model__name_resurs="net"))
    assert usual.settings["model"]["beside"] is True


# ---------------------------------------------------------------- faults


def test_every_fault_is_listed_with_the_nearest_key() -> None:
    old = {
        "pth": {},
        "modle": {"type_save_load": "pth"},
        "model": {"type_save_load": "pht", "name_resurs": "net", "sise": [1, 1], "size": 32},
        "task": {"type": "clasification"},
        "dataset": {"num_class": 10, "num_classes": "ten"},
        "algorithm": "FPGM",
        "nni_pruning": {"p": 0.5, "P": "a lot"},
        "training": {"num_epochs": 1.5, "lr": True, "dataLoader": {"batch_size": 4, "shuffle_t": "maybe"}},
        "retraining": 3,
        "my_pruning": {"restart": {"begin": 1}, "resize": True},
    }
    assert fault_of(old).splitlines() == [
        "17 faults:",
        "  pth: unknown key, did you mean 'path'?",
        "  modle: unknown key, did you mean 'model'?",
        "  model.sise: unknown key, did you mean 'size'?",
        "  dataset.num_class: unknown key, did you mean 'num_classes'?",
        "  nni_pruning.p: unknown key, did you mean 'P'?",
        "  training.dataLoader.batch_size: unknown key, did you mean 'batch_size_v'?",
        "  retraining: got 3, expected a mapping with num_epochs, lr, dataLoader",
        "  my_pruning.restart.begin: unknown key",
        "  my_pruning.resize: unknown key, did you mean 'resize_alf'?",
        "  model.type_save_load: got 'pht', did you mean 'pth'?, expected interface or pth",
        "  model.size: got '32', expected [height, width]",
        "  dataset.num_classes: got 'ten', expected a number",
        "  task.type: 'clasification' is no built-in task, did you mean 'classification'? (classification, segmentation are); "
        "write one in Python and give it with --data python:FILE.py:CALLABLE",
        "  nni_pruning.P: got 'a lot', expected a number",
        "  training.lr: got 'True', expected a number",
        "  training.num_epochs: got '1.5', expected a whole number",
        "  training.dataLoader.shuffle_t: got 'maybe', expected True or False",
    ]


def test_missing_keys_are_named_with_what_is_expected() -> None:
    assert fault_of({"path": {"exp_save": "exp"}}).splitlines() == [
        "3 faults:",
        "  model.type_save_load: missing, expected interface or pth",
        "  model.name_resurs: missing, expected the file's name without extension",
        "  algorithm: missing, expected one of My_pruning AGP Linear LotteryTicket TaylorFOWeight ActivationMeanRank FPGM L2Norm",
    ]
    missing = "nni_pruning.P: missing, expected the fraction to remove, such as 0.5"
    assert fault_of({**SHORTEST, "nni_pruning": {}}) == missing
    assert fault_of({**SEARCH, "my_pruning": {"P": "None"}}) == missing.replace("nni", "my")
    assert fault_of({**SHORTEST, "algorithm": "None"}).startswith("algorithm: missing")
    assert fault_of({**SEARCH, "algorithm": "My_prunning"}).startswith(
        "unknown algorithm 'my_prunning', did you mean 'my_pruning'?; installed: "
    )


def test_detection_is_refused_with_advice() -> None:
    assert fault_of(old_yaml(task__type="detection", task__detection="yolo")) == (
        "task.type: 'detection' is no built-in task (classification, segmentation are); "
        "write one in Python and give it with --data python:FILE.py:CALLABLE"
    )


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("task.loss", "Accuracy", "task.loss: got 'Accuracy', unknown name; known are cross_entropy, label_smoothing, focal"),
        ("task.loss", "CrossEntropyLos", "unknown name, did you mean 'crossentropyloss'?; known are cross_entropy"),
        ("task.metrics", "miou", "task.metrics: got 'miou', unknown name; known are accuracy, balanced_accuracy, f1, auroc"),
        ("task.metrics", ["accuracy", "f1"], "expected one name; known are accuracy, balanced_accuracy, f1, auroc, anything else"),
        ("model.size", [1, 2, 3], "model.size: got '[1, 2, 3]', expected [height, width]"),
        ("model.size", ["a", 2], "model.size: got"),
        ("model.gpu", [0], "model.gpu: got '[0]', expected a number, cpu, or cuda:N"),
        ("model.gpu", True, "model.gpu: got 'True', expected a number, cpu, or cuda:N"),
        ("my_pruning.cart", {"a": 1}, "my_pruning.cart: got"),
        ("my_pruning.iskl", [[1], "a"], "my_pruning.iskl: got \"[[1], 'a']\", expected a list of names"),
        ("my_pruning.iskl", [True], "my_pruning.iskl: got '[True]', expected a list of names"),
        ("my_pruning.restart.start_iteration", "x", "my_pruning.restart.start_iteration: got 'x', expected a number"),
        ("my_pruning.P", float("inf"), "my_pruning.P: got 'inf', expected a finite number"),
        ("my_pruning.P", "nan", "my_pruning.P: got 'nan', expected a finite number"),
        ("path.exp_save", ["a"], "path.exp_save: got \"['a']\", expected text"),
        ("path.model_name", "a\nb: 1", "path.model_name: got 'a b: 1', expected text in one line"),
        ("training.num_epochs", "1e400", "training.num_epochs: got '1e400', expected a finite number"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_one_clear_fault(key: str, given: Any, message: str) -> None:
    found = fault_of(changed(old_yaml(algorithm="My_pruning"), key, given))
    assert message in found
    assert len(found.splitlines()) == 1


# ---------------------------------------------------------------- whether a file is one of the old tool


@pytest.mark.parametrize(
    "settings",
    [
        old_yaml(),
        SHORTEST,
        {"path": {"exp_save": "exp"}},
        {"nni_pruning": {"P": 0.5}, "algorithm": "FPGM"},
        {"model": {"size": [1, 1]}, "dataset": {}},
        {"model": {"name_resurs": "x"}, "data": "digits"},
    ],
)
def test_files_of_the_old_tool(settings: dict[str, Any]) -> None:
    assert is_legacy(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "demo", "data": "digits", "my_pruning": {"delta_crop": 0.1}, "algorithm": "my_pruning"},
        {"model": {"spec": "timm:resnet18", "size": [1, 1]}, "data": "digits"},
        {"model": "demo", "dataset": "digits"},
        {"model": {"kind": "interface", "source": "a.pt"}, "task": "csv"},
        {"data": "digits", "target": {"reduce": 0.5}, "training": {"lr": 1e-5}},
        translate_here(old_yaml()).settings,
        translate_here(old_yaml(algorithm="My_pruning")).settings,
    ],
)
def test_files_of_ours(settings: dict[str, Any]) -> None:
    assert not is_legacy(settings)


def test_a_key_that_only_the_old_tool_had_is_named_in_a_file_of_ours() -> None:
    with pytest.raises(ConfigError, match="dataset: unknown key, did you mean 'data'"):
        parse({"model": "demo", "dataset": "digits"})


# ---------------------------------------------------------------- flags and --set on an old file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "Pruning.yaml"
    path.write_text(yaml.safe_dump(old_yaml()))
    return path


def laid(file: Path, *assignments: str, reduce: float | None = None, **flags: Any) -> dict[str, Any]:
    """The settings that a run is given."""
    from prunecore.config.reader import assign

    base = base_settings(file, assignments, flags=flags, reduce=reduce)
    settings = base.settings
    for assignment in base.rest:
        settings = assign(settings, assignment)
    return settings


@pytest.mark.parametrize(
    ("assignment", "new", "wanted"),
    [
        ("nni_pruning.P=0.2", "target.reduce", 0.2),
        ("nni_pruning.gpu=cpu", "device", "cpu"),
        ("nni_pruning.gpu=1", "device", "cuda:1"),
        ("model.size=[16,20]", "data.size", [16, 20]),
        ("model.size=[16,20]", "model.size", [16, 20]),
        ("path.model_name=other", "out", "exp/other"),
        ("modelName=unused", "out", "exp/net"),
        ("training.lr=1e-4", "training.lr", 1e-4),
        ("training.dataLoader.batch_size_t=4", "training.batch_size", 4),
        ("training={lr: 1e-4}", "training", {"lr": "1e-4"}),
        ("training.optimizer=sgd", "training.optimizer", "sgd"),
        ("training.optimizer=sgd", "training.schedule", "constant"),
        ("target.measure=macs", "target.measure", "macs"),
        ("target.measure=macs", "target.reduce", 0.3),
        ("control=none", "control", "none"),
        ("model.trust_code=true", "model.trust_code", True),
        ("device=cuda:3", "device", "cuda:3"),
    ],
)
def test_set_takes_keys_of_both(file: Path, assignment: str, new: str, wanted: Any) -> None:
    assert value_at(laid(file, assignment), new) == wanted


def test_set_of_the_algorithm_and_of_my_pruning(file: Path) -> None:
    found = laid(file, "algorithm=My_pruning", "my_pruning.P=0.2", "my_pruning.alf=16")
    assert found["algorithm"] == "netadapt"
    assert found["target"] == {"reduce": 0.2, "measure": "params", "multiple_of": 16, "align_all": True}
    found = laid(file, "algorithm=Linear", "nni_pruning={P: 0.1, total_iteration: 3}")
    assert found["linear"] == {"n": 3}
    assert found["target"]["reduce"] == 0.1


def test_set_of_an_unknown_old_key_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"my_pruning\.p: unknown key, did you mean 'P'"):
        laid(file, "my_pruning.p=0.2")
    with pytest.raises(ConfigError, match=r"mask\.typ: unknown key, did you mean 'type'"):
        laid(file, "mask.typ=mask")


def test_flags_win_over_the_file_and_set_over_flags(file: Path) -> None:
    found = laid(file, reduce=0.6, algorithm="AGP", out=None, seed=3)
    assert (found["algorithm"], found["target"]["reduce"], found["agp"], found["seed"]) == ("agp", 0.6, {"n": 2}, 3)
    found = laid(file, reduce=0.6, algorithm="my_pruning")
    assert found["target"] == {"reduce": 0.6, "measure": "params", "multiple_of": 8, "align_all": True}
    assert found["netadapt"]["delta_crop"] == 0.1
    assert laid(file, "nni_pruning.P=0.1", reduce=0.6)["target"]["reduce"] == 0.1
    assert laid(file, "target.reduce=0.2", "nni_pruning.P=0.1", reduce=0.6)["target"]["reduce"] == 0.2
    assert laid(file, "algorithm=Linear", algorithm="AGP")["algorithm"] == "linear"


def test_a_reduction_on_the_command_line_makes_up_for_a_missing_one(file: Path) -> None:
    file.write_text(yaml.safe_dump({**SHORTEST, "nni_pruning": None}))
    assert laid(file, reduce=0.25)["target"] == {"reduce": 0.25, "measure": "params"}


def test_another_model_keeps_the_size_that_is_set(file: Path) -> None:
    found = laid(file, "model.size=[16,16]", model="timm:resnet10t", data=None)
    assert found["model"] == {"spec": "timm:resnet10t", "size": [16, 16]}
    assert found["data"]["size"] == [16, 16]


def test_keys_that_are_set_before_the_translation() -> None:
    known = [*PLAIN, *(f"{section}.{key}" for section, keys in KNOWN.items() for key in keys)]
    assert [key for key in known if not is_legacy_key(key)] == []
    ours = ("target.reduce", "model.trust_code", "data.size", "training.epochs", "device", "agp.n", "training", "model")
    assert [key for key in ours if is_legacy_key(key)] == []


def test_init_writes_a_file_that_means_the_same(file: Path) -> None:
    file.write_text(yaml.safe_dump(old_yaml(task__self_traner="x\ny: [")))
    text = translated(file)
    assert yaml.safe_load(text) == translate_here(old_yaml()).settings
    told = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")]
    assert told[0] == "translated from Pruning.yaml:"
    assert "nni_pruning.P: 0.3 -> target.reduce: 0.3" in told
    assert not is_legacy(yaml.safe_load(text))
    (file.parent / "new.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"new\.yaml: is no Pruning\.yaml of the old tool"):
        translated(file.parent / "new.yaml")


# ---------------------------------------------------------------- the page about it

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "old-tool.md"


def test_every_key_stands_in_the_table_of_the_page() -> None:
    table = PAGE.read_text().partition("## Key by key")[2].partition("\n## ")[0]
    inner = [f"{s}.{k}" for s, known in KNOWN.items() if not s.endswith("dataLoader") for k in known]
    keys = [k for k in (*inner, *KNOWN["training.dataLoader"]) if k not in KNOWN and k != "dataLoader"]
    assert [key for key in keys if f"`{key}`" not in table] == []
    assert [key for key in PLAIN if not re.search(rf"`(\w+\.)?{key}`", table)] == []


def test_every_new_key_of_the_table_is_one_that_a_file_of_today_has() -> None:
    table = PAGE.read_text().partition("## Key by key")[2].partition("\n## ")[0]
    new = [key for row in table.splitlines()[4:] for key in re.findall(r"`([\w.-]+)`", row.split("|")[2])]
    sections = [
        translate_here(old_yaml(algorithm=a, task__loss="focal", task__metrics="f1")).settings for a in ALGORITHMS
    ]
    whole = [
        {**s, "target": {**s["target"], "skip": []}, "netadapt": {"exact": True, **s.get("netadapt", {})}}
        for s in sections
    ]
    known = {f"{name}.{key}" for s in whole for name, v in s.items() if isinstance(v, dict) for key in v}
    known |= {name for s in whole for name in s}
    loaders = {"batch_size", "workers", "pin_memory", "drop_last", "shuffle"}
    assert [key for key in new if key not in known | loaders] == []


# ---------------------------------------------------------------- anything else

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "type_save_load": st.sampled_from(["interface", "pth"]),
    "algorithm": st.sampled_from(list(ALGORITHMS)),
    "type": st.sampled_from(["classification", "segmentation", "mask"]),
    "P": st.floats(0, 0.99) | st.sampled_from(["0.5", "5e-1", 0]),
    "size": st.lists(st.integers(1, 64), min_size=2, max_size=2),
    "gpu": st.sampled_from([0, "cpu", "cuda:1", "3"]),
    "cart": st.lists(st.sampled_from([0, 1, "cpu"]), max_size=3),
    "iskl": st.lists(st.sampled_from(["a", "b.0"]), max_size=2),
    "algoritm": st.sampled_from(["L2Norm", "TaylorFOWeight"]),
    "loss": st.sampled_from(["CrossEntropyLoss", "None"]),
    "metrics": st.sampled_from(["accuracy", "None"]),
}
NUMBERS = (
    "alf",
    "top_n",
    "start_iteration",
    "total_iteration",
    "num_epochs",
    "num_classes",
    "batch_size",
    "num_workers",
)
TRUTHS = ("resize_alf", "exact", "training", "pin_memory", "drop_last", "shuffle", "is_self_traner")


def sound(key: str) -> st.SearchStrategy[Any]:
    stem = key.removesuffix("_t").removesuffix("_v")
    if stem in NUMBERS:
        return st.integers(2, 99) | st.integers(2, 99).map(str)
    if stem in TRUTHS:
        return st.booleans()
    if stem in ("lr", "delta_crop"):
        return st.sampled_from(["1e-5", 0.1])
    return VALUES.get(key, st.sampled_from(["x", "y.z", 5]))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["None", "~", "~x/y", "\0", "a" * 300]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@st.composite
def files(draw: st.DrawFn, *, wild: bool) -> dict[str, Any]:
    """A subset of the known keys. wild: with values of any kind, and keys that are not known."""

    def section(name: str) -> dict[str, Any]:
        found = {}
        for key in KNOWN[name]:
            inner = f"{name}.{key}"
            if draw(st.booleans()):
                continue
            if inner in KNOWN and not (wild and draw(st.booleans())):
                found[key] = section(inner)
            elif inner not in KNOWN or wild:
                found[key] = draw(ANYTHING if wild and draw(st.booleans()) else sound(key))
        return found

    whole: dict[str, Any] = {name: section(name) for name in KNOWN if "." not in name and draw(st.booleans())}
    whole |= {key: draw(ANYTHING if wild else sound(key)) for key in PLAIN if draw(st.booleans())}
    return whole | (draw(st.dictionaries(st.text(max_size=6), ANYTHING, max_size=1)) if wild else {})


@settings(max_examples=60, deadline=None)
@given(files(wild=False))
def test_any_part_of_a_sound_file_is_translated_to_settings_that_are_valid_or_is_one_error(old: dict[str, Any]) -> None:
    try:
        found = translate_here(old)
    except ConfigError as error:
        lines = str(error).splitlines()
        faults = lines if len(lines) == 1 else lines[1:]
        if value_of(old, "task", "type") != "mask":  # of another section; no task is called so
            assert [fault for fault in faults if ": missing, expected" not in fault] == []
        return
    if found.settings["algorithm"] == "netadapt":
        # valid but for what only the algorithm itself can judge
        own = ("algorithm", "criterion", "netadapt")
        parse({"algorithm": "agp", **{k: v for k, v in found.settings.items() if k not in own}})
    else:
        parse(found.settings)
    assert yaml.safe_load(yaml.safe_dump(found.settings)) == found.settings


def value_of(old: dict[str, Any], section: str, key: str) -> Any:
    return (old.get(section) or {}).get(key)


@settings(max_examples=40, deadline=None)
@given(files(wild=True))
def test_a_file_with_anything_in_it_is_translated_or_is_one_error(old: dict[str, Any]) -> None:
    try:
        found = translate_here(old)
    except ConfigError:
        return
    assert all(len(note.splitlines()) == 1 for note in found.notes)
