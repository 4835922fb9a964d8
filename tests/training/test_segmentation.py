"""Masks as data sets, the loss a pixel, metrics over all pixels."""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from prunecore.config.training import TrainingSettings
from prunecore.errors import DataError, TrainingError
from prunecore.training import (
    ImageFormat,
    MaskData,
    decode_mask,
    evaluate,
    fine_tune,
    flipped_together,
    mask_data,
    pixel_cross_entropy,
    seeded,
    segmentation_task,
    split,
)

TARGETS = torch.tensor([[[0, 1], [1, 255]]])
FOUND = torch.tensor([[[0, 1], [0, 2]]])


def sure(classes, num_classes=4):
    """Logits whose largest is that of `classes`."""
    return nn.functional.one_hot(classes, num_classes).movedim(-1, 1).float() * 9


def metric_of(name, num_classes=4, **options):
    return segmentation_task("t", [], [], num_classes=num_classes, metric=name, **options).metric()


def value_of(metric, *batches):
    for found, targets in batches:
        metric.update(sure(found), targets)
    return float(metric.compute())


# classes 0 and 1: one pixel right, one wrong; the pixel found to be class 2 is ignored, class 3 is nowhere
@pytest.mark.parametrize(
    ("name", "expected"), [("miou", (1 / 2 + 1 / 2) / 2), ("accuracy", 2 / 3), ("dice", (2 / 3 + 2 / 3) / 2)]
)
def test_metrics_by_hand(name, expected):
    assert value_of(metric_of(name), (FOUND, TARGETS)) == pytest.approx(expected)


# with a second batch class 1 has three pixels, of which one is found; class 2 is found once and nowhere; class 3 is right once
@pytest.mark.parametrize(
    ("name", "expected"),
    [("miou", (1 / 2 + 1 / 3 + 0 + 1) / 4), ("accuracy", 3 / 5), ("dice", (2 / 3 + 2 / 4 + 0 + 1) / 4)],
)
def test_metrics_are_over_all_pixels_of_all_batches(name, expected):
    more = torch.tensor([[[2, 3]]]), torch.tensor([[[1, 3]]])
    assert value_of(metric_of(name), (FOUND, TARGETS), more) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["miou", "dice"])
def test_an_ignored_class_is_no_class(name):
    found, targets = torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[0, 0, 1, 2]]])
    # the pixels of class 0 are left out, so all others are right
    assert value_of(metric_of(name, ignore_index=0), (found, targets)) == 1.0
    # class 0 found where class 1 is: class 1 has one pixel of two, class 0 does not count
    found, targets = torch.tensor([[[0, 1, 2]]]), torch.tensor([[[1, 1, 2]]])
    one = {"miou": 1 / 2, "dice": 2 / 3}[name]
    assert value_of(metric_of(name, ignore_index=0), (found, targets)) == pytest.approx((one + 1) / 2)


def test_ignored_pixels_are_out_of_the_loss():
    logits = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    counted = logits[0, :, [0, 0, 1], [0, 1, 0]].T
    loss = pixel_cross_entropy(logits, TARGETS, num_classes=4)
    assert float(loss) == pytest.approx(float(cross_entropy(counted, torch.tensor([0, 1, 1]))))
    with pytest.raises(IndexError):
        pixel_cross_entropy(logits, TARGETS, num_classes=4, ignore_index=None)


def test_a_batch_of_ignored_pixels_has_no_loss_and_no_gradient():
    logits = torch.randn(1, 4, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 2, 2), 255), num_classes=4)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.tolist() == torch.zeros(1, 4, 2, 2).tolist()


