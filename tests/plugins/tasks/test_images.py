"""The tasks `csv` and `folder`, on images of one colour."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from prunecore_plugins.tasks.csv_images import CSVImagesTask
from prunecore_plugins.tasks.image_folder import ImageFolderTask

from prunecore import ConfigError, DataError
from prunecore.training import seeded, split


def paint(path, colour=(255, 0, 0), size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def csv_task(table, **options):
    return CSVImagesTask(CSVImagesTask.Options(source=table, **{"size": (4, 6), **options})).prune_task()


def folder_task(source, **options):
    return ImageFolderTask(ImageFolderTask.Options(source=source, **{"size": (4, 6), **options})).prune_task()


@pytest.fixture
def table(tmp_path):
    for name in ("a", "b", "c", "d"):
        paint(tmp_path / "images" / f"{name}.png", (255, 51, 0))
    lines = ["path,label,is_val", "images/a.png,0,False", "images/b.png,2,0", "images/c.png,1,True", "images/d.png,2,1"]
    table = tmp_path / "data.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.mark.parametrize("memory", [0, 100])
def test_a_table_of_images(table, memory):
    task = csv_task(table, memory=memory)
    image, label = task.train[1]
    assert (image.shape, int(label)) == ((3, 4, 6), 2)
    assert image[:, 0, 0].tolist() == pytest.approx([1.0, -0.6, -1.0])
    assert (len(task.train), len(task.validation)) == (2, 2)
    assert [int(task.validation[i][1]) for i in range(2)] == [1, 2]
    assert (task.num_classes, task.labels, task.metric_name) == (3, [0, 2], "accuracy")
    assert csv_task(table, num_classes=7).num_classes == 7


@pytest.mark.parametrize("memory", [0, 100])
def test_training_images_are_mirrored_and_others_are_not(table, memory):
    left = Image.new("RGB", (6, 4))
    left.paste((255, 255, 255), (0, 0, 3, 4))
    for name in "abcd":
        left.save(table.parent / "images" / f"{name}.png")
    task = csv_task(table, memory=memory)

    def bright(data):
        with seeded(0):
            return {float(data[0][0][0, 0, 0]) for _ in range(20)}

    assert bright(task.train) == {1.0, -1.0}
    assert bright(task.validation) == {1.0}
    assert bright(split(task, 0.5, seed=0)[1]) == {1.0}
    assert bright(csv_task(table, memory=memory, flip=False).train) == {1.0}


def test_normalisation_and_grey(table):
    task = csv_task(table, grey=True, mean=0.0, std=1.0)
    # luma of (255, 51, 0), as pillow rounds it
    assert task.train[0][0][:, 0, 0].tolist() == pytest.approx([106 / 255], abs=0.005)
    task = csv_task(table, mean=(1.0, 0.2, 0.0), std=(1.0, 1.0, 2.0))
    assert task.validation[0][0][:, 0, 0].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_every_fault_of_a_table_is_listed_once(table):
    (table.parent / "images" / "broken.png").write_bytes(b"no image")
    table.write_text(
        "path,label,is_val\n"
        "images/a.png,0,0\n"
        "images/gone.png,0,0\n"
        "images/b.png,cat,0\n"
        "images/c.png,5,0\n"
        "images/broken.png,-1,0\n"
    )
    with pytest.raises(DataError) as fault:
        csv_task(table, num_classes=3)
    first, *lines = str(fault.value).splitlines()
    assert first == f"{table}: 6 faults:"
    assert lines[0] == f"  line 3: missing file {table.parent}/images/gone.png"
    assert lines[1] == "  line 4: class 'cat' is not an integer"
    assert lines[2] == "  line 5: class 5 is outside 0 to 2 (num_classes 3)"
    assert lines[3] == "  line 6: class -1 is outside 0 to 2 (num_classes 3)"
    assert lines[4].startswith(f"  line 6: image {table.parent}/images/broken.png cannot be read")
    assert lines[5] == "  no validation line: is_val is False everywhere"


def test_ten_faults_are_shown(table):
    table.write_text("path,label,is_val\n" + "images/a.png,x,0\n" * 13 + "images/a.png,0,1\nimages/a.png,0,0\n")
    with pytest.raises(DataError) as fault:
        csv_task(table)
    lines = str(fault.value).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  and 3 more"


def test_a_table_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        csv_task(tmp_path / "data.csv")
    (tmp_path / "data.csv").write_text("image,class\n")
    with pytest.raises(DataError, match="the first line is 'image,class', expected path,label,is_val"):
        csv_task(tmp_path / "data.csv")
    (tmp_path / "data.csv").write_text("path,label,is_val\nshort\n")
    with pytest.raises(DataError, match="class '' is not an integer"):
        csv_task(tmp_path / "data.csv")


def test_an_image_cut_short_is_named_when_it_is_decoded(table):
    path = table.parent / "images" / "a.png"
    paint(path, size=(300, 300))
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(DataError, match=r"image .*a\.png cannot be read"):
        csv_task(table)


def test_folders_of_classes(tmp_path):
    for part, name, count in (("train", "cat", 2), ("train", "ant", 1), ("val", "cat", 1)):
        for i in range(count):
            paint(tmp_path / part / name / f"{i}.JPG")
    task = folder_task(tmp_path)
    assert (task.labels, task.num_classes) == ([0, 1, 1], 2)
    assert [int(task.validation[0][1]), len(task.validation)] == [1, 1]
    paint(tmp_path / "val" / "dog" / "0.png")
    with pytest.raises(DataError, match="classes without training images: dog"):
        folder_task(tmp_path)


def test_one_tree_is_split_by_class(tmp_path):
    for name in ("a", "b"):
        for i in range(10):
            paint(tmp_path / name / f"{i}.png", (i * 20, 0, 0))
    task = folder_task(tmp_path)
    assert (len(task.train), len(task.validation)) == (16, 4)
    assert task.validation.targets.tolist() == [0, 0, 1, 1]
    assert torch.equal(task.validation.inputs, folder_task(tmp_path).validation.inputs)


def test_faults_of_folders(tmp_path):
    with pytest.raises(ConfigError, match="there is no directory"):
        folder_task(tmp_path / "gone")
    with pytest.raises(DataError, match="no images; expected one folder a class"):
        folder_task(tmp_path)
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "full" / "0.png")
    with pytest.raises(DataError, match="no images in the folders empty"):
        folder_task(tmp_path)
    (tmp_path / "empty" / "0.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1 faults:\n  image .*empty/0\.png cannot be read"):
        folder_task(tmp_path, validation=0.5)


def test_loss_and_metric_by_name(table):
    task = csv_task(table, metric="balanced_accuracy", loss="focal")
    logits = torch.tensor([[0.0, 9.0, 0.0], [0.0, 9.0, 0.0]])
    metric = task.metric()
    metric.update(logits, torch.tensor([1, 2]))
    assert (task.metric_name, float(metric.compute())) == ("balanced_accuracy", 0.5)
    # the image that is right has next to no loss, the other one 9 times (1 - exp(-9))²
    assert float(task.loss(logits, torch.tensor([1, 2]))) == pytest.approx(4.5, abs=0.01)


def test_auroc_needs_two_classes_to_validate_on(table):
    assert csv_task(table, metric="auroc").metric_name == "auroc"
    table.write_text(table.read_text().replace("images/c.png,1", "images/c.png,2"))
    with pytest.raises(DataError, match="metric auroc tells classes apart, but all validation lines are of class 2"):
        csv_task(table, metric="auroc")
