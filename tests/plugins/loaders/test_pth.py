"""`pth:FILE`: hostile files run nothing, damaged ones are one line, good ones give the network that was saved."""

from __future__ import annotations

import contextlib
import functools
import io
import random
import re
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from prunecore_plugins.loaders.pth import RESULT, PthLoader, module_in, unpickle
from torch import nn

import prunecore
from prunecore import ConfigError, LoadedModel, ModelError
from prunecore.errors import PrunecoreError
from prunecore.loading import Trust
from prunecore.run.admission import admit
from prunecore.run.loading import check_forward
from tests.loading.damaged import DAMAGED
from tests.loading.hostile import HOSTILE
from tests.loading.making import OWN, PACKAGE, Calls, Scene, archive, called, named, network, script, text

X = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)

NETS = """
import functools
import torch
import torch.nn.functional as F
from torch import nn
from {parts} import Block, swish

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Block(8), Block(8)])
        self.act, self.relu, self.own = F.relu, torch.relu, swish
        self.shrink = functools.partial(F.adaptive_avg_pool2d, output_size=1)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = self.relu(block(x))
        return self.head(torch.flatten(self.shrink(self.own(x)), 1))
"""
PARTS = """
import torch
from torch import nn

def swish(x):
    return x * torch.sigmoid(x)

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv(x)) + x
"""


def load(path: Path, **options: Any) -> LoadedModel:
    return PthLoader(PthLoader.Options(source=path, **{"size": (16, 16), **options})).prune_load_model()