def test_outputs_of_every_form():
    logits, auxiliary = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    main, other = (float(pixel_cross_entropy(x, TARGETS, num_classes=4)) for x in (logits, auxiliary))
    assert main != other

    def loss(outputs):
        return float(pixel_cross_entropy(outputs, TARGETS, num_classes=4))

    assert loss({"out": logits}) == loss({"logits": logits}) == loss(SimpleNamespace(logits=logits)) == main
    both = {"out": logits, "aux": auxiliary}
    assert loss(both) == pytest.approx(main + other / 2)
    with torch.no_grad():
        assert loss(both) == main
    metric = metric_of("miou")
    metric.update({"out": sure(FOUND), "aux": sure(TARGETS % 4)}, TARGETS)
    assert float(metric.compute()) == pytest.approx(0.5)


def test_logits_of_another_resolution_are_interpolated():
    logits = torch.randn(1, 4, 1, 2, generator=torch.Generator().manual_seed(0))
    whole = interpolate(logits, size=(2, 2), mode="bilinear", align_corners=False)
    losses = [float(pixel_cross_entropy({"out": x}, TARGETS, num_classes=4)) for x in (logits, whole)]
    assert losses[0] == losses[1]
    metric = metric_of("accuracy")
    metric.update(torch.tensor([[[[9.0]], [[1.0]], [[0.0]], [[0.0]]]]), TARGETS)
    assert float(metric.compute()) == pytest.approx(1 / 3)


# ---------------------------------------------------------------- data


