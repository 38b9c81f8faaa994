"""Post-processing on phantoms small enough to see the answer, and what must hold for any label map."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.transform import Rotation

from liver_pipeline.labels import LabelMap
from liver_pipeline.transforms.postprocessing import (
    CleanLabelMapd,
    DropSmallTumorsd,
    DropTumorsOffLiverd,
    FillLiverHolesd,
    KeepLargestLiverd,
    drop_small_tumors,
    drop_tumors_off_liver,
    fill_liver_holes,
    keep_largest_liver,
)

Step = Callable[[LabelMap, tuple[float, float, float]], LabelMap]

CM = (10.0, 10.0, 10.0)  # mm: a voxel is 1 ml
FULL = np.ones((3, 3, 3))  # 26 neighbours
STEPS: dict[str, Step] = {
    "keep_largest_liver": lambda label_map, spacing: keep_largest_liver(label_map),
    "fill_liver_holes": lambda label_map, spacing: fill_liver_holes(label_map),
    "drop_small_tumors": partial(drop_small_tumors, min_volume_ml=0.004),
    "drop_tumors_touching_nothing": partial(drop_tumors_off_liver, max_distance_mm=0.0),
    "drop_tumors_off_liver": partial(drop_tumors_off_liver, max_distance_mm=2.0),
}
all_steps = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
label_maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7),
    elements=st.sampled_from([0, 0, 1, 1, 2]),
)
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.5, 3.0])] * 3)


def volume(*slabs: tuple[tuple[slice, slice, slice], int], side: int = 9) -> LabelMap:
    """Return a cube of background in which each slab is painted with its label, later ones over earlier ones."""
    label_map = np.zeros((side, side, side), dtype=np.uint8)
    for where, label in slabs:
        label_map[where] = label
    return label_map


def cube(start: int, stop: int) -> tuple[slice, slice, slice]:
    """Return the cube of voxels ``start`` to ``stop`` (exclusive) along each axis."""
    side = slice(start, stop)
    return side, side, side


def row(*labels: int) -> LabelMap:
    """Return a map of one row of voxels along Z."""
    return np.array([[labels]], dtype=np.uint8)


# --- the largest liver ---


def test_largest_liver_keeps_its_tumors_and_loses_the_rest() -> None:
    kept = volume((cube(0, 5), 1), (cube(2, 3), 2), (cube(4, 5), 2))
    clutter = kept.copy()
    clutter[7, 7, 7], clutter[7, 7, 8] = 1, 2
    np.testing.assert_array_equal(keep_largest_liver(clutter), kept)


def test_liver_parted_by_a_tumor_is_one_object() -> None:
    np.testing.assert_array_equal(keep_largest_liver(row(1, 2, 1, 0, 1, 1)), row(1, 2, 1, 0, 0, 0))


def test_voxels_that_share_only_a_corner_are_one_object() -> None:
    diagonal = volume(((0, 0, 0), 1), ((1, 1, 1), 1), ((5, 5, 5), 1))  # type: ignore[arg-type]
    np.testing.assert_array_equal(keep_largest_liver(diagonal), volume((cube(0, 1), 1), (cube(1, 2), 1)))


@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_of_two_equal_livers_the_first_in_index_order_is_kept(order: Any, flips: tuple[int, ...]) -> None:
    both = np.flip(np.zeros((4, 4, 4), dtype=np.uint8, order=order), flips)
    both[0, 0, 3] = both[3, 0, 0] = 1  # first along X; along Z it would be the other one
    assert np.argwhere(keep_largest_liver(both)).tolist() == [[0, 0, 3]]


# --- holes ---


def test_enclosed_background_becomes_liver_and_tumors_stay() -> None:
    holed = volume(
        (cube(1, 8), 1), (cube(2, 7), 0), (cube(4, 5), 2)
    )  # a shell around a tumor that floats in the cavity
    np.testing.assert_array_equal(fill_liver_holes(holed), volume((cube(1, 8), 1), (cube(4, 5), 2)))


def test_hole_between_liver_and_tumor_becomes_liver() -> None:
    half_tumor = volume((cube(1, 8), 1), ((slice(4, 8), slice(1, 8), slice(1, 8)), 2), (cube(4, 5), 0))
    filled = fill_liver_holes(half_tumor)
    assert filled[4, 4, 4] == 1
    assert np.count_nonzero(filled != half_tumor) == 1


def test_pocket_open_to_a_face_of_the_map_stays_open() -> None:
    cut = volume((cube(0, 5), 1), ((slice(0, 2), slice(2, 3), slice(2, 3)), 0))
    np.testing.assert_array_equal(fill_liver_holes(cut), cut)


def test_hole_that_leaks_only_over_an_edge_is_closed() -> None:
    shell = volume((cube(2, 5), 1), (cube(3, 4), 0), ((slice(2, 3), slice(2, 3), slice(3, 4)), 0))
    filled = fill_liver_holes(shell)
    assert filled[3, 3, 3] == 1  # background leaves over faces only
    assert filled[2, 2, 3] == 0  # the notch lies outside


@given(label_maps)
def test_filling_equals_scipy_on_liver_or_tumor(label_map: LabelMap) -> None:
    filled = fill_liver_holes(label_map)
    np.testing.assert_array_equal(filled > 0, ndimage.binary_fill_holes(label_map > 0))


# --- small tumors ---


@pytest.mark.parametrize(("voxels", "stays"), [(1, False), (2, True), (3, True)])
def test_tumor_of_exactly_the_minimum_stays(voxels: int, stays: bool) -> None:
    label_map = row(*[1, 1], *[2] * voxels, *[1] * (5 - voxels))
    cleaned = drop_small_tumors(label_map, CM, min_volume_ml=2.0)
    np.testing.assert_array_equal(cleaned, label_map if stays else row(1, 1, 1, 1, 1, 1, 1))


@given(st.integers(1, 40), st.sampled_from([0.1, 0.3, 0.7, 0.976562, 1.1]), st.sampled_from([0.8, 1.0, 2.5]))
def test_rounding_never_drops_a_tumor_of_exactly_the_minimum(voxels: int, side: float, thickness: float) -> None:
    tumor = np.full((1, 1, voxels), 2, dtype=np.uint8)
    minimum = sum([side * side * thickness / 1000.0] * voxels)  # another order of rounding than a product
    np.testing.assert_array_equal(drop_small_tumors(tumor, (side, side, thickness), min_volume_ml=minimum), tumor)


def test_dropped_tumor_becomes_liver_where_it_touches_it_and_background_elsewhere() -> None:
    np.testing.assert_array_equal(
        drop_small_tumors(row(1, 2, 1, 2, 0, 2, 0, 2, 2), CM, min_volume_ml=2.0),
        row(1, 1, 1, 1, 0, 0, 0, 2, 2),
    )


def test_dropping_touching_tumors_leaves_the_outline_of_the_organ() -> None:
    label_map = volume((cube(1, 6), 1), (cube(5, 7), 2))  # overlaps a corner of the liver and sticks out
    cleaned = drop_small_tumors(label_map, CM, min_volume_ml=9.0)
    np.testing.assert_array_equal(cleaned > 0, label_map > 0)
    assert not np.any(cleaned == 2)


# --- tumors off the liver ---


def test_tumor_that_touches_liver_by_a_face_or_a_corner_is_kept() -> None:
    label_map = volume((cube(0, 3), 1), ((slice(1, 2), slice(1, 2), slice(3, 4)), 2), (cube(3, 4), 2))
    np.testing.assert_array_equal(drop_tumors_off_liver(label_map, CM, max_distance_mm=0.0), label_map)


@pytest.mark.parametrize(("max_distance_mm", "stays"), [(0.0, False), (5.9, False), (6.0, True), (7.0, True)])
def test_distance_runs_in_mm_between_voxel_centres_and_includes_the_limit(max_distance_mm: float, stays: bool) -> None:
    label_map = row(1, 1, 0, 2, 2)  # two steps of 3 mm apart
    cleaned = drop_tumors_off_liver(label_map, (1.0, 1.0, 3.0), max_distance_mm=max_distance_mm)
    np.testing.assert_array_equal(cleaned, label_map if stays else row(1, 1, 0, 0, 0))


def test_distance_is_euclidean_with_anisotropic_spacing() -> None:
    label_map = np.zeros((4, 4, 4), dtype=np.uint8)
    label_map[0, 0, 0], label_map[2, 0, 3] = 1, 2  # 2 * 1.5 mm and 3 * 4/3 mm: 5 mm
    spacing = (1.5, 9.0, 4.0 / 3.0)
    assert drop_tumors_off_liver(label_map, spacing, max_distance_mm=5.0)[2, 0, 3] == 2
    assert drop_tumors_off_liver(label_map, spacing, max_distance_mm=4.99)[2, 0, 3] == 0


def test_one_near_voxel_keeps_the_whole_tumor() -> None:
    label_map = row(1, 0, 2, 2, 2, 2, 2, 0, 2)
    cleaned = drop_tumors_off_liver(label_map, (1.0, 1.0, 1.0), max_distance_mm=2.0)
    np.testing.assert_array_equal(cleaned, row(1, 0, 2, 2, 2, 2, 2, 0, 0))


def test_tumors_of_a_map_without_liver_stay() -> None:
    label_map = row(0, 2, 2, 0, 2)
    np.testing.assert_array_equal(drop_tumors_off_liver(label_map, CM, max_distance_mm=1.0), label_map)


@given(label_maps, spacings, st.sampled_from([0.0, 1.0, 1.5, 2.5, 4.0]))
def test_kept_tumors_are_those_that_a_distance_transform_finds(
    label_map: LabelMap, spacing: tuple[float, float, float], limit_mm: float
) -> None:
    if not (label_map == 1).any():
        return
    distance = ndimage.distance_transform_edt(label_map != 1, sampling=spacing)
    near = (distance <= limit_mm + 1e-9) | ndimage.binary_dilation(label_map == 1, FULL)
    tumors, _ = ndimage.label(label_map == 2, FULL)
    expected = np.where((tumors > 0) & ~np.isin(tumors, tumors[near & (tumors > 0)]), 0, label_map)
    np.testing.assert_array_equal(drop_tumors_off_liver(label_map, spacing, max_distance_mm=limit_mm), expected)


# --- what holds for every step ---


@pytest.mark.parametrize("shape", [(1, 1, 9), (9, 1, 9), (1, 9, 8)])
def test_scattered_voxels_in_a_map_one_voxel_thick(shape: tuple[int, int, int]) -> None:
    label_map = np.zeros(shape, dtype=np.uint8)  # as many components as fit: cc3d's worst case
    label_map[::2, ::2, ::2] = 2
    assert not drop_small_tumors(label_map, CM, min_volume_ml=2.0).any()
    assert np.count_nonzero(keep_largest_liver(label_map)) == 1


@all_steps
@given(label_map=label_maps, spacing=spacings)
def test_step_is_idempotent_invents_no_label_and_spares_its_input(
    step: Step, label_map: LabelMap, spacing: tuple[float, float, float]
) -> None:
    before = label_map.copy()
    cleaned = step(label_map, spacing)
    np.testing.assert_array_equal(label_map, before)
    assert not np.shares_memory(cleaned, label_map)
    assert cleaned.dtype == np.uint8
    assert set(np.unique(cleaned)) <= set(np.unique(label_map)) | {0, 1 if label_map.any() else 0}
    np.testing.assert_array_equal(step(cleaned, spacing), cleaned)


@all_steps
@given(label_map=label_maps, spacing=spacings)
def test_cutting_the_work_into_slabs_of_one_plane_changes_nothing(
    step: Step, label_map: LabelMap, spacing: tuple[float, float, float]
) -> None:
    whole = step(label_map, spacing)
    with patch("liver_pipeline.transforms.components.SLAB_VOXELS", 1):
        np.testing.assert_array_equal(step(label_map, spacing), whole)


@all_steps
@given(
    label_map=label_maps,
    spacing=spacings,
    axes=st.permutations(range(3)),
    flips=st.sets(st.integers(0, 2)),
    fortran=st.booleans(),
)
def test_step_does_not_depend_on_axis_order_flips_or_memory_order(
    step: Step,
    label_map: LabelMap,
    spacing: tuple[float, float, float],
    axes: list[int],
    flips: set[int],
    fortran: bool,
) -> None:
    if step is STEPS["keep_largest_liver"]:  # ties follow the index order: another test
        sizes = np.sort(np.bincount(ndimage.label(label_map > 0, FULL)[0].ravel())[1:])
        if len(sizes) > 1 and sizes[-1] == sizes[-2]:
            return

    def turn(array: LabelMap) -> LabelMap:
        turned = np.flip(array, tuple(flips)).transpose(axes)
        return np.asfortranarray(turned) if fortran else turned

    turned_spacing = (spacing[axes[0]], spacing[axes[1]], spacing[axes[2]])
    np.testing.assert_array_equal(step(turn(label_map), turned_spacing), turn(step(label_map, spacing)))


@all_steps
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_step_returns_a_map_that_lies_in_memory_as_its_input_does(
    step: Step, flips: tuple[int, ...], axes: tuple[int, int, int]
) -> None:
    view = np.flip(clutter(), flips).transpose(axes)  # axes may run backwards, as those of a scan stored from L to R
    assert step(view, CM).strides == view.strides


@all_steps
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 1, 1), (0, 3, 3)])
def test_empty_map_comes_back_empty(step: Step, shape: tuple[int, int, int]) -> None:
    cleaned = step(np.zeros(shape, dtype=np.uint8), CM)
    assert cleaned.shape == shape
    assert not cleaned.any()


@all_steps
@pytest.mark.parametrize("label", [1, 2])
def test_map_full_of_one_label_stays(step: Step, label: int) -> None:
    full = np.full((4, 4, 4), label, dtype=np.uint8)
    np.testing.assert_array_equal(step(full, CM), full)


@all_steps
@given(label_map=hnp.arrays(np.uint8, (5, 5, 5), elements=st.sampled_from([0, 1])))
def test_model_without_a_tumor_label_gets_no_tumor(step: Step, label_map: LabelMap) -> None:
    assert step(label_map, CM).max() <= 1


@all_steps
@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (np.zeros((1, 4, 4, 4), dtype=np.uint8), "drop the channel axis"),
        (np.zeros((4, 4, 4), dtype=np.float32), "uint8"),
        (np.full((4, 4, 4), 5, dtype=np.uint8), "label 5"),
    ],
)
def test_what_is_no_label_map_is_refused(step: Step, label_map: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step(label_map, CM)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, float("nan"))])
def test_spacing_that_is_no_voxel_size_is_refused(spacing: Any) -> None:
    with pytest.raises(ValueError, match="spacing"):
        drop_small_tumors(row(1, 2), spacing, min_volume_ml=1.0)
    with pytest.raises(ValueError, match="spacing"):
        drop_tumors_off_liver(row(1, 2), spacing, max_distance_mm=1.0)


def test_negative_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match="min_volume_ml"):
        drop_small_tumors(row(1, 2), CM, min_volume_ml=-1.0)
    with pytest.raises(ValueError, match="max_distance_mm"):
        drop_tumors_off_liver(row(1, 2), CM, max_distance_mm=float("nan"))


# --- the transforms ---

TRANSFORMS: list[CleanLabelMapd] = [
    KeepLargestLiverd("pred"),
    FillLiverHolesd("pred"),
    DropSmallTumorsd("pred", min_volume_ml=0.01),
    DropTumorsOffLiverd("pred", max_distance_mm=4.0),
]
all_transforms = pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.name)


def clutter() -> LabelMap:
    """Return a map in which every step finds something: two equal livers, holes, small and distant tumors."""
    label_map = np.zeros((12, 10, 8), dtype=np.uint8)
    label_map[0:4, 0:4, 0:4] = label_map[8:12, 6:10, 4:8] = 1
    label_map[1:3, 1:3, 1:3] = label_map[9:11, 7:9, 5:7] = 0
    label_map[0, 0, 0] = label_map[0, 9, 0] = label_map[5, 3, 3] = 2
    return label_map


def meta_tensor(label_map: LabelMap, affine: npt.NDArray[np.float64]) -> MetaTensor:
    """Return (1, X, Y, Z) with its affine."""
    return MetaTensor(torch.from_numpy(label_map.copy()[None]), affine=torch.from_numpy(affine.copy()))


@all_transforms
def test_transform_gives_the_same_patient_the_same_mask_in_all_48_storage_orders(transform: CleanLabelMapd) -> None:
    affine = np.diag([0.8, 1.0, 2.5, 1.0])
    affine[:3, :3] = Rotation.from_euler("xyz", [12, -6, 9], degrees=True).as_matrix() @ affine[:3, :3]  # oblique
    stored = nib.Nifti1Image(clutter(), affine)
    expected = transform({"pred": meta_tensor(clutter(), affine)})
    assert expected["effects"][transform.name] > 0
    for axes, signs in itertools.product(itertools.permutations(range(3)), itertools.product([1, -1], repeat=3)):
        turn = np.column_stack([axes, signs])
        turned = stored.as_reoriented(turn)
        out = transform({"pred": meta_tensor(np.asarray(turned.dataobj), turned.affine)})
        np.testing.assert_array_equal(
            out["pred"][0].numpy(), nib.orientations.apply_orientation(expected["pred"][0].numpy(), turn)
        )
        assert out["effects"] == expected["effects"]


@all_transforms
def test_transform_keeps_its_input_and_the_affine_and_counts_what_it_changed(transform: CleanLabelMapd) -> None:
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    data: dict[Any, Any] = {"pred": meta_tensor(clutter(), affine), "effects": {"body_crop": 7}}
    out = transform(data)
    np.testing.assert_array_equal(data["pred"][0].numpy(), clutter())
    assert data["effects"] == {"body_crop": 7}
    assert isinstance(out["pred"], MetaTensor)
    assert out["pred"].dtype == torch.uint8
    np.testing.assert_array_equal(out["pred"].affine, affine)
    assert out["effects"] == {"body_crop": 7, transform.name: np.count_nonzero(out["pred"][0].numpy() != clutter())}
    again = transform(out)
    assert again["effects"] == out["effects"]


def test_spacing_comes_from_the_affine() -> None:
    drop = DropSmallTumorsd("pred", min_volume_ml=1.0)
    label_map = row(1, 2, 1)
    assert drop({"pred": meta_tensor(label_map, np.diag([10.0, 10.0, 10.0, 1.0]))})["effects"][drop.name] == 0
    assert drop({"pred": meta_tensor(label_map, np.diag([10.0, 10.0, -9.9, 1.0]))})["effects"][drop.name] == 1


@pytest.mark.parametrize("pred", [torch.zeros(1, 3, 3, 3, dtype=torch.uint8), MetaTensor(torch.zeros(3, 3, 3))])
def test_transform_refuses_what_has_no_affine_or_no_channel(pred: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="MetaTensor of shape"):
        KeepLargestLiverd("pred")({"pred": pred})


def test_yaml_names_the_transforms() -> None:
    config = [
        {"_target_": "liver_pipeline.transforms.KeepLargestLiverd", "keys": "pred"},
        {"_target_": "liver_pipeline.transforms.FillLiverHolesd", "keys": "pred"},
        {
            "_target_": "liver_pipeline.transforms.DropTumorsOffLiverd",
            "keys": "pred",
            "max_distance_mm": 5.0,
        },
        {
            "_target_": "liver_pipeline.transforms.DropSmallTumorsd",
            "keys": "pred",
            "min_volume_ml": 0.05,
        },
    ]
    steps = ConfigParser({"steps": config}).get_parsed_content("steps")
    data: dict[Any, Any] = {"pred": meta_tensor(clutter(), np.eye(4))}
    for step in steps:
        data = step(data)
    assert list(data["effects"]) == [
        "keep_largest_liver",
        "fill_liver_holes",
        "drop_tumors_off_liver",
        "drop_small_tumors",
    ]


@pytest.mark.real_data
def test_real_lits_label_map_keeps_its_liver(real_data: Path) -> None:
    image = nib.load(real_data / "msd_label_maps" / "labelsTr_liver_0.nii.gz")
    label_map = np.asarray(image.dataobj).astype(np.uint8)
    spacing = image.header.get_zooms()[:3]
    cleaned = fill_liver_holes(keep_largest_liver(label_map))
    assert np.count_nonzero(cleaned != label_map) < 0.001 * np.count_nonzero(label_map)
    np.testing.assert_array_equal(drop_tumors_off_liver(cleaned, spacing, max_distance_mm=0.0), cleaned)
