"""Wrappers come off; what nobody could cut is refused in one line that says what to do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import prunecore
from prunecore.errors import ModelError
from prunecore.run.admission import admit
from prunecore.run.loading import describe_inputs
from prunecore.types import ExampleInputs

X = torch.zeros(1, 3, 8, 8)


def small(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), *extra, nn.Flatten(), nn.Linear(8 * 36, 4)).eval()


@pytest.fixture
def one_process() -> Iterator[None]:
    with tempfile.NamedTemporaryFile() as file:
        dist.init_process_group("gloo", init_method=f"file://{file.name}.store", rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def test_data_parallel_and_compiled_networks_come_out_without_their_wrapper() -> None:
    network = small()
    assert admit(nn.DataParallel(network)) is network
    assert admit(torch.compile(nn.DataParallel(network))) is network
    pruned = prunecore.prune(torch.compile(network), X, reduce=0.3)
    assert type(pruned.model) is nn.Sequential
    assert next(iter(pruned.model.state_dict())) == "0.weight"


@pytest.mark.usefixtures("one_process")
def test_a_distributed_network_comes_out_without_its_wrapper() -> None:
    network = small()
    assert admit(nn.parallel.DistributedDataParallel(network)) is network


class Holder(nn.Module):
    """A layer that holds one tensor of a kind."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(tensor) if tensor.is_floating_point() else tensor
        if not tensor.is_floating_point():
            self.register_buffer("codes", tensor)


@pytest.mark.filterwarnings("ignore")  # torch's own, of TorchScript, sparse tensors and eager quantisation
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (lambda: torch.jit.script(nn.ReLU()), r"^1 is a TorchScript module, .*nn\.Module that it was made from"),
        (
            lambda: torch.compile(nn.Conv2d(8, 8, 1)),
            r"^1 is compiled; give the network as it was before torch\.compile",
        ),
        (lambda: torch.ao.nn.quantized.dynamic.Linear(4, 4), r"^1 is a quantised module; prune the network first"),
        (lambda: nn.LazyConv2d(8, 1), r"^1\.weight has no shape yet \(a lazy module\); run the network once"),
        (
            lambda: Holder(torch.eye(3).to_sparse()),
            r"^1\.table is a sparse tensor \(torch\.sparse_coo\); store it dense",
        ),
        (
            lambda: Holder(torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)),
            r"^1\.codes is quantised; prune",
        ),
        (lambda: nn.Conv2d(8, 8, 1, device="meta"), r"^1\.weight is on the meta device and has no values; load"),
    ],
)
def test_what_nobody_could_cut_is_refused_with_what_to_do(extra, message) -> None:
    with pytest.raises(prunecore.ModelError, match=message):
        prunecore.prune(small(extra()), X)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(prunecore.ConfigError, match=r"a torch\.nn\.Module was expected, got function"):
        prunecore.prune(lambda x: x, X)  # type: ignore[arg-type]
    with pytest.raises(prunecore.ConfigError, match="got NoneType"):
        prunecore.trace(None, X)  # type: ignore[arg-type]


class Fails(nn.Module):
    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        raise ValueError("out of luck")


def test_a_forward_that_fails_shows_its_own_frames_and_what_it_was_given() -> None:
    inputs = ExampleInputs((X,), {"scale": 2.0})
    with pytest.raises(prunecore.ForwardError) as caught:
        prunecore.prune(Fails(), inputs)
    assert str(caught.value) == (
        "the network fails on inputs (1, 3, 8, 8) float32, scale=2.0: ValueError: out of luck; give example inputs that fit it"
    )
    frames = caught.value.traceback()
    assert 'raise ValueError("out of luck")' in frames
    assert "prunecore/run" not in frames
    assert isinstance(caught.value.__cause__, ValueError)


def test_inputs_are_spelt_out() -> None:
    inputs = ExampleInputs(([torch.zeros(3, 4, 4, dtype=torch.int64)], None), {"mask": torch.ones(1, dtype=torch.bool)})
    assert describe_inputs(inputs) == "inputs [(3, 4, 4) int64], None, mask=(1,) bool"
    assert describe_inputs(ExampleInputs()) == "no inputs"


def test_float_modules_for_quantisation_are_cut_like_any_other() -> None:
    pruned = prunecore.prune(Added(), X, reduce=0.3)
    assert pruned.certificate.verified
    assert pruned.size == pytest.approx(0.7, abs=0.05)


class Added(nn.Module):
    """As torchvision's quantisable networks add: by a module, of floats so far."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.add = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        out: Tensor = self.h(self.add.add_relu(x, self.b(x)))
        return out


class Supernet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def get_active_subnet(self) -> nn.Module:
        return self.conv


def test_a_supernet_is_refused_with_the_way_to_a_subnet() -> None:
    with pytest.raises(ModelError, match=r"Supernet is a supernet, .* get_active_subnet\(preserve_weight=True\)"):
        prunecore.prune(Supernet(), X, reduce=0.3)
