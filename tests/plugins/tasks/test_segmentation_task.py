"""The task `segmentation`: tables of images and masks, and a whole run on one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from prunecore_plugins.tasks.segmentation import SegmentationTask

import prunecore
from prunecore import ConfigError, DataError
from prunecore.config.reader import parse
from prunecore.run.pipeline import run
from prunecore.training import seeded

HEADER = "path,label,is_val\n"
# class 0 on the left, 2 and ignored pixels on the right
MASK = np.array([[0, 0, 0, 2, 2, 255]] * 4, dtype=np.uint8)


def task_of(table, **options):
    return SegmentationTask(SegmentationTask.Options(source=table, **{"size": (4, 6), **options})).prune_task()


def paint(path, size=(6, 4)):
    """White on the left, black on the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (0, 0, size[0] // 2, size[1]))
    image.save(path)


@pytest.fixture
def table(tmp_path):
    """Two images that train, one that validates."""
    (tmp_path / "masks").mkdir()
    lines = []
    for name, part in (("a", "0"), ("b", "False"), ("c", "True")):
        paint(tmp_path / "images" / f"{name}.png")
        Image.fromarray(MASK).save(tmp_path / "masks" / f"{name}.png")
        lines.append(f"images/{name}.png,masks/{name}.png,{part}")
    path = tmp_path / "data.csv"
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("memory", [0, 100])
def test_a_table_of_masks(table, memory):
    task = task_of(table, memory=memory)
    assert (len(task.train), len(task.validation)) == (2, 1)
    image, mask = task.validation[0]
    assert (image.shape, mask.dtype, mask.tolist()) == ((3, 4, 6), torch.int64, MASK.tolist())
    assert image[:, 0].tolist() == [[1.0, 1.0, 1.0, -1.0, -1.0, -1.0]] * 3
    assert (task.num_classes, task.labels, task.metric_name) == (3, None, "miou")
    assert task_of(table, grey=True).validation[0][0].shape == (1, 4, 6)
    assert task_of(table, size=(2, 3)).validation[0][1].tolist() == [[0, 2, 255]] * 2


@pytest.mark.parametrize("memory", [0, 100])
def test_training_images_are_mirrored_with_their_masks(table, memory):
    task = task_of(table, memory=memory)

    def seen(data):
        with seeded(0):
            return {(float(x[0, 0, 0]), int(y[0, 0])) for x, y in (data[0] for _ in range(20))}

    assert seen(task.train) == {(1.0, 0), (-1.0, 255)}
    assert seen(task.validation) == seen(task_of(table, memory=memory, flip=False).train) == {(1.0, 0)}


def test_palette_masks_are_read_by_index(table):
    for name in "abc":
        image = Image.fromarray(MASK).convert("P")
        image.putdata([1 if v == 255 else int(v) for v in MASK.ravel()])
        image.putpalette([9, 9, 9, 200, 0, 0, 9, 9, 9])
        image.save(table.parent / "masks" / f"{name}.png")
    assert task_of(table).validation[0][1][0].tolist() == [0, 0, 0, 2, 2, 1]


def test_ignored_pixels_count_only_where_asked(table):
    logits = torch.zeros(1, 3, 4, 6)
    logits[:, 0, :, :3] = logits[:, 2, :, 3:] = 9.0
    targets = torch.from_numpy(MASK).long()[None]
    task = task_of(table)
    metric = task.metric()
    metric.update(logits, targets)
    assert float(metric.compute()) == 1.0
    assert float(task.loss(logits, targets)) == pytest.approx(2 * np.exp(-9), rel=1e-2)
    assert task_of(table, ignore_index=None).num_classes == 256
    # class 2 as nothing: the pixels of 255 are now of a class
    with pytest.raises(DataError, match=r"holds class 255, expected 0 to 2 \(num_classes 3\), or 2 \(ignore_index\)"):
        task_of(table, ignore_index=2, num_classes=3)


@pytest.mark.parametrize("metric", ["miou", "accuracy", "dice"])
def test_metrics_by_name(table, metric):
    task = task_of(table, metric=metric)
    found = task.metric()
    found.update(
        torch.eye(3)[torch.zeros(1, 4, 6, dtype=torch.long)].movedim(-1, 1), torch.from_numpy(MASK).long()[None]
    )
    # 12 pixels of class 0 are found, 8 of class 2 are not
    expected = {"miou": (12 / 20 + 0) / 2, "accuracy": 12 / 20, "dice": (24 / 32 + 0) / 2}
    assert (task.metric_name, float(found.compute())) == (metric, pytest.approx(expected[metric]))


def test_every_fault_of_a_table_is_listed_once(table):
    where = table.parent
    Image.new("RGB", (6, 4)).save(where / "masks" / "rgb.png")
    (where / "masks" / "text.png").write_text("no image")
    paint(where / "images" / "wide.png", (7, 4))
    table.write_text(
        HEADER
        + "images/a.png,masks/a.png,0\n"
        + "images/gone.png,masks/a.png,0\n"
        + "images/a.png,masks/gone.png,0\n"
        + "images/a.png,masks/text.png,0\n"
        + "images/a.png,masks/rgb.png,maybe\n"
        + "images/wide.png,masks/a.png,0\n"
    )
    with pytest.raises(DataError) as fault:
        task_of(table, num_classes=2)
    first, *lines = [line.strip() for line in str(fault.value).replace(f"{where}/", "").splitlines()]
    too_high = "mask masks/a.png holds class 2, expected 0 to 1 (num_classes 2), or 255 (ignore_index)"
    assert first == "data.csv: 10 faults:"
    assert lines[:5] == [
        f"line 2: {too_high}",
        "line 3: missing file images/gone.png",
        f"line 3: {too_high}",
        "line 4: missing file masks/gone.png",
        "line 5: image masks/text.png cannot be read: cannot identify image file 'masks/text.png'",
    ]
    assert lines[5:] == [
        "line 6: is_val is neither True, 1, False nor 0",
        "line 6: mask masks/rgb.png is of mode RGB, expected one channel, or a palette, whose pixel values are class ids",
        "line 7: image images/wide.png is 4x7, its mask masks/a.png 4x6",
        f"line 7: {too_high}",
        "no validation line: is_val is False everywhere",
    ]


def test_tables_and_masks_that_say_nothing(table, tmp_path):
    with pytest.raises(ConfigError, match=r"segmentation: there is no file .*--data segmentation:PATH"):
        task_of(tmp_path / "none.csv")
    Image.new("L", (6, 4), 255).save(tmp_path / "masks" / "c.png")
    with pytest.raises(DataError, match="every pixel of the validation masks is 255, the ignore_index"):
        task_of(table)
    for name in "abc":
        Image.fromarray(np.where(MASK > 0, 255, 0).astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    with pytest.raises(DataError, match=r"class 0 alone.*write masks of 0 and 255 as 0 and 1, or give num_classes"):
        task_of(table)
    assert task_of(table, num_classes=2).num_classes == 2
    table.write_text(HEADER)
    with pytest.raises(DataError, match="no train line: the table is empty"):
        task_of(table)


@pytest.mark.parametrize("task", ["segmentation", "csv"])
def test_unknown_names_are_refused_with_the_known_ones(task):
    with pytest.raises(ConfigError) as fault:
        parse({"model": "demo", "data": {"spec": f"{task}:data.csv", "metric": "iou"}})
    known = {"segmentation": "'miou', 'accuracy' or 'dice'", "csv": "'accuracy', 'balanced_accuracy', 'f1' or 'auroc'"}
    assert f"data.metric: Input should be {known[task]} (got 'iou')" in str(fault.value)


# ---------------------------------------------------------------- a whole run

NET = """
import torch
from torch import nn


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        wide = self.down(x)
        y = self.head(self.out(torch.cat([wide, self.up(self.inner(wide))], 1)))
        return {"out": y} if DICT else y


def build():
    return UNet()
"""


def write_squares(where, count=96):
    """Squares (class 2) and bars (class 1) on a noisy background, 16x16; every fourth image validates."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(count):
        mask = np.zeros((16, 16), dtype=np.uint8)
        row, column = generator.integers(0, 10, size=2)
        mask[row : row + 6, column : column + 6] = 2
        bar = generator.integers(0, 16)
        mask[:, bar][mask[:, bar] == 0] = 1
        image = np.clip(mask * 100 + generator.integers(0, 60, mask.shape), 0, 255).astype(np.uint8)
        for name, pixels in (("image", image), ("mask", mask)):
            Image.fromarray(pixels).save(where / f"{name}{number}.png")
        rows.append(f"image{number}.png,mask{number}.png,{number % 4 == 0}")
    (where / "data.csv").write_text(HEADER + "\n".join(rows) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "mapping"), [("taylor", True), ("l2norm", False)])
def test_a_run_from_the_table_to_the_pruned_network(tmp_path, monkeypatch, algorithm, mapping):
    write_squares(tmp_path)
    (tmp_path / "net.py").write_text(NET.replace("DICT", str(mapping)))
    monkeypatch.chdir(tmp_path)
    settings = {
        "model": {"spec": "python:net.py:build", "inputs": [1, 1, 16, 16]},
        "data": {"spec": "segmentation:data.csv", "size": [16, 16], "grey": True},
        "algorithm": algorithm,
        "target": {"reduce": 0.4},
        "pretraining": {"epochs": 16, "lr": 0.03, "batch_size": 8},
        "training": {"epochs": 4, "lr": 0.02, "batch_size": 8},
        "device": "cpu",
    }
    result = run(parse(settings), tmp_path / "out")
    metric = result["metric"]
    assert metric["name"] == "miou"
    assert metric["before"] > 0.95
    assert metric["after"] > 0.95
    assert metric["after_cut"] <= metric["after"]
    assert abs(result["size"] - 0.6) < 0.05
    assert result["certificate"]["verified"] is True
    assert [u["module"] for u in result["unprunable"]] == ["head"]
    network = prunecore.load(tmp_path / "out")
    outputs = network(torch.zeros(1, 1, 16, 16))
    assert (outputs["out"] if mapping else outputs).shape == (1, 3, 16, 16)