def refusal(path: Path, kind: type[PrunecoreError] = PrunecoreError, **options: Any) -> str:
    before = list(sys.path)
    with pytest.raises(kind) as fault:
        load(path, **options)
    assert sys.path == before
    told = str(fault.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    return told


def run(model: nn.Module, x: torch.Tensor = X) -> torch.Tensor:
    with torch.no_grad():
        return model(x)  # type: ignore[no-any-return]


def forget(*tops: str) -> None:
    """As in a new process."""
    for name in [n for n in sys.modules if n.partition(".")[0] in tops]:
        del sys.modules[name]


def saved(scene: Scene, module: str = "hostile_nets", build: str = "Net()", **how: Any) -> nn.Module:
    """A network of the code beside the file, saved as a user does it: with that directory on the path."""
    sys.path.insert(0, str(scene.home))
    try:
        space: dict[str, Any] = {}
        exec(f"from {module} import *\nnet = {build}", space)  # of this file
        net: nn.Module = space["net"].eval()
        torch.save(net, scene.file, **how)
    finally:
        sys.path.remove(str(scene.home))
    forget("hostile_nets", "hostile_parts", "hostile_pack")
    return net


def two_files(scene: Scene) -> None:
    scene.code("hostile_parts.py", PARTS)
    scene.code("hostile_nets.py", NETS.format(parts="hostile_parts"))


# ---------------------------------------------------------------- hostile and damaged files


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_a_hostile_file_runs(scene: Scene, name: str) -> None:
    """Even with the directory of the file and a package trusted."""
    case = HOSTILE[name]
    case.build(scene.file, scene.marker)
    before, modules, safe = scene.files(), set(sys.modules), torch.serialization.get_safe_globals()
    told = refusal(scene.file, ModelError, trust_code=True, trust_package=PACKAGE)
    assert re.search(case.says, told)
    assert scene.files() == before
    assert {m for m in set(sys.modules) - modules if m.startswith("hostile")} <= {OWN, PACKAGE}
    assert set(torch.serialization.get_safe_globals()) == set(safe)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_or_foreign_file_is_one_line(scene: Scene, name: str) -> None:
    case = DAMAGED[name]
    case.build(scene.file, scene.marker)
    before, started = scene.files(), time.monotonic()
    assert re.search(case.says, refusal(scene.file, ModelError, trust_code=True))
    assert time.monotonic() - started < 2
    assert scene.files() == before


@pytest.mark.parametrize(
    "name", [n for n, case in DAMAGED.items() if "no such file" in case.says or "damaged" in case.says]
)
def test_a_damaged_file_is_one_line_as_a_program_too(scene: Scene, name: str) -> None:
    DAMAGED[name].build(scene.file, scene.marker)
    refusal(scene.file, ModelError, allow_pickle=True)


def test_all_that_is_not_trusted_is_told_at_once(scene: Scene) -> None:
    names = [(OWN, "Net"), (PACKAGE, "Layer"), ("posix", "system"), ("torch.hub", "load"), ("hostile_gone", "Net")]
    archive(scene.file, script(b"(", *(named(*name) for name in names), b"t"))
    told = refusal(scene.file)
    for part in (
        f"{OWN}.Net; it lies beside the file; if you trust it: --trust-code {scene.home}",
        f"{PACKAGE}.Layer; if you trust the package: --trust-package {PACKAGE}",
        "posix.system; it belongs to Python itself",
        "torch.hub.load of torch is neither a layer nor a plain function",
        "hostile_gone.Net; if you trust it: --trust-code DIR, where DIR holds hostile_gone.py or hostile_gone/",
    ):
        assert part in told
    assert OWN not in sys.modules


def test_of_very_many_faults_the_first_are_told(scene: Scene) -> None:
    archive(scene.file, script(b"(", *(named("torch.hub", f"load{n}") for n in range(40)), b"t"))
    told = refusal(scene.file)
    assert told.count("torch.hub.load") == 5
    assert told.endswith("; and 35 more")


def test_a_name_clash_is_told_with_the_file(scene: Scene) -> None:
    scene.code("json.py", f"open({str(scene.marker)!r}, 'w')\nclass Net:\n    pass\n")
    scene.code("timm/__init__.py", f"open({str(scene.marker)!r}, 'w')\nclass Net:\n    pass\n")
    for top in ("json", "timm"):
        archive(scene.file, script(named(top, "Net"), b")\x81"))
        assert f"{scene.home} holds a module {top!r}, and so does " in refusal(scene.file, ConfigError, trust_code=True)
    assert not scene.marker.exists()


def test_code_that_fails_or_is_gone_is_told_with_the_file(scene: Scene) -> None:
    two_files(scene)
    saved(scene)
    scene.code("hostile_nets.py", "class Other:\n    pass\n")
    assert "hostile_nets has no 'Net'; its classes: Other" in refusal(scene.file, trust_code=True)
    forget("hostile_nets")
    scene.code("hostile_nets.py", "raise RuntimeError('no GPU\\nhere')\n")
    told = refusal(scene.file, trust_code=True)
    assert f"{scene.home}: module 'hostile_nets' cannot be imported: RuntimeError: no GPU" in told
    (scene.home / "hostile_nets.py").unlink()
    assert (
        "not trusted: hostile_nets.Net; if you trust it: --trust-code DIR, where DIR holds hostile_nets.py"
        in refusal(scene.file, trust_code=True)
    )


def test_code_behind_a_link_is_not_trusted(scene: Scene) -> None:
    two_files(scene)
    saved(scene)
    (scene.home / "hostile_nets.py").rename(scene.root / "elsewhere.py")
    (scene.home / "hostile_nets.py").symlink_to(scene.root / "elsewhere.py")
    assert "not trusted: hostile_nets.Net" in refusal(scene.file, trust_code=True)
    assert "hostile_nets" not in sys.modules


def test_weights_in_safetensors_are_named_for_what_they_are(scene: Scene) -> None:
    from safetensors.torch import save_file

    path = scene.home / "net.safetensors"
    save_file(network().state_dict(), path)
    for options in ({}, {"allow_pickle": True}):
        assert refusal(path, **options).endswith(
            f"holds weights without their network; give both: --model python:FILE.py:CALLABLE --weights {path}"
        )


def test_torchscript_as_torch_writes_it(scene: Scene) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network(), torch.zeros(1, 2)).save(str(scene.file))
    for options in ({}, {"allow_pickle": True}):
        assert "is TorchScript, whose code cannot be changed; give the module" in refusal(scene.file, **options)


@pytest.mark.slow
def test_exported_programs_as_torch_writes_them(scene: Scene) -> None:
    path = scene.home / "net.pt2"
    torch.export.save(torch.export.export(network().eval(), (torch.zeros(1, 2),)), path)
    assert "is an exported program; give the module that it was exported from" in refusal(path, allow_pickle=True)


# ---------------------------------------------------------------- mutations

SEEDS = range(200)