def in_tensors(flip=True, count=4):
    """Images whose grey value is 51 times the class: `(n, 1, 4, 6)` and `(n, 4, 6)`."""
    masks = torch.randint(0, 4, (count, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    form = ImageFormat(size=(4, 6), grey=True, mean=0.0, std=1.0, flip=flip)
    return MaskData(masks.unsqueeze(1) * 51, masks, form)


def test_flips_move_the_image_and_its_mask():
    images, masks = torch.arange(24.0).reshape(2, 1, 3, 4), torch.arange(24).reshape(2, 3, 4)
    with seeded(0):
        flipped, moved = flipped_together(images.repeat(20, 1, 1, 1), masks.repeat(20, 1, 1))
    assert torch.equal(flipped[:, 0], moved.float())
    first = {tuple(m[0].tolist()) for m in moved[::2]}
    assert first == {(0, 1, 2, 3), (3, 2, 1, 0)}


def test_items_and_batches_of_masks():
    data = in_tensors()
    with seeded(1):
        images, masks = data.__getitems__([0, 2] * 10)
    assert (images.dtype, masks.dtype, images.shape) == (torch.float32, torch.int64, (20, 1, 4, 6))
    assert torch.allclose(images[:, 0], masks / 5)
    assert {tuple(m[0].tolist()) for m in masks[::2]} == {
        tuple(data.masks[0, 0].tolist()),
        tuple(data.masks[0, 0].flip(-1).tolist()),
    }
    image, mask = data.plain()[3]
    assert torch.equal(mask, data.masks[3].long())
    assert torch.allclose(image[0], mask / 5)


def test_the_search_split_is_random_and_plain():
    task = segmentation_task("t", in_tensors(count=20), in_tensors(), num_classes=4)
    assert task.labels is None
    fit, search = split(task, 0.25, seed=0)
    assert (len(fit), len(search)) == (15, 5)
    assert (fit.dataset.form.flip, search.dataset.form.flip) == (True, False)


class Segmenter(nn.Module):
    """Logits at half the resolution, in a mapping."""

    def __init__(self, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 2, 2)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        return {"out": self.head(self.bn(self.conv(x)).relu())}


def test_a_network_with_a_mapping_learns():
    masks = (torch.arange(32)[:, None, None] % 4).expand(32, 4, 6).to(torch.uint8)
    data = MaskData(masks.unsqueeze(1) * 51, masks, ImageFormat(size=(4, 6), grey=True))
    task = segmentation_task("shades", data, data.plain(), num_classes=4)
    torch.manual_seed(0)
    net = Segmenter()
    before = evaluate(net, task.validation, task, device="cpu")
    tuned = fine_tune(net, task, TrainingSettings(epochs=8, lr=0.1, batch_size=8), device="cpu")
    after = evaluate(tuned, task.validation, task, device="cpu")
    assert (before.name, before.images) == ("miou", 32)
    assert before.value < 0.7 < 0.95 < after.value


def test_outputs_that_do_not_fit_are_named():
    task = segmentation_task("t", in_tensors(), in_tensors(), num_classes=3)
    text = r"outputs \(4, 4, 2, 3\) and targets \(4, 4, 6\): expected logits \(batch, 3, height, width\)"
    with pytest.raises(TrainingError, match=text):
        evaluate(Segmenter(), task.validation, task, device="cpu")
    with pytest.raises(ValueError, match="got tuple"):
        pixel_cross_entropy((1, 2), TARGETS, num_classes=3)


# ---------------------------------------------------------------- files

IDS = np.array([[0, 1, 2], [2, 5, 1]], dtype=np.uint8)


def grey_png(path, ids, bits):
    """A grey PNG of fewer than 8 bits, which pillow does not write."""
    height, width = ids.shape
    shift = np.arange(bits - 1, -1, -1)
    rows = [np.packbits(((row[:, None] >> shift) & 1).astype(np.uint8)).tobytes() for row in ids]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def save(path, kind):
    """IDS as a mask image of that kind."""
    if kind == "palette":
        image = Image.fromarray(IDS).convert("P")
        image.putdata(IDS.ravel().tolist())
        image.putpalette([255, 255, 255] * 6)  # all colours alike: only the index tells
        image.save(path)
    elif kind == "4 bits":
        grey_png(path, IDS, 4)
    else:
        Image.fromarray(IDS.astype({"8 bits": np.uint8, "16 bits": np.uint16, "32 bits": np.int32}[kind])).save(path)


@pytest.mark.parametrize("kind", ["palette", "4 bits", "8 bits", "16 bits", "32 bits"])
def test_pixel_values_are_class_ids(tmp_path, kind):
    path = tmp_path / ("mask.tif" if kind == "32 bits" else "mask.png")
    save(path, kind)
    assert decode_mask(path).tolist() == IDS.tolist()
    assert decode_mask(path, (4, 3)).tolist() == IDS.repeat(2, axis=0).tolist()
    assert decode_mask(path, (1, 1)).tolist() == [[5]]  # the pixel at the centre, no mean of several


def test_masks_of_one_bit(tmp_path):
    Image.fromarray(IDS > 1).save(tmp_path / "mask.png")
    assert decode_mask(tmp_path / "mask.png").tolist() == [[0, 0, 1], [1, 1, 0]]


def test_what_is_no_mask(tmp_path):
    path = tmp_path / "mask.png"
    with pytest.raises(DataError, match="missing file"):
        decode_mask(path)
    Image.new("RGB", (2, 2)).save(path)
    with pytest.raises(
        DataError, match=r"is of mode RGB, expected one channel, or a palette, whose pixel values are cl"
    ):
        decode_mask(path)
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"mask .*mask\.png cannot be read"):
        decode_mask(path)


def test_masks_take_a_byte_a_pixel_where_ids_are_below_256(tmp_path):
    for name, highest in (("a", 255), ("b", 300)):
        Image.fromarray(np.full((2, 2), highest, dtype=np.uint16)).save(tmp_path / f"{name}.png")
    Image.new("L", (2, 2)).save(tmp_path / "image.png")
    form = ImageFormat(size=(2, 2), grey=True, flip=False)

    def data(*names, memory=1):
        paths = [tmp_path / f"{n}.png" for n in names]
        return mask_data([tmp_path / "image.png"] * len(paths), paths, ImageFormat(**{**vars(form), "memory": memory}))

    assert data("a").masks.dtype == torch.uint8
    assert data("a", "b").masks.dtype == torch.int32
    assert [int(data("a", "b")[i][1][0, 0]) for i in range(2)] == [255, 300]
    assert [int(data("a", "b", memory=0)[i][1][0, 0]) for i in range(2)] == [255, 300]
