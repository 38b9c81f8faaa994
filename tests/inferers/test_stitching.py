"""Sums of windows are those of MONAI and kept for a slab only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from liver_pipeline.inferers.stitching import SlabStitcher, blend, importance_map
from liver_pipeline.inferers.windows import windows
from tests.no_memory import NoMemory


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


def stitched(mode: NoMemory) -> tuple[torch.Tensor, int]:
    """Stitch thin windows with gaps between them; return what came out and how often there was no memory."""
    shape, roi = (60, 6, 5), (6, 4, 5)
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    got: list[torch.Tensor] = []
    moved: list[int] = []

    def keep(sums: torch.Tensor, counts: torch.Tensor) -> None:
        quiet, mode.quiet = mode.quiet, True
        got.append(torch.cat([sums, counts], dim=1).clone())
        mode.quiet = quiet

    def relieve() -> bool:
        quiet, mode.quiet = mode.quiet, True
        stitcher.move("cpu")
        assert (stitcher.sums is None) == (stitcher.counts is None)
        moved.append(mode.count)
        mode.quiet = quiet
        return True

    stitcher = SlabStitcher(shape, 0, importance_map(roi, "gaussian"), keep)
    kept = [w for w in windows(shape, roi, (0.5, 0.5, 0.5)) if not 15 < w[0].start < 45]
    parts = [image[(slice(None), *window)].clone() for window in kept]
    with mode:
        for window, part in zip(kept, parts, strict=True):
            stitcher.add(window, part, relieve)
        stitcher.finish(relieve)
    return torch.cat(got), len(moved)


def test_no_memory_at_any_operation_leaves_sums_and_counts_as_they_would_be() -> None:
    counting = NoMemory(0)
    expected, none = stitched(counting)
    assert expected.shape == (60, 3, 6, 5) and none == 0
    steps = [*range(1, 25), *range(25, counting.count + 1, 7)]
    for at in steps:
        again, once = stitched(NoMemory(at))
        assert once == 1, at
        assert torch.equal(again, expected), f"operation {at}"


def test_no_memory_even_after_relief_is_the_callers_matter() -> None:
    stitcher = SlabStitcher((8, 4, 4), 0, torch.ones(4, 4, 4), lambda sums, counts: None)
    window = (slice(0, 4), slice(0, 4), slice(0, 4))
    with pytest.raises(torch.OutOfMemoryError), NoMemory(1):
        stitcher.add(window, torch.zeros(2, 4, 4, 4))
