"""What a pickle would do, found by following its operations without carrying any out.

Only what tells apart a name that is held, a class that objects are made of and something that is called is followed: names,
tuples, constants, what objects are made by, and the memo. Everything else is plain data.
"""

from __future__ import annotations

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple

How = Literal["held", "made", "called", "unrolled", "passed", "built"]

_FOREIGN = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "POP", "POP_MARK", "DUP"}
_PUTS = {"BINPUT", "LONG_BINPUT", "PUT"}
_GETS = {"BINGET", "LONG_BINGET", "GET"}
_FILLS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"}  # and leave what they fill where it was
_MAKES = {"REDUCE", "NEWOBJ", "BUILD", "BINPERSID"}
_ADVICE = {"STACK_GLOBAL": " (save it again, with torch.save's own pickle_protocol)"}
_MOST = 3_000_000  # operations; large networks have a tenth
_LONGEST = 200  # bytes of one part of a name

# call what they are given first, or go through all of it
_PASSING_ON = {"torch._tensor._rebuild_from_type_v2"}
_UNROLLING = {
    *("builtins.set", "builtins.frozenset", "builtins.bytearray", "torch.Size"),
    *("collections.OrderedDict", "collections.Counter", "collections.deque"),
}
_BYTES = ("_codecs.encode", "builtins.bytes")  # make plain data


class Global(NamedTuple):
    """`module` and `name` of a class or function, as Python 3 has them."""

    module: str
    name: str

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}"


class Use(NamedTuple):
    """What is done with a class or function; None: an object that the pickle made is called or made into another.

    held: it is only named. made: an object is made of it without its constructor. called. unrolled: called with an object that
    the pickle made, all of which it would go through. passed: given to a function of torch that calls it. built: an object
    that was made by it is given `state`.
    """

    what: Global | None
    how: How
    state: Any = None


class Foreign(ValueError):  # noqa: N818 - it is a finding
    """Something that torch.save never writes; the text says what."""


@dataclass(frozen=True)
class Items:
    """A tuple; start: position of its first operation."""

    items: tuple[Any, ...]
    start: int


@dataclass(frozen=True)
class Made:
    """An object that the pickle makes by calling `by`, or of the class `by`."""

    by: Global | None


@dataclass(frozen=True)
class Step:
    """One operation; popped: what it takes from the stack, the topmost last: `Global`, `Items`, `Made`, constants, or DATA."""

    name: str
    position: int
    popped: tuple[Any, ...]


DATA = object()


def uses_in(stream: IO[bytes]) -> Iterator[Use]:
    """Every use of a class or function, in order, up to the end of the pickle at the stream's position.

    Raises Foreign for what torch.save never writes, ValueError, EOFError, IndexError or MemoryError where the pickle is damaged.
    """
    for step in steps_of(stream):
        if step.name == "GLOBAL":
            yield Use(step.popped[0], "held")
        elif step.name == "NEWOBJ":
            yield Use(_named(step.popped[0]), "made")
        elif step.name == "BUILD" and isinstance(step.popped[0], Made) and step.popped[0].by is not None:
            yield Use(step.popped[0].by, "built", step.popped[1])
        elif step.name == "REDUCE":
            yield from _calls(_named(step.popped[0]), step.popped[1])


def _calls(called: Global | None, arguments: Any) -> Iterator[Use]:
    given = arguments.items if isinstance(arguments, Items) else (Made(None),)
    name = called.full if called is not None else ""
    unrolls = name in _UNROLLING and any(isinstance(value, Made) for value in given)
    yield Use(called, "unrolled" if unrolls else "called")
    if name in _PASSING_ON:
        yield Use(_named(next(iter(given), None)), "passed")


def steps_of(stream: IO[bytes]) -> Iterator[Step]:
    """The operations, with what they take."""
    stack: list[Any] = []
    marks: list[tuple[int, int]] = []
    memo: dict[int, Any] = {}
    for number, (operation, argument, found_at) in enumerate(pickletools.genops(stream)):
        name, position = operation.name, found_at or 0
        if number == _MOST:
            raise Foreign(f"its pickle has over {_MOST} operations")
        if name in _FOREIGN:
            raise Foreign(f"its pickle uses {name}{_ADVICE.get(name, '')}")
        if name in _PUTS or name == "MEMOIZE":
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
            continue
        popped, start = _taken(operation, stack, marks)
        if name == "MARK":
            marks.append((len(stack), position))
        elif name == "GLOBAL":
            popped = (_global(argument),)
            stack.append(popped[0])
        elif name in _GETS:
            if argument not in memo:
                raise IndexError(f"{name} finds nothing under {argument}")
            stack.append(memo[argument])
        elif name.startswith("TUPLE") or name == "EMPTY_TUPLE":
            stack.append(Items(popped, position if start is None else start))
        elif name in _FILLS:
            stack.append(popped[0])
        elif name in _MAKES:
            stack.append(_made(name, popped))
        else:
            stack += [_constant(name, argument)] * len(operation.stack_after)
        yield Step(name, position, popped)


def is_module(found: Any) -> bool:
    """Whether a persistent id is that of a class with its source, as files had it before the zip."""
    items = found.items if isinstance(found, Items) else ()
    return len(items) > 1 and items[0] == "module" and isinstance(items[1], Global)


def _constant(name: str, argument: Any) -> Any:
    return {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}.get(name, DATA) if argument is None else argument


def _made(name: str, popped: tuple[Any, ...]) -> Any:
    if name == "BINPERSID":
        return popped[0].items[1] if is_module(popped[0]) else Made(None)
    if name == "BUILD":
        return popped[0]
    by = _named(popped[0])
    return DATA if by is not None and by.full in _BYTES else Made(by)


def _taken(
    operation: pickletools.OpcodeInfo, stack: list[Any], marks: list[tuple[int, int]]
) -> tuple[tuple[Any, ...], int | None]:
    """What the operation takes off `stack`, and where its mark was made."""
    before, start, height = operation.stack_before, None, len(stack) - len(operation.stack_before)
    if pickletools.markobject in before:
        if not marks:
            raise IndexError(f"{operation.name} finds no mark")
        marked, start = marks.pop()
        height = marked - before.index(pickletools.markobject)
    if height < (marks[-1][0] if marks else 0):
        raise IndexError(f"{operation.name} finds too little on the stack")
    popped = tuple(stack[height:])
    del stack[height:]
    return popped, start


def _global(argument: Any) -> Global:
    module, _, name = str(argument).partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[(module, name)]
    else:
        module = IMPORT_MAPPING.get(module, module)
    parts = f"{module}.{name}".split(".")
    if not all(part.isidentifier() and len(part.encode()) <= _LONGEST for part in parts):
        raise Foreign(f"its pickle names {ascii(f'{module}.{name}')[:100]}")
    return Global(module, name)


def _named(value: Any) -> Global | None:
    return value if isinstance(value, Global) else None
