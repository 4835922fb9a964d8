from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from prunecore.errors import ModelError
from prunecore.measure import TracedOp, count, ptflops_cost, trace_ops
from prunecore.types import Cost, ExampleInputs


def inputs(*shape: int) -> ExampleInputs:
    return ExampleInputs((torch.randn(*shape),))


class Call(nn.Module):
    """A function of the input and its parameters as a network."""

    def __init__(self, function: Any, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


def test_the_total_of_the_docstring() -> None:
    assert count(Small(), inputs(1, 3, 16, 16)) == Cost(55_376, 314)


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Conv1d(4, 6, 3), (1, 4, 10), 8 * 6 * 4 * 3),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (1, 4, 8, 8), 16 * 6 * 4 * 9),
        (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 5, 5), 9 * 8 * 1 * 9),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), 27 * 3 * 2 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (1, 4, 5, 5), 25 * 4 * 6 * 9),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 5, 5), 25 * 4 * 3 * 9),
        (nn.Linear(4, 6), (1, 3, 4), 3 * 4 * 6),
        (nn.Linear(4, 6, bias=False), (1, 3, 4), 3 * 4 * 6),
        (nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True), (1, 7, 4), 7 * 2 * 20 * (4 + 5 + 10 + 5)),
        (nn.GRU(4, 5, batch_first=True), (1, 7, 4), 7 * 15 * 9),
        (nn.RNN(4, 5, batch_first=True), (1, 7, 4), 7 * 5 * 9),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)), (1, 4, 8, 8), 0),
    ],
)
def test_closed_formulas(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert count(module, inputs(*shape)).macs == macs


def test_lstm_with_projections_runs_without_the_fused_op() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that oneDNN does not have it
        macs = count(nn.LSTM(4, 5, proj_size=2, batch_first=True), inputs(1, 7, 4)).macs
    assert macs == 7 * (20 * 4 + 20 * 2 + 2 * 5)


def test_attention_counts_both_products_in_full() -> None:
    def attend(_: nn.Module, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    # heads * positions^2 * (width of q + width of v)
    assert count(Call(attend), inputs(1, 2, 7, 5)).macs == 2 * 49 * (5 + 5)


def test_grouped_queries_count_for_every_query_head() -> None:
    def attend(_: nn.Module, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True)

    assert count(Call(attend), inputs(1, 4, 7, 5)).macs == 4 * 49 * (5 + 5)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_without_the_fused_layer(need_weights: bool) -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    net = Call(lambda m, x: m.attention(x, x, x, need_weights=need_weights)[0], attention=layer)
    assert count(net, inputs(1, 3, 8)).macs == 3 * 8 * 24 + 2 * 9 * (4 + 4) + 3 * 8 * 8
    encoder = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    assert count(encoder, inputs(1, 3, 8)).macs == 3 * 8 * 24 + 2 * 9 * (4 + 4) + 3 * 8 * 8 + 2 * 3 * 8 * 16


def test_einsum_and_matrix_products() -> None:
    a = torch.randn(5, 4)
    assert count(Call(lambda m, x: torch.einsum("bij,kj->bik", x, a)), inputs(1, 3, 4)).macs == 3 * 4 * 5
    assert count(Call(lambda m, x: x @ a.T), inputs(1, 3, 4)).macs == 3 * 4 * 5
    assert count(Call(lambda m, x: x @ a[0]), inputs(1, 3, 4)).macs == 3 * 4
    assert count(Call(lambda m, x: torch.baddbmm(x, x, x)), inputs(1, 4, 4)).macs == 64


def test_macs_are_for_batch_one() -> None:
    assert count(Small(), inputs(6, 3, 16, 16)) == Cost(55_376, 314)


def test_work_that_no_batch_divides_counts_once() -> None:
    net = Call(lambda m, x: m.fc(x) + m.fc(torch.ones(5, 4)).sum(), fc=nn.Linear(4, 3))
    assert count(net, inputs(7, 4)).macs == 4 * 3 + 5 * 4 * 3


def test_a_list_of_images_is_a_batch() -> None:
    net = Call(lambda m, images: m.conv(torch.stack(images)), conv=nn.Conv2d(3, 4, 1))
    images = [torch.randn(3, 5, 5) for _ in range(2)]
    assert count(net, ExampleInputs((images,))).macs == 25 * 12


def test_keyword_inputs() -> None:
    net = Call(lambda m, *, left, right: m.fc(left) + right, fc=nn.Linear(4, 3))
    assert count(net, ExampleInputs((), {"left": torch.randn(2, 4), "right": torch.randn(2, 3)})).macs == 12


def test_ops_are_named_by_module_and_weight() -> None:
    assert trace_ops(Small(), inputs(1, 3, 16, 16)) == (
        TracedOp("conv", "aten.convolution", 55_296, "conv.weight", (8, 3, 3, 3)),
        TracedOp("fc", "aten.addmm", 80, "fc.weight", (10, 8)),
    )


def test_a_part_of_a_fused_weight_is_found() -> None:
    net = Call(lambda m, x: F.linear(x, m.fc.weight[3:]), fc=nn.Linear(4, 6))
    assert trace_ops(net, inputs(1, 4)) == (TracedOp("", "aten.mm", 12, "fc.weight", (6, 4)),)


def test_a_weight_that_is_computed_has_no_name() -> None:
    net = Call(lambda m, x: F.conv2d(x, m.conv.weight * 2), conv=nn.Conv2d(3, 4, 1))
    assert trace_ops(net, inputs(1, 3, 5, 5)) == (TracedOp("", "aten.convolution", 300, None, (4, 3, 1, 1)),)


def test_the_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(inplace=True))
    net[1].eval()
    handle = net[0].register_forward_hook(lambda *_: None)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    example = inputs(2, 3, 5, 5)
    copy = example.args[0].clone()
    before = torch.random.get_rng_state()
    count(net, example)
    assert [m.training for m in net.modules()] == [True, True, False, True, True]
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert len(net[0]._forward_hooks) == 1
    assert all(not m._forward_pre_hooks for m in net.modules())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(example.args[0], copy)
    assert torch.backends.mha.get_fastpath_enabled()
    handle.remove()


def test_a_failing_forward_leaves_no_hooks() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        count(net, inputs(1, 4))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert all(m.training for m in net.modules())


def flop_counter(model: nn.Module, x: Tensor) -> int:
    # math attention, since FlopCounterMode has no entry for the fused one on CPU
    with (
        FlopCounterMode(display=False) as mode,
        torch.no_grad(),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model.eval()(x)
    return mode.get_total_flops()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_half_of_what_torch_counts(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.get_model(name, weights=None)
    x = torch.randn(1, 3, 32, 32)
    assert 2 * count(model, ExampleInputs((x,))).macs == flop_counter(model, x)


def test_half_of_what_torch_counts_for_a_vision_transformer() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64)
    x = torch.randn(1, 3, 32, 32)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert 2 * count(model, ExampleInputs((x,))).macs == flop_counter(model, x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_ptflops_counts_what_ptflops_counts() -> None:
    from ptflops import get_model_complexity_info

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        found = ptflops_cost(net, inputs(4, 3, 8, 8))
    assert net.training
    macs, params = get_model_complexity_info(net, (3, 8, 8), as_strings=False, print_per_layer_stat=False)
    assert found == Cost(macs, params)
    # conv with bias, norm twice, relu once as a module and once as a function, linear with bias
    assert found.macs == 36 * 8 * 28 + 36 * 8 * 2 + 36 * 8 * 2 + (8 * 36 * 5 + 5)
    assert said.getvalue() == ""
    assert not hasattr(net[0], "__flops__")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor, **more: Tensor) -> Tensor:
        return self.fc(left) + right + more["third"]


def test_ptflops_with_several_inputs() -> None:
    example = ExampleInputs((torch.randn(2, 4), torch.randn(2, 3)), {"third": torch.randn(2, 3)})
    assert ptflops_cost(Two(), example) == Cost(15, 15)


def test_ptflops_on_a_network_that_does_not_run() -> None:
    with pytest.raises(ModelError, match=r"ptflops cannot count this network: .*mat1 and mat2"):
        ptflops_cost(nn.Linear(4, 3), inputs(1, 5))
