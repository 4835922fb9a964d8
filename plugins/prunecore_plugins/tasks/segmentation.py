"""The task `segmentation:PATH`: images and their masks in a table with the header `path,label,is_val`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from prunecore import hookimpl
from prunecore.training import (
    ImageOptions,
    Row,
    SegmentationMetric,
    examine_pair,
    mask_data,
    raise_faults,
    read_rows,
    segmentation_task,
    split_rows,
)

if TYPE_CHECKING:
    from prunecore import Task


class SegmentationTask:
    """Items: float32 `(channels, height, width)`; the class of every pixel, int64 `(height, width)`."""

    class Options(ImageOptions):
        """source: the table; paths in it are relative to it, `label` is the path of the mask. num_classes: default: the largest
        class id + 1. ignore_index: pixels of it count nowhere; null: all count.

        Masks have one channel, or a palette; their pixel values (indices into the palette) are class ids. They are resized
        to the nearest pixel, and mirrored together with their images.
        """

        source: Path
        num_classes: int | None = Field(default=None, ge=2)
        ignore_index: int | None = 255
        metric: SegmentationMetric = "miou"

    def __init__(self, options: Options) -> None:
        self._options = options

    @hookimpl
    def prune_task(self) -> Task:
        options = self._options
        rows = read_rows(options.source, task="segmentation")
        num_classes = self._examined(rows)
        train, validation = split_rows(rows)
        form = options.format()
        return segmentation_task(
            f"segmentation:{options.source}",
            mask_data([r.path for r in train], masks_of(options.source, train), form),
            mask_data([r.path for r in validation], masks_of(options.source, validation), form.without_flip()),
            num_classes=num_classes,
            ignore_index=options.ignore_index,
            metric=options.metric,
        )

    def _examined(self, rows: list[Row]) -> int:
        """The number of classes; DataError that lists what is wrong with the table, its images and masks."""
        options = self._options
        facts = [
            examine_pair(row.path, mask, num_classes=options.num_classes, ignore_index=options.ignore_index)
            for row, mask in zip(rows, masks_of(options.source, rows), strict=True)
        ]
        highest = [f.highest for f in facts]
        whole = [] if any(f.faults for f in facts) else self._unlearnable(rows, highest)
        raise_faults(options.source, rows, [f.faults for f in facts], whole=whole)
        return options.num_classes or max(h for h in highest if h is not None) + 1

    def _unlearnable(self, rows: list[Row], highest: list[int | None]) -> list[str]:
        """Why sound masks say nothing. highest: largest class id of each (None: it has none)."""
        ignored, faults = self._options.ignore_index, []
        for part, chosen in (("train", False), ("validation", True)):
            own = {h for h, row in zip(highest, rows, strict=True) if row.validation is chosen}
            if own == {None}:
                faults.append(f"every pixel of the {part} masks is {ignored}, the ignore_index")
        if not faults and rows and self._options.num_classes is None and set(highest) <= {None, 0}:
            faults.append(
                f"the masks hold class 0 alone, beside the ignore_index {ignored}; "
                "write masks of 0 and 255 as 0 and 1, or give num_classes"
            )
        return faults


def masks_of(table: Path, rows: list[Row]) -> list[Path]:
    """Where the masks of the rows are."""
    return [table.parent / row.label for row in rows]