def honest() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    extra = {
        "width": np.int64(4),
        "sizes": np.arange(3),
        "act": torch.relu,
        "names": {"a": [1, 2, ("x",)]},
        "r": range(3),
    }
    net.__dict__.update(extra, pool=functools.partial(nn.functional.avg_pool2d, kernel_size=2))
    return net


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to eight bytes changed, taken out, put in, or a part repeated elsewhere."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, kind = rng.randrange(len(changed)), rng.random()
        if kind < 0.6:
            changed[at] = rng.randrange(256)
        elif kind < 0.75:
            del changed[at : at + rng.randrange(1, 9)]
        elif kind < 0.9:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            start = rng.randrange(len(changed))
            changed[at:at] = changed[start : start + rng.randrange(1, 40)]
    return bytes(changed)


def mutated_inside(content: bytes, rng: random.Random) -> bytes:
    """The pickle changed, in an archive that is whole."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as given, zipfile.ZipFile(buffer, "w") as made:
        for name in given.namelist():
            member = given.read(name)
            made.writestr(name, mutated(member, rng) if name.endswith("data.pkl") else member)
    return buffer.getvalue()


@pytest.mark.slow
def test_mutated_files_give_a_network_or_one_error(tmp_path: Path) -> None:
    """Bytes anywhere in the file, in the pickle of an archive that is whole, and in the form before the zip."""
    forms = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(honest(), buffer, _use_new_zipfile_serialization=zipped)
        forms.append(buffer.getvalue())
    path = tmp_path / "x.pth"
    outcomes = {"network": 0, "refused": 0}
    started = time.monotonic()
    for seed in SEEDS:
        rng = random.Random(seed)
        kinds: list[Callable[[], bytes]] = [
            lambda rng=rng: mutated(forms[0], rng),
            lambda rng=rng: mutated_inside(forms[0], rng),
            lambda rng=rng: mutated_inside(forms[0], rng),
            lambda rng=rng: mutated(forms[1], rng),
        ]
        path.write_bytes(kinds[seed % 4]())
        outcomes[outcome(path)] += 1
    assert time.monotonic() - started < 20
    assert sum(outcomes.values()) == len(SEEDS)
    assert min(outcomes.values()) > 10


def outcome(path: Path) -> str:
    """Any other exception than ours is a failure of the test."""
    try:
        loaded = load(path, inputs=[1, 3, 8, 8])
        check_forward(admit(loaded.model), loaded.inputs)
    except PrunecoreError as fault:
        assert len(str(fault).splitlines()) == 1  # noqa: PT017
        return "refused"
    assert isinstance(loaded.model, nn.Module)
    return "network"


# ---------------------------------------------------------------- good files


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old_form"])
def test_a_network_of_two_files_with_functions_as_attributes(scene: Scene, old: bool) -> None:
    two_files(scene)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sources, of the old form
        original = saved(scene, _use_new_zipfile_serialization=not old)
    assert f"--trust-code {scene.home}" in refusal(scene.file)
    before = list(sys.path)
    loaded = load(scene.file, trust_code=True)
    assert sys.path == before
    assert torch.equal(run(loaded.model), run(original))
    assert type(loaded.model).__module__ == "hostile_nets"
    assert not loaded.model.training
    assert loaded.pretrained
    assert loaded.provenance == {"spec": f"pth:{scene.file}", "class": "hostile_nets.Net", "weights": str(scene.file)}
    assert loaded.inputs.args[0].shape == (1, 3, 16, 16)


def test_a_package_with_relative_imports_beside_the_file(scene: Scene) -> None:
    scene.code("hostile_pack/__init__.py", "from .nets import Net\n")
    scene.code("hostile_pack/parts.py", PARTS)
    scene.code("hostile_pack/nets.py", NETS.format(parts=".parts"))
    original = saved(scene, "hostile_pack")
    loaded = load(scene.file, trust_code=str(scene.home), inputs=[2, 3, 8, 8], pretrained=False)
    assert type(loaded.model).__module__ == "hostile_pack.nets"
    assert torch.equal(run(loaded.model), run(original))
    assert loaded.inputs.args[0].shape == (2, 3, 8, 8)
    assert not loaded.pretrained


def test_code_in_another_directory_than_the_file(scene: Scene) -> None:
    two_files(scene)
    original = saved(scene)
    moved = scene.root / "models" / "сеть.pth"
    moved.parent.mkdir()
    scene.file.rename(moved)
    assert "where DIR holds hostile_nets.py or hostile_nets/" in refusal(moved)
    assert "where DIR holds hostile_nets.py or hostile_nets/" in refusal(moved, trust_code=True)
    assert torch.equal(run(load(moved, trust_code=[True, str(scene.home)]).model), run(original))


def test_a_network_in_a_mapping_and_the_other_things_that_networks_keep(scene: Scene) -> None:
    net = honest()
    net.__dict__["config"] = {
        "shape": torch.Size([1, 2]),
        "kinds": (nn.BatchNorm2d, nn.GELU, int, np.float32),
        "numbers": (np.float64(0.5), np.bool_(True), np.array([[1, 2]], dtype=np.int16)),
        "sets": ({1, 2}, frozenset("a"), slice(0, 2), 1j, b"raw"),
        "space": SimpleNamespace(a=1),
        "functions": (nn.functional.gelu, nn.functional.silu, torch.sigmoid, functools.partial(torch.clamp, min=0)),
        "dtype": (torch.float16, torch.device("cpu"), np.dtype("float32")),
    }
    torch.save({"model": net, "epoch": 7, "best": np.float32(0.5)}, scene.file)
    loaded = load(scene.file).model
    assert torch.equal(run(loaded, X[..., :8, :8]), run(net, X[..., :8, :8]))
    kept, given = loaded.config, net.config
    assert str(kept.pop("numbers")) == str(given.pop("numbers"))
    clamp = kept.pop("functions")[3], given.pop("functions")[3]
    assert [c.func for c in clamp] == [torch.clamp] * 2
    assert kept == given
    assert (loaded.width, loaded.sizes.tolist(), loaded.act) == (4, [0, 1, 2], torch.relu)
    assert loaded.pool(X).shape == (1, 3, 8, 8)


def test_hooks_and_weight_sharing_survive(scene: Scene) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    net.register_forward_pre_hook(nn.functional.relu)
    net.append(net[0])
    torch.save(net, scene.file)
    loaded = load(scene.file, inputs=[1, 4]).model
    assert loaded[2].weight is loaded[0].weight
    assert loaded[3] is loaded[0]
    assert list(loaded._forward_pre_hooks.values()) == [nn.functional.relu]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_and_spectral_norm_of_the_old_style(scene: Scene) -> None:
    net = nn.Sequential(
        torch.nn.utils.weight_norm(nn.Linear(4, 4)), torch.nn.utils.spectral_norm(nn.Linear(4, 2))
    ).eval()
    torch.save(net, scene.file)
    x = torch.randn(3, 4)
    assert torch.equal(run(load(scene.file, inputs=[1, 4]).model, x), run(net, x))


def test_other_protocols_are_read_as_a_program(scene: Scene) -> None:
    torch.save(network(), scene.file, pickle_protocol=4)
    assert "uses STACK_GLOBAL (save it again, with torch.save's own pickle_protocol)" in refusal(scene.file)
    assert len(load(scene.file, allow_pickle=True, inputs=[1, 2]).model) == 2


def test_what_cannot_be_read_within_limits_says_which_flag_takes_it(scene: Scene) -> None:
    two_files(scene)
    saved(scene, build="Net()\nnet.method = net.blocks[0].forward")
    told = refusal(scene.file, trust_code=True)
    assert "it may not read the attribute 'forward' of Block" in told
    assert told.endswith("--allow-pickle takes the whole file as a program")
    forget("hostile_nets", "hostile_parts")
    assert (
        "ModuleNotFoundError: No module named 'hostile_nets'; if its code lies beside it: --trust-code too"
        in refusal(scene.file, allow_pickle=True)
    )
    loaded = load(scene.file, allow_pickle=True, trust_code=True)
    assert loaded.model.method(torch.zeros(1, 8, 4, 4)).shape == (1, 8, 4, 4)


def test_allow_pickle_runs_the_file_and_no_less(scene: Scene) -> None:
    HOSTILE["builtins_open"].build(scene.file, scene.marker)
    with contextlib.suppress(ResourceWarning):
        net = network(extra=Calls(Path.touch, Path(scene.marker)))
        torch.save(net, scene.file)
        load(scene.file, allow_pickle=True, inputs=[1, 2])
    assert scene.marker.exists()
    archive(scene.file, script(called(named("sys", "exit"), text("stopped"))))
    assert "cannot be unpickled: SystemExit: stopped" in refusal(scene.file, allow_pickle=True)
    torch.save([1], scene.file)
    assert "holds a list, expected a network" in refusal(scene.file, allow_pickle=True)


def test_the_same_file_loads_again_in_the_same_process(scene: Scene) -> None:
    two_files(scene)
    saved(scene)
    first, second = (load(scene.file, trust_code=True).model for _ in range(2))
    assert type(first) is type(second)
    assert first.stem.weight is not second.stem.weight


def test_module_in_takes_the_one_network(tmp_path: Path) -> None:
    net = network()
    assert module_in(tmp_path, net) is net
    assert module_in(tmp_path, {"ema": net, "epoch": 1, 3: "x"}) is net
    with pytest.raises(ModelError, match="holds a mapping with 1, expected a network"):
        module_in(tmp_path, {1: [net]})


# ---------------------------------------------------------------- libraries


def timm_nets() -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        "resnet": ("resnet18", {}),
        "vit": ("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 32, "num_heads": 2, "depth": 1}),
        "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
        "swin": (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4},
        ),
        "efficientnet": ("efficientnet_b0", {}),
    }


def torchvision_net(name: str) -> nn.Module:
    from torchvision import models

    makers: dict[str, Callable[[], nn.Module]] = {
        "resnet": lambda: models.resnet.ResNet(
            models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4, width_per_group=64
        ),
        "mobilenet": lambda: models.mobilenet_v2(width_mult=0.25, num_classes=4),
        "vit": lambda: models.VisionTransformer(32, 16, 1, 2, 32, 64, num_classes=4),
        "swin": lambda: models.SwinTransformer([2, 2], 16, [1, 1], [1, 2], [4, 4], num_classes=4),
        "squeezenet": lambda: models.squeezenet1_1(num_classes=4),
        "densenet": lambda: models.DenseNet(4, (1, 1, 1, 1), 8, num_classes=4),
    }
    return makers[name]().eval()


@pytest.mark.parametrize("name", ["resnet", "vit", "convnext", "swin", "efficientnet"])
def test_whole_networks_of_timm(tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm")
    source, options = timm_nets()[name]
    net, x = timm.create_model(source, num_classes=4, **options).eval(), torch.randn(1, 3, 32, 32)
    path = tmp_path / "net.pth"
    torch.save(net, path)
    assert "; if you trust the package: --trust-package timm" in refusal(path)
    loaded = load(path, trust_package="timm", size=(32, 32))
    assert torch.equal(run(loaded.model, x), run(net, x))


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "vit", "swin", "squeezenet", "densenet"])
def test_whole_networks_of_torchvision(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torchvision")
    net, x = torchvision_net(name), torch.randn(1, 3, 32, 32)
    path = tmp_path / "net.pth"
    torch.save(net, path)
    assert "; if you trust the package: --trust-package torchvision" in refusal(path)
    loaded = load(path, trust_package=["torchvision"], size=(32, 32))
    assert torch.equal(run(loaded.model, x), run(net, x))


TIMM_NAMES = {
    ("timm.models", "os.system"): "timm.models has no 'os.system'",
    ("timm.models._builder", "os.environ"): "timm.models._builder.os.environ goes through another module",
    ("timm.models", "create_model"): "timm.models.create_model of the trusted package timm is no nn.Module class of it",
    (
        "timm.models._hub",
        "load_state_dict_from_hf",
    ): "load_state_dict_from_hf of the trusted package timm is no nn.Module",
    ("timm.models.resnet", "nn.Linear"): "timm.models.resnet.nn.Linear goes through another module",
    ("timm.models.gone", "Net"): "module 'timm.models.gone' cannot be imported: ModuleNotFoundError",
    ("torchvision.models", "resnet18"): "not trusted: torchvision.models.resnet18; if you trust the package",
}


@pytest.mark.parametrize("name", TIMM_NAMES, ids=".".join)
def test_names_of_a_trusted_library_that_are_no_layers(tmp_path: Path, name: tuple[str, str]) -> None:
    pytest.importorskip("timm")
    archive(tmp_path / "net.pth", script(called(named(*name), text("x"))))
    assert TIMM_NAMES[name] in refusal(tmp_path / "net.pth", trust_package="timm")


UNUSED = [
    *("builtins.compile", "builtins.setattr", "builtins.type", "builtins.vars", "builtins.map", "builtins.object"),
    *("operator.attrgetter", "operator.methodcaller", "functools.reduce", "types.FunctionType", "types.CodeType"),
    *(
        "pty.spawn",
        "ctypes.CDLL",
        "marshal.loads",
        "shutil.rmtree",
        "socket.socket",
        "code.interact",
        "copyreg._reconstructor",
    ),
    *("numpy.load", "numpy.fromfile", "numpy.memmap", "numpy.core.multiarray.fromfile", "numpy.lib.npyio.NpzFile"),
    *("torch.load", "torch.save", "torch.from_file", "torch.compile", "torch.ops", "torch.classes", "torch.hub.load"),
    *("torch.hub.load_state_dict_from_url", "torch.utils.cpp_extension.load", "torch.utils.model_zoo.load_url"),
    *("torch.package.PackageImporter", "torch.storage._load_from_bytes", "torch.storage.UntypedStorage.from_file"),
    *("torch._C._jit_set_profiling_mode", "torch._C._nn.__loader__", "torch.nn.functional.torch.load"),
    *("torch.nn.functional.boolean_dispatch", "torch.nn.functional.importlib.import_module", "torch.nn.Module"),
    *("torch.nn.modules.module._global_forward_hooks", "torch.nn.modules.module.Module.forward.__globals__"),
    *(
        "torch.multiprocessing.spawn",
        "torch.distributed.init_process_group",
        "torch.fx.graph_module.reduce_graph_module",
    ),
]


@pytest.mark.parametrize("name", UNUSED)
def test_names_that_no_network_may_hold(tmp_path: Path, name: str) -> None:
    """Whatever the file does with them: here they are only named."""
    module, _, attribute = name.rpartition(".")
    archive(tmp_path / "net.pth", script(named(module, attribute)))
    told = refusal(tmp_path / "net.pth", trust_package=["torch", "numpy", "builtins", "os"])
    assert name.replace("numpy.core", "numpy.") in told or name in told


# ---------------------------------------------------------------- pruned and written back


def test_the_pruned_network_is_written_beside_the_source_loads_and_is_pruned_again(scene: Scene) -> None:
    two_files(scene)
    saved(scene)
    options = PthLoader.Options(source=scene.file, size=(16, 16), trust_code=True, beside=True)  # type: ignore[arg-type]
    loader = PthLoader(options)
    loaded = loader.prune_load_model()
    first = prunecore.prune(loaded.model, loaded.inputs, reduce=0.4)
    out = scene.root / "run"
    assert loader.prune_save_model(pruned=first.model, directory=out) == out / RESULT
    assert (out / "rezalt.pth").read_bytes() == (scene.home / "rezalt.pth").read_bytes()
    forget("hostile_nets", "hostile_parts")
    again = load(scene.home / "rezalt.pth", trust_code=True)
    assert torch.equal(run(again.model), run(first.model))
    assert again.model.stem.out_channels == first.model.stem.out_channels < 8
    second = prunecore.prune(again.model, again.inputs, reduce=0.3)
    assert second.certificate.verified
    assert second.after.macs < first.after.macs
    assert second.before.macs == first.after.macs


def test_the_result_is_written_into_the_run_alone_unless_asked(scene: Scene) -> None:
    torch.save(network(), scene.file)
    before = scene.files()
    loader = PthLoader(PthLoader.Options(source=scene.file))
    loader.prune_save_model(pruned=network(), directory=scene.root / "run")
    assert {p: b for p, b in scene.files().items() if "/run" not in p} == before


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_networks_of_libraries_are_pruned_and_written_back(tmp_path: Path, library: str) -> None:
    path = tmp_path / "net.pth"
    if library == "timm":
        timm = pytest.importorskip("timm")
        net = timm.create_model("convnext_atto", num_classes=4, **timm_nets()["convnext"][1])
    else:
        net = torchvision_net("mobilenet")
    torch.save(net.eval(), path)
    loader = PthLoader(PthLoader.Options(source=path, size=(32, 32), trust_package=(library,)))
    loaded = loader.prune_load_model()
    pruned = prunecore.prune(loaded.model, loaded.inputs, reduce=0.3)
    loader.prune_save_model(pruned=pruned.model, directory=tmp_path)
    again = load(tmp_path / RESULT, trust_package=library, size=(32, 32))
    assert torch.equal(run(again.model, *loaded.inputs.args), run(pruned.model, *loaded.inputs.args))
    assert prunecore.prune(again.model, again.inputs, reduce=0.2).certificate.verified


def test_trust_without_a_loader(scene: Scene) -> None:
    two_files(scene)
    original = saved(scene)
    found = unpickle(scene.file, Trust(scene.home, (scene.home,)))
    assert torch.equal(run(found), run(original))
