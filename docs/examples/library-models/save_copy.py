import torch
import torchvision
from my_squeezenet import SqueezeNet  # imported, so that the file names the module and not this script

original = torchvision.models.squeezenet1_1(num_classes=2)  # your trained one
network = SqueezeNet(num_classes=2)
network.load_state_dict(original.state_dict())  # strict: the copy has the names of the original

images = torch.randn(2, 3, 64, 64)
assert torch.equal(network.eval()(images), original.eval()(images))
torch.save(network, "my_model.pth")
torch.save(network.state_dict(), "my_weights.pth")
