"""Windows are MONAI's; the streaming axis changes no sum; the body map survives being text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.inferers import sliding_window_inference

from liver_pipeline.geometry.body import body_blocks, decode_blocks, encode_blocks
from liver_pipeline.inferers.windows import holds_body, padding, streaming_axis, window_shape, windows


@settings(max_examples=40)
@given(
    shape=st.tuples(*[st.integers(4, 20)] * 3),
    roi=st.tuples(*[st.integers(4, 12)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
)
def test_windows_are_those_that_monai_visits_in_its_order(
    shape: tuple[int, int, int], roi: tuple[int, int, int], overlap: float
) -> None:
    padded = tuple(max(n, r) for n, r in zip(shape, roi, strict=True))
    ours = windows(padded, roi, [overlap] * 3)
    visited: list[tuple[float, ...]] = []

    def watch(window: torch.Tensor) -> torch.Tensor:
        visited.append(tuple(window[0, :, 0, 0, 0].tolist()))
        return window[:, :1]

    index = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in padded], indexing="ij"))
    sliding_window_inference(index[None], roi, 1, watch, overlap)
    assert [tuple(float(s.start) for s in window) for window in ours] == visited


def test_window_of_no_size_takes_the_whole_axis() -> None:
    assert window_shape((-1, 8, 0), (5, 6, 7)) == (5, 8, 7)


def test_padding_is_split_with_the_odd_voxel_behind() -> None:
    assert padding((8, 8, 8), (8, 5, 20)) == ((0, 0), (1, 2), (0, 0))


@pytest.mark.parametrize(
    ("shape", "roi", "overlap", "axis"),
    [
        ((300, 300, 90), (256, 256, 1), 0.5, 2),  # slices never overlap each other: one plane is kept
        ((200, 200, 100), (96, 96, 96), 0.5, 0),  # all overlap: MONAI's slowest axis
        ((96, 200, 100), (96, 48, 96), 0.5, 1),  # one window along the first axis: the second is as good and thinner
        ((64, 64, 64), (64, 64, 64), 0.5, 0),
        ((60, 60, 60), (20, 20, 20), 0.0, 0),
    ],
)
def test_streaming_axis_keeps_the_fewest_planes_that_leave_sums_alone(
    shape: tuple[int, ...], roi: tuple[int, ...], overlap: float, axis: int
) -> None:
    assert streaming_axis(shape, roi, [overlap] * 3) == axis


@settings(max_examples=40)
@given(blocks=hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)))
def test_body_map_comes_back_from_text(blocks: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
    np.testing.assert_array_equal(decode_blocks(encode_blocks(blocks)), blocks)


@settings(max_examples=40)
@given(
    voxel=st.tuples(st.integers(0, 19), st.integers(0, 16), st.integers(0, 8)),
    starts=st.tuples(*[st.integers(-3, 18)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_window_with_a_bright_voxel_is_never_left_out(
    voxel: tuple[int, int, int], starts: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    image = torch.full((20, 17, 9), -1000.0)
    image[voxel] = 0.0
    before = (3, 3, 3)
    window = tuple(slice(start + 3, start + 3 + n) for start, n in zip(starts, size, strict=True))
    inside = all(start <= v < start + n for start, v, n in zip(starts, voxel, size, strict=True))
    if inside:
        assert holds_body(window, body_blocks(image, -500.0), before)  # type: ignore[arg-type]


def test_window_far_from_the_body_is_left_out() -> None:
    image = torch.full((32, 32, 32), -1000.0)
    image[:8, :8, :8] = 0.0
    blocks = body_blocks(image, -500.0)
    assert not holds_body((slice(8, 16), slice(0, 8), slice(0, 8)), blocks, (0, 0, 0))
    assert holds_body((slice(7, 15), slice(0, 8), slice(0, 8)), blocks, (0, 0, 0))
