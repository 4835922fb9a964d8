"""Our metrics against NNI 3.0's own pruners, layer by layer (marker `nni`), and the plugin that offers NNI's."""

from __future__ import annotations

import sys

import pytest
import torch
from prunecore_plugins.algorithms.fpgm import FPGM
from prunecore_plugins.algorithms.l2norm import L2Norm
from prunecore_plugins.algorithms.taylor import Taylor
from prunecore_plugins.nni import NNIFPGM, NNIL2Norm, NNITaylor
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from prunecore.errors import ConfigError
from prunecore.graph import GraphBuilder
from prunecore.scoring import Matrices
from prunecore.types import Calibration, ExampleInputs, Task

NETWORKS = ("resnet18", "mobilenet_v2")


def network(name):
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, num_classes=10)


def plain_convolutions(model):
    return [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]


def layers_of(model):
    """A graph in which the filters of every plain convolution are a group of their own."""
    builder = GraphBuilder(model, "test")
    for name in plain_convolutions(model):
        builder.labels(f"{name}.weight", 0, "producer")
    return builder.build()


def four_images(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 32, 32, generator=generator).to(dtype)
    data = TensorDataset(images, torch.tensor([3, 1, 4, 1]))
    return Task("four images", data, data, loss=cross_entropy, metric=lambda: None, metric_name="accuracy")


def scores_by(criterion, model, calibration=None):
    graph, tensors = layers_of(model), dict(model.named_parameters())
    calibration = calibration or Calibration()
    return {
        g.name: criterion.prune_score(group=g, weights=Matrices(g, tensors), calibration=calibration, seed=0)
        for g in graph.groups
    }


def taylor_by(plugin, model):
    """One image a batch, so that the order of the images does not matter."""
    criterion = plugin(plugin.Options(batch_size=1))
    dtype = next(model.parameters()).dtype
    inputs, task = ExampleInputs((torch.zeros(1, 3, 32, 32, dtype=dtype),)), four_images(dtype)
    evidence = criterion.prune_calibrate(model=model, graph=layers_of(model), inputs=inputs, task=task, seed=0)
    assert evidence.images == 4
    return scores_by(criterion, model, evidence)


def metrics_of(pruner):
    """NNI's metrics of every layer, as a pruner of NNI computes them."""
    metrics = pruner._calculate_metrics(pruner._collect_data())
    return {name: targets["weight"].flatten() for name, targets in metrics.items()}


def config_of(model):
    return [{"op_names": plain_convolutions(model), "sparse_ratio": 0.5}]


def nni_taylor(model, task):
    """NNI's TaylorPruner as its users run it, its metrics read when it makes its masks."""
    from nni.common.serializer import trace
    from nni.compression import TorchEvaluator
    from nni.compression.pruning import TaylorPruner

    found = {}

    class Spy(TaylorPruner):
        def _calculate_metrics(self, data):
            metrics = super()._calculate_metrics(data)
            found.update({name: targets["weight"].flatten() for name, targets in metrics.items()})
            return metrics

    def training(model, optimizer, training_step, *rest, **more):
        model.eval()
        for image, label in task.train:
            optimizer.zero_grad()
            training_step((image[None], label[None]), model).backward()
            optimizer.step()

    optimizer = trace(torch.optim.SGD)(model.parameters(), lr=0.0)
    evaluator = TorchEvaluator(training, optimizer, lambda batch, m: cross_entropy(m(batch[0]), batch[1]))
    Spy(model, config_of(model), evaluator, training_steps=len(task.train)).compress()
    return found


def assert_equal(ours, theirs, rtol):
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        torch.testing.assert_close(ours[name], values.detach(), rtol=rtol, atol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.nni
@pytest.mark.parametrize("name", NETWORKS)
class TestOracle:
    def test_l2norm(self, name):
        from nni.compression.pruning import L2NormPruner

        theirs = metrics_of(L2NormPruner(network(name), config_of(network(name))))
        assert len(theirs) == {"resnet18": 20, "mobilenet_v2": 35}[name]
        assert_equal(scores_by(L2Norm(), network(name)), theirs, rtol=1e-6)
        assert_equal(scores_by(NNIL2Norm(), network(name)), theirs, rtol=1e-6)

    def test_fpgm(self, name):
        from nni.compression.pruning import FPGMPruner

        theirs = metrics_of(FPGMPruner(network(name), config_of(network(name))))
        assert_equal(scores_by(FPGM(), network(name)), theirs, rtol=1e-6)
        assert_equal(scores_by(NNIFPGM(), network(name)), theirs, rtol=1e-6)

    def test_taylor(self, name):
        # in float64: gradients that nearly cancel differ from one processor to the next in float32
        theirs = nni_taylor(network(name).double(), four_images(torch.float64))
        assert all(bool((t > 0).any()) for t in theirs.values())
        for plugin in (Taylor, NNITaylor):
            ours = taylor_by(plugin, network(name).double())
            assert_equal({layer: scores.double() for layer, scores in ours.items()}, theirs, rtol=1e-6)


@pytest.mark.nni
def test_nni_taylor_leaves_the_network_alone():
    model = network("resnet18").requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    taylor_by(NNITaylor, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("criterion", [NNIL2Norm(), NNIFPGM()])
def test_without_nni_one_line_says_how_to_install_it(criterion, monkeypatch):
    for name in [n for n in sys.modules if n == "nni" or n.startswith("nni.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nni", None)
    with pytest.raises(ConfigError, match=r"need NNI 3.0.*pip install 'prunecore\[nni\]'"):
        scores_by(criterion, nn.Sequential(nn.Conv2d(1, 2, 1)))


def test_nni_taylor_needs_a_task():
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    with pytest.raises(ConfigError, match=r"criterion 'nni\.taylor' needs data"):
        NNITaylor(NNITaylor.Options()).prune_calibrate(
            model=model, graph=layers_of(model), inputs=ExampleInputs(), task=None, seed=0
        )
