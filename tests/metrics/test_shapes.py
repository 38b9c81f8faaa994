from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from liver_pipeline.metrics.lesions import components
from liver_pipeline.metrics.shapes import in_slice_diameters, lesion_shapes, size_class


def brute_force_diameter(pixels: np.ndarray, pixel: tuple[float, float]) -> float:
    corners = np.concatenate([np.argwhere(pixels) + step for step in ((0, 0), (0, 1), (1, 0), (1, 1))]) * pixel
    return float(np.linalg.norm(corners[:, None] - corners[None], axis=-1).max())


def test_single_voxel_has_the_diagonal_of_its_pixel_and_never_zero() -> None:
    diameters = in_slice_diameters(np.ones((1, 1, 1), dtype=bool), (3.0, 4.0, 5.0))
    assert diameters.longest_mm == pytest.approx(5.0)
    # width across the diagonal of a 3 x 4 rectangle: twice its area over the diagonal
    assert diameters.perpendicular_mm == pytest.approx(2 * 12 / 5)
    assert diameters.slice_index == 0


def test_bar_is_measured_along_its_diagonal_in_its_longest_slice() -> None:
    mask = np.zeros((12, 12, 4), dtype=bool)
    mask[1:3, 1:3, 0] = True
    mask[0:12, 2:7, 2] = True  # 12 x 5 pixels: diagonal 13
    diameters = in_slice_diameters(mask, (1.0, 1.0, 5.0))
    assert diameters.longest_mm == pytest.approx(13.0)
    assert diameters.slice_index == 2
    assert diameters.perpendicular_mm == pytest.approx(2 * 12 * 5 / 13)


def test_disc_of_radius_10_mm_measures_20_mm_both_ways() -> None:
    x, y = np.meshgrid(np.arange(61), np.arange(61), indexing="ij")
    disc = (((x - 30) * 0.5) ** 2 + ((y - 30) * 0.5) ** 2 <= 100)[..., None]
    diameters = in_slice_diameters(disc, (0.5, 0.5, 1.0))
    assert diameters.longest_mm == pytest.approx(20.0, abs=0.75)  # voxel corners lie up to 0.7 voxel outside
    assert diameters.perpendicular_mm == pytest.approx(20.0, abs=0.75)


@settings(max_examples=50)
@given(arrays(np.bool_, (5, 6, 4), elements=st.booleans()))
def test_longest_diameter_equals_brute_force_over_all_slices(mask: np.ndarray) -> None:
    mask[2, 3, 1] = True
    spacing = (0.7, 0.9, 5.0)
    expected = max(brute_force_diameter(mask[..., z], spacing[:2]) for z in range(4) if mask[..., z].any())
    found = in_slice_diameters(mask, spacing)
    assert found.longest_mm == pytest.approx(expected)
    assert brute_force_diameter(mask[..., found.slice_index], spacing[:2]) == pytest.approx(expected)
    assert 0 < found.perpendicular_mm <= found.longest_mm * (1 + 1e-9)


def test_slices_can_lie_along_any_axis() -> None:
    mask = np.zeros((4, 9, 9), dtype=bool)
    mask[3, 1:4, 1:5] = True
    assert in_slice_diameters(mask, (5.0, 1.0, 1.0), slice_axis=0).longest_mm == pytest.approx(5.0)
    assert in_slice_diameters(mask, (5.0, 1.0, 1.0), slice_axis=0).slice_index == 3


def test_of_equally_long_slices_the_wider_counts_then_the_first() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[[0, 3], [0, 3], :] = True  # two corners: the same diagonal in each slice
    assert in_slice_diameters(mask, (1.0, 1.0, 1.0)).slice_index == 0
    mask[0, 3, 2:] = True
    assert in_slice_diameters(mask, (1.0, 1.0, 1.0)).slice_index == 2


def test_empty_mask_has_no_diameter() -> None:
    with pytest.raises(ValueError, match="empty"):
        in_slice_diameters(np.zeros((2, 2, 2), dtype=bool), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("diameter", "name"), [(9.99, "<10mm"), (10.0, "10-20mm"), (20.0, "10-20mm"), (20.01, ">20mm")]
)
def test_both_ends_of_the_middle_class_belong_to_it(diameter: float, name: str) -> None:
    assert size_class(diameter) == name


def test_shapes_of_components_carry_volume_centroid_and_box_in_the_whole_array() -> None:
    mask = np.zeros((10, 10, 10), dtype=bool)
    mask[2:4, 3:5, 6:8] = True
    mask[9, 9, 9] = True
    first, second = lesion_shapes(components(mask)[0], (10.0, 10.0, 10.0))
    assert (first.volume_ml, first.centroid, first.diameters.slice_index) == (8.0, (2.5, 3.5, 6.5), 6)
    assert first.box == (slice(2, 4), slice(3, 5), slice(6, 8))
    assert (second.id, second.voxels) == (2, 1)
    assert lesion_shapes(components(mask)[0], (10.0, 10.0, 10.0), slice_axis=0)[0].diameters.slice_index == 2


def test_shapes_of_a_part_count_in_the_whole_array() -> None:
    mask = np.zeros((10, 10, 10), dtype=bool)
    mask[2:4, 3:5, 6:8] = mask[5:7, 9, 9] = True
    whole = lesion_shapes(components(mask)[0], (1.0, 2.0, 3.0))
    part = lesion_shapes(components(mask[2:, 1:, 5:])[0], (1.0, 2.0, 3.0), origin=(2, 1, 5))
    assert part == whole
    np.testing.assert_array_equal(part[1].mask, np.ones((2, 1, 1), dtype=bool))
