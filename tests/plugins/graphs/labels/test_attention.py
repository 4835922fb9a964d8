"""Attention in its many spellings, and other code that splits channels: what is tied, linked, cut or left whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecore.surgery import resize
from prunecore.types import DependencyGraph, ExampleInputs, Proposal
from tests.plugins.graphs.labels.cases import Cut, cut, free, frozen, image, trace

# Two heads of width four, half of each kept; eight embedding channels, half of them kept.
EMBED, QUERY, VALUE = [0, 2, 5, 7], [0, 1, 6, 7], [1, 2, 4, 7]
FUSED = [0, 1, 6, 7, 8, 9, 14, 15, 17, 18, 20, 23]  # QUERY, QUERY + 8, VALUE + 16
HALF = (4 / 2) ** -0.5  # what the query takes on where 1 / sqrt(4) becomes 1 / sqrt(2)


def tokens(width: int = 5, length: int = 6) -> ExampleInputs:
    return ExampleInputs((torch.randn(1, length, width),))


def linked(graph: DependencyGraph) -> list[set[str]]:
    """The groups that keep equal counts."""
    found: list[set[str]] = []
    for link in graph.links:
        assert set(link.ratios) == {1}
        joined = set(link.groups).union(*(f for f in found if f & set(link.groups)))
        found = [f for f in found if not f & joined] + [joined]
    return found


def rescaled(net: nn.Module, inputs: ExampleInputs, kept: Mapping[str, list[int]]) -> dict[str, tuple[Any, float]]:
    """The recipe's value edits: positions and factor of each tensor."""
    _, recipe = resize(net, trace(net, inputs), Proposal({name: np.array(index) for name, index in kept.items()}))
    assert all(edit.dim == 0 for edit in recipe.values)
    assert len({edit.tensor for edit in recipe.values}) == len(recipe.values)
    return {edit.tensor: (edit.index, edit.factor) for edit in recipe.values}


def halved(*tensors: str) -> dict[str, tuple[Any, Any]]:
    """The value edits that scale the four rows of the query that stay."""
    return {tensor: ((0, 1, 2, 3), pytest.approx(HALF)) for tensor in tensors}


def touched(found: Cut) -> set[str]:
    return {tensor for tensor, _ in found.kept}


# ---------------------------------------------------------------- a vision transformer


