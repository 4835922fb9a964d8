from __future__ import annotations

import torch

from prunecore.training import flipped, seeded, shifted


def test_flips_mirror_whole_images():
    images = torch.arange(400.0).reshape(100, 1, 2, 2)
    with seeded(0):
        changed = flipped(images)
    mirrored = [torch.equal(c, i.flip(-1)) for c, i in zip(changed, images, strict=True)]
    kept = [torch.equal(c, i) for c, i in zip(changed, images, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 30 < sum(mirrored) < 70


def test_shifts_move_whole_images_and_repeat_the_edge():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    with seeded(0):
        results = {tuple(shifted(image, 1).flatten().tolist()) for _ in range(200)}
    assert len(results) == 9
    assert (0, 1, 2, 3, 4, 5, 6, 7, 8) in results
    assert (4, 5, 5, 7, 8, 8, 7, 8, 8) in results
    assert torch.equal(shifted(image, 0), image)
    many = torch.arange(120.0).reshape(10, 3, 2, 2).contiguous()
    assert shifted(many, 1).shape == (10, 3, 2, 2)
    assert torch.equal(shifted(many, 0), many)
