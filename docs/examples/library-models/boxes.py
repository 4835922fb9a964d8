"""A detection task for `ssd_heads.py`: the loss and the boxes come from torchvision's own detector."""

import torch
from ssd_heads import detector
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

import prunecore

SIZE = 320


class Squares(torch.utils.data.Dataset):
    """Put your own data here. Items: image (3, 320, 320), mean 0.5 and std 0.5 taken off; `boxes` (n, 4), `labels` (n,)."""

    def __init__(self, images, seed):
        self.images, self.seed = images, seed

    def __len__(self):
        return self.images

    def __getitem__(self, number):
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        x, y, side = (int(n) for n in torch.randint(40, 160, (3,), generator=generator))
        label = 1 + number % 2
        image = torch.rand(3, SIZE, SIZE, generator=generator) - 0.5
        image[label, y : y + side, x : x + side] += 1.5
        return image, {"boxes": torch.tensor([[x, y, x + side, y + side]]).float(), "labels": torch.tensor([label])}


class Matching:
    """What torchvision's SSD does around its layers. Anchors depend on the sizes of the feature maps alone."""

    def __init__(self, num_classes):
        self.ssd = detector(num_classes).eval()
        blank = torch.zeros(1, 3, SIZE, SIZE)
        with torch.no_grad():
            features = list(self.ssd.backbone(blank).values())
        self.anchors = self.ssd.anchor_generator(ImageList(blank, [(SIZE, SIZE)]), features)[0]

    def loss(self, outputs, targets):
        anchors = self.anchors.to(outputs["cls_logits"].device)
        matched = [self.ssd.proposal_matcher(box_iou(t["boxes"], anchors)) for t in targets]
        return sum(self.ssd.compute_loss(targets, outputs, [anchors] * len(targets), matched).values())

    def boxes(self, outputs):
        """One mapping an image: `boxes`, `scores`, `labels`, best first."""
        count = len(outputs["cls_logits"])
        anchors = self.anchors.to(outputs["cls_logits"].device)
        return self.ssd.postprocess_detections(outputs, [anchors] * count, [(SIZE, SIZE)] * count)


class Recall:
    """The share of the boxes that one of the ten best detections of their class covers by half (IoU 0.5)."""

    def __init__(self, matching):
        self.matching, self.found, self.there = matching, 0, 0

    def update(self, outputs, targets):
        for made, wanted in zip(self.matching.boxes(outputs), targets, strict=True):
            same = made["labels"][:10, None] == wanted["labels"][None]
            self.found += int(((box_iou(made["boxes"][:10], wanted["boxes"]) >= 0.5) & same).any(0).sum())
            self.there += len(wanted["labels"])

    def compute(self):
        return self.found / self.there


def together(items):
    images, targets = zip(*items, strict=True)
    return torch.stack(images), list(targets)


def task(train=512, validation=64, num_classes=3):
    matching = Matching(num_classes)
    return prunecore.Task(
        name="squares",
        train=Squares(train, seed=0),
        validation=Squares(validation, seed=1),
        loss=matching.loss,
        metric=lambda: Recall(matching),
        metric_name="recall",
        collate=together,
    )