class Attention(nn.Module):
    """Fused qkv; all numbers but the head count are read off the input, the scale too where none is given."""

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.heads, self.scale = 2, scale
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        B, N, C = x.shape  # noqa: N806
        head_dim = C // self.heads
        scale = head_dim**-0.5 if self.scale is None else self.scale
        q, k, v = self.split(self.qkv(x), B, N, C).permute(2, 0, 3, 1, 4)
        weights = ((q * scale) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, N, C))

    def split(self, qkv: Tensor, batch: int, length: int, width: int) -> Tensor:
        return qkv.reshape(batch, length, 3, self.heads, width // self.heads)


class Literal(Attention):
    def split(self, qkv: Tensor, batch: int, length: int, width: int) -> Tensor:
        return qkv.reshape(batch, length, 3, 2, 4)


class ViT(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(8), attention, nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.attn(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


def test_a_vision_transformer_loses_embedding_and_attention_width_together() -> None:
    net, kept = ViT(Attention(0.5)), {"patch": EMBED, "attn.qkv": QUERY, "attn.qkv#2": VALUE, "up": [3, 9, 15]}
    found = cut(net, image(), kept)
    assert free(found.graph) == {"patch": 8, "attn.qkv": 8, "attn.qkv#2": 8, "up": 16}
    assert linked(found.graph) == [{"patch", "attn.qkv", "attn.qkv#2"}]
    for place in [("patch.weight", 0), ("token", 2), ("position", 2), ("norm1.weight", 0), ("attn.qkv.weight", 1),
                  ("attn.proj.weight", 0), ("attn.proj.bias", 0), ("norm2.bias", 0), ("up.weight", 1),
                  ("down.weight", 0), ("norm.weight", 0), ("head.weight", 1)]:  # fmt: skip
        assert found.kept[place] == EMBED
    assert found.kept["attn.qkv.weight", 0] == found.kept["attn.qkv.bias", 0] == FUSED
    assert found.kept["attn.proj.weight", 1] == VALUE
    assert found.kept["up.weight", 0] == found.kept["down.weight", 1] == [3, 9, 15]
    assert ("position", 1) not in found.kept
    assert found.attributes == {
        ("patch", "out_channels"): 4, ("norm1", "normalized_shape"): (4,), ("norm2", "normalized_shape"): (4,),
        ("norm", "normalized_shape"): (4,), ("attn.qkv", "in_features"): 4, ("attn.qkv", "out_features"): 12,
        ("attn.proj", "in_features"): 4, ("attn.proj", "out_features"): 4, ("up", "in_features"): 4,
        ("up", "out_features"): 3, ("down", "in_features"): 3, ("down", "out_features"): 4, ("head", "in_features"): 4,
    }  # fmt: skip
    assert rescaled(net, image(), kept) == {}


class Residual(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.stem, self.attn, self.head = nn.Linear(5, 8), attention, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.head(x + self.attn(torch.tanh(x)))


def test_a_scale_read_off_the_embedding_is_made_up_for_by_the_query() -> None:
    net, kept = Residual(Attention(None)), {"stem": EMBED, "attn.qkv": QUERY, "attn.qkv#2": VALUE}
    found = cut(net, tokens(), kept)
    assert linked(found.graph) == [{"stem", "attn.qkv", "attn.qkv#2"}]
    assert found.kept["attn.qkv.weight", 0] == FUSED
    assert (
        found.kept["attn.qkv.weight", 1] == found.kept["attn.proj.weight", 0] == found.kept["head.weight", 1] == EMBED
    )
    assert rescaled(net, tokens(), kept) == halved("attn.qkv.weight", "attn.qkv.bias")


def test_heads_stay_and_each_keeps_as_many_positions() -> None:
    graph = trace(ViT(Attention(0.5)), image())
    for name in ("attn.qkv", "attn.qkv#2"):
        assert [p.part.tolist() for p in graph.group(name).partitions] == [[0, 0, 0, 0, 1, 1, 1, 1]]
    assert graph.group("attn.qkv").members[0].index[[0, 5]].tolist() == [[0, 8], [5, 13]]  # query and key


def test_an_embedding_written_into_a_reshape_stays_and_the_mlp_is_cut() -> None:
    found = cut(ViT(Literal(0.5)), image(), {"up": [0, 8]})
    assert free(found.graph) == {"up": 16}
    for name, size in (("attn.qkv", 4), ("attn.qkv#2", 4), ("patch", 8)):
        assert frozen(found.graph)[name].startswith(f"the code gives the size {size} ")
        assert "in attn)" in frozen(found.graph)[name]
    assert found.kept == {("up.weight", 0): [0, 8], ("up.bias", 0): [0, 8], ("down.weight", 1): [0, 8]}


# ---------------------------------------------------------------- windows


class Window(nn.Module):
    """Shifted windows with a relative position bias."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size, self.shift, self.scale = 2, 2, 1, 0.5
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.randn(9, 2))
        at = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = (at[:, :, None] - at[:, None]) + 1
        self.register_buffer("index", apart[0] * 3 + apart[1])

    def forward(self, x: Tensor) -> Any:
        b, h, w, c = x.shape
        s, n = self.size, self.size**2
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, n, c)
        q, k, v = self.qkv(x).reshape(-1, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()
        weights = (q * self.scale) @ k.transpose(-2, -1) + bias.unsqueeze(0)
        x = self.proj((weights.softmax(-1) @ v).transpose(1, 2).reshape(-1, n, c))
        x = x.view(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, c)
        return torch.roll(x, (self.shift, self.shift), (1, 2))


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.attn = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8), Window()
        self.merge, self.head = nn.Linear(32, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x + self.attn(self.norm(x))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.head(torch.tanh(self.merge(x)).mean((1, 2)))


def test_shifted_windows_lose_embedding_and_attention_width_together() -> None:
    net, kept = Swin(), {"stem": EMBED, "attn.qkv": QUERY, "attn.qkv#2": VALUE, "merge": [1, 4]}
    found = cut(net, image(), kept)
    assert linked(found.graph) == [{"stem", "attn.qkv", "attn.qkv#2"}]
    assert found.kept["attn.qkv.weight", 1] == found.kept["attn.proj.weight", 0] == found.kept["norm.bias", 0] == EMBED
    assert found.kept["attn.qkv.weight", 0] == FUSED
    assert found.kept["attn.proj.weight", 1] == VALUE
    assert found.kept["merge.weight", 1] == [8 * corner + i for corner in range(4) for i in EMBED]
    assert found.attributes["merge", "in_features"] == 16
    assert rescaled(net, image(), kept) == {}


def test_the_table_of_position_biases_and_the_head_count_stay() -> None:
    found = cut(Swin(), image(), {"stem": EMBED, "attn.qkv": QUERY, "attn.qkv#2": VALUE})
    assert not touched(found) & {"attn.table", "attn.index"}
    assert not {attribute for module, attribute in found.attributes if module == "attn"}
    assert {m.tensor for g in found.graph.groups if g.frozen for m in g.members} >= {"attn.table", "attn.index"}


# ---------------------------------------------------------------- heads that share keys


class Grouped(nn.Module):
    """Four query heads over two of key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.shared, self.width = 4, 2, 4
        self.stem, self.o = nn.Linear(5, 8), nn.Linear(16, 3)
        self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        n, length, _ = x.shape
        x = torch.tanh(self.stem(x))
        q = self.q(x).view(n, length, self.heads, self.width).transpose(1, 2)
        k = self.k(x).view(n, length, self.shared, self.width).transpose(1, 2)
        v = self.v(x).view(n, length, self.shared, self.width).transpose(1, 2)
        return self.o(self.attend(q, k, v).transpose(1, 2).reshape(n, length, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        times = self.heads // self.shared
        return F.scaled_dot_product_attention(q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1))


class Expanded(Grouped):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, shared, length, width = k.shape
        shape = n, shared, self.heads // shared, length, width
        k, v = (t[:, :, None].expand(shape).reshape(n, -1, length, width) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class Fused(Grouped):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


@pytest.mark.parametrize("kind", [Grouped, Expanded, Fused])
def test_grouped_queries_lose_the_positions_of_their_key(kind: type[Grouped]) -> None:
    net, kept = kind(), {"stem": [0, 6], "q": QUERY, "v": VALUE}
    found = cut(net, tokens(), kept)
    assert free(found.graph) == {"stem": 8, "q": 8, "v": 8}
    assert linked(found.graph) == [{"q", "v"}]
    assert found.kept["k.weight", 0] == found.kept["k.bias", 0] == QUERY
    assert found.kept["q.weight", 0] == found.kept["q.bias", 0] == [0, 1, 4, 5, 10, 11, 14, 15]
    assert found.kept["v.weight", 0] == VALUE
    assert found.kept["o.weight", 1] == [1, 2, 5, 6, 8, 11, 12, 15]
    for layer in ("q", "k", "v"):
        assert found.kept[f"{layer}.weight", 1] == [0, 6]
    assert found.attributes["", "width"] == 2
    assert not found.attributes.keys() & {("", "heads"), ("", "shared")}
    edits = rescaled(net, tokens(), kept)
    assert {name: index for name, (index, _) in edits.items()} == dict.fromkeys(("q.weight", "q.bias"), tuple(range(8)))
    assert [factor for _, factor in edits.values()] == pytest.approx([HALF, HALF])


def test_the_cut_of_grouped_queries_computes_what_zeroed_rows_compute() -> None:
    net, inputs = Grouped().double(), ExampleInputs((torch.randn(1, 6, 5).double(),))
    small = cut(net, inputs, {"q": QUERY, "v": VALUE}).model
    with torch.no_grad():
        for layer, gone in ((net.q, [2, 3, 6, 7, 8, 9, 12, 13]), (net.k, [2, 3, 4, 5]), (net.v, [0, 3, 5, 6])):
            layer.weight[gone] = 0
            layer.bias[gone] = 0
        torch.testing.assert_close(small(*inputs.args), net(*inputs.args))


# ---------------------------------------------------------------- attention over channels, rows and columns


class AcrossChannels(nn.Module):
    """As in XCiT: tokens are summed over, and channels attend to channels."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.temperature = nn.Parameter(torch.rand(2, 1, 1) + 0.5)
        self.stem, self.qkv, self.proj, self.head = nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.stem(x))
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 4, 1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.head(x + self.proj((weights @ v).permute(0, 3, 1, 2).reshape(n, length, width)))


def test_attention_over_channels_ties_key_to_value_and_query_to_output() -> None:
    net, kept = AcrossChannels(), {"stem": EMBED, "qkv": QUERY, "qkv#2": VALUE}
    found = cut(net, tokens(), kept)
    assert linked(found.graph) == [{"stem", "qkv", "qkv#2"}]
    assert found.kept["qkv.weight", 0] == [0, 1, 6, 7, 9, 10, 12, 15, 17, 18, 20, 23]
    assert found.kept["proj.weight", 1] == QUERY
    assert found.kept["qkv.weight", 1] == found.kept["proj.weight", 0] == found.kept["head.weight", 1] == EMBED
    assert "temperature" not in touched(found)
    assert rescaled(net, tokens(), kept) == {}


class Axial(nn.Module):
    """Along the height, then along the width, by one function."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 2, 4
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.rows, self.rows_out, self.cols, self.cols_out = (nn.Linear(8, n) for n in (24, 8, 24, 8))

    def along(self, x: Tensor, qkv: nn.Module, out: nn.Module) -> Any:
        n, length, _ = x.shape
        q, k, v = qkv(x).view(n, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1))

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.stem(x))
        n, c, h, w = x.shape
        y = x.permute(0, 3, 2, 1).reshape(n * w, h, c)
        x = x + self.along(y, self.rows, self.rows_out).view(n, w, h, c).permute(0, 3, 2, 1)
        y = x.permute(0, 2, 3, 1).reshape(n * h, w, c)
        return self.head(x + self.along(y, self.cols, self.cols_out).view(n, h, w, c).permute(0, 3, 1, 2))


def test_axial_attention_links_the_heads_of_both_axes_by_their_one_number() -> None:
    kept = {"stem": [3], "rows": QUERY, "rows#2": VALUE, "cols": VALUE, "cols#2": QUERY}
    net = Axial()
    found = cut(net, image(size=4), kept)
    assert free(found.graph) == {"stem": 8, "rows": 8, "rows#2": 8, "cols": 8, "cols#2": 8}
    assert linked(found.graph) == [{"rows", "rows#2", "cols", "cols#2"}]
    assert found.kept["rows.weight", 0] == FUSED
    assert found.kept["cols.weight", 0] == [1, 2, 4, 7, 9, 10, 12, 15, 16, 17, 22, 23]
    assert found.kept["rows_out.weight", 1] == VALUE
    assert found.kept["cols_out.weight", 1] == QUERY
    for place in [("rows.weight", 1), ("cols.weight", 1), ("rows_out.bias", 0), ("cols_out.weight", 0)]:
        assert found.kept[place] == [3]
    assert found.attributes["", "head_dim"] == 2
    edits = rescaled(net, image(size=4), kept)
    assert edits == halved("rows.weight", "rows.bias", "cols.weight", "cols.bias")


class Linearised(AcrossChannels):
    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 4
        del self.temperature

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.stem(x))
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        z = q @ (k.transpose(-2, -1) @ v)
        z = z / (q @ k.sum(-2, keepdim=True).transpose(-2, -1) + 1e-6)
        return self.head(x + self.proj(z.transpose(1, 2).reshape(n, length, -1)))


def test_linear_attention_is_cut_though_its_feature_map_makes_ones_of_zeros() -> None:
    net, kept = Linearised(), {"stem": [4], "qkv": QUERY, "qkv#2": VALUE}
    found = cut(net, tokens(), kept)
    assert free(found.graph) == {"stem": 8, "qkv": 8, "qkv#2": 8}
    assert linked(found.graph) == [{"qkv", "qkv#2"}]
    assert found.kept["qkv.weight", 0] == FUSED
    assert found.kept["proj.weight", 1] == VALUE
    assert found.attributes["", "head_dim"] == 2
    assert rescaled(net, tokens(), kept) == {}


# ---------------------------------------------------------------- pieces of a convolution


class Res2Net(nn.Module):
    def __init__(self, sizes: list[int] | None) -> None:
        super().__init__()
        self.width, self.sizes = 4, sizes
        self.stem, self.one, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)
        self.two, self.three = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.out, self.head = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.stem(x))
        a, b, c = torch.split(self.norm(self.one(x)), self.width if self.sizes is None else self.sizes, 1)
        b = torch.tanh(self.two(b))
        c = torch.tanh(self.three(c + b))
        return self.head(x + self.out(torch.cat([a, b, c], 1)))


def test_the_pieces_of_a_res2net_block_lose_equally_many() -> None:
    found = cut(Res2Net(None), image(), {"one": [0, 3], "one#2": [1, 2], "one#3": [0, 1], "three": [3]})
    assert free(found.graph) == {"stem": 8, "one": 4, "one#2": 4, "one#3": 4, "three": 4}
    assert linked(found.graph) == [{"one", "one#2", "one#3"}]
    assert found.kept["one.weight", 0] == found.kept["norm.running_var", 0] == [0, 3, 5, 6, 8, 9]
    assert found.kept["two.weight", 1] == [1, 2]
    assert found.kept["two.weight", 0] == found.kept["three.weight", 1] == [0, 1]  # added to the third piece
    assert found.kept["out.weight", 1] == [0, 3, 4, 5, 11]
    assert found.attributes["", "width"] == 2


def test_the_sizes_of_pieces_follow_each_for_itself() -> None:
    found = cut(Res2Net([4, 4, 4]), image(), {"one": [2], "one#3": [0, 1, 3]})
    assert found.graph.links == ()
    assert found.kept["one.weight", 0] == [2, 4, 5, 6, 7, 8, 9, 11]
    assert found.kept["out.weight", 1] == [2, 4, 5, 7, 8, 9, 10, 11]
    assert found.attributes["", "sizes"] == (1, 4, 3)
    assert ("", "width") not in found.attributes


class C2f(nn.Module):
    """Halves of a convolution, bottlenecks upon the last, all of them joined."""

    def __init__(self, halves: Callable[[C2f, Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.c, self.halves = 4, halves
        self.stem, self.cv1, self.cv2 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 6, 1)
        self.m = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.SiLU(), nn.Conv2d(5, 4, 3, padding=1)) for _ in range(2)
        )
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Any:
        y = list(self.halves(self, torch.tanh(self.cv1(torch.tanh(self.stem(x))))))
        for m in self.m:
            y.append(y[-1] + m(y[-1]))
        return self.head(torch.tanh(self.cv2(torch.cat(y, 1))))


def by_chunk(_: C2f, x: Tensor) -> tuple[Tensor, ...]:
    return x.chunk(2, 1)


def by_sizes(net: C2f, x: Tensor) -> tuple[Tensor, ...]:
    return torch.split_with_sizes(x, (net.c, net.c), 1)


@pytest.mark.parametrize("halves", [by_chunk, by_sizes])
def test_a_c2f_block_ties_its_bottlenecks_to_the_second_half(
    halves: Callable[[C2f, Tensor], tuple[Tensor, ...]],
) -> None:
    found = cut(C2f(halves), image(), {"stem": [7], "cv1": [0, 3], "cv1#2": [1, 2], "m.0.0": [4], "cv2": [0, 5]})
    assert free(found.graph) == {"stem": 8, "cv1": 4, "cv1#2": 4, "cv2": 6, "m.0.0": 5, "m.1.0": 5}
    assert linked(found.graph) == [{"cv1", "cv1#2"}]
    assert found.kept["cv1.weight", 0] == [0, 3, 5, 6]
    for place in [("m.0.0.weight", 1), ("m.0.2.weight", 0), ("m.1.0.weight", 1), ("m.1.2.bias", 0)]:
        assert found.kept[place] == [1, 2]
    assert found.kept["m.0.2.weight", 1] == [4]
    assert found.kept["cv2.weight", 1] == [0, 3, 5, 6, 9, 10, 13, 14]
    assert found.kept["cv2.weight", 0] == [0, 5]
    assert found.attributes.get(("", "c")) == (2 if halves is by_sizes else None)


class CSP(nn.Module):
    def __init__(self, halves: Callable[[Any, Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.c, self.halves = 4, halves
        self.stem, self.cv1, self.cv2 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(7, 6, 1)
        self.m, self.head = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Any:
        a, b = self.halves(self, self.cv1(torch.tanh(self.stem(x))))
        return self.head(torch.tanh(self.cv2(torch.cat((self.m(b), a), 1))))


@pytest.mark.parametrize("halves", [by_chunk, by_sizes])
def test_a_cross_stage_block_joins_what_is_left_of_its_halves(
    halves: Callable[[Any, Tensor], tuple[Tensor, ...]],
) -> None:
    found = cut(CSP(halves), image(), {"cv1": [0, 3], "cv1#2": [2, 3], "m": [1]})
    assert linked(found.graph) == [{"cv1", "cv1#2"}]
    assert found.kept["cv1.weight", 0] == [0, 3, 6, 7]
    assert found.kept["m.weight", 1] == [2, 3]
    assert found.kept["cv2.weight", 1] == [1, 3, 6]


# ---------------------------------------------------------------- language models


class Language(nn.Module):
    """Causal, its vocabulary read and written by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.embed, self.position = nn.Embedding(11, 8), nn.Embedding(7, 8)
        self.norm1, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm2, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Any:
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1]))
        n, length, width = x.shape
        pieces = self.qkv(self.norm1(x)).split(width, 2)
        q, k, v = (t.view(n, length, self.heads, width // self.heads).transpose(1, 2) for t in pieces)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(z.transpose(1, 2).reshape(n, length, width))
        return self.head(self.norm(x + self.down(F.gelu(self.up(self.norm2(x))))))


def test_tied_embeddings_are_cut_once_and_stay_tied() -> None:
    net, inputs = Language(), ExampleInputs((torch.randint(0, 11, (1, 7)),))
    kept = {"embed#2": EMBED, "qkv": QUERY, "qkv#2": VALUE, "up": [0, 1]}
    found = cut(net, inputs, kept)
    assert free(found.graph) == {"embed#2": 8, "qkv": 8, "qkv#2": 8, "up": 16}
    assert linked(found.graph) == [{"embed#2", "qkv", "qkv#2"}]
    assert found.kept["embed.weight", 1] == found.kept["position.weight", 1] == found.kept["norm.weight", 0] == EMBED
    assert "head.weight" not in touched(found)
    assert found.kept["qkv.weight", 0] == FUSED
    small: Any = found.model
    assert small.head.weight is small.embed.weight
    assert small.embed.weight.shape == (11, 4)
    assert found.attributes["embed", "embedding_dim"] == found.attributes["head", "in_features"] == 4
    assert rescaled(net, inputs, kept) == halved("qkv.weight", "qkv.bias")


def test_vocabulary_and_places_stay() -> None:
    reasons = frozen(trace(Language(), ExampleInputs((torch.randint(0, 11, (1, 7)),))))
    assert reasons == {
        "embed": "rows of an embedding (aten.embedding in embed)",
        "position": "rows of an embedding (aten.embedding in position)",
    }


# ---------------------------------------------------------------- einsum


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 2, 4
        self.stem, self.o = nn.Linear(5, 6), nn.Linear(8, 3)
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_dim)

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.stem(x))
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
        return self.o(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))


class Unflattened(Einsum):
    def split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1))


class EinsumLiteral(Einsum):
    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], 2, 4)


def test_einsum_ties_query_to_key_and_value_to_output() -> None:
    found = cut(Einsum(), tokens(), {"stem": [5], "q": QUERY, "v": VALUE})
    assert free(found.graph) == {"stem": 6, "q": 8, "v": 8}
    assert linked(found.graph) == [{"q", "v"}]
    assert found.kept["q.weight", 0] == found.kept["k.weight", 0] == found.kept["k.bias", 0] == QUERY
    assert found.kept["v.weight", 0] == found.kept["o.weight", 1] == VALUE
    assert found.attributes["", "head_dim"] == 2


def test_without_a_number_for_the_width_of_a_head_query_and_value_are_free_of_each_other() -> None:
    found = cut(Unflattened(), tokens(), {"q": [0, 3, 4, 6], "v": [0, 1, 2, 5, 6, 7]})
    assert found.graph.links == ()
    assert found.kept["k.weight", 0] == [0, 3, 4, 6]
    assert found.kept["o.weight", 1] == [0, 1, 2, 5, 6, 7]


def test_einsum_after_literal_sizes_is_frozen_with_the_size() -> None:
    found = cut(EinsumLiteral(), tokens(), {"stem": [0, 3]})
    reason = "the code gives the size 4 (aten.view in the network itself): the code keeps 4 of them"
    assert frozen(found.graph)["q"] == frozen(found.graph)["v"] == reason
    assert found.kept["q.weight", 1] == found.kept["v.weight", 1] == [0, 3]


# ---------------------------------------------------------------- torch's own layers


class SelfAttention(nn.Module):
    """`options` of the layer, and what a call gives it."""

    def __init__(self, weights: bool = False, mask: str = "", **options: bool) -> None:
        super().__init__()
        self.weights, self.mask = weights, mask
        self.stem, self.attn, self.head = nn.Linear(5, 8), nn.MultiheadAttention(8, 2, **options), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.stem(x))
        x = x if self.attn.batch_first else x.transpose(0, 1)
        n = x.shape[1 if self.attn.batch_first else 0]
        causal = torch.ones(n, n, dtype=torch.bool).triu(1) if self.mask == "bool" else None
        if self.mask == "float":
            causal = torch.full((n, n), -math.inf).triu(1)
        padded = torch.arange(n)[None] >= n - 2 if self.mask == "padding" else None
        y, weights = self.attn(x, x, x, need_weights=self.weights, attn_mask=causal, key_padding_mask=padded)
        if self.weights:
            y = y * (1 + weights.amax())
        return self.head(torch.tanh(y if self.attn.batch_first else y.transpose(0, 1)))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("mask", ["", "bool", "float", "padding"])
def test_multi_head_attention_loses_positions_of_its_heads(batch_first: bool, weights: bool, mask: str) -> None:
    net = SelfAttention(weights, mask, batch_first=batch_first)
    kept = {"stem": EMBED, "attn": QUERY, "attn#2": VALUE, "attn.out_proj": [2, 3, 6]}
    found = cut(net, tokens(), kept)
    assert free(found.graph) == {"stem": 8, "attn": 8, "attn#2": 8, "attn.out_proj": 8}
    assert linked(found.graph) == [{"stem", "attn", "attn#2"}]
    assert found.kept == {
        ("stem.weight", 0): EMBED, ("stem.bias", 0): EMBED,
        ("attn.in_proj_weight", 0): FUSED, ("attn.in_proj_weight", 1): EMBED, ("attn.in_proj_bias", 0): FUSED,
        ("attn.out_proj.weight", 0): [2, 3, 6], ("attn.out_proj.weight", 1): VALUE,
        ("attn.out_proj.bias", 0): [2, 3, 6], ("head.weight", 1): [2, 3, 6],
    }  # fmt: skip
    small: Any = found.model
    assert (small.attn.embed_dim, small.attn.head_dim, small.attn.num_heads) == (4, 2, 2)
    assert (small.attn.kdim, small.attn.vdim) == (4, 4)
    assert rescaled(net, tokens(), kept) == halved("attn.in_proj_weight", "attn.in_proj_bias")


def test_multi_head_attention_without_bias_or_with_one_more_key() -> None:
    kept = {"stem": EMBED, "attn": QUERY, "attn#2": VALUE}
    net = SelfAttention(batch_first=True, bias=False)
    assert cut(net, tokens(), kept).kept["attn.in_proj_weight", 0] == FUSED
    assert rescaled(net, tokens(), kept) == halved("attn.in_proj_weight")
    found = cut(SelfAttention(batch_first=True, add_bias_kv=True), tokens(), kept)
    assert found.kept["attn.bias_k", 2] == QUERY
    assert found.kept["attn.bias_v", 2] == VALUE


class CrossAttention(nn.Module):
    """Another width on the side of key and value, or two."""

    def __init__(self, kdim: int, vdim: int, weights: bool) -> None:
        super().__init__()
        self.weights = weights
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(5, kdim), nn.Linear(5, vdim)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True, kdim=kdim, vdim=vdim)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, memory: Tensor) -> Any:
        key = torch.tanh(self.b(memory))
        value = torch.tanh(self.c(memory)) if self.attn.kdim != self.attn.vdim else key + self.c(memory)
        return self.head(self.attn(torch.tanh(self.a(x)), key, value, need_weights=self.weights)[0])


@pytest.mark.parametrize("weights", [False, True])
def test_cross_attention_with_widths_of_its_own_for_key_and_value(weights: bool) -> None:
    inputs = ExampleInputs((torch.randn(1, 6, 5), torch.randn(1, 4, 5)))
    net, kept = CrossAttention(6, 7, weights), {"a": EMBED, "b": [1, 5], "c": [6], "attn": QUERY, "attn#2": VALUE}
    found = cut(net, inputs, kept)
    assert free(found.graph) == {"a": 8, "b": 6, "c": 7, "attn": 8, "attn#2": 8, "attn.out_proj": 8}
    assert linked(found.graph) == [{"a", "attn", "attn#2"}]
    assert [found.kept[f"attn.{n}_proj_weight", 0] for n in "qkv"] == [QUERY, QUERY, VALUE]
    assert [found.kept[f"attn.{n}_proj_weight", 1] for n in "qkv"] == [EMBED, [1, 5], [6]]
    assert found.kept["attn.in_proj_bias", 0] == FUSED
    small: Any = found.model
    assert (small.attn.embed_dim, small.attn.head_dim, small.attn.kdim, small.attn.vdim) == (4, 2, 2, 1)
    assert rescaled(net, inputs, kept) == halved("attn.q_proj_weight", "attn.in_proj_bias")


@pytest.mark.parametrize("weights", [False, True])
def test_cross_attention_with_one_other_width(weights: bool) -> None:
    inputs = ExampleInputs((torch.randn(1, 6, 5), torch.randn(1, 4, 5)))
    found = cut(CrossAttention(6, 6, weights), inputs, {"b": [0, 4]})
    assert found.kept["attn.k_proj_weight", 1] == found.kept["attn.v_proj_weight", 1] == [0, 4]
    assert (found.attributes["attn", "kdim"], found.attributes["attn", "vdim"]) == (2, 2)
    assert ("attn", "embed_dim") not in found.attributes


class Encoder(nn.Module):
    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layer(self.stem(x)))


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_layer_is_cut_and_its_fast_path_agrees(norm_first: bool) -> None:
    net, kept = Encoder(norm_first), {"layer.self_attn": QUERY, "layer.self_attn#2": VALUE}
    found = cut(net, tokens(), {"stem": EMBED, "layer.linear1": [0, 9, 15], **kept})
    assert linked(found.graph) == [{"stem", "layer.self_attn", "layer.self_attn#2"}]
    assert found.kept["layer.self_attn.in_proj_weight", 0] == FUSED
    for place in [("layer.self_attn.in_proj_weight", 1), ("layer.self_attn.out_proj.weight", 0), ("head.weight", 1),
                  ("layer.norm1.weight", 0), ("layer.norm2.bias", 0), ("layer.linear1.weight", 1)]:  # fmt: skip
        assert found.kept[place] == EMBED
    assert found.kept["layer.linear2.weight", 1] == [0, 9, 15]
    small, (x,) = found.model.eval(), tokens().args
    slow = small(x)
    with torch.no_grad():
        torch.testing.assert_close(small(x), slow)


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)
        self.body = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1])
        return self.head(self.body(self.a(x), self.b(y), tgt_mask=mask))


def test_a_whole_transformer_shares_one_embedding_and_keeps_its_layers_apart() -> None:
    net, inputs = Seq2Seq(), ExampleInputs((torch.randn(1, 6, 5), torch.randn(1, 4, 5)))
    encoder, decoder = "body.encoder.layers.0", "body.decoder.layers.0"
    attentions = [f"{encoder}.self_attn", f"{decoder}.self_attn", f"{decoder}.multihead_attn"]
    kept = {"a": EMBED, f"{encoder}.linear1": [0, 3], f"{decoder}.linear1": [4]}
    kept |= dict.fromkeys(attentions, QUERY) | {f"{name}#2": VALUE for name in attentions}
    found = cut(net, inputs, kept)
    assert linked(found.graph) == [{"a", *attentions, *(f"{name}#2" for name in attentions)}]
    for name in attentions:
        assert found.kept[f"{name}.in_proj_weight", 0] == FUSED
        assert found.kept[f"{name}.in_proj_weight", 1] == found.kept[f"{name}.out_proj.weight", 0] == EMBED
        assert found.kept[f"{name}.out_proj.weight", 1] == VALUE
        assert (found.attributes[name, "embed_dim"], found.attributes[name, "head_dim"]) == (4, 2)
    assert found.kept["b.weight", 0] == found.kept[f"{decoder}.norm3.weight", 0] == EMBED
    assert found.kept[f"{encoder}.linear2.weight", 1] == [0, 3]
    assert found.kept[f"{decoder}.linear2.weight", 1] == [4]
    assert found.attributes["body", "d_model"] == 4
    queries = [f"{name}.in_proj_{kind}" for name in attentions for kind in ("weight", "bias")]
    assert rescaled(net, inputs, kept) == halved(*queries)


# ---------------------------------------------------------------- scales


class Scaled(nn.Module):
    """The query is scaled by hand, as `how` says."""

    def __init__(self, how: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.heads, self.head_dim, self.how = 2, 4, how
        self.scale = self.head_dim**-0.5
        self.stem, self.qkv, self.head = nn.Linear(5, 6), nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        n, length, _ = x.shape
        qkv = self.qkv(torch.tanh(self.stem(x)))
        q, k, v = qkv.view(n, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        weights = (self.how(self, q) @ k.transpose(-2, -1)).softmax(-1)
        return self.head((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "how",
    [
        lambda net, q: q * (1 / math.sqrt(net.head_dim)),
        lambda net, q: q / math.sqrt(net.head_dim),
        lambda net, q: q / (net.head_dim**0.5),
        lambda net, q: q / (q.shape[-1] ** 0.5),
        lambda net, q: q * q.size(-1) ** -0.5,
    ],
)
def test_where_the_code_scales_by_the_width_of_a_head_the_query_makes_up_for_it(
    how: Callable[[Any, Tensor], Tensor],
) -> None:
    net, kept = Scaled(how), {"qkv": QUERY, "qkv#2": VALUE}
    found = cut(net, tokens(), kept)
    assert found.kept["qkv.weight", 0] == FUSED
    assert found.attributes["", "head_dim"] == 2
    assert rescaled(net, tokens(), kept) == halved("qkv.weight", "qkv.bias")


def test_a_scale_that_was_computed_once_stays_what_it_was() -> None:
    net, kept = Scaled(lambda net, q: q * net.scale), {"qkv": QUERY, "qkv#2": VALUE}
    small: Any = cut(net, tokens(), kept).model
    assert (small.scale, small.head_dim) == (0.5, 2)
    assert rescaled(net, tokens(), kept) == {}


class Normed(Scaled):
    """One norm over the width of a head for all heads."""

    def __init__(self) -> None:
        super().__init__(lambda net, q: net.norm(q) * net.scale)
        self.norm = nn.LayerNorm(4)


def test_a_norm_within_heads_ties_the_heads_and_the_value_keeps_twice_as_many() -> None:
    found = cut(Normed(), tokens(), {"qkv": [0, 2], "qkv#2": VALUE})
    assert free(found.graph) == {"stem": 6, "qkv": 4, "qkv#2": 8}
    assert [(link.groups, link.ratios) for link in found.graph.links] == [(("qkv", "qkv#2"), (1, 2))]
    assert found.kept["norm.weight", 0] == [0, 2]
    assert found.kept["qkv.weight", 0] == [0, 2, 4, 6, 8, 10, 12, 14, 17, 18, 20, 23]
    assert found.attributes["norm", "normalized_shape"] == (2,)


# ---------------------------------------------------------------- norms and rotations of language models


class Root(nn.Module):
    """RMSNorm by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


@pytest.mark.parametrize("norm", [Root(), nn.RMSNorm(8)])
def test_a_root_mean_square_norm_follows(norm: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(5, 8), norm, nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    found = cut(net, tokens(), {"0": EMBED, "2": [1, 3]})
    assert free(found.graph) == {"0": 8, "2": 6}
    assert found.kept["1.weight", 0] == found.kept["2.weight", 1] == EMBED
    assert found.kept["2.weight", 0] == [1, 3]


class Rotated(nn.Module):
    """Rotary positions: cos and sin over the width of a head, halves turned."""

    cos: Tensor
    sin: Tensor

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.heads, self.scale = 2, scale
        self.stem, self.qkv, self.head = nn.Linear(5, 6), nn.Linear(6, 24), nn.Linear(8, 3)
        angle = torch.outer(torch.arange(6.0), torch.tensor([1.0, 0.1])).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def rotate(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat((-b, a), -1) * self.sin

    def forward(self, x: Tensor) -> Any:
        n, length, _ = x.shape
        q, k, v = self.qkv(torch.tanh(self.stem(x))).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, scale=self.scale)
        return self.head(z.transpose(1, 2).flatten(2))


def test_rotary_positions_tie_what_is_turned_together_in_all_heads() -> None:
    net = Rotated(0.5)
    found = cut(net, tokens(), {"qkv": [1], "stem": [0, 4]})
    assert found.kept["cos", 1] == found.kept["sin", 1] == [1, 3]
    assert found.kept["qkv.weight", 0][:8] == [1, 3, 5, 7, 9, 11, 13, 15]
    assert found.kept["qkv.weight", 1] == [0, 4]
    assert len(found.kept["qkv.weight", 0]) == 12


def test_a_query_makes_up_for_the_scale_through_its_rotation() -> None:
    net, kept = Rotated(None), {"qkv": [0]}
    found = cut(net, tokens(), kept)
    assert found.kept["cos", 1] == [0, 2]
    assert found.kept["qkv.weight", 0][:8] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert rescaled(net, tokens(), kept) == halved("qkv.weight", "qkv.bias")


# ---------------------------------------------------------------- scales wherever they stand


class Scores(nn.Module):
    """`how(q, k)` are the scores of one head."""

    def __init__(self, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.how = how
        self.q, self.k, self.v, self.o = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.o(self.how(self.q(x), self.k(x)).softmax(-1) @ self.v(x))
        return out


@pytest.mark.parametrize(
    "how",
    [
        lambda q, k: q @ k.transpose(1, 2) * q.shape[-1] ** -0.5,
        lambda q, k: q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]),
        lambda q, k: (q / math.sqrt(q.size(-1))) @ k.transpose(1, 2),
    ],
)
def test_a_scale_of_the_scores_is_made_up_for_by_the_query(how: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = cut(Scores(how), tokens(), {"q": [1, 3]})
    assert found.kept["q.weight", 0] == found.kept["k.weight", 0] == [1, 3]
    assert {(form.tensor, form.power) for form in found.graph.values} == {("q.weight", -0.5), ("q.bias", -0.5)}


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Linear(5, 6), nn.Linear(6, 24)
        self.head, self.aux = nn.Linear(8, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.tanh(self.stem(x))
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        y: Tensor = self.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return (y, self.aux(x)) if self.training else y


def test_a_branch_of_training_does_not_scale_twice() -> None:
    found = cut(Auxiliary().eval(), tokens(), {"qkv": [0, 1, 6, 7], "qkv#2": [1, 2, 4, 7]})
    assert sorted(form.tensor for form in found.graph.values) == ["qkv.bias", "qkv.weight"]


class Positions(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.stem, self.position = nn.Linear(5, 8), nn.Parameter(torch.randn(shape))
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x) + self.position
        out: Tensor = self.head(self.attention(y, y, y)[0])
        return out


@pytest.mark.parametrize("shape", [(6, 8), (1, 6, 8)])
def test_a_position_parameter_is_cut_with_the_embedding_of_an_attention(shape: tuple[int, ...]) -> None:
    kept = {"stem": [0, 2, 3, 7], "attention": [1, 2, 5, 6], "attention#2": [0, 3, 4, 5]}
    found = cut(Positions(*shape), tokens(), kept)
    assert found.kept["position", len(shape) - 1] == [0, 2, 3, 7]
    assert found.attributes["attention", "head_dim"] == 2


# ---------------------------------------------------------------- whole heads


class Heads(nn.Module):
    """The width of a head is a number in the code, the number of heads an attribute."""

    def __init__(self, heads: int, key_heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.key_heads, self.fused = heads, key_heads, fused
        self.q, self.k, self.v = nn.Linear(8, 4 * heads), nn.Linear(8, 4 * key_heads), nn.Linear(8, 4 * key_heads)
        self.o = nn.Linear(4 * heads, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, 4).transpose(1, 2)
        k = self.k(x).view(b, n, self.key_heads, 4).transpose(1, 2)
        v = self.v(x).view(b, n, self.key_heads, 4).transpose(1, 2)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.heads != self.key_heads)
        else:
            k, v = (t.repeat_interleave(self.heads // self.key_heads, 1) for t in (k, v))
            y = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        out: Tensor = self.o(y.transpose(1, 2).flatten(2))
        return out


@pytest.mark.parametrize("fused", [True, False])
def test_whole_heads_go_where_the_code_holds_their_width(fused: bool) -> None:
    found = cut(Heads(4, 4, fused=fused), tokens(8, 5), {"q": [1, 2]})
    for name in ("q.weight", "k.weight", "v.weight"):
        assert found.kept[name, 0] == list(range(4, 12))
    assert found.kept["o.weight", 1] == list(range(4, 12))
    assert found.attributes["", "heads"] == 2


@pytest.mark.parametrize("fused", [True, False])
def test_a_key_head_goes_with_all_its_queries(fused: bool) -> None:
    found = cut(Heads(4, 2, fused=fused), tokens(8, 5), {"q": [1]})
    assert found.kept["q.weight", 0] == list(range(8, 16))
    assert found.kept["k.weight", 0] == list(range(4, 8))
    assert found.attributes["", "heads"] == 2
    assert found.attributes["", "key_heads"] == 1


@pytest.mark.parametrize(
    "root",
    [
        lambda n: torch.sqrt(torch.tensor(n)),
        lambda n: torch.tensor(n).float().pow(0.5),
        lambda n: torch.as_tensor(math.sqrt(n)),
    ],
)
def test_a_factor_may_be_a_tensor(root: Callable[[int], Tensor]) -> None:
    found = cut(Scores(lambda q, k: q @ k.transpose(1, 2) / root(q.shape[-1])), tokens(), {"q": [1, 3]})
    assert {(form.tensor, form.power) for form in found.graph.values} == {("q.weight", -0.5), ("q.bias", -0.5)}


class Alike(nn.Module):
    """Scores of a layer with itself, as networks for optical flow correlate their features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(5, 4), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.a(x)
        scores = q @ q.transpose(1, 2) / math.sqrt(q.shape[-1])
        out: Tensor = self.o(scores.tanh() @ x)
        return out


class AlikeFused(Alike):
    def forward(self, x: Tensor) -> Tensor:
        q = self.a(x)
        out: Tensor = self.o(F.scaled_dot_product_attention(q, q, x))
        return out


@pytest.mark.parametrize("kind", [Alike, AlikeFused])
def test_a_layer_that_is_multiplied_by_itself_is_scaled_by_the_root(kind: type[nn.Module]) -> None:
    found = cut(kind(), tokens(), {"a": [0, 2]})
    assert {(form.tensor, form.power) for form in found.graph.values} == {("a.weight", -0.25), ("a.bias", -0.25)}


@pytest.mark.parametrize(
    "how",
    [
        lambda q, k: (q @ k.transpose(1, 2) + 1.0) * q.shape[-1] ** -0.5,
        lambda q, k: q @ k.transpose(1, 2) + q.shape[-1],
        lambda q, k: (q @ k.transpose(1, 2)) ** 2 / math.sqrt(q.shape[-1]),
        lambda q, k: q @ k.transpose(1, 2) * torch.rand(6, 6).mul(q.shape[-1] ** -0.5),
    ],
)
def test_a_factor_that_no_weight_makes_up_for_holds_the_width(how: Callable[[Tensor, Tensor], Tensor]) -> None:
    reasons = frozen(trace(Scores(how), tokens()))
    assert reasons["q"].startswith(("a scale follows the width of a head", "a value is computed from its size"))


@pytest.mark.parametrize(
    ("pool", "maker"),
    [
        (lambda q: q.unflatten(1, (3, 2)).amax(2).repeat(1, 2, 1), "q"),
        (torch.relu, "q"),
        (lambda q: q.square(), "k"),  # of degree two: the key makes up for it
    ],
)
def test_a_factor_passes_through_what_is_homogeneous(pool: Callable[[Tensor], Tensor], maker: str) -> None:
    net = Scores(lambda q, k: torch.relu(pool(q) @ k.mT) / math.sqrt(q.shape[-1]))
    found = cut(net, tokens(), {"q": [0, 2]})
    assert {(form.tensor, form.power) for form in found.graph.values} == {
        (f"{maker}.weight", -0.5),
        (f"{maker}.bias", -0.5),
    }


class Decomposed(nn.Module):
    """The query also makes a bias of relative positions, as in SAM."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(5, 6), nn.Linear(6, 3)
        self.relative = nn.Parameter(torch.randn(6, 6, 4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        bias = torch.einsum("bnd,nmd->bnm", q, self.relative)
        out: Tensor = self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
        return out


def test_where_the_query_makes_a_bias_too_the_key_makes_up_for_the_scale() -> None:
    found = cut(Decomposed(), tokens(), {"q": [0, 2]})
    assert found.kept["relative", 2] == [0, 2]
    assert {(form.tensor, form.power) for form in found.graph.values} == {("k.weight", -0.5), ("k.bias", -0.5)}


class Bare(nn.Module):
    """Norms without weights know their width by a number only."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(5, 6), norm, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.norm(self.a(x)))
        return out


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(6, elementwise_affine=False), nn.RMSNorm(6, elementwise_affine=False), nn.LayerNorm(6)]
)
def test_a_norm_without_weights_follows_by_its_number(norm: nn.Module) -> None:
    found = cut(Bare(norm), tokens(), {"a": [0, 2, 5]})
    assert found.attributes["norm", "normalized_shape"] == (3,)
