"""Whose code may run for a file: what a directory and a package stand for, and where they end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from torch import nn

from prunecore.errors import ConfigError, ModelError, PrunecoreError
from prunecore.loading import Trust, TrustOptions, UntrustedError, trusted_callable, trusted_path
from tests.loading.making import OWN, PACKAGE, UNTRUSTED, Scene

NET = "from torch import nn\nclass Net(nn.Module):\n    pass\n"


def trust_of(scene: Scene, *packages: str, **more: Any) -> Trust:
    return Trust(scene.home, (scene.home,), packages, **more)


def refusal(act: Callable[[], object], kind: type[PrunecoreError] = ModelError) -> str:
    before = list(sys.path)
    with pytest.raises(kind) as fault:
        act()
    assert sys.path == before
    assert "\n" not in str(fault.value)
    return str(fault.value)


def marked(scene: Scene) -> str:
    return f"open({str(scene.marker)!r}, 'w').close()\n"


# ---------------------------------------------------------------- options


def test_one_or_several_directories_and_packages(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.root)
    options = TrustOptions(trust_code="home", trust_package="timm")  # type: ignore[arg-type]
    assert options.trust_code == (scene.home,)
    assert options.trust_package == ("timm",)
    several = TrustOptions(trust_code=["home", scene.site], trust_package=["timm", "torchvision"])  # type: ignore[arg-type]
    assert several.trust_code == (scene.home, scene.site)
    assert TrustOptions(trust_code=False, trust_package=None) == TrustOptions()  # type: ignore[arg-type]


def test_true_means_the_directory_of_the_file(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.home)
    options = TrustOptions(trust_code=True, trust_package=("a",), allow_pickle=True)  # type: ignore[arg-type]
    assert options.trust(Path("net.pth")) == Trust(scene.home, (scene.home,), ("a",), True)
    twice = TrustOptions(trust_code=[True, str(scene.home), str(scene.site)])  # type: ignore[arg-type]
    assert twice.trust(scene.file).directories == (scene.home, scene.site)
    assert TrustOptions().trust(scene.file) == Trust(scene.home)


def test_a_directory_behind_a_link_is_the_directory(scene: Scene) -> None:
    (scene.root / "link").symlink_to(scene.home)
    trust = TrustOptions(trust_code=str(scene.root / "link")).trust(scene.root / "link" / "net.pth")  # type: ignore[arg-type]
    assert trust == Trust(scene.home, (scene.home,))
    assert trust.resolve(OWN, "Net").__name__ == "Net"


@pytest.mark.parametrize("place", ["gone", "net.pth", f"home/{OWN}.py"])
def test_what_is_no_directory_is_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(scene.root)
    with pytest.raises(ValidationError, match=f"{place} is no directory; name the one that holds the code"):
        TrustOptions(trust_code=place)  # type: ignore[arg-type]


# ---------------------------------------------------------------- directories


def test_classes_and_functions_of_a_trusted_directory(scene: Scene) -> None:
    before = list(sys.path)
    trust = trust_of(scene)
    net = trust.resolve(OWN, "Net")
    assert issubclass(net, nn.Module)
    assert net is sys.modules[OWN].Net
    assert trust.resolve(OWN, "touch") is sys.modules[OWN].touch
    assert sys.path == before


def test_packages_with_relative_imports_and_nested_classes(scene: Scene) -> None:
    scene.code("hostile_pack/__init__.py", "")
    scene.code("hostile_pack/blocks/__init__.py", "from .conv import Conv\n")
    scene.code(
        "hostile_pack/blocks/conv.py", "from torch import nn\nclass Conv(nn.Module):\n    class Inner:\n        pass\n"
    )
    scene.code(
        "hostile_pack/net.py", "from .blocks import Conv\nfrom .. import hostile_pack\nclass Net(Conv):\n    pass\n"
    )
    scene.code("hostile_pack/ok.py", "from .blocks import Conv\nclass Net(Conv):\n    pass\n")
    trust = trust_of(scene)
    assert trust.resolve("hostile_pack.blocks.conv", "Conv.Inner").__qualname__ == "Conv.Inner"
    assert trust.resolve("hostile_pack.ok", "Net").__mro__[1] is trust.resolve("hostile_pack.blocks.conv", "Conv")
    assert "attempted relative import beyond top-level package" in refusal(
        lambda: trust.resolve("hostile_pack.net", "Net")
    )


def test_modules_find_their_siblings_and_folders_without_init(scene: Scene) -> None:
    scene.code("hostile_parts.py", NET)
    scene.code("hostile_entry.py", "import hostile_parts\nclass Net(hostile_parts.Net):\n    pass\n")
    scene.code("hostile_folder/deep.py", NET)
    trust = trust_of(scene)
    assert trust.resolve("hostile_entry", "Net").__mro__[1] is trust.resolve("hostile_parts", "Net")
    assert trust.resolve("hostile_folder.deep", "Net").__module__ == "hostile_folder.deep"


def test_several_directories_each_stand_for_their_own(scene: Scene) -> None:
    other = scene.root / "other"
    other.mkdir()
    (other / "hostile_second.py").write_text(f"from {OWN} import Net as Base\nclass Net(Base):\n    pass\n")
    trust = Trust(scene.home, (other, scene.home))
    assert trust.home_of("hostile_second") == other
    assert trust.home_of(OWN) == scene.home
    assert trust.resolve("hostile_second", "Net").__mro__[1] is trust.resolve(OWN, "Net")


def test_what_a_class_says_of_itself_may_be_another_module_of_the_directory(scene: Scene) -> None:
    scene.code("hostile_inner.py", "class Net:\n    pass\nNet.__module__ = 'hostile_outer'\n")
    scene.code("hostile_outer.py", "from hostile_inner import Net\n")
    assert trust_of(scene).resolve("hostile_outer", "Net").__module__ == "hostile_outer"


REFUSED = {
    "system": f"{OWN}.system is no class or function that the trusted {{home}} defines, and is not used",
    "shell": f"{OWN}.shell is no class or function that the trusted {{home}} defines, and is not used",
    "nn": f"{OWN}.nn goes through another module and is not used",
    "os.system": f"{OWN}.os.system goes through another module and is not used",
    "Path": f"{OWN}.Path is no class or function that the trusted {{home}} defines, and is not used",
    "Net.__init__": f"{OWN}.Net.__init__ is no class or function by its own name and is not used",
    "Net.load_state_dict": f"{OWN}.Net.load_state_dict is no class or function that the trusted {{home}} defines, and is not used",
    "Net.forward.tricks": f"{OWN}.Net.forward.tricks is no class or function by its own name and is not used",
    "__builtins__": f"{OWN}.__builtins__ is no class or function by its own name and is not used",
    "__loader__": f"{OWN}.__loader__ is no class or function by its own name and is not used",
    "Gone": f"{OWN} has no 'Gone'; its classes: Net, Toucher",
}


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_are_not_the_own_ones_of_trusted_code(scene: Scene, name: str) -> None:
    assert refusal(lambda: trust_of(scene).resolve(OWN, name)) == REFUSED[name].format(home=scene.home)


def test_untrusted_code_is_not_imported_and_named_with_advice(scene: Scene) -> None:
    (scene.root / "plain").mkdir()
    (scene.root / "plain" / "hostile_plain.py").write_text(marked(scene) + NET)
    sys.path.append(str(scene.root / "plain"))
    nobody = Trust(scene.home)
    told = {
        OWN: f"{OWN}.Net is code that is not trusted; it lies beside the file; if you trust it: --trust-code {scene.home}",
        UNTRUSTED: f"if you trust the package: --trust-package {UNTRUSTED}",
        f"{PACKAGE}.inner": f"if you trust the package: --trust-package {PACKAGE}",
        "hostile_plain": "if you trust it: --trust-code DIR, where DIR holds hostile_plain.py or hostile_plain/",
        "hostile_gone": "if you trust it: --trust-code DIR, where DIR holds hostile_gone.py or hostile_gone/",
        "__main__": "it was saved from a script: move the class into a module, save it again, and trust its directory",
        "subprocess": "it belongs to Python itself and is not among what a network may hold",
        "os.path": "--allow-pickle, which takes the whole file as a program",
    }
    for module, advice in told.items():
        assert advice in refusal(lambda module=module: nobody.resolve(module, "Net"), UntrustedError)
        assert module not in sys.modules or module in ("__main__", "subprocess", "os.path")
    assert not scene.marker.exists()


# ---------------------------------------------------------------- links


def test_a_module_behind_a_link_out_of_the_directory_is_not_imported(scene: Scene) -> None:
    (scene.root / "evil.py").write_text(marked(scene) + NET)
    (scene.home / "hostile_link.py").symlink_to(scene.root / "evil.py")
    told = refusal(lambda: trust_of(scene).resolve("hostile_link", "Net"), UntrustedError)
    assert told.startswith("hostile_link.Net is code that is not trusted")
    assert not scene.marker.exists()


def test_a_package_behind_a_link_out_of_the_directory_is_not_imported(scene: Scene) -> None:
    (scene.root / "evil").mkdir()
    (scene.root / "evil" / "__init__.py").write_text(marked(scene) + NET)
    (scene.home / "hostile_links").symlink_to(scene.root / "evil")
    refusal(lambda: trust_of(scene).resolve("hostile_links", "Net"), UntrustedError)
    refusal(lambda: trust_of(scene).module("hostile_links"))
    assert not scene.marker.exists()


@pytest.mark.parametrize("inner", ["sub.py", "sub/__init__.py", "sub/deep.py"])
def test_a_part_of_a_package_behind_a_link_is_not_imported(scene: Scene, inner: str) -> None:
    scene.code("hostile_honest/__init__.py", "")
    evil = scene.root / "evil" / inner
    evil.parent.mkdir(parents=True)
    evil.write_text(marked(scene) + NET)
    top = inner.partition("/")[0]
    (scene.home / "hostile_honest" / top).symlink_to(scene.root / "evil" / top)
    module = ".".join(["hostile_honest", *Path(inner).with_suffix("").parts]).removesuffix(".__init__")
    told = refusal(lambda: trust_of(scene).resolve(module, "Net"))
    assert f"outside the trusted {scene.home}" in told
    assert not scene.marker.exists()


def test_a_link_within_the_directory_is_followed(scene: Scene) -> None:
    scene.code("parts/real.py", NET)
    (scene.home / "hostile_alias.py").symlink_to(scene.home / "parts" / "real.py")
    assert trust_of(scene).resolve("hostile_alias", "Net").__module__ == "hostile_alias"


# ---------------------------------------------------------------- clashes


@pytest.mark.parametrize("top", ["json", "sys", "queue", "fractions", "yaml", "timm"])
def test_a_module_of_a_taken_name_is_refused_before_any_of_both_is_used(scene: Scene, top: str) -> None:
    scene.code(f"{top}.py", marked(scene) + NET)
    told = refusal(lambda: trust_of(scene, "timm").resolve(top, "Net"), ConfigError)
    assert told.startswith(f"{scene.home} holds a module {top!r}, and so does ")
    assert told.endswith("rename yours, else it cannot be told which is meant")
    assert not scene.marker.exists()


@pytest.mark.parametrize("top", ["torchvision", "email", PACKAGE])
def test_a_package_of_a_taken_name_is_refused(scene: Scene, top: str) -> None:
    scene.code(f"{top}/__init__.py", marked(scene))
    scene.code(f"{top}/models.py", marked(scene) + NET)
    told = refusal(lambda: trust_of(scene, PACKAGE).resolve(f"{top}.models", "Net"), ConfigError)
    assert f"holds a module {top!r}, and so does " in told
    assert not scene.marker.exists()


def test_a_folder_that_holds_no_code_takes_no_name(scene: Scene) -> None:
    """`json/` with results in it is a namespace package to Python."""
    scene.code("hostile_free/data.txt", "1")
    assert trust_of(scene).home_of("hostile_free") == scene.home
    assert "has no 'Net'" in refusal(lambda: trust_of(scene).resolve("hostile_free", "Net"))


def test_a_module_of_the_same_name_from_another_directory_is_a_clash(scene: Scene) -> None:
    trust_of(scene).resolve(OWN, "Net")
    other = scene.root / "other"
    other.mkdir()
    (other / f"{OWN}.py").write_text(NET)
    told = refusal(lambda: Trust(other, (other,)).resolve(OWN, "Net"), ConfigError)
    assert f"{other} holds a module {OWN!r}, and so does {scene.home / OWN}.py" in told


def test_the_program_itself_is_never_meant(scene: Scene) -> None:
    scene.code("__main__.py", marked(scene) + NET)
    assert "saved from a script" in refusal(lambda: trust_of(scene).resolve("__main__", "Net"), UntrustedError)
    scene.code("hostile_prog/__main__.py", marked(scene) + NET)
    assert "runs as a program" in refusal(lambda: trust_of(scene).resolve("hostile_prog.__main__", "Net"))
    assert not scene.marker.exists()


# ---------------------------------------------------------------- code that fails


FAILING = {
    "raise ValueError('too small\\nand more')": "ValueError: too small",
    "import surely_not_there": "ModuleNotFoundError: No module named 'surely_not_there'",
    "def (": "SyntaxError: invalid syntax",
    "import sys; sys.exit(3)": "SystemExit: 3",
    "import argparse; argparse.ArgumentParser().parse_args(['--weights'])": "SystemExit: 2",
    "1 / 0": "ZeroDivisionError: division by zero",
}


@pytest.mark.parametrize("code", FAILING)
def test_a_module_that_cannot_be_imported_is_one_line(scene: Scene, code: str) -> None:
    scene.code("hostile_broken.py", f"{code}\n")
    told = refusal(lambda: trust_of(scene).resolve("hostile_broken", "Net"))
    assert told.startswith(f"{scene.home}: module 'hostile_broken' cannot be imported: {FAILING[code]}")
    assert "hostile_broken" not in sys.modules


def test_a_module_that_changes_the_path_finds_it_restored(scene: Scene) -> None:
    scene.code("hostile_path.py", "import sys\nsys.path.insert(0, 'x')\nsys.path.append('y')\n" + NET)
    before = list(sys.path)
    trust_of(scene).resolve("hostile_path", "Net")
    assert sys.path == before


def test_modules_that_are_not_there(scene: Scene) -> None:
    scene.code("hostile_some/__init__.py", "")
    assert f"{scene.home}: there is no module 'hostile_some.gone'" in refusal(
        lambda: trust_of(scene).resolve("hostile_some.gone", "Net")
    )
    assert f"{scene.home}: there is no module '{OWN}.inner'" in refusal(
        lambda: trust_of(scene).resolve(f"{OWN}.inner", "Net")
    )
    assert "lies in no trusted directory" in refusal(lambda: trust_of(scene).module("hostile_gone"))


def test_files_that_are_younger_than_the_last_look_are_found(scene: Scene) -> None:
    for number in range(5):
        scene.code(f"hostile_new{number}.py", NET)
        assert trust_of(scene).resolve(f"hostile_new{number}", "Net").__module__ == f"hostile_new{number}"


# ---------------------------------------------------------------- packages


def test_only_module_classes_enumerations_and_records_of_a_trusted_package(scene: Scene) -> None:
    code = "import dataclasses, enum\nfrom hostile_installed import Layer, Toucher\nfrom torch.nn import Linear\n"
    code += "class Kind(enum.Enum):\n    A = 1\n@dataclasses.dataclass\nclass Record:\n    a: int\n"
    (scene.site / PACKAGE / "parts.py").write_text(code)
    trust = Trust(scene.home, (), (PACKAGE,))
    assert issubclass(trust.resolve(PACKAGE, "Layer"), nn.Module)
    assert trust.resolve(f"{PACKAGE}.parts", "Layer") is trust.resolve(PACKAGE, "Layer")
    assert trust.resolve(f"{PACKAGE}.parts", "Kind").A.value == 1
    assert trust.resolve(f"{PACKAGE}.parts", "Record").__name__ == "Record"
    for name in ("Toucher", "Linear", "dataclasses.field"):
        told = refusal(lambda name=name: trust.resolve(f"{PACKAGE}.parts", name))
        assert f"{PACKAGE}.parts.{name} " in told
    assert "is no nn.Module class of it and is not used; --allow-pickle" in told or "another module" in told


def test_trust_in_a_package_is_no_trust_in_one_that_begins_like_it(scene: Scene) -> None:
    trust = Trust(scene.home, (), (PACKAGE[:-1], f"{PACKAGE}.inner"))
    assert f"--trust-package {PACKAGE}" in refusal(lambda: trust.resolve(PACKAGE, "Layer"), UntrustedError)


def test_packages_that_fail_when_they_are_asked(scene: Scene) -> None:
    lazy = "def __getattr__(name):\n    if name == 'Net':\n        raise ImportError(f'{name} needs hostile_more')\n"
    lazy += "    raise AttributeError(name)\n"
    (scene.site / "hostile_lazy.py").write_text(lazy)
    (scene.site / "hostile_raise.py").write_text("raise SystemExit('no')\n")
    trust = Trust(scene.home, (), ("hostile_lazy", "hostile_raise", "hostile_gone"))
    told = [refusal(lambda top=top: trust.resolve(top, "Net")) for top in trust.packages]
    assert told == [
        "hostile_lazy.Net cannot be imported: Net needs hostile_more",
        "module 'hostile_raise' cannot be imported: SystemExit: no",
        "module 'hostile_gone' cannot be imported: ModuleNotFoundError: No module named 'hostile_gone'",
    ]


# ---------------------------------------------------------------- paths and callables that a file names


@pytest.mark.parametrize("text", ["own.py", "./own.py", "deep/../own.py", "deep/inner.py"])
def test_paths_below_a_trusted_directory(scene: Scene, text: str) -> None:
    scene.code("own.py", "")
    scene.code("deep/inner.py", "")
    assert trusted_path(text, trust_of(scene)) == scene.home / text.replace("./", "").replace(
        "deep/.own", "own"
    ).replace("deep/.", "")


@pytest.mark.parametrize(
    "text", ["../evil.py", "deep/../../evil.py", "/etc/passwd.py", "link.py", "folder/evil.py", "~/x.py"]
)
def test_paths_out_of_the_directory(scene: Scene, text: str) -> None:
    evil = scene.root / "evil.py"
    evil.write_text(marked(scene) + "def build():\n    pass\n")
    scene.code("deep/inner.py", "")
    (scene.home / "link.py").symlink_to(evil)
    (scene.home / "folder").symlink_to(scene.root)
    trust = trust_of(scene)
    told = refusal(lambda: trusted_path(text, trust))
    assert ascii(text) in told
    assert "is code that is not trusted; if you trust it: --trust-code /" in told or text == "~/x.py"
    assert refusal(lambda: trusted_callable(f"{text}:build", trust))
    assert not scene.marker.exists()


def test_an_absolute_path_into_the_directory_is_in_the_directory(scene: Scene) -> None:
    assert trusted_path(str(scene.home / f"{OWN}.py"), trust_of(scene)) == scene.home / f"{OWN}.py"
    assert f"--trust-code {scene.home}" in refusal(lambda: trusted_path(f"{OWN}.py", Trust(scene.home)), UntrustedError)


@pytest.mark.parametrize("text", ["a\0b.py", "x" * 5000 + ".py", "\ud800.py", "a\x1b[2J.py"])
def test_paths_that_are_none(scene: Scene, text: str) -> None:
    told = refusal(lambda: trusted_path(text, trust_of(scene)))
    assert told.isprintable()
    assert len(told) < 600


def test_callables_of_files_modules_and_packages(scene: Scene) -> None:
    scene.code("hostile_make/nets.py", "from torch import nn\ndef build(width):\n    return nn.Linear(width, width)\n")
    trust = trust_of(scene, PACKAGE)
    assert trusted_callable("hostile_make/nets.py:build", trust)(width=3).in_features == 3
    assert trusted_callable("hostile_make.nets:build", trust) is trusted_callable("hostile_make/nets.py:build", trust)
    assert trusted_callable(f"{OWN}:Net", trust)().layer.in_features == 2
    assert trusted_callable(f"{PACKAGE}:Layer", trust).__name__ == "Layer"
    assert trusted_callable(f"{PACKAGE}:touch", trust).__name__ == "touch"


CALLABLES = {
    "": "got '', expected `module:callable` or `file.py:callable`",
    "build": "got 'build', expected `module:callable`",
    ":build": "got ':build', expected `module:callable`",
    f"{OWN}:": "expected `module:callable`",
    f"{OWN}:Net.forward": "expected `module:callable`",
    f"{OWN}:a b": "expected `module:callable`",
    "../x:build": "got '../x:build', expected `module:callable`",
    "..x:build": "got '..x:build', expected `module:callable`",
    "x\0y:build": r"got 'x\x00y:build', expected `module:callable`",
    f"{'x' * 5000}:build": "expected `module:callable`",
    f"{OWN}:system": "is no class or function that the trusted",
    f"{OWN}.py:import_module": "is no class or function that the trusted",
    f"{OWN}.py:shell": "is no class or function that the trusted",
    f"{OWN}.py:os": "goes through another module",
    f"{OWN}.py:__builtins__": "is no class or function by its own name",
    f"{OWN}:gone": f"{OWN} has no 'gone'",
    "gone.py:build": "'gone.py': there is no such file in ",
    "my-nets.py:build": "'my-nets' cannot be imported under that name; rename the file",
    "os:system": "os:system is code that is not trusted; it belongs to Python itself",
    f"{UNTRUSTED}:Net": f"if you trust the package: --trust-package {UNTRUSTED}",
    f"{PACKAGE}:system": f"{PACKAGE}:system is not defined in the trusted package {PACKAGE} and is not called",
    f"{PACKAGE}:Popen": "is not defined in the trusted package",
    f"{PACKAGE}:gone": f"{PACKAGE} has no 'gone'",
    f"{PACKAGE}:bound": "is not defined in the trusted package",
    f"{PACKAGE}:number": "is not defined in the trusted package",
}


@pytest.mark.parametrize("spec", CALLABLES)
def test_callables_that_are_not_called(scene: Scene, spec: str) -> None:
    scene.code("my-nets.py", marked(scene))
    with (scene.site / PACKAGE / "__init__.py").open("a") as file:
        file.write("bound = [].append\nnumber = 3\n")
    told = refusal(lambda: trusted_callable(spec, trust_of(scene, PACKAGE)))
    assert CALLABLES[spec] in told
    assert len(told) < 600
    assert not scene.marker.exists()


def test_the_path_is_restored_where_the_code_raises(scene: Scene) -> None:
    before = list(sys.path)

    def fail() -> None:
        with trust_of(scene).on_path():
            assert sys.path[0] == str(scene.home)
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        fail()
    assert sys.path == before
