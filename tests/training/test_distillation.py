"""Learning from the unpruned network: the loss by a formula written out here, and what may not happen to the teacher."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunecore.config.training import DistillationSettings, TrainingSettings
from prunecore.errors import ConfigError, TrainingError
from prunecore.surgery import apply_recipe
from prunecore.training import Teacher, TensorData, evaluate, fine_tune, fit_epochs, segmentation_task
from prunecore.training.distillation import Distiller, main_tensor
from prunecore.types import Recipe, Slice, Task, TensorShape

CPU = torch.device("cpu")
QUICK = TrainingSettings(epochs=3, lr=0.01, batch_size=16)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def seeded(seed: int, *layers: nn.Module) -> nn.Sequential:
    net = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def cut_to(net: nn.Sequential, kept: tuple[int, ...]) -> Recipe:
    """The first convolution of `net` loses all channels but these; the second, its consumer, has them as inputs."""
    first, second = net[0].weight, net[2].weight
    count = len(kept)
    return Recipe(
        slices=(
            Slice("0.weight", 0, len(first), kept),
            Slice("0.bias", 0, len(first), kept),
            Slice("2.weight", 1, second.shape[1], kept),
        ),
        shapes=(
            TensorShape("0.weight", tuple(first.shape), (count, *first.shape[1:])),
            TensorShape("0.bias", (len(first),), (count,)),
            TensorShape("2.weight", tuple(second.shape), (len(second), count, *second.shape[2:])),
        ),
    )


def student_of(net: nn.Sequential, kept: tuple[int, ...]) -> tuple[nn.Module, Recipe]:
    recipe = cut_to(net, kept)
    cut = apply_recipe(net, recipe)
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.add_(0.1)
    return cut, recipe


def divergence(student: np.ndarray[Any, Any], teacher: np.ndarray[Any, Any], heat: float) -> float:
    """T² KL(p ‖ q), p = softmax(teacher / T), q = softmax(student / T), the mean over rows of logits (Hinton et al.)."""
    total = 0.0
    for mine, theirs in zip(student, teacher, strict=True):
        p, q = (np.exp(row / heat) / np.exp(row / heat).sum() for row in (theirs, mine))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return heat**2 * total / len(student)


def loss_of(teacher: Teacher, student: nn.Module, task: Task, inputs: Tensor, own: float) -> Tensor:
    distiller = Distiller(teacher, student, task, CPU)
    with distiller.watching() as features:
        outputs = student(inputs)
    return distiller.loss(torch.tensor(own), outputs, features, inputs)


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def net() -> nn.Sequential:
    return seeded(0, nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten())


@pytest.mark.parametrize(("weight", "heat"), [(0.5, 4.0), (1.0, 1.0), (0.25, 2.5), (0.0, 4.0)])
def test_the_loss_is_the_formula(net: nn.Sequential, inputs: Tensor, task: Task, weight: float, heat: float) -> None:
    student, recipe = student_of(net, (0, 1, 3))
    settings = DistillationSettings(weight=weight, temperature=heat)
    found = loss_of(Teacher(copy.deepcopy(net), settings, recipe), student, task, inputs, own=1.75)
    with torch.no_grad():
        told, said = net(inputs).double().numpy(), student(inputs).double().numpy()
    expected = (1 - weight) * 1.75 + weight * divergence(said, told, heat)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    if weight:
        assert divergence(said, told, heat) > 0.01


def test_a_student_that_equals_its_teacher_has_its_own_loss_alone(
    net: nn.Sequential, inputs: Tensor, task: Task
) -> None:
    teacher = Teacher(copy.deepcopy(net), DistillationSettings(weight=0.5, features=("*",)))
    assert float(loss_of(teacher, net, task, inputs, own=3.0).detach()) == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize("kept", [(0, 1, 3), (0, 1, 2), (3,)])
def test_features_meet_at_the_channels_that_are_left(
    net: nn.Sequential, inputs: Tensor, task: Task, kept: tuple[int, ...]
) -> None:
    student, recipe = student_of(net, kept)
    settings = DistillationSettings(weight=0.0, features=("0", "2"), feature_weight=0.3)
    found = loss_of(Teacher(copy.deepcopy(net), settings, recipe), student, task, inputs, own=2.0)
    expected = 2.0
    with torch.no_grad():
        for layer, index in ((1, list(kept)), (3, [0, 1, 2])):
            told, said = net[:layer](inputs).numpy()[:, index], student[:layer](inputs).numpy()  # type: ignore[index]
            expected += 0.3 / 2 * float(((said - told) ** 2).mean() / (told**2).mean())
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    assert expected > 2.0


def test_features_of_a_linear_layer_over_tokens_meet_at_its_last_dim(task: Task) -> None:
    """As many tokens as channels are left, which are the first ones: the dims cannot be told apart by their sizes."""
    net = seeded(1, nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    student, recipe = student_of(net, (0, 1))
    tokens = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(7))
    settings = DistillationSettings(weight=0.0, features=("0",), feature_weight=1.0)
    plain = dataclasses.replace(task, num_classes=None)
    found = loss_of(Teacher(copy.deepcopy(net), settings, recipe), student, plain, tokens, own=0.0)
    with torch.no_grad():
        told, said = net[0](tokens)[..., :2], student[0](tokens)  # type: ignore[index]
    assert float(found.detach()) == pytest.approx(float((said - told).square().mean() / told.square().mean()), rel=1e-5)


def test_without_classes_outputs_are_compared_by_their_squares(net: nn.Sequential, inputs: Tensor, task: Task) -> None:
    student, recipe = student_of(net, (0, 1, 3))
    regression = dataclasses.replace(task, num_classes=None)
    settings = DistillationSettings(weight=0.5, temperature=4)
    found = loss_of(Teacher(copy.deepcopy(net), settings, recipe), student, regression, inputs, own=1.0)
    with torch.no_grad():
        expected = 0.5 + 0.5 * float((student(inputs) - net(inputs)).square().mean())
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_reaches_the_student_alone(net: nn.Sequential, inputs: Tensor, task: Task) -> None:
    student, recipe = student_of(net, (0, 1, 3))
    teacher = copy.deepcopy(net)
    settings = DistillationSettings(features=("*",))
    loss_of(Teacher(teacher, settings, recipe), student, task, inputs, own=0.0).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in student.parameters())


# ---------------------------------------------------------------- in training


class Watched(nn.Module):
    """Notes the modes in which it is run."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        out: Tensor = self.inner(x)
        return out


