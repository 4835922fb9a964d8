import torch
from torchvision.models import detection

import prunecore
from prunecore.surgery import load_recipe, save_recipe


def build():
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)


pruned = prunecore.prune(build(), torch.rand(1, 3, 128, 128), algo="l2norm", reduce=0.4, multiple_of=8)
print(f"size {pruned.size:.3f}, verified: {pruned.certificate.verified}")

network = pruned.model.train()  # from here on as with any detector of torchvision
optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
images = [torch.rand(3, 128, 128)]
targets = [{"boxes": torch.tensor([[20.0, 20.0, 90.0, 90.0]]), "labels": torch.tensor([1])}]
losses = network(images, targets)
sum(losses.values()).backward()
optimizer.step()

save_recipe(pruned.recipe, "recipe.json")
torch.save(network.state_dict(), "pruned.pth")

again = prunecore.apply_recipe(build(), load_recipe("recipe.json"))
print(again.load_state_dict(torch.load("pruned.pth", weights_only=True)))
