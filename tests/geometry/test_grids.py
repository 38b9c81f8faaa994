"""The model grid is MONAI's own, whatever the scan's axis order, flips, spacing and lean."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Resize, Spacing
from scipy.spatial.transform import Rotation

from liver_pipeline.geometry.affines import Affine
from liver_pipeline.geometry.axes import axis_map
from liver_pipeline.geometry.grids import model_grid_for_size, model_grid_for_spacing
from liver_pipeline.geometry.resampling import resample_linear, resample_nearest, uploaded
from tests.orientations import ORIENTATIONS

OBLIQUE = Rotation.from_euler("xyz", (12.0, -9.0, 17.0), degrees=True).as_matrix()


def tilted(spacing: tuple[float, float, float], rotation: npt.NDArray[np.float64]) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    affine[:3, 3] = (-91.5, 33.25, -410.0)
    return affine


def reorder(
    array: npt.NDArray[np.int16], affine: Affine, permutation: tuple[int, ...], flips: tuple[int, ...]
) -> tuple[npt.NDArray[np.int16], Affine]:
    ornt = np.stack([permutation, flips], axis=1).astype(float)
    image = nib.Nifti1Image(array, affine).as_reoriented(ornt)
    return np.asfortranarray(image.dataobj), np.asarray(image.affine)


def stock(array: npt.NDArray[np.generic], affine: Affine, spacing: tuple[float, float, float], mode: str) -> MetaTensor:
    chain = Compose([Orientation("RAS", labels=None), Spacing(spacing, mode=mode)])
    resampled = chain(MetaTensor(torch.from_numpy(array[None].astype(np.float32)), affine=torch.as_tensor(affine)))
    assert isinstance(resampled, MetaTensor)
    return resampled


@pytest.mark.parametrize("rotation", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS)
def test_model_grid_and_values_are_those_of_orientation_and_spacing(
    permutation: tuple[int, ...], flips: tuple[int, ...], rotation: npt.NDArray[np.float64]
) -> None:
    rng = np.random.default_rng(7)
    volume = rng.integers(-1024, 1500, (11, 14, 9)).astype(np.int16)
    array, affine = reorder(volume, tilted((0.7, 0.9, 2.6), rotation), permutation, flips)
    spacing = (1.1, 0.6, 1.9)
    model_affine, shape = model_grid_for_spacing(affine, array.shape, spacing)
    grid = axis_map(affine, array.shape, model_affine, shape)
    expected = stock(array, affine, spacing, "bilinear")
    assert shape == tuple(expected.shape[1:])
    np.testing.assert_allclose(model_affine, expected.affine.numpy(), atol=1e-6)
    np.testing.assert_allclose(resample_linear(array, grid), expected.numpy()[0], atol=1e-3)
    labels = (array > 200).astype(np.uint8)
    np.testing.assert_array_equal(resample_nearest(labels, grid), stock(labels, affine, spacing, "nearest").numpy()[0])


@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS)
def test_resampled_scan_is_the_same_to_the_bit_in_any_axis_order(
    permutation: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    volume = np.random.default_rng(8).integers(-1024, 1500, (13, 10, 8)).astype(np.int16)
    results = []
    for array, affine in (
        (volume, tilted((0.7, 0.7, 2.6), OBLIQUE)),
        reorder(volume, tilted((0.7, 0.7, 2.6), OBLIQUE), permutation, flips),
    ):
        model_affine, shape = model_grid_for_spacing(affine, array.shape, (1.5, 1.5, 2.0))
        results.append(resample_linear(array, axis_map(affine, array.shape, model_affine, shape)))
        sent = uploaded(array[1:9, ::-1], torch.device("cpu"))  # as to a GPU, without one
        np.testing.assert_array_equal(sent, array[1:9, ::-1].astype(np.float32))
    np.testing.assert_array_equal(results[0], results[1])


@settings(max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 17)] * 3),
    own=st.tuples(*[st.floats(0.3, 5.0)] * 3),
    wanted=st.tuples(*[st.floats(0.5, 4.0)] * 3),
    seed=st.integers(0, 999),
)
def test_any_spacing_and_shape_gives_the_grid_of_spacingd(
    shape: tuple[int, int, int], own: tuple[float, float, float], wanted: tuple[float, float, float], seed: int
) -> None:
    array = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    affine = tilted(own, np.eye(3))
    model_affine, model_shape = model_grid_for_spacing(affine, shape, wanted)
    expected = stock(array, affine, wanted, "bilinear")
    assert model_shape == tuple(expected.shape[1:])
    np.testing.assert_allclose(model_affine, expected.affine.numpy(), atol=1e-6)
    ours = resample_linear(array, axis_map(affine, shape, model_affine, model_shape))
    np.testing.assert_allclose(ours, expected.numpy()[0], atol=2e-3)


def test_spacing_within_a_thousandth_keeps_the_scan_to_the_bit() -> None:
    array = np.random.default_rng(1).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)
    affine = tilted((0.8004, 0.8, 1.9997), np.eye(3))
    model_affine, shape = model_grid_for_spacing(affine, array.shape, (0.8, 0.8, 2.0))
    np.testing.assert_array_equal(model_affine, affine)
    np.testing.assert_array_equal(resample_linear(array, axis_map(affine, array.shape, model_affine, shape)), array)


@pytest.mark.parametrize("size", [(8, 5, 9), (30, 20, 4), (12, 10, 9)])
def test_grid_size_covers_the_whole_field_of_view_as_resize_does(size: tuple[int, int, int]) -> None:
    array = np.random.default_rng(2).integers(-1000, 1000, (12, 10, 9)).astype(np.int16)
    affine = tilted((1.0, 2.0, 3.0), np.eye(3))
    model_affine, shape = model_grid_for_size(affine, array.shape, size)
    assert shape == size
    expected = Resize(size, mode="trilinear", align_corners=False)(torch.from_numpy(array[None].astype(np.float32)))
    ours = resample_linear(array, axis_map(affine, array.shape, model_affine, shape))
    np.testing.assert_allclose(ours, expected.numpy()[0], atol=2e-3)
    corner = np.array([-0.5, -0.5, -0.5, 1.0])  # the outer corner of the first voxel is the same point in mm
    np.testing.assert_allclose(model_affine @ corner, affine @ corner, atol=1e-9)


def test_slope_and_intercept_are_applied() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    grid = axis_map(np.eye(4), array.shape, np.eye(4), array.shape)
    np.testing.assert_array_equal(resample_linear(array, grid, slope=2.0, intercept=-1000.0), 2.0 * array - 1000.0)


def test_linear_ramp_stays_a_ramp_between_the_outer_voxel_centres() -> None:
    ramp = np.broadcast_to(10.0 * np.arange(9.0)[:, None, None], (9, 4, 4)).astype(np.int16)
    affine, shape = model_grid_for_spacing(np.eye(4), ramp.shape, (0.5, 1.0, 1.0))
    ours = resample_linear(ramp, axis_map(np.eye(4), ramp.shape, affine, shape))
    np.testing.assert_allclose(ours[:, 0, 0], 5.0 * np.arange(17.0))


def test_aligned_view_writes_through_to_the_scan() -> None:
    affine = np.array([[0, 0, -2, 0], [0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
    out = np.zeros((3, 4, 5), dtype=np.uint8)
    model_affine, shape = model_grid_for_spacing(affine, out.shape, (2.0, 1.0, 3.0))
    grid = axis_map(affine, out.shape, model_affine, shape)
    grid.align(out)[0, 1, 2] = 7  # first along R, second along A, third along S
    assert out[2, 1, 4] == 7
    assert out.sum() == 7


def test_sheared_grid_is_refused_with_the_reason() -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.2
    with pytest.raises(ValueError, match="not parallel"):
        axis_map(affine, (50, 50, 50), np.eye(4), (50, 50, 50))


def test_singular_affine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"singular|without direction"):
        model_grid_for_spacing(np.diag([1.0, 0.0, 1.0, 1.0]), (4, 4, 4), (1.0, 1.0, 1.0))
