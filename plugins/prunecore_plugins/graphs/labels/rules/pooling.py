"""Pooling, resampling and padding of positions: channels are carried on, positions are mixed."""

from __future__ import annotations

from torch import Tensor

from prunecore_plugins.graphs.labels.call import Call
from prunecore_plugins.graphs.labels.layers import Info


def spatial(places: int, *, others: tuple[int, ...] = ()):  # type: ignore[no-untyped-def]
    """A rule for operations over the last `places` dims. others: positions of further tensor arguments (a grid)."""

    def rule(call: Call) -> Info | list[Info]:
        source, info = call.args[0], call.info(call.args[0])
        dims = range(source.dim() - places, source.dim())
        found = Info(tuple(call.mixed(info, dims, "positions are resampled")), info.leaf, info.why)
        for position in others:
            extra = call.info(call.args[position])
            call.drop(extra.layers, "positions computed from channels")
            found = Info(found.layers, found.leaf and extra.leaf, found.why)
        return found if isinstance(call.out, Tensor) else [found] * len(call.out)

    return rule


def roi(call: Call) -> Info:
    """`roi_align(input, boxes, …)`: boxes for the batch, places resampled."""
    info, boxes = call.info(call.args[0]), call.info(call.args[1])
    call.drop(boxes.layers, "positions computed from channels")
    layers = call.mixed(info, [0, 2, 3], "positions are resampled")
    return Info(tuple(layers), leaf=False, why=info.why)


_ONE = (
    "avg_pool1d", "adaptive_avg_pool1d", "_adaptive_avg_pool1d", "adaptive_max_pool1d", "max_pool1d_with_indices",
    "reflection_pad1d", "replication_pad1d", "upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_linear1d",
)  # fmt: skip
_TWO = (
    "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool2d_with_indices",
    "max_pool2d", "fractional_max_pool2d", "reflection_pad2d", "replication_pad2d", "upsample_nearest2d",
    "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "mkldnn_max_pool2d",
)  # fmt: skip
_THREE = (
    "avg_pool3d", "adaptive_avg_pool3d", "_adaptive_avg_pool3d", "adaptive_max_pool3d", "max_pool3d_with_indices",
    "reflection_pad3d", "replication_pad3d", "upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_trilinear3d",
)  # fmt: skip

RULES = {
    **{f"aten.{name}": spatial(1) for name in _ONE},
    **{f"aten.{name}": spatial(2) for name in _TWO},
    **{f"aten.{name}": spatial(3) for name in _THREE},
    "torchvision.roi_align": roi,
    "torchvision.roi_pool": roi,
    "aten.grid_sampler_2d": spatial(2, others=(1,)),
    "aten.grid_sampler_3d": spatial(3, others=(1,)),
    "aten.max_unpool2d": spatial(2, others=(1,)),
}
