"""Training, evaluation, BatchNorm recalibration, and what tasks are made of."""

from prunecore.training.augment import flipped, shifted
from prunecore.training.classification import classification_task, cross_entropy
from prunecore.training.data import Batch, TensorData, batches, collate, split, stratified
from prunecore.training.devices import available_devices, resolve_device
from prunecore.training.evaluation import evaluate
from prunecore.training.forward import as_example, call
from prunecore.training.images import ImageFormat, ImageOptions, image_data, unreadable
from prunecore.training.loop import Epoch, fine_tune, fit_epochs
from prunecore.training.recalibration import recalibrate
from prunecore.training.seeds import derive_seed, seeded

__all__ = [
    "Batch",
    "Epoch",
    "ImageFormat",
    "ImageOptions",
    "TensorData",
    "as_example",
    "available_devices",
    "batches",
    "call",
    "classification_task",
    "collate",
    "cross_entropy",
    "derive_seed",
    "evaluate",
    "fine_tune",
    "fit_epochs",
    "flipped",
    "image_data",
    "recalibrate",
    "resolve_device",
    "seeded",
    "shifted",
    "split",
    "stratified",
    "unreadable",
]
