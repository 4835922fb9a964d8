"""Files that would run something. `runs` cases do, where nothing holds them; the tests check that too."""

from __future__ import annotations

import functools
import importlib
import io
import os
import pickle
import runpy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.loading.making import (
    OWN,
    PACKAGE,
    UNTRUSTED,
    Calls,
    Case,
    archive,
    called,
    inside,
    named,
    network,
    noted,
    old_form,
    rewritten,
    script,
    text,
)

HOSTILE: dict[str, Case] = {}
case = noted(HOSTILE)


def touching(marker: Path) -> str:
    return f"touch {marker}"


def opening(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


# ---------------------------------------------------------------- names of Python itself


@case(r"not trusted: posix\.system; it belongs to Python itself", runs=True)
def os_system(path: Path, marker: Path) -> None:
    inside(path, Calls(os.system, touching(marker)))


@case(r"not trusted: os\.system; it belongs to Python itself", runs=True)
def os_system_by_its_other_name(path: Path, marker: Path) -> None:
    archive(path, script(called(named("os", "system"), text(touching(marker)))))


@case(r"not trusted: subprocess\.Popen;", runs=True)
def subprocess_popen(path: Path, marker: Path) -> None:
    archive(path, script(called(named("subprocess", "Popen"), b"(", text("touch"), text(str(marker)), b"l")))


@case(r"not trusted: builtins\.eval;", runs=True)
def builtins_eval(path: Path, marker: Path) -> None:
    inside(path, Calls(eval, opening(marker)))


@case(r"not trusted: builtins\.exec;", runs=True)
def builtins_exec(path: Path, marker: Path) -> None:
    inside(path, Calls(exec, opening(marker)))


@case(r"not trusted: builtins\.__import__;", runs=True)
def builtins_import(path: Path, marker: Path) -> None:
    inside(path, Calls(__import__, UNTRUSTED))


@case(r"not trusted: importlib\.import_module;", runs=True)
def import_module(path: Path, marker: Path) -> None:
    inside(path, Calls(importlib.import_module, UNTRUSTED))


@case(r"not trusted: io\.open;", runs=True)
def builtins_open(path: Path, marker: Path) -> None:
    inside(path, Calls(open, str(marker), "w"))


@case(r"not trusted: runpy\._run_code;", runs=True)
def runpy_run_code(path: Path, marker: Path) -> None:
    inside(path, Calls(runpy._run_code, opening(marker), {}))


@case(r"not trusted: importlib\.import_module;", runs=True)
def getattr_chain(path: Path, marker: Path) -> None:
    found = called(named("importlib", "import_module"), text("os"))
    system = called(named("__builtin__", "getattr"), found, text("system"))
    archive(path, script(called(system, text(touching(marker)))))


@case("calls or copies an object that it made itself", runs=True)
def getattr_of_allowed_classes(path: Path, marker: Path) -> None:
    """Layer -> method -> its builtins -> exec: every name in the file is one that passes."""
    get = named("__builtin__", "getattr")
    forward = called(get, named("torch.nn.modules.linear", "Linear"), text("forward"))
    execute = called(called(get, called(get, forward, text("__builtins__")), text("get")), text("exec"))
    archive(path, script(called(execute, text(opening(marker)))))


@case("it may not read the attribute '__init__' of Linear")
def getattr_of_a_layer(path: Path, marker: Path) -> None:
    get = named("__builtin__", "getattr")
    archive(path, script(called(get, named("torch.nn.modules.linear", "Linear"), text("__init__"))))


@case("it may not read the attribute 'from_file' of _Operators")
def operator_that_writes_files(path: Path, marker: Path) -> None:
    owner = named("torch._C", "_VariableFunctionsClass")
    archive(path, script(called(named("__builtin__", "getattr"), owner, text("from_file"))))


@case(r"not trusted: posix\.system;", runs=True)
def partial_of_system(path: Path, marker: Path) -> None:
    partial = called(named("functools", "partial"), named("posix", "system"), text(touching(marker)))
    archive(path, script(called(partial)))


@case(r"not trusted: posix\.system;")
def partial_of_system_as_forward(path: Path, marker: Path) -> None:
    torch.save(network(forward=functools.partial(os.system, touching(marker))), path)


@case(r"not trusted: posix\.system;")
def hook_of_system(path: Path, marker: Path) -> None:
    net = network()
    net.register_forward_pre_hook(functools.partial(os.system, touching(marker)))
    torch.save(net, path)


# ---------------------------------------------------------------- pickles inside pickles


@case(r"not trusted: pickle\.loads;", runs=True)
def pickle_in_pickle(path: Path, marker: Path) -> None:
    inside(path, Calls(pickle.loads, pickle.dumps(Calls(os.system, touching(marker)), protocol=2)))


@case(r"torch\.storage\._load_from_bytes of torch is neither a layer nor", runs=True)
def load_from_bytes(path: Path, marker: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Calls(os.system, touching(marker)), buffer)
    inside(path, Calls(torch.storage._load_from_bytes, buffer.getvalue()))


@case(r"torch\.serialization\.load of torch is neither a layer nor", runs=True)
def torch_load(path: Path, marker: Path) -> None:
    inner = path.with_name("inner.pth")
    torch.save(Calls(os.system, touching(marker)), inner)
    load, how = named("torch.serialization", "load"), named("torch.serialization", "pickle")
    archive(path, script(called(load, text(str(inner)), text("cpu"), how)))


@case(r"torch\.jit\._serialization\.load is TorchScript")
def torch_jit_load(path: Path, marker: Path) -> None:
    inside(path, Calls(torch.jit.load, str(path.with_name("inner.pt"))))


@case(r"torch\.hub\.load of torch is neither a layer nor", runs=True)
def torch_hub_load(path: Path, marker: Path) -> None:
    hub = path.with_name("hub")
    hub.mkdir()
    (hub / "hubconf.py").write_text(f"def net():\n    return {opening(marker)}\n")
    inside(path, Calls(functools.partial(torch.hub.load, source="local"), str(hub), "net"))


@case(r"torch\.nn\.modules\.torch\.load of torch is neither a layer nor")
def load_through_a_module_of_torch(path: Path, marker: Path) -> None:
    archive(path, script(called(named("torch.nn.modules", "torch.load"), text(str(path)))))


@case(r"not trusted: posix\.system;", runs=True)
def array_of_objects(path: Path, marker: Path) -> None:
    inside(path, np.array([Calls(os.system, touching(marker)), None], dtype=object))


@case(r"not trusted: posix\.system;", runs=True)
def scalar_of_objects(path: Path, marker: Path) -> None:
    scalar = np.float32(0).__reduce__()[0]
    inside(path, Calls(scalar, np.dtype("O"), Calls(os.system, touching(marker))))


@case(r"fills what numpy\.dtype made with something else than it has")
def array_of_plain_objects(path: Path, marker: Path) -> None:
    inside(path, np.array(["a", None], dtype=object))


@case(r"an array of 'O', expected numbers")
def scalar_of_a_plain_object(path: Path, marker: Path) -> None:
    dtype = called(named("numpy", "dtype"), text("O"))
    archive(path, script(called(named("numpy.core.multiarray", "scalar"), dtype, text("anything"))))


def _filled(module: str, name: str, arguments: bytes, *state: bytes) -> bytes:
    return script(called(named(module, name), arguments) + b"(" + b"".join(state) + b"tb")


@case(r"fills what numpy\.dtype made with something else than it has")
def type_of_a_wrong_state(path: Path, marker: Path) -> None:
    """numpy would take it, and crash."""
    archive(
        path, _filled("numpy", "dtype", text("i8"), b"K\x03", text("<"), b"N", *[b"J\xff\xff\xff\xff"] * 2, b"K\x00")
    )


@case(r"fills what numpy\.core\.multiarray\._reconstruct made with something else than it has")
def array_of_a_wrong_state(path: Path, marker: Path) -> None:
    empty = named("numpy", "ndarray") + b"K\x00\x85" + text("b")
    archive(
        path, _filled("numpy.core.multiarray", "_reconstruct", empty, b"K\x01", b"K\x00\x85", b"N", b"\x89", text(""))
    )


@case(r"has torch call numpy\.core\.multiarray\._reconstruct, which makes no tensor")
def array_filled_by_torch(path: Path, marker: Path) -> None:
    ndarray = named("numpy", "ndarray")
    given = b"(" + ndarray + b"K\x00\x85" + text("b") + b"t"
    maker = named("numpy.core.multiarray", "_reconstruct")
    archive(path, script(called(named("torch._tensor", "_rebuild_from_type_v2"), maker, ndarray, given, b"N")))


@case("a number of numpy of another size than its type has")
def number_of_a_wrong_size(path: Path, marker: Path) -> None:
    dtype = called(named("numpy", "dtype"), text("i8"))
    raw = called(named("_codecs", "encode"), text("abc"), text("latin1"))
    archive(path, script(called(named("numpy.core.multiarray", "scalar"), dtype, raw)))


# ---------------------------------------------------------------- operations that torch.save never writes


@case(r"uses STACK_GLOBAL \(save it again, with torch\.save's own pickle_protocol\)", runs=True)
def stack_global(path: Path, marker: Path) -> None:
    inside(path, Calls(os.system, touching(marker)), pickle_protocol=4)


@case(r"its pickle uses INST, which torch\.save never writes", runs=True)
def opcode_inst(path: Path, marker: Path) -> None:
    archive(path, script(b"(", text(touching(marker)), b"ios\nsystem\n"))


@case(r"its pickle uses OBJ, which torch\.save never writes", runs=True)
def opcode_obj(path: Path, marker: Path) -> None:
    archive(path, script(b"(", named("subprocess", "Popen"), b"(", text("touch"), text(str(marker)), b"lo"))


@case(r"its pickle uses EXT1, which torch\.save never writes")
def opcode_ext(path: Path, marker: Path) -> None:
    archive(path, script(called(b"\x82\xf0", text(touching(marker)))))


@case(r"its pickle uses PERSID, which torch\.save never writes")
def opcode_persid(path: Path, marker: Path) -> None:
    archive(path, script(b"Pstorage\n"))


# ---------------------------------------------------------------- trusted code


@case(rf"{OWN}\.system is no class or function that the trusted .*home defines", runs=True)
def name_that_trusted_code_imports(path: Path, marker: Path) -> None:
    """The module is trusted, what it imports is not its own."""
    archive(path, script(called(named(OWN, "system"), text(touching(marker)))))


@case(rf"{OWN}\.import_module is no class or function that the trusted", runs=True)
def import_module_of_trusted_code(path: Path, marker: Path) -> None:
    archive(path, script(called(named(OWN, "import_module"), text(UNTRUSTED))))


@case(rf"{OWN}\.shell is no class or function that the trusted", runs=True)
def partial_of_trusted_code(path: Path, marker: Path) -> None:
    archive(path, script(called(named(OWN, "shell"), text(touching(marker)))))


@case(rf"{OWN}\.os\.system goes through another module")
def name_through_a_module_of_trusted_code(path: Path, marker: Path) -> None:
    archive(path, script(called(named(OWN, "os.system"), text(touching(marker)))))


@case(rf"{OWN}\.Net\.forward\.__globals__\.get is no class or function by its own name")
def globals_of_trusted_code(path: Path, marker: Path) -> None:
    archive(path, script(called(named(OWN, "Net.forward.__globals__.get"), text("system"))))


@case(rf"{OWN}\.Net\.__subclasses__ is no class or function by its own name")
def subclasses_of_trusted_code(path: Path, marker: Path) -> None:
    archive(path, script(called(named(OWN, "Net.__subclasses__"))))


@case(rf"calls {OWN}\.touch, which a file may hold but not call", runs=True)
def call_of_a_trusted_function(path: Path, marker: Path) -> None:
    """The user trusts the function, not the arguments that a file has for it."""
    archive(path, script(called(named(OWN, "touch"), text(str(marker)))))


@case(rf"calls {OWN}\.Toucher, which a file may hold but not call", runs=True)
def call_of_a_trusted_class(path: Path, marker: Path) -> None:
    archive(path, script(called(named(OWN, "Toucher"), text(str(marker)))))


@case(rf"has torch call {OWN}\.touch, which makes no tensor", runs=True)
def call_of_a_trusted_function_by_torch(path: Path, marker: Path) -> None:
    """torch's own function for tensors of a subclass calls what it is given."""
    rebuild, strings = named("torch._tensor", "_rebuild_from_type_v2"), named("__builtin__", "str")
    given = b"(" + text(str(marker)) + b"t"
    archive(path, script(called(rebuild, named(OWN, "touch"), strings, given, b"N")))


@case(rf"calls {OWN}\.touch, which a file may hold but not call", runs=True)
def call_behind_the_object(path: Path, marker: Path) -> None:
    """The old form: the object only holds the function, the keys of the storages call it."""
    touch = named(OWN, "touch")
    old_form(path, script(touch), keys=script(called(touch, text(str(marker)))))


@case("takes the place of its method 'forward'")
def trusted_function_as_forward(path: Path, marker: Path) -> None:
    partial = called(named("functools", "partial"), named(OWN, "touch"), text(str(marker)))
    archive(path, script(_layer(text("forward") + partial)))


@case("takes the place of its method '__deepcopy__'")
def trusted_function_as_copy(path: Path, marker: Path) -> None:
    partial = called(named("functools", "partial"), named(OWN, "touch"), text(str(marker)))
    archive(path, script(_layer(text("__deepcopy__") + partial)))


@case("takes the place of its method '_compiled_call_impl'")
def trusted_function_as_call(path: Path, marker: Path) -> None:
    partial = called(named("functools", "partial"), named(OWN, "touch"), text(str(marker)))
    archive(path, script(_layer(text("_compiled_call_impl") + partial)))


def _layer(*attributes: bytes) -> bytes:
    """An empty `Identity` with further attributes."""
    tables = ("_parameters", "_buffers", "_modules")
    hooks = [name for name, value in vars(nn.Module()).items() if isinstance(value, dict) and name not in tables]
    state = b"".join(text(name) + b"}" for name in tables)
    state += b"".join(text(name) + called(named("collections", "OrderedDict")) for name in hooks)
    state += text("_non_persistent_buffers_set") + called(named("__builtin__", "set"), b"]")
    state += text("training") + b"\x88" + b"".join(attributes)
    return named("torch.nn.modules.linear", "Identity") + b")\x81}(" + state + b"ub"


# ---------------------------------------------------------------- trusted packages


@case(rf"{PACKAGE}\.system of the trusted package {PACKAGE} is no nn\.Module class of it", runs=True)
def name_that_a_trusted_package_imports(path: Path, marker: Path) -> None:
    archive(path, script(called(named(PACKAGE, "system"), text(touching(marker)))))


@case(rf"{PACKAGE}\.Popen of the trusted package {PACKAGE} is no nn\.Module class of it", runs=True)
def class_that_a_trusted_package_imports(path: Path, marker: Path) -> None:
    archive(path, script(called(named(PACKAGE, "Popen"), b"(", text("touch"), text(str(marker)), b"l")))


@case(rf"{PACKAGE}\.Toucher of the trusted package {PACKAGE} is no nn\.Module class of it", runs=True)
def class_of_a_trusted_package_that_is_no_module(path: Path, marker: Path) -> None:
    archive(path, script(called(named(PACKAGE, "Toucher"), text(str(marker)))))


@case(rf"{PACKAGE}\.Settable of the trusted package {PACKAGE} is no nn\.Module class of it", runs=True)
def state_of_a_class_of_a_trusted_package(path: Path, marker: Path) -> None:
    archive(path, script(named(PACKAGE, "Settable"), b")\x81", text(str(marker)), b"b"))


@case(rf"{PACKAGE}\.touch of the trusted package {PACKAGE} is no nn\.Module class of it", runs=True)
def function_of_a_trusted_package(path: Path, marker: Path) -> None:
    archive(path, script(called(named(PACKAGE, "touch"), text(str(marker)))))


@case(rf"{PACKAGE}\.os\.system goes through another module")
def name_through_a_module_of_a_trusted_package(path: Path, marker: Path) -> None:
    archive(path, script(called(named(PACKAGE, "os.system"), text(touching(marker)))))


@case(rf"{PACKAGE}\.Layer\.forward\.__globals__\.get is no class or function by its own name")
def globals_of_a_trusted_package(path: Path, marker: Path) -> None:
    archive(path, script(called(named(PACKAGE, "Layer.forward.__globals__.get"), text("system"))))


@case(rf"{PACKAGE}\.__main__\.Net lies in a module that runs as a program", runs=True)
def program_of_a_trusted_package(path: Path, marker: Path) -> None:
    place = path.parent.parent / "site-packages" / PACKAGE / "__main__.py"
    place.write_text(f"{opening(marker)}\nclass Net:\n    pass\n")
    archive(path, script(named(f"{PACKAGE}.__main__", "Net"), b")\x81"))


# ---------------------------------------------------------------- code that nobody trusts


@case(rf"not trusted: {UNTRUSTED}\.Net; if you trust the package: --trust-package {UNTRUSTED}", runs=True)
def class_of_an_untrusted_module(path: Path, marker: Path) -> None:
    archive(path, script(named(UNTRUSTED, "Net"), b")\x81"))


@case(r"not trusted: __main__\.Net; it was saved from a script: move the class into a module")
def class_of_main(path: Path, marker: Path) -> None:
    archive(path, script(named("__main__", "Net"), b")\x81"))


@case(rf"its pickle names '\.\.{UNTRUSTED}\.Net'")
def relative_name(path: Path, marker: Path) -> None:
    archive(path, script(named(f"..{UNTRUSTED}", "Net"), b")\x81"))


@case(rf"its pickle names '\.\./site-packages/{UNTRUSTED}\.Net'")
def path_as_name(path: Path, marker: Path) -> None:
    archive(path, script(named(f"../site-packages/{UNTRUSTED}", "Net"), b")\x81"))


@case(r"its pickle names '\.'")
def empty_name(path: Path, marker: Path) -> None:
    archive(path, script(named("", ""), b")\x81"))


@case("its pickle names 'aaaaaaaa")
def endless_name(path: Path, marker: Path) -> None:
    archive(path, script(named("a" * 5000, "Net"), b")\x81"))


@case(r"its pickle names 'evil\\x1b\[2J\.Net'")
def name_that_clears_the_screen(path: Path, marker: Path) -> None:
    archive(path, script(named("evil\x1b[2J", "Net"), b")\x81"))


@case(r"its pickle names 'evil\\n\\x00\.Net'")
def name_with_escapes(path: Path, marker: Path) -> None:
    archive(path, script(named(r"evil\n\x00", "Net"), b")\x81"))


# ---------------------------------------------------------------- the form before the zip, and archives with two faces


@case(r"not trusted: posix\.system;", runs=True)
def old_form_os_system(path: Path, marker: Path) -> None:
    inside(path, Calls(os.system, touching(marker)), _use_new_zipfile_serialization=False)


@case("is damaged", runs=True)
def old_form_os_system_before_the_object(path: Path, marker: Path) -> None:
    path.write_bytes(script(called(named("posix", "system"), text(touching(marker)))))


@case(r"not trusted: os\.system;", runs=True)
def old_form_os_system_behind_the_object(path: Path, marker: Path) -> None:
    old_form(path, script(b"}"), keys=script(called(named("os", "system"), text(touching(marker)))))


@case(r"not trusted: os\.system;", runs=True)
def old_form_with_a_zip_behind_it(path: Path, marker: Path) -> None:
    """One reader sees the zip at the end, another the pickle at the start."""
    torch.save(network(), path)
    tail = path.read_bytes()
    old_form(path, script(called(named("os", "system"), text(touching(marker)))))
    path.write_bytes(path.read_bytes() + tail)


@case(r"not trusted: (posix|os)\.system;|is damaged|one data\.pkl was expected")
def zip_behind_a_zip(path: Path, marker: Path) -> None:
    torch.save(network(), path)
    tail = path.read_bytes()
    archive(path, script(called(named("os", "system"), text(touching(marker)))))
    path.write_bytes(path.read_bytes() + tail)


@case(r"one data\.pkl was expected")
def two_objects(path: Path, marker: Path) -> None:
    program = script(called(named("posix", "system"), text(touching(marker))))
    rewritten(path, lambda members: {**members, "archive/data.pkl": program})


@case(r"one data\.pkl was expected")
def two_objects_that_differ_in_case(path: Path, marker: Path) -> None:
    program = script(called(named("posix", "system"), text(touching(marker))))
    rewritten(path, lambda members: {f"{next(iter(members)).partition('/')[0]}/DATA.PKL": program, **members})


@case("holds more than plain values and tensors: Only persistent_load of storage is allowed")
def class_with_its_source_in_a_zip(path: Path, marker: Path) -> None:
    """The old form keeps classes as `("module", class, file, source)`; a zip does not."""
    layer = named("torch.nn.modules.linear", "Identity")
    archive(path, script(b"(", text("module"), layer, text("x.py"), text("pass"), b"tQ"))