@pytest.fixture
def classifier() -> nn.Module:
    return seeded(
        3,
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def test_the_teacher_is_left_as_it_was(classifier: nn.Module, task: Task) -> None:
    teacher = copy.deepcopy(classifier).train()
    teacher[0].weight.requires_grad_(False)  # type: ignore[index]
    before = copy.deepcopy(teacher)
    fine_tune(classifier, task, QUICK, device="cpu", teacher=Teacher(teacher))
    assert same(teacher, before)
    assert [m.training for m in teacher.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in teacher.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(not m._forward_hooks for m in teacher.modules())


def test_the_teacher_is_asked_in_eval_mode_without_gradients(
    classifier: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[tuple[bool, bool]] = []
    monkeypatch.setattr(Watched, "__deepcopy__", lambda self, memo: _shared(self, modes), raising=False)
    fine_tune(classifier, task, QUICK, device="cpu", teacher=Teacher(Watched(copy.deepcopy(classifier).train())))
    assert set(modes) == {(False, False)}
    assert len(modes) == 3 * 6  # epochs, batches


def _shared(watched: Watched, modes: list[tuple[bool, bool]]) -> Watched:
    made = Watched(copy.deepcopy(watched.inner))
    made.modes = modes
    return made


def test_it_learns_what_its_teacher_says_and_not_what_the_labels_say(classifier: nn.Module, task: Task) -> None:
    """The teacher holds the classes the other way round; with all the weight on it, so does the student."""
    settings = TrainingSettings(epochs=8, lr=0.05, batch_size=16)
    taught = fine_tune(classifier, task, settings, device="cpu")
    assert evaluate(taught, task.validation, task, device="cpu").value > 0.9
    turned = copy.deepcopy(taught)
    with torch.no_grad():
        for tensor in turned[5].parameters():  # type: ignore[index]
            tensor.copy_(tensor.flip(0))
    teacher = Teacher(turned, DistillationSettings(weight=1.0, temperature=2.0))
    student = fine_tune(classifier, task, settings, device="cpu", teacher=teacher)
    assert evaluate(student, task.validation, task, device="cpu").value < 0.1


@pytest.mark.parametrize("stop", [1, 2])
def test_resuming_after_any_epoch_ends_with_the_same_bits(
    classifier: nn.Module, task: Task, tmp_path: Any, stop: int
) -> None:
    teacher = Teacher(copy.deepcopy(classifier), DistillationSettings(features=("0",)))
    whole = fine_tune(classifier, task, QUICK, device="cpu", seed=5, teacher=teacher)
    assert not same(whole, fine_tune(classifier, task, QUICK, device="cpu", seed=5))
    saved = tmp_path / "state.pt"
    for epoch in fit_epochs(classifier, task, QUICK, device="cpu", seed=5, teacher=teacher):
        torch.save(epoch.state, saved)
        if epoch.number == stop:
            break
    assert same(fine_tune(classifier, task, QUICK, device="cpu", seed=5, checkpoint=saved, teacher=teacher), whole)


# ---------------------------------------------------------------- outputs that are more than a tensor


class TwoHeads(nn.Module):
    """As torchvision's segmentation networks: a mapping, with an auxiliary head in training only."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3, padding=1)
        self.main, self.aux = nn.Conv2d(4, classes, 1), nn.Conv2d(4, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.body(x))
        heads = {"aux": self.aux(features)} if self.training else {}
        return {**heads, "out": self.main(features)}


@pytest.fixture
def pixels() -> Task:
    generator = torch.Generator().manual_seed(0)
    images, masks = torch.randn(32, 1, 8, 8, generator=generator), torch.randint(0, 3, (32, 8, 8), generator=generator)
    return segmentation_task("pixels", TensorData(images, masks), TensorData(images, masks), num_classes=3)


def test_a_mapping_is_compared_at_its_main_head_pixel_by_pixel(pixels: Task) -> None:
    torch.manual_seed(1)
    teacher, student = TwoHeads(), TwoHeads().train()
    images = torch.randn(2, 1, 4, 4)
    settings = DistillationSettings(weight=1.0, temperature=3.0)
    found = loss_of(Teacher(copy.deepcopy(teacher), settings), student, pixels, images, own=0.0)
    with torch.no_grad():
        told, said = (n(images)["out"].double().permute(0, 2, 3, 1).reshape(-1, 3).numpy() for n in (teacher, student))
    assert float(found.detach()) == pytest.approx(divergence(said, told, 3.0), rel=1e-4)


def test_a_segmentation_network_is_trained(pixels: Task) -> None:
    torch.manual_seed(1)
    net = TwoHeads()
    settings = TrainingSettings(epochs=1, batch_size=16)
    teacher = Teacher(net, DistillationSettings(features=("body", "main")))
    tuned = fine_tune(net, pixels, settings, device="cpu", teacher=teacher)
    assert not same(tuned, net)
    assert not torch.equal(tuned.aux.weight, net.aux.weight)  # type: ignore[union-attr]


def test_the_main_tensor_of_what_networks_return() -> None:
    a, b = torch.zeros(1), torch.ones(1)

    @dataclasses.dataclass
    class Output:
        loss: Tensor
        logits: Tensor

    assert main_tensor(a) is a
    assert main_tensor({"aux": a, "out": b}) is b
    assert main_tensor({"out": a, "logits": b}) is b
    assert main_tensor(Output(a, b)) is b
    assert main_tensor((b, a)) is b
    with pytest.raises(TrainingError, match="the network returns dict without a tensor"):
        main_tensor({"boxes": None})


# ---------------------------------------------------------------- what is refused


def test_a_pattern_that_matches_nothing(net: nn.Sequential, task: Task) -> None:
    teacher = Teacher(copy.deepcopy(net), DistillationSettings(features=("0", "layer*")))
    with pytest.raises(
        ConfigError,
        match=r"distillation\.features: 'layer\*' matches no convolution or linear layer; there are 0, 2$",
    ):
        Distiller(teacher, net, task, CPU)


def test_outputs_of_other_shapes(net: nn.Sequential, inputs: Tensor, task: Task) -> None:
    other = seeded(0, nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    with pytest.raises(TrainingError, match=r"distillation: the student gives \(6, 2\).*, the teacher \(6, 3\)"):
        loss_of(Teacher(copy.deepcopy(net)), other, task, inputs, own=0.0)


def test_a_layer_that_the_teacher_does_not_use_when_it_is_asked(pixels: Task) -> None:
    teacher = Teacher(TwoHeads(), DistillationSettings(features=("*",)))
    with pytest.raises(TrainingError, match=r"distillation\.features: aux has no part in the outputs of both networks"):
        loss_of(teacher, TwoHeads().train(), pixels, torch.zeros(1, 1, 4, 4), own=0.0)
