import torch
from ssd_heads import SSDHeads, detector

import prunecore

whole = detector()
heads = prunecore.load("pruned-heads", SSDHeads(whole))
whole.backbone, whole.head = heads.backbone, heads.head

found = whole.eval()([torch.rand(3, 200, 300)])[0]  # images of any size again
print(sum(p.numel() for p in whole.parameters()), "parameters;", *found)
