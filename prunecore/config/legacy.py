"""`Pruning.yaml` of the old tool -> settings of a run, with one line for every key that means something else now.

No torch here: `prune init --from` reads this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunecore.config import legacy_keys as keys
from prunecore.config.legacy_keys import is_legacy, is_legacy_key
from prunecore.errors import ConfigError, PluginError, listing, nearest
from prunecore.registry import ALIASES, find, joined

__all__ = ["Translated", "is_legacy", "is_legacy_key", "overlaid", "translate"]

_MULTI_STAGE = ("agp", "linear", "lottery_ticket")
_SUFFIX = {"interface": ".pt", "pth": ".pth"}
_RESULT = {"interface": "interface.pt", "pth": "rezalt.pth"}  # what a run writes
_TASKS = {"classification": "csv", "segmentation": "segmentation"}
_CROSS_ENTROPY = ("crossentropyloss", "crossentropy")
_LOSSES: Mapping[str, Mapping[str, str | None]] = {
    "csv": {
        **dict.fromkeys(_CROSS_ENTROPY, "cross_entropy"),
        **dict.fromkeys(("labelsmoothing", "labelsmoothingloss"), "label_smoothing"),
        **dict.fromkeys(("focal", "focalloss"), "focal"),
    },
    "segmentation": dict.fromkeys(_CROSS_ENTROPY),  # the only one it has, under no name
}
_METRICS: Mapping[str, Mapping[str, str | None]] = {
    "csv": {
        **dict.fromkeys(("accuracy", "acc"), "accuracy"),
        "balancedaccuracy": "balanced_accuracy",
        **dict.fromkeys(("f1", "f1score"), "f1"),
        **dict.fromkeys(("auroc", "auc", "rocauc"), "auroc"),
    },
    "segmentation": {
        **dict.fromkeys(("miou", "iou", "jaccardindex", "meaniou"), "miou"),
        **dict.fromkeys(("dice", "dicescore", "f1", "f1score"), "dice"),
        **dict.fromkeys(("accuracy", "acc", "pixelaccuracy"), "accuracy"),
    },
}
# what a fine-tune was in the old tool: Adam with a constant rate, nothing else
_ADAM = {"optimizer": "adam", "schedule": "constant", "weight_decay": 0.0, "warmup": 0.0, "clip": None}
_OWN_TASK = "anything else goes with --data python:FILE.py:CALLABLE"


@dataclass(frozen=True)
class Translated:
    """settings: as `config.parse` takes them. notes: one line for every key, `old: value -> new: value`."""

    settings: dict[str, Any]
    notes: tuple[str, ...]


@dataclass
class _Work:
    """The old mapping, looked up by dotted keys; the lines to tell; the faults; the keys that were used."""

    old: Mapping[str, Any]
    base: Path
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def raw(self, key: str) -> Any:
        """The value as it stands; None where there is none."""
        value: Any = self.old
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return None if keys.is_none(value) else value

    def get(self, key: str, convert: Callable[[Any], Any], default: Any = None) -> Any:
        """The converted value; a fault, and the default, where it is not what is expected."""
        value = self.raw(key)
        if value is None:
            return default
        self.used.add(key)
        try:
            return convert(value)
        except ValueError as error:
            self.faults.append(keys.fault(key, value, error))
            return default

    def take(self, key: str, meaning: str, convert: Callable[[Any], Any], default: Any = None) -> Any:
        """The same, told in a line as it is called now."""
        found = self.get(key, convert)
        if found is None:
            return default
        self.notes.append(f"{key}: {keys.spell(self.raw(key))} -> {meaning}: {keys.spell(found)}")
        return found

    def require(self, key: str, expected: str) -> None:
        if self.raw(key) is None:
            self.faults.append(f"{key}: missing, expected {expected}")

    def known(self, algorithm: str) -> bool:
        """Whether there is such an algorithm; a fault where there is none."""
        try:
            find("algorithm", algorithm)
        except PluginError as error:
            self.faults.append(str(error))
            return False
        return True

    def place(self, path: Path) -> Path:
        """A path as the old tool took it (from where it was started), else beside the file."""
        beside = self.base / path
        return beside if not os.path.exists(path) and os.path.exists(beside) else path


def overlaid(settings: Mapping[str, Any], *, algorithm: str | None, reduce: float | None) -> dict[str, Any]:
    """The old settings with another algorithm, and another reduction in the section that this algorithm reads."""
    found = {**settings, **({} if algorithm is None else {"algorithm": algorithm})}
    if reduce is None:
        return found
    section = _section_of(_algorithm(found.get("algorithm")))
    inner = found.get(section)
    return {**found, section: {**(inner if isinstance(inner, Mapping) else {}), "P": reduce}}


def translate(settings: Mapping[str, Any], *, base: Path) -> Translated:
    """The settings of a run that does what the old file asks for. base: directory of the file.

    Raises ConfigError that lists every unknown or missing key and every value that is none, unknown keys with the nearest.
    """
    work = _Work(settings, base)
    work.faults += keys.unknown(settings)
    work.require("model.type_save_load", "interface or pth")
    work.require("model.name_resurs", "the file's name without extension")
    work.require(
        "algorithm", "one of My_pruning AGP Linear LotteryTicket TaylorFOWeight ActivationMeanRank FPGM L2Norm"
    )
    algorithm = _algorithm(work.raw("algorithm"))
    section, searched = _section_of(algorithm), algorithm == keys.SEARCH
    if work.raw("algorithm") is not None and work.known(algorithm):
        work.require(f"{section}.P", "the fraction to remove, such as 0.5")
    on = "model.gpu" if searched or work.raw("nni_pruning.gpu") is None else "nni_pruning.gpu"
    out = work.get("path.exp_save", keys.path, Path()) / _name(work)
    found: dict[str, Any] = {
        "model": _model(work, searched, out),
        "data": _data(work),
        "algorithm": work.take("algorithm", "algorithm", lambda _: algorithm),
        **(_search(work) if searched else _scheduled(work, algorithm)),
        **_training(work, searched),
        "device": work.take(on, "device", keys.device),
        **_places(work, searched, out),
    }
    if work.faults:
        raise ConfigError(joined(list(dict.fromkeys(work.faults))))
    work.notes += keys.unused(settings, work.used, algorithm)
    return Translated({key: value for key, value in found.items() if value is not None}, tuple(work.notes))


def _algorithm(given: Any) -> str:
    plain = str(given).strip().lower()
    return ALIASES.get(plain, plain)


def _section_of(algorithm: str) -> str:
    return "my_pruning" if algorithm == keys.SEARCH else "nni_pruning"


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def _model(work: _Work, searched: bool, out: Path) -> dict[str, Any]:
    kind = str(work.get("model.type_save_load", keys.text, "pth")).strip().lower()
    if kind not in _SUFFIX:
        work.faults.append(f"model.type_save_load: got {kind!r}{nearest(kind, _SUFFIX)}, expected interface or pth")
        kind = "pth"
    name = work.get("model.path_to_resurs", keys.path, Path()) / work.get("model.name_resurs", keys.path, Path("net"))
    name = name if name.suffix in _SUFFIX.values() else Path(f"{name}{_SUFFIX[kind]}")
    source = work.place(name)
    if searched and (restart := _restart(work, out)) is not None:
        source, kind = restart, "interface" if restart.suffix == ".pt" else "pth"
    else:
        work.notes.append(f"model.type_save_load, path_to_resurs, name_resurs -> model: {kind}:{source}")
    result = _RESULT[kind]
    if source.name == result and source.parent.resolve() == out.resolve():
        work.faults.append(f"model: the result would overwrite {source}; give another --set path.model_name=NAME")
    found: dict[str, Any] = {"kind": kind, "source": str(source)}
    found["size"] = work.take("model.size", "model.size", keys.size, [224, 224])
    if kind == "pth":
        if source.name != result:
            return {**found, "beside": True}
        work.notes.append(f"model: the result is not written beside the source, which is called {result} itself")
        return found
    return {**found, **_given(num_classes=work.get("dataset.num_classes", keys.whole))}


def _restart(work: _Work, out: Path) -> Path | None:
    """The model file to go on from; None where there is none."""
    load = work.get("my_pruning.restart.load", keys.path)
    if load is None and work.get("my_pruning.restart.start_iteration", keys.whole, 0):
        load = out / "orig_model.pth"
    if load is None:
        return None
    found = work.place(load)
    if not os.path.isfile(found):
        work.notes.append(f"my_pruning.restart.load: {load} is not there, so the network of model.* is taken")
        return None
    work.notes.append(f"my_pruning.restart.load -> model: {'interface' if found.suffix == '.pt' else 'pth'}:{found}")
    return found


def _data(work: _Work) -> dict[str, Any]:
    kind = str(work.get("task.type", keys.text, "classification")).strip().lower()
    classes = work.take("dataset.num_classes", "data.num_classes", keys.whole)
    if kind not in _TASKS:
        work.faults.append(
            f"task.type: {kind!r} is no built-in task{nearest(kind, _TASKS)} ({listing(_TASKS)} are); write one in Python "
            "and give it with --data python:FILE.py:CALLABLE"
        )
        return {}
    task = _TASKS[kind]
    name = work.get("dataset.annotation_name", keys.path, Path("data.csv"))
    name = name if name.suffix == ".csv" else Path(f"{name}.csv")
    table = work.place(work.get("dataset.annotation_path", keys.path, Path()) / name)
    work.notes.append(f"task.type, dataset.annotation_path, annotation_name -> data: {task}:{table}")
    return {
        "kind": task,
        "source": str(table),
        "size": work.take("model.size", "data.size", keys.size, [224, 224]),
        **_given(
            num_classes=classes,
            loss=work.take("task.loss", "data.loss", keys.one_of(_LOSSES[task], _OWN_TASK)),
            metric=work.take("task.metrics", "data.metric", keys.one_of(_METRICS[task], _OWN_TASK)),
        ),
    }


def _search(work: _Work) -> dict[str, Any]:
    target = _target(work, "my_pruning")
    aligns = work.take("my_pruning.resize_alf", "target.align_all", keys.truth)
    options = _given(
        delta_crop=work.take("my_pruning.delta_crop", f"{keys.SEARCH}.delta_crop", keys.number),
        top_n=work.take("my_pruning.top_n", f"{keys.SEARCH}.top_n", keys.whole),
        exact=work.take("my_pruning.exact", f"{keys.SEARCH}.exact", keys.truth),
    )
    if "exact" not in options:
        work.notes.append(f"my_pruning runs in fast mode; `--set {keys.SEARCH}.exact=true` is the old loop")
    workers = work.take("my_pruning.cart", "executor.workers", keys.devices)
    return {
        "criterion": work.take("my_pruning.algoritm", "criterion", _criterion),
        "target": {**target, **_given(align_all=aligns)},
        keys.SEARCH: options,
        "executor": None if workers is None else {"kind": "local", "workers": workers},
    }


def _scheduled(work: _Work, algorithm: str) -> dict[str, Any]:
    found: dict[str, Any] = {"target": _target(work, "nni_pruning")}
    if algorithm not in _MULTI_STAGE:
        return found
    return {
        **found,
        "criterion": work.take("nni_pruning.algoritm", "criterion", _criterion),
        algorithm: _given(n=work.take("nni_pruning.total_iteration", f"{algorithm}.n", keys.whole)),
    }


def _criterion(value: Any) -> str:
    return _algorithm(keys.text(value))


def _target(work: _Work, section: str) -> dict[str, Any]:
    work.notes.append(
        f"{section}.P counts parameters, as the old tool did -> target.measure: params; MACs: `--set target.measure=macs`"
    )
    return {
        **_given(reduce=work.take(f"{section}.P", "target.reduce", keys.number)),
        "measure": "params",
        **_given(
            multiple_of=work.take(f"{section}.alf", "target.multiple_of", keys.whole),
            skip=work.take(f"{section}.iskl", "target.skip", keys.names),
        ),
    }


def _training(work: _Work, searched: bool) -> dict[str, Any]:
    """Both fine-tunes, and how a network is evaluated."""
    training = _section(work, "training")
    if not searched and work.get("nni_pruning.training", keys.truth) is False:
        work.notes.append("nni_pruning.training: False -> training.epochs: 0")
        training = {**training, "epochs": 0}
    evaluation = _given(
        batch_size=work.take("training.dataLoader.batch_size_v", "evaluation.batch_size", keys.whole),
        workers=work.take("training.dataLoader.num_workers_v", "evaluation.workers", keys.whole),
    )
    retraining = _section(work, "retraining") if searched else {}
    # without num_epochs it is one epoch, as it is without the section
    short = {"retraining": {"epochs": 1, **retraining}} if retraining else {}
    return {"training": training or None, "evaluation": evaluation or None, **short}


def _section(work: _Work, name: str) -> dict[str, Any]:
    rate = work.take(f"{name}.lr", f"{name}.lr", keys.number)
    if rate is not None:
        work.notes.append(f"{name}.lr means Adam with a constant rate -> {name}.optimizer: adam, schedule: constant")
    loader = f"{name}.dataLoader"
    return {
        **({} if rate is None else {**_ADAM, "lr": rate}),
        **_given(
            epochs=work.take(f"{name}.num_epochs", f"{name}.epochs", keys.whole),
            batch_size=work.take(f"{loader}.batch_size_t", f"{name}.batch_size", keys.whole),
            workers=work.take(f"{loader}.num_workers_t", f"{name}.workers", keys.whole),
            pin_memory=work.take(f"{loader}.pin_memory_t", f"{name}.pin_memory", keys.truth),
            drop_last=work.take(f"{loader}.drop_last_t", f"{name}.drop_last", keys.truth),
            shuffle=work.take(f"{loader}.shuffle_t", f"{name}.shuffle", keys.truth),
        ),
    }


def _places(work: _Work, searched: bool, out: Path) -> dict[str, Any]:
    """Where the run lives; the files that existing users look for stand in it and beside it."""
    work.notes.append(f"path.exp_save, model_name -> out: {out}; beside it {out.name}_log.csv and {out.name}.txt")
    key = "my_pruning.restart.start_iteration"
    start = work.take(key, "legacy-files.start", keys.whole) if searched else None
    return {
        "out": str(out),
        "share_directory": True,
        "trackers": ["legacy-files"],
        "legacy-files": {} if start is None else {"start": start},
    }


def _name(work: _Work) -> Path:
    """The run's name: the first of the keys that may hold it, else that of the model's file."""
    given = ("path.model_name", "path.modelName", "modelName", "model.name_resurs")
    key = next((key for key in given if work.raw(key) is not None), given[-1])
    return Path(work.get(key, keys.path, Path("net")))
