"""An SSD of torchvision without what surrounds its layers: normalised images of one size in, the heads' own outputs out."""

from torch import nn
from torchvision.models import detection


class SSDHeads(nn.Module):
    """`images` (batch, 3, 320, 320) -> `bbox_regression` (batch, anchors, 4) and `cls_logits` (batch, anchors, classes)."""

    def __init__(self, detector):
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head

    def forward(self, images):
        return self.head(list(self.backbone(images).values()))


def detector(num_classes=3):
    """The whole detector; class 0 is the background. Load the state dict of your trained one here."""
    return detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes)


def build(num_classes=3):
    return SSDHeads(detector(num_classes))
