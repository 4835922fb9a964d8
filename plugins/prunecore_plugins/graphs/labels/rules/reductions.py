"""Reductions, softmax, scans: the labels of the dims that survive are kept."""

from __future__ import annotations

from torch import Tensor

from prunecore_plugins.graphs.labels.call import Call
from prunecore_plugins.graphs.labels.layers import Info, Layer


def _dims(value: object, rank: int) -> list[int]:
    if value is None or value == []:
        return list(range(rank))
    return [d % max(rank, 1) for d in (value if isinstance(value, (list, tuple)) else [value])]  # type: ignore[operator]


def _reduced(call: Call, dims: list[int], *, over_channels: bool) -> Info:
    """What is left after a reduction over `dims`. over_channels: it is meaningful for the channels that stay."""
    info = call.info(call.args[0])
    spent = [y for y in info.layers if y.axis in dims]
    if not over_channels:
        call.drop(spent, "the result depends on which channels there are")
    layers = [call.mix(y, dims) for y in info.layers if y.axis not in dims]
    out = call.out if isinstance(call.out, Tensor) else call.out[0]
    if out.dim() != call.args[0].dim():
        gone = tuple(sorted(dims))
        layers = [Layer(y.axis - sum(d < y.axis for d in gone), y.labels.squeeze(gone)) for y in layers]
    return Info(tuple(layers), info.leaf, info.why if not spent else call.reason("a value over all channels"))


def reduce(call: Call) -> Info | list[Info]:
    """sum, mean, amax, var, norms …: `dim` may be missing (all dims)."""
    position = 2 if "norm" in call.name else 1
    dims = call.arg(position, "dim")
    if isinstance(dims, (bool, float)):
        dims = None
    info = _reduced(call, _dims(dims, call.args[0].dim()), over_channels=True)
    return info if isinstance(call.out, Tensor) else [info] * len(call.out)


def pick(call: Call) -> Info | list[Info]:
    """argmax, max with indices, median, all, prod …: over channels they would answer something else."""
    dims = call.arg(1, "dim") if len(call.func._schema.arguments) > 1 else None
    if isinstance(dims, bool):
        dims = None
    over = call.name in ("aten.max", "aten.min") and isinstance(call.out, Tensor)
    info = _reduced(call, _dims(dims, call.args[0].dim()), over_channels=over)
    return info if isinstance(call.out, Tensor) else [info] * len(call.out)


def softmax(call: Call) -> Info:
    """Over channels: among those that stay."""
    source, info = call.args[0], call.info(call.args[0])
    dim = call.arg(1, "dim") % max(source.dim(), 1)
    return Info(tuple(call.mix(y, [dim]) for y in info.layers), info.leaf, info.why)


def order(call: Call) -> list[Info]:
    """sort, topk, cumprod …: not over channels."""
    source, info = call.args[0], call.info(call.args[0])
    position = {"aten.topk": 2, "aten.kthvalue": 2}.get(call.name, 1)
    dim = call.arg(position, "dim", -1)
    dim = (dim if isinstance(dim, int) and not isinstance(dim, bool) else -1) % max(source.dim(), 1)
    found = Info(tuple(call.mixed(info, [dim], "channels are put in order")), info.leaf, info.why)
    return [found] * (1 if isinstance(call.out, Tensor) else len(call.out))


def scan(call: Call) -> Info:
    source, info = call.args[0], call.info(call.args[0])
    dim = call.arg(1, "dim") % max(source.dim(), 1)
    return Info(tuple(call.mix(y, [dim]) for y in info.layers), info.leaf, info.why)


def transform(call: Call) -> Info:
    """Fourier transforms: their dims are places."""
    source, info = call.args[0], call.info(call.args[0])
    dims = [d % source.dim() for d in call.arg(1, "dim")]
    return Info(tuple(call.mixed(info, dims, "a Fourier transform over channels")), info.leaf, info.why)


def triangle(call: Call) -> Info:
    """tril, triu: the two last dims are places, not channels."""
    rank, info = call.args[0].dim(), call.info(call.args[0])
    return Info(tuple(call.mixed(info, [rank - 2, rank - 1], "a triangle of channels")), info.leaf, info.why)


_REDUCE = (
    "sum", "mean", "amax", "amin", "var", "std", "var_mean", "std_mean", "logsumexp", "linalg_vector_norm", "norm",
    "nansum", "aminmax",
)  # fmt: skip
_PICK = ("max", "min", "argmax", "argmin", "median", "nanmedian", "mode", "prod", "all", "any", "count_nonzero")

RULES = {
    **{f"aten.{name}": reduce for name in _REDUCE},
    **{f"aten.{name}": pick for name in _PICK},
    **dict.fromkeys(("aten._softmax", "aten._log_softmax", "aten._safe_softmax"), softmax),
    **dict.fromkeys(("aten.sort", "aten.topk", "aten.kthvalue", "aten.argsort", "aten.cumprod", "aten.cummax"), order),
    "aten.cumsum": scan,
    **dict.fromkeys(("aten._fft_r2c", "aten._fft_c2c", "aten._fft_c2r"), transform),
    **dict.fromkeys(("aten.tril", "aten.triu"), triangle),
}
