"""Names of parameters in interface files: parsed by grammar and looked up in `_modules`, never evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from prunecore import ModelError
from prunecore.errors import nearest

_FIRST = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")
_NEXT = re.compile(r"\.([^.\[\]]+)|\[([0-9]+)\]")
_DIGITS = re.compile(r"(?:^|\.)([0-9]+)(?=\.|$)")
_LONGEST = 500


def shown(value: Any, most: int = 80) -> str:
    """What a file holds, for a message: on one line, and not all of it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[:most]}…"


def listed(names: Iterable[Any], most: int = 4) -> str:
    """Names that a file holds, for a message."""
    every = list(names)
    tail = f" (and {len(every) - most} more)" if len(every) > most else ""
    return ", ".join(shown(str(name))[1:-1] for name in every[:most]) + tail


def parsed(name: object) -> tuple[str, ...]:
    """`blocks[1].conv2.weight`, `blocks.1.conv2.weight` -> `("blocks", "1", "conv2", "weight")`; ModelError for anything else."""
    text = name if isinstance(name, str) and len(name) <= _LONGEST else ""
    parts: tuple[str, ...] = ()
    found, at = _FIRST.match(text), 0
    while found is not None:
        parts, at = (*parts, found.group(1) or found.group(2)), found.end()
        found = _NEXT.match(text, at)
    if not parts or at != len(text):
        raise ModelError(f"resize: {shown(name)} is no name of a parameter, such as blocks[1].conv.weight")
    return parts


def bracketed(name: str) -> str:
    """`blocks.1.conv2.weight` -> `blocks[1].conv2.weight`, as the older dialect has it.

    A name with brackets of its own (a key of a `ModuleDict`) stays as it is.
    """
    return name if "[" in name or "]" in name else _DIGITS.sub(r"[\1]", name)


def owner(net: nn.Module, name: object) -> tuple[nn.Module, str | None]:
    """The module that an entry means, and the parameter or buffer, where it names one.

    Raises ModelError where the network has no such module or parameter.
    """
    found = (_walk(net, name.split(".")) if isinstance(name, str) else None) or _walk(net, parsed(name))
    if found is None:
        dotted = ".".join(parsed(name))
        known = [*(n for n, _ in net.named_modules()), *(n for n, _ in net.named_parameters())]
        raise ModelError(f"resize: the network has no {shown(dotted)}{nearest(dotted, known)}")
    return found


def _walk(net: nn.Module, parts: Sequence[str]) -> tuple[nn.Module, str | None] | None:
    module = net
    for number, part in enumerate(parts):
        inner = module._modules.get(part)
        if inner is not None:
            module = inner
            continue
        own = {**module._parameters, **module._buffers}
        return (module, part) if number == len(parts) - 1 and own.get(part) is not None else None
    return module, None
