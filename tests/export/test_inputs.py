from __future__ import annotations

import torch
from torch import Tensor

from prunecore.export.inputs import batches_of
from prunecore.types import ExampleInputs
from tests.export.export_nets import SEVERAL

CPU = torch.device("cpu")


def test_the_batch_is_found_in_every_input_that_has_it() -> None:
    inputs = ExampleInputs((torch.randn(4, 3), torch.randn(3), 4), {"pair": [torch.zeros(4), torch.tensor(4)]})
    batches = batches_of(inputs)
    assert (batches.size, batches.places, batches.fixed) == (4, frozenset({0, 3}), None)
    drawn = batches.draw(2, 0, CPU)
    assert [t.shape for t in (*drawn.args[:2], *drawn.kwargs["pair"])] == [(2, 3), (3,), (2,), ()]
    assert drawn.args[2] == 4
    assert drawn.kwargs["pair"][1] == 4


def test_elements_are_drawn_from_the_example_and_depend_on_the_seed_alone() -> None:
    batches = batches_of(SEVERAL)
    first, again, other = (batches.draw(3, seed, CPU) for seed in (0, 0, 1))
    rows = first.args[0]
    assert rows.shape == (3, 6)
    assert set(rows.flatten().tolist()) <= set(SEVERAL.args[0].flatten().tolist())
    assert set(first.kwargs["more"].flatten().tolist()) <= {0, 1, 2, 3, 4}
    assert first.kwargs["mask"].dtype == torch.bool
    assert torch.equal(rows, again.args[0])
    assert not torch.equal(rows, other.args[0])


def test_floats_that_are_all_the_same_are_drawn_normally_and_whole_numbers_stay() -> None:
    inputs = ExampleInputs((torch.zeros(1, 1000, dtype=torch.float16), torch.full((1, 4), 7)))
    floats, whole = batches_of(inputs).draw(2, 0, CPU).args
    assert floats.dtype == torch.float16
    assert abs(float(floats.float().std()) - 1) < 0.1
    assert torch.equal(whole, torch.full((2, 4), 7))


def test_a_list_of_images_and_no_batch_at_all_are_fixed() -> None:
    images = batches_of(ExampleInputs(([torch.rand(3, 8, 8), torch.rand(3, 8, 8)],)))
    assert images.size == 2
    assert images.fixed == "the batch is a list of images, whose length is part of the code"
    number = batches_of(ExampleInputs((torch.tensor(1.5),)))
    assert (number.size, number.fixed) == (1, "the inputs have no batch dimension")
    drawn: Tensor = number.draw(1, 0, CPU).args[0]
    assert drawn == 1.5
