"""Numbers that Python code gives: attributes that follow a width, widths that stay equal, numbers that hold a width."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from prunecore_plugins.graphs.labels.attributes import remembered
from prunecore_plugins.graphs.labels.ledger import Ledger
from prunecore_plugins.graphs.labels.numbers import Attribute, Number, Scale
from torch import Tensor, nn

import prunecore
from prunecore.surgery import certify, resize
from prunecore.types import ExampleInputs, Proposal
from tests.plugins.graphs.labels.cases import frozen, trace

X = ExampleInputs((torch.randn(2, 3, 4, 4),))


def _cut(net: nn.Module, kept: dict[str, list[int]]) -> dict[tuple[str, str], object]:
    """The attribute edits of a certified cut."""
    torch.manual_seed(0)
    net.eval()
    small, recipe = resize(net, trace(net, X), Proposal({k: np.array(v) for k, v in kept.items()}))
    found = certify(net, small, recipe, X)
    assert found.verified, found.notes
    return {(e.module, e.attribute): e.new for e in recipe.attributes}


class Middle(nn.Module):
    """`a` makes eight channels, `b` takes them; what lies between is the case."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        vars(self).update(attributes)


class ByAttribute(Middle):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).reshape(x.shape[0], self.width, 16)
        return self.b(torch.tanh(y).view(-1, self.width, 4, 4))


def test_an_attribute_that_is_a_width_follows_it() -> None:
    assert _cut(ByAttribute(width=8), {"a": [1, 4, 6]})["", "width"] == 3


class ByLiteral(Middle):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x).reshape(-1, 8, 16)).view(-1, 8, 4, 4))


def test_a_number_in_the_code_holds_the_width() -> None:
    assert (
        frozen(trace(ByLiteral(), X))["a"]
        == "the code gives the size 8 (aten.view in the network itself): the code keeps 8 of them"
    )


