"""Training, evaluation, BatchNorm recalibration, and what tasks are made of."""

from prunecore.training.augment import flipped, flipped_together, shifted
from prunecore.training.classification import (
    ClassificationLoss,
    ClassificationMetric,
    Objective,
    classification_task,
    cross_entropy,
)
from prunecore.training.data import Batch, TensorData, batches, collate, split, stratified, subset
from prunecore.training.devices import available_devices, resolve_device
from prunecore.training.distillation import Teacher
from prunecore.training.evaluation import evaluate
from prunecore.training.forward import as_example, call
from prunecore.training.images import ImageFormat, ImageOptions, image_data, unreadable
from prunecore.training.loop import Epoch, fine_tune, fit_epochs
from prunecore.training.masks import MaskData, decode_mask, examine_pair, mask_data
from prunecore.training.recalibration import recalibrate
from prunecore.training.seeds import derive_seed, seeded
from prunecore.training.segmentation import SegmentationMetric, pixel_cross_entropy, segmentation_task
from prunecore.training.tables import Row, raise_faults, read_rows, split_rows

__all__ = [
    "Batch",
    "ClassificationLoss",
    "ClassificationMetric",
    "Epoch",
    "ImageFormat",
    "ImageOptions",
    "MaskData",
    "Objective",
    "Row",
    "SegmentationMetric",
    "Teacher",
    "TensorData",
    "as_example",
    "available_devices",
    "batches",
    "call",
    "classification_task",
    "collate",
    "cross_entropy",
    "decode_mask",
    "derive_seed",
    "evaluate",
    "examine_pair",
    "fine_tune",
    "fit_epochs",
    "flipped",
    "flipped_together",
    "image_data",
    "mask_data",
    "pixel_cross_entropy",
    "raise_faults",
    "read_rows",
    "recalibrate",
    "resolve_device",
    "seeded",
    "segmentation_task",
    "shifted",
    "split",
    "split_rows",
    "stratified",
    "subset",
    "unreadable",
]
