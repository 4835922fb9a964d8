from __future__ import annotations

import gzip
import struct

import pytest
import torch
from prunecore_plugins.tasks.fashion_mnist import FashionMNISTTask

from prunecore import ConfigError, DataError


def idx(shape, data):
    return bytes((0, 0, 8, len(shape))) + b"".join(struct.pack(">I", n) for n in shape) + bytes(data)


def write(directory, *, zipped=True, images=40):
    directory.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", images), ("t10k", 10)):
        pixels = idx((count, 28, 28), [i % 256 for i in range(count * 784)])
        labels = idx((count,), [i % 10 for i in range(count)])
        for name, data in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", labels)):
            if zipped:
                (directory / f"{name}.gz").write_bytes(gzip.compress(data, 1))
            else:
                (directory / name).write_bytes(data)


def task_of(source, **options):
    return FashionMNISTTask(FashionMNISTTask.Options(source=source, **options)).prune_task()


@pytest.mark.parametrize(("below", "zipped"), [("", True), ("FashionMNIST/raw", False), ("raw", True)])
def test_idx_files_of_debian_and_of_torchvision(tmp_path, below, zipped):
    write(tmp_path / below, zipped=zipped)
    task = task_of(tmp_path, augment=False)
    image, label = task.train[1]
    assert image.shape == (1, 28, 28)
    assert int(label) == 1
    # pixel 0 of image 1 is 784 % 256 = 16
    assert float(image[0, 0, 0]) == pytest.approx((16 / 255 - 0.2860) / 0.3530)
    assert task.train.inputs.dtype == torch.uint8
    assert (len(task.train), len(task.validation)) == (40, 10)


def test_a_limit_is_stratified(tmp_path):
    write(tmp_path)
    assert sorted(task_of(tmp_path, train_limit=20).labels) == sorted([*range(10)] * 2)


def test_faults_of_the_files(tmp_path):
    with pytest.raises(ConfigError, match=r"no train-images-idx3-ubyte\(\.gz\) in .*apt-get install"):
        task_of(tmp_path / "nothing")
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\(\.gz\) is missing"):
        task_of(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx((9,), range(9))))
    with pytest.raises(DataError, match="10 images but 9 labels of t10k"):
        task_of(tmp_path)
    whole = (tmp_path / "train-images-idx3-ubyte.gz").read_bytes()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz cannot be read"):
        task_of(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx((41, 28, 28), [0])))
    with pytest.raises(DataError, match="is not a whole idx file of 3 dims"):
        task_of(tmp_path)
