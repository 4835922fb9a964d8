"""The task `folder:PATH`: one folder of images a class, in `train/` and `val/`, or in one tree that is split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from prunecore import ConfigError, DataError, hookimpl
from prunecore.errors import enumerated, listing
from prunecore.training import ImageOptions, classification_task, image_data, stratified, unreadable

if TYPE_CHECKING:
    from prunecore import Task

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_VALIDATION = ("val", "valid", "validation")
_SPLIT_SEED = 0  # fixed: every run reports on the same validation split

Items = list[tuple[Path, int]]


class ImageFolderTask:
    """Items: float32 `(channels, height, width)`; the class (position of the folder's name in the sorted names)."""

    class Options(ImageOptions):
        """source: a directory with `train` and `val`, or with one folder a class. validation: fraction that reports, where
        there is one tree (stratified, always the same).
        """

        source: Path
        validation: float = Field(default=0.2, gt=0, lt=1)

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_task(self) -> Task:
        options = self._options
        train, validation, classes = find_items(options.source, options.validation)
        faults = [fault for path, _ in (*train, *validation) if (fault := unreadable(path)) is not None]
        if faults:
            raise DataError(enumerated(options.source, faults))
        form = options.format()
        labels = [label for _, label in train]
        return classification_task(
            f"folder:{options.source}",
            image_data([p for p, _ in train], labels, form),
            image_data([p for p, _ in validation], [label for _, label in validation], form.without_flip()),
            num_classes=len(classes),
            labels=labels,
        )


def find_items(source: Path, fraction: float) -> tuple[Items, Items, list[str]]:
    """Train items, validation items, names of the classes. ConfigError: no such directory; DataError: no images in it."""
    if not source.is_dir():
        raise ConfigError(f"folder: there is no directory {source}; give one: --data folder:PATH")
    held = next((source / name for name in _VALIDATION if (source / name).is_dir()), None)
    if not (source / "train").is_dir() or held is None:
        classes = _classes(source)
        items = _items(source, classes)
        chosen = set(stratified([c for _, c in items], round(len(items) * fraction), _SPLIT_SEED).tolist())
        parts = [[item for i, item in enumerate(items) if (i in chosen) is inside] for inside in (False, True)]
        if not all(parts):
            raise DataError(f"{source}: {len(items)} images cannot be split by validation: {fraction}")
        return parts[0], parts[1], classes
    classes = _classes(source / "train")
    unknown = sorted(set(_classes(held)) - set(classes))
    if unknown:
        raise DataError(f"{held}: classes without training images: {', '.join(unknown)}")
    return _items(source / "train", classes), _items(held, classes), classes


def _classes(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))


def _items(directory: Path, classes: list[str]) -> Items:
    found = [
        (path, number)
        for number, name in enumerate(classes)
        for path in sorted((directory / name).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    labels = {label for _, label in found}
    empty = [name for number, name in enumerate(classes) if number not in labels]
    if not found:
        raise DataError(
            f"{directory}: no images; expected one folder a class, with {', '.join(sorted(_SUFFIXES))} in it"
        )
    if empty and directory.name not in _VALIDATION:
        raise DataError(f"{directory}: no images in the folders {listing(empty)}; add some or remove the folders")
    return found