class Factors(Middle):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n, c = y.shape[:2]
        y = y.reshape(n, self.heads, c // self.heads, 16).softmax(-1)
        return self.b(y.reshape(n, self.heads * self.width, 4, 4))


def test_a_product_of_attributes_follows_by_the_one_that_is_no_plain_number() -> None:
    edits = _cut(Factors(heads=2, width=4), {"a": [0, 3, 5, 6]})
    assert edits["", "width"] == 2
    assert ("", "heads") not in edits


class Pieces(Middle):
    def forward(self, x: Tensor) -> Tensor:
        p, q = torch.split(self.a(x), self.sizes, 1)
        return self.b(torch.cat([torch.tanh(p), q], 1))


def test_the_numbers_of_a_tuple_follow_each_its_own_piece() -> None:
    net = Pieces(sizes=(2, 6))
    graph = trace(net, X)
    assert {g.name: g.channels for g in graph.groups if g.frozen is None} == {"a": 2, "a#2": 6}
    assert _cut(net, {"a": [1], "a#2": [0, 2, 5]})["", "sizes"] == (1, 3)


class Sliced(Middle):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(torch.cat([torch.tanh(y[:, : self.part]), y[:, -self.rest :]], 1))


def test_slices_from_both_ends_follow() -> None:
    assert _cut(Sliced(part=3, rest=5), {"a": [0, 2], "a#2": [4]}) == {
        ("", "part"): 2, ("", "rest"): 1, ("a", "out_channels"): 3, ("b", "in_channels"): 3,
    }  # fmt: skip


class Derived(nn.Module):
    """The inner width is read off the input's shape, though no operation ties the two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.stem(x))
        n, c, h, w = y.shape
        return self.out(self.inner(y).reshape(n, 2, c // 2, h * w).tanh().reshape(n, c, h, w))


def test_a_width_that_is_read_off_another_is_linked_to_it() -> None:
    graph = trace(Derived(), X)
    assert [(set(link.groups), link.ratios) for link in graph.links] == [({"stem", "inner"}, (1, 1))]
    assert ("inner", "out_channels") in _cut(Derived(), {"stem": [0, 1, 7, 6][:2], "inner": [2, 5]})


class Compared(Middle):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if y.shape[1] != self.expected:
            raise ValueError("another width was expected")
        return self.b(y)


def test_a_number_that_is_compared_with_a_width_follows_it() -> None:
    assert _cut(Compared(expected=8), {"a": [2, 3]})["", "expected"] == 2


def test_forms_survive_sums_products_and_exact_quotients_only() -> None:
    ledger = Ledger()
    c, heads = ledger.attribute(Attribute("m", "c", None, 12)), ledger.attribute(Attribute("m", "heads", None, 4))
    kept = [c + heads, 3 * c, c // heads, c - c // 2, -c, c * heads]
    assert [int(k) for k in kept] == [16, 36, 3, 6, -12, 48]
    assert all(type(k) is Number for k in kept)
    assert [type(k) for k in (c // 5, c % heads, c - c, int(c), abs(c))] == [int] * 5
    assert type(1 / (2 * c**0.5)) is Scale
    assert [2] * c == [2] * 12
    assert hash(c) == hash(12)


def test_attributes_are_what_they_were_afterwards() -> None:
    net = Middle(width=8, sizes=[2, 6], flag=True, count=3)
    with remembered(net, Ledger()):
        assert type(vars(net)["width"]) is Number
        vars(net)["count"] = vars(net)["count"] + 1
    found = {k: vars(net)[k] for k in ("width", "sizes", "flag", "count")}
    assert found == {"width": 8, "sizes": [2, 6], "flag": True, "count": 4}
    assert [type(v) for v in (found["width"], found["sizes"][0], found["flag"], found["count"])] == [
        int,
        int,
        bool,
        int,
    ]


class Filled(Middle):
    """Zeros as wide as `size(self, y)` says, which `y` is added to, or written into."""

    def __init__(
        self, size: Callable[[nn.Module, Tensor], int], *, written: bool = False, **attributes: object
    ) -> None:
        super().__init__(**attributes)
        self.size, self.written = size, written

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.zeros(y.shape[0], self.size(self, y), 4, 4)
        if not self.written:
            return self.b(torch.tanh(z + y))
        z[torch.tensor([1])] = y[torch.tensor([0])]
        return self.b(torch.tanh(z))


@pytest.mark.parametrize("written", [False, True])
def test_zeros_as_wide_as_a_width_carry_its_channels(written: bool) -> None:
    assert _cut(Filled(lambda _, y: y.shape[1], written=written), {"a": [1, 4, 6]})["b", "in_channels"] == 3
    assert _cut(Filled(lambda m, _: m.hidden, written=written, hidden=8), {"a": [1, 4, 6]})["", "hidden"] == 3


def test_zeros_of_a_number_in_the_code_hold_the_width() -> None:
    reason = frozen(trace(Filled(lambda *_: 8, written=True), X))["a"]
    assert reason == "tied to a constant made in the forward (aten.index_put_ in the network itself)"
    # as wide as an attribute that has nothing to do with channels: it stays, and holds nobody
    assert "a" not in frozen(trace(Beside(window=8), X))
    assert _cut(Beside(window=8), {"a": [1, 4, 6]}).get(("", "window")) is None


class Beside(Middle):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)) + torch.zeros(self.window, self.window)[0, 0])


class Found(Middle):
    """Works on as many positions as are above zero, as a detector works on boxes."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        rows = y.movedim(1, -1)[y.mean(1) > 0]
        return rows @ self.b.weight[:, :, 0, 0].t()


def test_costs_that_depend_on_values_are_those_of_the_uncut_network() -> None:
    torch.manual_seed(0)
    net = Found().eval()
    image = ExampleInputs((torch.randn(1, 3, 4, 4),))
    pruned = prunecore.prune(net, image, algo="l2norm", reduce=0.5)
    graph = trace(net, image)
    assert graph.varies == "aten.index in the network itself"
    assert pruned.size == 0.5
    assert pruned.after.macs == pruned.before.macs // 2
    assert any(note.startswith("what it costs depends on values") for note in pruned.notes)
    assert trace(ByAttribute(width=8), X).varies is None


class Padded(Middle):
    """Images are written into a batch of zeros, as detectors do, before anything is computed."""

    def forward(self, x: Tensor) -> Tensor:
        batch = x.new_full((x.shape[0], 3, 6, 6), 0.0)
        batch[0, :, :4, :4].copy_(x[0])
        y = self.a(batch)
        rows = y.movedim(1, -1)[y.mean(1) > 0]
        return rows @ self.b.weight[:, :, 0, 0].t()


def test_what_values_are_written_into_is_no_constant() -> None:
    assert trace(Padded(), ExampleInputs((torch.randn(1, 3, 4, 4),))).varies == "aten.index in the network itself"


class Remainder(Middle):
    """Only a part of the channels is worked on; what is left is given as a difference."""

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.split(self.a(x), [self.part, self.dim - self.part], dim=1)
        return self.b(torch.cat([torch.tanh(one), two], 1))


def test_a_whole_follows_its_part_and_the_remainder() -> None:
    edits = _cut(Remainder(part=3, dim=8), {"a": [1, 2], "a#2": [0, 3]})
    assert (edits["", "part"], edits["", "dim"]) == (2, 4)


class Fixed(Middle):
    """As `Remainder`, where the remainder is a number less than what a tensor is wide: nothing may change it."""

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.split(self.a(x), [self.part, self.dim * self.dim - 56 - self.part], dim=1)
        return self.b(torch.cat([torch.tanh(one), two], 1))


def test_what_cannot_be_followed_holds_all_that_it_is_made_of() -> None:
    reasons = frozen(trace(Fixed(part=3, dim=8), X))
    assert reasons["a"].endswith(": part is used otherwise too")
    assert reasons["a#2"].endswith(": a number that cannot be followed")
