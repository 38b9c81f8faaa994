"""The liver's box: found, judged, mapped between grids, widened and cut out."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from nibabel import orientations

from liver_pipeline.geometry.axes import axis_map
from liver_pipeline.geometry.boxes import Box, bounding_box, box_on_scan, box_text, parse_box, whole_box, widen
from liver_pipeline.inferers.liver import Limits, find_liver
from tests.orientations import ORIENTATIONS

CM = (10.0, 10.0, 10.0)  # mm: a voxel is 1 ml


def blocks(*boxes: Box, shape: tuple[int, int, int] = (12, 10, 8)) -> np.ndarray:
    label_map = np.zeros(shape, dtype=np.uint8)
    for box in boxes:
        label_map[box] = 1
    return label_map


LARGE: Box = (slice(1, 5), slice(2, 6), slice(0, 3))  # 48 voxels, at the border of the scan
SMALL: Box = (slice(8, 10), slice(7, 9), slice(4, 7))  # 12 voxels


def test_the_box_is_that_of_the_largest_component_with_its_tumors() -> None:
    label_map = blocks(LARGE, SMALL)
    label_map[1, 2, 0] = 2  # a tumor in its corner
    found = find_liver(label_map, CM, Limits())
    assert (found.box, found.liver_ml, found.share, found.doubt) == (LARGE, 48.0, 0.8, "")


@pytest.mark.parametrize(
    ("limits", "doubt"),
    [
        (Limits(min_ml=48.0, max_ml=48.5, min_share=0.8), ""),
        (Limits(min_ml=48.1), "the liver has 48 ml, less than 48.1"),
        (Limits(max_ml=47.9), "the liver has 48 ml, more than 47.9"),
        (Limits(min_share=0.81), "the liver is in pieces: the largest is 80% of it, less than 81%"),
    ],
)
def test_an_implausible_liver_has_no_box_but_a_reason(limits: Limits, doubt: str) -> None:
    found = find_liver(blocks(LARGE, SMALL), CM, limits)
    assert (found.box is None, found.doubt) == (bool(doubt), doubt)


def test_without_liver_there_is_no_box() -> None:
    found = find_liver(blocks(), CM, Limits())
    assert (found.box, found.liver_ml, found.share, found.doubt) == (None, 0.0, 0.0, "no liver found")


@pytest.mark.parametrize("wrong", [{"min_ml": -1.0}, {"min_ml": 5.0, "max_ml": 5.0}, {"min_share": 1.1}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 <= min_ml < max_ml"):
        Limits(**wrong)


def test_a_margin_is_at_least_what_it_says_and_ends_at_the_scan() -> None:
    assert widen(SMALL, 20.0, (10.0, 7.0, 30.0), (12, 10, 8)) == (slice(6, 12), slice(4, 10), slice(3, 8))
    assert widen(SMALL, 0.0, CM, (12, 10, 8)) == SMALL
    with pytest.raises(ValueError, match="margin_mm must be 0 or more"):
        widen(SMALL, -1.0, CM, (12, 10, 8))


def test_an_empty_mask_has_no_box() -> None:
    assert bounding_box(np.zeros((3, 4, 5), dtype=bool)) is None
    assert bounding_box(np.ones((3, 4, 5), dtype=bool)) == whole_box((3, 4, 5))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_a_box_counts_along_the_axes_as_they_are_given_whichever_way_these_run_in_memory(
    flips: tuple[int, ...], order: Literal["C", "F"], dtype: type[np.generic]
) -> None:
    array = np.flip(np.zeros((12, 10, 8), dtype=dtype, order=order), flips)
    array[SMALL] = True
    array[9, 2, 5] = True
    assert bounding_box(array) == (slice(8, 10), slice(2, 9), slice(4, 7))


@pytest.mark.parametrize("box", [None, LARGE])
def test_a_box_survives_being_written_as_text(box: Box | None) -> None:
    assert parse_box(box_text(box)) == box


sides = st.tuples(st.integers(0, 5), st.integers(1, 6)).map(lambda s: slice(s[0], s[0] + s[1]))


@settings(max_examples=60)
@given(
    box=st.tuples(sides, sides, sides),
    spacing=st.tuples(*[st.floats(0.6, 3.0)] * 3),
    scan_shape=st.tuples(*[st.integers(6, 30)] * 3),
    turn=st.sampled_from(ORIENTATIONS),
)
@example(  # a centre lies on the border, but for rounding
    box=(slice(2, 4), slice(0, 1), slice(0, 1)),
    spacing=(2.9999999999999996, 1.0, 1.0),
    scan_shape=(6, 6, 6),
    turn=((0, 1, 2), (1, 1, 1)),
)
def test_a_box_on_the_scan_holds_the_voxels_whose_centres_lie_in_it_however_the_scan_is_stored(
    box: Box, spacing: tuple[float, float, float], scan_shape: tuple[int, int, int], turn: tuple[tuple[int, ...], ...]
) -> None:
    model_affine = np.diag([2.0, 2.5, 3.0, 1.0])
    model_shape = [side.stop + 1 for side in box]
    affine = np.diag([*spacing, 1.0])
    inside = np.ones(scan_shape, dtype=bool)  # by the definition, voxel by voxel
    for axis, index in enumerate(np.meshgrid(*map(np.arange, scan_shape), indexing="ij")):
        position = index * spacing[axis] / model_affine[axis, axis]
        low, high = box[axis].start - 0.5, box[axis].stop - 0.5
        off_border = np.minimum(abs(position - low), abs(position - high))
        assume(not ((off_border > 1e-9) & (off_border < 1e-5)).any())  # neither on the border nor clear of it
        inside &= (position >= low - 1e-9) & (position <= high + 1e-9)
    ornt = np.stack(turn, axis=1).astype(float)
    turned = orientations.apply_orientation(inside, ornt)
    turned_affine = affine @ orientations.inv_ornt_aff(ornt, scan_shape)
    found = box_on_scan(box, axis_map(turned_affine, turned.shape, model_affine, model_shape))
    if inside.any():
        assert found == bounding_box(turned)
    assert all(0 <= side.start < side.stop <= n for side, n in zip(found, turned.shape, strict=True))
