"""Sums of windows are those of MONAI and kept for a slab only."""

from __future__ import annotations

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from liver_pipeline.inferers.stitching import SlabStitcher, blend, importance_map
from liver_pipeline.inferers.windows import windows


def test_sums_equal_the_sliding_window_to_the_bit_and_only_a_slab_is_kept() -> None:
    shape, roi = (90, 20, 14), (12, 9, 14)
    image = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    planes: list[torch.Tensor] = []
    stitcher = SlabStitcher(
        shape, 0, importance_map(roi, "gaussian"), lambda sums, counts: planes.append((sums / counts).clone())
    )
    for window in windows(shape, roi, (0.5, 0.5, 0.5)):
        part = image[0][(slice(None), *window)]
        stitcher.add(window, torch.cat([part.sin(), part.cos()]))
        assert stitcher.sums is not None
        assert stitcher.sums.shape[0] <= 16
    stitcher.finish()
    expected = sliding_window_inference(
        image, roi, 1, lambda window: torch.cat([window.sin(), window.cos()], dim=1), 0.5, mode="gaussian"
    )
    assert isinstance(expected, torch.Tensor)
    np.testing.assert_array_equal(torch.cat(planes).permute(1, 0, 2, 3).numpy(), expected[0].numpy())


def test_planes_without_a_window_are_certain_background() -> None:
    got: list[torch.Tensor] = []
    stitcher = SlabStitcher(
        (50, 4, 4), 0, torch.ones(4, 4, 4), lambda sums, counts: got.append(blend(sums, counts, members=1))
    )
    for start in (4, 40):  # planes 0-3, 8-39 and 44-49 belong to windows that were skipped
        stitcher.add((slice(start, start + 4), slice(0, 4), slice(0, 4)), torch.stack([torch.zeros(4, 4, 4)] * 3))
    stitcher.finish()
    background = torch.cat(got)[:, 0, 0, 0]
    assert background.shape == (50,)
    seen = [*range(4, 8), *range(40, 44)]
    np.testing.assert_allclose(background[seen].numpy(), 1 / 3, rtol=1e-6)
    assert background[[n for n in range(50) if n not in seen]].eq(1.0).all()


def test_ensemble_is_the_mean_of_softmax_over_its_members() -> None:
    logits = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(2))
    expected = (logits[:, :3].softmax(1) + logits[:, 3:].softmax(1)) / 2
    torch.testing.assert_close(blend(logits, torch.ones(2, 1, 3, 3), members=2), expected)
