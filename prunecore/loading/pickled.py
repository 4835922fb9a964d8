"""Files of `torch.save`: what code they would need, found without running any, and what they hold, read within limits.

The names come from following the pickle's operations; what is allowed is handed to torch's own restricted unpickler
(`weights_only=True`), which refuses everything else.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch

from prunecore.errors import ModelError, PrunecoreError, listing
from prunecore.loading.contents import check_contents
from prunecore.loading.opcodes import Foreign, Global, Use, is_module, steps_of, uses_in

_PICKLES, _OBJECT = 5, 3  # of the form before the zip, and which of them is the object; then come raw storages
_UNUSED = ("torch._utils._rebuild_nested_tensor", "torch._utils._rebuild_wrapper_subclass")
_CLASS = Global("prunecore.loading", "module_class")


@dataclass(frozen=True)
class Allowed:
    """A class or function that a file may hold under `name`.

    made: it may also have objects made of it, without its constructor. called: it may also call it. state: whether what the
    objects are given afterwards is right, as `loading.opcodes` shows it; None: the objects know themselves.
    """

    found: Any
    name: str
    made: bool = False
    called: bool = False
    state: Callable[[Any], bool] | None = None


def globals_in(path: Path) -> tuple[Global, ...]:
    """`(module, name)` of every class and function that the file names, in order; nothing is imported or executed.

    Raises ModelError for what is no file of `torch.save`, is damaged, is TorchScript or an exported program, or unfolds to
    far more than its size.
    """
    return tuple(dict.fromkeys(use.what for use in _uses(path) if use.what is not None))


def read_pickled(path: Path, allowed: Sequence[Allowed] = ()) -> Any:
    """What the file holds, on the CPU, read with `weights_only=True`.

    allowed: what it may use beyond torch's own tensors. Raises ModelError that names what it needs beyond that, or does with
    it, or says how the file is damaged (see `check_contents` too).
    """
    _check_uses(path, allowed)
    try:
        with warnings.catch_warnings(), _only(allowed):
            warnings.simplefilter("ignore")  # about protocols and changed sources
            found = torch.load(_plain(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        raise ModelError(f"{path}: holds more than plain values and tensors: {_reason(fault)}") from fault
    except Exception as fault:  # damaged archives and wrong types end in exceptions of many kinds
        raise ModelError(f"{path}: is damaged or no file of torch.save: {_reason(fault)}") from fault
    check_contents(path, found)
    return found


@contextmanager
def _only(allowed: Sequence[Allowed]) -> Iterator[None]:
    """Beside torch's tensors nothing but `allowed` passes, whatever other libraries let pass in this process."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*((one.found, one.name) for one in allowed), (_class_of, _CLASS.full)])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _check_uses(path: Path, allowed: Sequence[Allowed]) -> None:
    """What is allowed may still only be used as it is allowed; names that are not are left to torch."""
    known = {one.name: one for one in allowed}
    faults = [_fault_of(use, known.get(use.what.full) if use.what else None) for use in _uses(path)]
    found = listing(dict.fromkeys(fault for fault in faults if fault), most=5)
    if found:
        raise ModelError(f"{path}: {found}; it is not read")


def _fault_of(use: Use, allowed: Allowed | None) -> str | None:
    if use.what is None:
        return "calls or copies an object that it made itself"
    name = use.what.full
    if name in _UNUSED:
        return f"uses {name}, which no network needs"
    if use.how == "unrolled":
        return f"calls {name} with an object that it made itself"
    if use.how == "passed" and not name.startswith("torch._utils._rebuild_"):
        return f"has torch call {name}, which makes no tensor"
    if allowed is not None and use.how == "built" and allowed.state is not None and not allowed.state(use.state):
        return f"fills what {name} made with something else than it has"
    if allowed is not None and use.how == "called" and not allowed.called:
        return f"calls {name}, which a file may hold but not call"
    if allowed is not None and use.how == "made" and not allowed.made:
        return f"makes an object of {name}, which a file may not"
    return None


def _uses(path: Path) -> list[Use]:
    try:
        return [use for stream in _pickles(path) for use in uses_in(stream)]
    except PrunecoreError:
        raise
    except Foreign as fault:
        raise ModelError(f"{path}: {fault}, which torch.save never writes; it is not read") from fault
    except OSError as fault:
        raise ModelError(f"{path}: cannot be read: {fault.strerror or fault}") from fault
    except Exception as fault:  # zipfile and pickletools end in exceptions of many kinds where a file is damaged
        raise ModelError(f"{path}: is damaged or no file of torch.save: {_reason(fault)}") from fault


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if path.is_dir():
        raise ModelError(f"{path}: is a directory; give the file")
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head[:1] == pickle.PROTO:
            yield from [file] * _PICKLES
        elif head == b"PK\3\4":
            with zipfile.ZipFile(file) as archive:
                _check_archive(path, archive)
            # by the reader that torch.load uses, so that both see the same
            yield BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))
        else:
            raise ModelError(f"{path}: is no file of torch.save (neither a zip archive nor a pickle)")


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """ModelError for archives that torch.save did not write."""
    members = archive.infolist()
    names = [m.filename for m in members]
    if any(n.endswith("constants.pkl") for n in names):
        raise ModelError(f"{path}: is TorchScript, whose code cannot be changed; give the module that it was made from")
    if any("exported_program" in n or n.endswith("archive_format") for n in names):
        raise ModelError(f"{path}: is an exported program; give the module that it was exported from")
    if sum(m.file_size for m in members) > path.stat().st_size or any(m.compress_type for m in members):
        raise ModelError(
            f"{path}: unfolds to {sum(m.file_size for m in members)} bytes from {path.stat().st_size}, which "
            "torch.save never does; it is not read"
        )
    objects = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(objects) != 1 or len({n.casefold() for n in names}) != len(names):
        raise ModelError(f"{path}: is a zip archive, but not one of torch.save (one data.pkl was expected)")


def _plain(path: Path) -> Path | BytesIO:
    """The file, or where it has the form before the zip, its content with classes of modules named without their source.

    There they stand as `("module", class, file, source)` for the loader to compare; torch reads that only without limits.
    """
    edits: list[tuple[int, int, bytes]] = []
    with path.open("rb") as file:
        if file.read(1) != pickle.PROTO:
            return path
        file.seek(0)
        for number in range(_PICKLES):
            last = ""
            for step in steps_of(file):
                made_here, last = last == "TUPLE", step.name
                if number == _OBJECT and step.name == "BINPERSID" and is_module(step.popped[0]):
                    if not made_here:  # else what stands below it on the stack might be called
                        raise Foreign("its pickle uses an id of a class again")
                    call = f"c{_CLASS.module}\n{_CLASS.name}\n".encode()
                    edits += [(step.popped[0].start, 0, call), (step.position, 1, b"R")]
    return BytesIO(_edited(path.read_bytes(), edits)) if edits else path


def _edited(content: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Position, bytes that go, bytes that come."""
    parts, at = [], 0
    for position, gone, come in sorted(edits):
        parts += [content[at:position], come]
        at = position + gone
    return b"".join([*parts, content[at:]])


def _class_of(_: str, found: Any, *__: Any) -> Any:
    return found


def _reason(fault: BaseException) -> str:
    """What torch says, without its advice to load the file without limits."""
    text = str(fault).partition("\n\nCheck the documentation")[0].rpartition("WeightsUnpickler error:")[2]
    lines = text.split("\n\n")[-1].strip().splitlines()
    return lines[0].partition(". ")[0][:200] if lines else type(fault).__name__
