"""From a network to an exported program: with a free batch where the network's code allows it, else with its own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunecore.errors import ModelError
from prunecore.export.checking import Agreement, Differs, Runner, Subject, compare, reason, refuse, remarks
from prunecore.surgery import copy_model

if TYPE_CHECKING:
    from torch.export import ExportedProgram

BATCH = "batch"
_CONSTANT = "specialized it to be a constant"  # as torch says it


@dataclass(frozen=True, eq=False)
class Artifact:
    """The content of a file, and what runs it. device: where it runs, and the network beside it; None: as the network."""

    data: bytes
    run: Runner
    device: torch.device | None = None


@dataclass(frozen=True, eq=False)
class Made:
    """An artifact that agrees with the network."""

    data: bytes
    agreement: Agreement
    sizes: tuple[int, ...]
    notes: tuple[str, ...]


Convert = Callable[["ExportedProgram"], Artifact]


def make(subject: Subject, convert: Convert, *, dynamic_batch: bool, tolerance: float) -> Made:
    """Trace, convert, compare; with a fixed batch where a free one cannot be had, and a note that says why.

    Raises ModelError where the network cannot be traced or converted, or differs.
    """
    why = subject.obstacle if dynamic_batch else "as asked"
    if why is None:
        try:
            return _first_of(subject, convert, subject.sizes, tolerance)
        except Differs:
            raise
        except ModelError as error:
            why = str(error)
    made = _first_of(subject, convert, (subject.batches.size,), tolerance)
    return dataclasses.replace(made, notes=(f"the batch is fixed at {made.sizes[0]}: {why}", *made.notes))


def _first_of(subject: Subject, convert: Convert, sizes: tuple[int, ...], tolerance: float) -> Made:
    """torch.export runs the network's code (fast), or reads its bytecode: each follows code that the other does not."""
    try:
        return _attempt(subject, convert, sizes, tolerance, strict=False)
    except Differs:
        raise
    except ModelError as first:
        try:
            return _attempt(subject, convert, sizes, tolerance, strict=True)
        except ModelError:
            raise first from None


def _attempt(subject: Subject, convert: Convert, sizes: tuple[int, ...], tolerance: float, *, strict: bool) -> Made:
    with quiet():
        artifact = convert(trace(subject, sizes[0], free=len(sizes) > 1, strict=strict))
        found = Agreement()
        for size in sizes:
            one = compare(subject, artifact.run, size, device=artifact.device)
            try:
                refuse(one.error, one.largest, tolerance, size)
            except Differs as error:
                if size == sizes[0]:
                    raise
                # the traced size agrees: the code does something else for this one
                raise ModelError(f"a batch of {size} is not computed as the network does: {error}") from error
            found = found.joined(one)
    return Made(artifact.data, found, sizes, remarks(found, tolerance))


def trace(subject: Subject, size: int, *, free: bool, strict: bool) -> ExportedProgram:
    """The network as a program, traced on a batch of `size`. Where lines of code stand is left out of it. Raises ModelError."""
    model = copy_model(subject.model)  # what the code caches while it is traced must not stay in the network
    drawn = subject.batches.draw(size, 0, subject.device)
    with torch.no_grad():
        if not _is_plain(model(*drawn.args, **drawn.kwargs)):
            _make_plain(model)
    args, kwargs = tuple(drawn.args), dict(drawn.kwargs)
    shapes = None
    if free:
        shapes = subject.batches.free(drawn, torch.export.Dim(BATCH, min=1)).dynamic_shapes(model, args, kwargs)
    try:
        with torch.no_grad(), _no_fast_path():
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=strict)
    except Exception as error:  # of torch, or of the network's code
        raise ModelError(_untraceable(type(subject.model).__name__, error)) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _untraceable(name: str, error: BaseException) -> str:
    if _CONSTANT in str(error):
        return f"the code of {name} turns the batch size into a constant"
    guard = re.search(r"Not all values of .*? satisfy the generated guard (.*)", str(error))
    if guard is not None:
        condition = re.sub(r"L\['(\w+)'\]\.size\(\)\[0\]", BATCH, guard[1].partition("Specializations")[0]).rstrip(".")
        return f"the code of {name} is not known to do the same for every batch; it asks for {condition}"
    return f"torch.export cannot follow {name}: {reason(error)}"


# ---------------------------------------------------------------- outputs that torch.export does not take


def _is_plain(outputs: Any) -> bool:
    return all(isinstance(leaf, Tensor | None) for leaf in tree_leaves(outputs))


def _make_plain(model: nn.Module) -> None:
    """Give `model`, a copy of our own, a forward whose dataclasses are dicts, and whose values other than tensors are None."""
    forward = model.forward

    @functools.wraps(forward)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return plain_outputs(forward(*args, **kwargs))

    model.forward = plain


def plain_outputs(value: Any) -> Any:
    """`value` with dicts for dataclasses and mappings, and None for whatever is neither a tensor nor a container."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {key: plain_outputs(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_outputs(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_outputs(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return None


# ---------------------------------------------------------------- around torch's exporters


@contextlib.contextmanager
def _no_fast_path() -> Iterator[None]:
    """Attention by its plain operators: the fused ones of eval mode have no counterpart elsewhere."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What torch's exporters print, log and warn of while they try is kept from the user; their exceptions are not."""
    level = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.callback(logging.disable, level)
        logging.disable(logging.CRITICAL)
        yield
