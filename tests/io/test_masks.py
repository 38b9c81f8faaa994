"""Masks in each format lie on the same grid, say that they hold labels, and are written alike each time."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from liver_pipeline.geometry.affines import corner_shift_mm
from liver_pipeline.io.discovery import find_inputs, volume_files
from liver_pipeline.io.file_names import FORMATS
from liver_pipeline.io.masks import is_label_map, mask_of
from liver_pipeline.io.volumes import read_label_map, read_scan, write_label_map
from tests.orientations import OBLIQUE, every_orientation

SHAPE = (7, 6, 5)


def affine_of(permutation: Any = (0, 1, 2), flips: Any = (1, 1, 1), rotation: Any = OBLIQUE) -> Any:
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, permutation] * flips * [0.7, 0.9, 2.5]
    affine[:3, 3] = [-12.5, 31.25, 8.0]
    return affine


def scan_on(folder: Path, affine: Any) -> Any:
    hu = np.random.default_rng(0).normal(40, 12, SHAPE).astype(np.int16)
    hu[:, 0] = -1000
    hu[:, 1] = -100
    nib.Nifti1Image(hu, affine).to_filename(folder / "scan.nii.gz")
    return read_scan(folder / "scan.nii.gz", accept=["HU_SCALE"])


LABELS = np.asfortranarray(np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8))


@every_orientation
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_mask_lies_where_its_nifti_twin_lies_also_for_itk(
    tmp_path: Path, permutation: Any, flips: Any, suffix: str
) -> None:
    scan = scan_on(tmp_path, affine_of(permutation, flips))
    path, twin = tmp_path / f"mask{suffix}", tmp_path / "mask.nii.gz"
    for one in (path, twin):
        write_label_map(one, LABELS, scan)
    ours, nifti = read_label_map(path), read_label_map(twin)
    np.testing.assert_array_equal(ours.array, LABELS)
    assert corner_shift_mm(SHAPE, ours.affine, nifti.affine) < 1e-3
    image, other = SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(twin))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T, LABELS)
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(image, what)(), getattr(other, what)(), atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii", *FORMATS.values()])
def test_the_same_labels_give_the_same_bytes_and_the_hash_that_was_announced(tmp_path: Path, suffix: str) -> None:
    scan = scan_on(tmp_path, affine_of())
    told: list[str] = []
    first = write_label_map(tmp_path / f"a{suffix}", LABELS, scan, announce=told.append)
    again = write_label_map(tmp_path / f"b{suffix}", np.ascontiguousarray(LABELS), scan)
    assert [first] == told and first == again
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", FORMATS.values())
def test_a_mask_alone_is_known_as_a_label_map_in_each_format(tmp_path: Path, suffix: str) -> None:
    scan = scan_on(tmp_path, affine_of())
    for name in ("moved", "moved.stale", "moved.edited"):
        write_label_map(tmp_path / f"{name}{suffix}", LABELS, scan)
    assert [one.case for one in find_inputs(tmp_path)] == ["scan"]
    assert is_label_map(tmp_path / f"moved{suffix}")
    names = [path.name for path in volume_files(tmp_path)]
    assert names == sorted(["scan.nii.gz", f"moved{suffix}", f"moved.edited{suffix}"])  # a stale one is no result
    assert mask_of(tmp_path, "moved").name == f"moved{suffix}" and mask_of(tmp_path, "none").name == "none.nii.gz"


def test_slicers_segments_are_known_without_their_name(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(LABELS.T)
    image.SetMetaData("Segment0_ID", "Segment_1")  # type: ignore[no-untyped-call]
    SimpleITK.WriteImage(image, str(tmp_path / "drawn.nrrd"))
    assert is_label_map(tmp_path / "drawn.nrrd")


def test_a_grid_with_oblique_angles_has_no_metaimage(tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.01  # a drift of a twentieth of a voxel: silent
    scan = scan_on(tmp_path, sheared)
    with pytest.raises(ValueError, match="NRRD or NIfTI"):
        write_label_map(tmp_path / "mask.mha", LABELS, scan)
    write_label_map(tmp_path / "mask.nrrd", LABELS, scan)
    np.testing.assert_allclose(read_label_map(tmp_path / "mask.nrrd").affine, scan.affine, atol=1e-7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.nrrd", "scan.nii.gz"]


def test_another_ending_is_refused(tmp_path: Path) -> None:
    scan = scan_on(tmp_path, affine_of())
    with pytest.raises(ValueError, match=r"\.nii\.gz, \.nii, \.nrrd, \.mha"):
        write_label_map(tmp_path / "mask.mgz", LABELS, scan)


def test_nrrd_holds_plain_gzip(tmp_path: Path) -> None:
    write_label_map(tmp_path / "mask.nrrd", LABELS, scan_on(tmp_path, affine_of()))
    header, _, voxels = (tmp_path / "mask.nrrd").read_bytes().partition(b"\n\n")
    assert b"\ncontent: label map\n" in header
    assert gzip.decompress(voxels) == LABELS.tobytes(order="F")
