"""Slices that are constant, copied, rescaled or moved are named, in any orientation; whole scans are not blamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from liver_pipeline.data.phantoms import liver_phantom
from liver_pipeline.geometry.affines import slice_axis
from liver_pipeline.io.findings import Finding, IntakeError, Severity
from liver_pipeline.io.slices import slice_findings
from liver_pipeline.io.volumes import read_scan
from tests.damage import LENIENT, PHASES, REAL, SLICES, WHOLE, apart, crops, five, of_another, on_slices, thinned
from tests.damage import one as middle
from tests.dicom_files import body, ct
from tests.orientations import every_orientation

SPACING = (3.0, 3.0, 5.0)


def phantom() -> Any:
    return liver_phantom(spacing=SPACING)[0]


def found_in(array: Any, modality: str = "ct", axis: int = 2) -> list[tuple[str, Severity]]:
    return [
        (f.code, f.severity) for f in slice_findings(np.asfortranarray(array), 1.0, 0.0, axis, in_hu=modality == "ct")
    ]


def one(array: Any, modality: str = "ct") -> Finding:
    (finding,) = slice_findings(np.asfortranarray(array), 1.0, 0.0, 2, in_hu=modality == "ct")
    return finding


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_a_whole_scan_has_no_findings(modality: str) -> None:
    assert found_in(phantom(), modality) == []


@pytest.mark.parametrize("value", [-1024, 0, 40])
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_constant_slices_inside_the_body_are_named(value: int, modality: str) -> None:
    array = phantom()
    array[:, :, [20, 21, 22, 23, 40]] = value
    finding = one(array, modality)
    assert (finding.code, finding.severity) == ("SLICE_CONSTANT", Severity.WARNING)
    assert "slices 20 to 23, 40:" in finding.detail


def test_constant_slices_at_the_ends_are_padding() -> None:
    array = phantom()
    array[:, :, :5] = array[:, :, -3:] = -1024
    assert found_in(array) == []


def test_a_copy_of_a_slice_is_named_and_a_drawing_without_noise_is_none() -> None:
    array = phantom()
    array[:, :, 31] = array[:, :, 30]
    finding = one(array)
    assert (finding.code, finding.severity) == ("SLICE_REPEATED", Severity.WARNING) and "slices 31:" in finding.detail
    assert found_in(np.repeat(array[:, :, ::4], 4, axis=2)) == []


@pytest.mark.parametrize("offset", [1024, -1024, 300, -150, 150])
def test_slices_of_another_rescale_are_an_error(offset: int) -> None:
    array = phantom().astype(np.int32)
    array[:, :, 20:28] += offset
    finding = one(array)
    assert (finding.code, finding.severity) == ("SLICE_JUMP", Severity.ERROR)
    assert "19 and 20, 27 and 28" in finding.detail
    assert one(array, "mr").severity is Severity.WARNING  # intensities of an MR have no scale


@pytest.mark.parametrize("mm", [12, 30, 60])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_body_that_jumps_in_the_plane_is_a_warning(mm: int, axis: int) -> None:
    array = phantom()
    array[:, :, 20:40] = np.roll(array[:, :, 20:40], mm // 3, axis=axis)
    finding = one(array)
    assert (finding.code, finding.severity) == ("SLICE_JUMP", Severity.WARNING)
    assert "19 and 20, 39 and 40" in finding.detail


@pytest.mark.parametrize("mm", [6, 12, 60])
def test_two_passes_that_alternate_are_an_error_whatever_their_tags_say(mm: int) -> None:
    """Between two slices of one pass lies one of the other, so that the next but one is the nearest."""
    array = np.repeat(phantom(), 2, axis=2)
    assert [code for code, _ in found_in(array)] == ["SLICE_REPEATED"]  # twice the same pass
    array[:, :, 1::2] = np.roll(array[:, :, 1::2], mm // 3, axis=0)
    finding = one(array)
    assert (finding.code, finding.severity) == ("SLICE_JUMP", Severity.ERROR) and "every other" in finding.detail
    assert found_in(array, "mr") == []  # odd slices of an MR may be taken after the even ones


@pytest.mark.parametrize("name", [name for name in SLICES if "flipped" not in name])  # a phantom is symmetric
def test_damaged_slices_and_planes_are_named_in_any_modality(name: str) -> None:
    damaged = SLICES[name](phantom())
    assert on_slices(damaged) and on_slices(damaged + 1024, in_hu=False)


@pytest.mark.parametrize("name", PHASES)
def test_two_phases_of_contrast_that_alternate_are_an_error(name: str) -> None:
    array = PHASES[name](phantom())
    finding = one(array)
    assert (finding.code, finding.severity) == ("SLICE_JUMP", Severity.ERROR) and "every other" in finding.detail
    assert found_in(array, "mr") == []


def test_a_plane_across_x_is_named_and_a_gap_between_arm_and_body_is_none() -> None:
    array = phantom()
    array[60:62] = -1000
    finding = one(array)
    assert finding.code == "SLICE_CONSTANT" and "planes across X 60 to 61:" in finding.detail
    x, y = np.indices(array.shape[:2])
    parted = np.full_like(array, -1000)
    for centre, radius in ((40, 30), (100, 12)):  # air without noise, in all planes between x = 70 and 88
        disc = (x - centre) ** 2 + (y - 50) ** 2 < radius**2
        parted[disc] = 40 + np.random.default_rng(centre).integers(-9, 10, (disc.sum(), array.shape[2]))
    assert found_in(parted) == []


def test_a_slice_unlike_both_neighbours_is_one_finding_that_names_it() -> None:
    array = phantom()
    array[:, :, 30] = array[::-1, :, 30]
    finding = one(array)
    assert (finding.code, finding.severity) == ("SLICE_JUMP", Severity.WARNING) and "slices 30:" in finding.detail


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.25])
def test_a_slice_times_a_factor_is_named_with_it(factor: float) -> None:
    array = phantom().astype(np.float64)
    array[:, :, 30] *= factor
    finding = one(array)
    assert (finding.code, finding.severity) == ("SLICE_JUMP", Severity.WARNING)
    assert finding.detail.startswith(f"slices 30: those beside it times {factor:.2f}")


def test_a_body_that_begins_at_once_is_no_multiple_of_half_of_it() -> None:
    array = np.full((24, 22, 20), -1000.0)
    array[5:19, 5:17, 4:16] = 40 + 20 * np.random.default_rng(0).random((14, 12, 12))
    assert found_in(array) == []


def test_a_scan_that_fades_slice_by_slice_is_no_multiple_of_its_neighbours() -> None:
    array = phantom().astype(np.float64) + 1000.0
    array *= 0.98 ** np.arange(array.shape[2])
    assert found_in(array - 1000.0) == [] and found_in(array, "mr") == []


@every_orientation
def test_slices_are_found_across_the_slice_axis(tmp_path: Path, permutation: Any, flips: Any) -> None:
    array = liver_phantom((32, 26, 16), (12.0, 12.0, 6.0), noise_hu=5.0)[0]
    array[:, :, 7] = -1000
    affine = np.eye(4)
    affine[:3, :3] = np.diag([12.0, 12.0, 6.0]) @ (np.eye(3)[:, list(permutation)] * flips)
    turned = array.transpose(permutation)[tuple(slice(None, None, flip) for flip in flips)]
    nib.Nifti1Image(turned, affine).to_filename(tmp_path / "a.nii")
    codes = [f.code for f in read_scan(tmp_path / "a.nii", accept=["THICK_SLICE"]).findings]
    assert codes == ["THICK_SLICE", "SLICE_CONSTANT"]


@pytest.mark.parametrize(
    ("spacing", "axis"), [((0.7, 0.7, 5.0), 2), ((5.0, 0.7, 0.7), 0), ((1.0, 1.0, 1.0), 2), ((1.0, 1.0, 0.8), 2)]
)
def test_the_slice_axis_is_that_of_long_voxels_else_head_to_foot(spacing: Any, axis: int) -> None:
    assert slice_axis(np.diag([*spacing, 1.0])) == axis


@pytest.mark.parametrize("axis", [0, 1], ids=["sagittal", "coronal"])
def test_a_reformat_begins_with_arms_and_ends_with_the_table_without_a_jump(tmp_path: Path, axis: int) -> None:
    array = phantom()
    np.moveaxis(array, axis, 0)[6:9, 10:60] = np.random.default_rng(0).normal(300, 20, (3, 50, array.shape[2]))
    edges = [3.0, 3.0, 3.0]
    edges[axis] = 5.0
    nib.save(nib.Nifti1Image(array, np.diag([*edges, 1.0])), tmp_path / "a.nii.gz")
    assert "SLICE_JUMP" in [code for code, _ in found_in(array, axis=axis)]  # were it axial
    assert all(f.code != "SLICE_JUMP" for f in read_scan(tmp_path / "a.nii.gz").findings)


def test_a_body_that_begins_and_ends_inside_the_volume_is_no_jump() -> None:
    array = phantom()
    array[:, :, :10] = array[:, :, 50:] = -1000 + np.random.default_rng(0).integers(-5, 6, (*array.shape[:2], 1))
    array[:, :, :10] += np.arange(10, dtype=np.int16)  # air, no copy of itself
    array[:, :, 50:] += np.arange(14, dtype=np.int16)
    assert found_in(array) == []


def test_a_ball_in_air_is_no_jump() -> None:
    grid = np.meshgrid(*(np.arange(40) - 19.5,) * 3, indexing="ij")
    ball = np.where(sum(g**2 for g in grid) < 15**2, 20, -1000)
    assert found_in(ball + np.random.default_rng(0).integers(-5, 6, ball.shape)) == []


def test_a_volume_of_few_slices_has_nothing_usual() -> None:
    array = phantom()[:, :, :7]
    array[:, :, 3] += 500
    assert found_in(array) == []


# --- real scans ------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize("name", [name for name in REAL if name not in ("dcmqi", "gstt")])
def test_slices_of_real_scans_are_right_and_damage_is_told(real_data: Path, name: str) -> None:
    scan = read_scan(real_data / REAL[name], accept=LENIENT)
    array, depth = scan.array.astype(np.int32), scan.array.shape[2]
    assert found_in(array) == [] and found_in(array, "mr") == []
    block = slice(depth // 3, depth // 2)
    for offset in (150, -200, 1024, -1024):
        changed = array.copy()
        changed[:, :, block] += offset
        assert ("SLICE_JUMP", Severity.ERROR) in found_in(changed)
    for mm in (10, 30):
        changed = array.copy()
        changed[:, :, block] = np.roll(array[:, :, block], round(mm / scan.spacing[0]), axis=0)
        assert ("SLICE_JUMP", Severity.WARNING) in found_in(changed)
    changed = array.copy()
    changed[:, :, depth // 3] = -1000
    assert found_in(changed) == [("SLICE_CONSTANT", Severity.WARNING)]


@pytest.mark.real_data
def test_damaged_slices_of_real_scans_and_slices_of_other_patients_are_named(real_data: Path) -> None:
    volumes = {}
    for name in [name for name in REAL if name not in ("dcmqi", "gstt")]:
        scan = read_scan(real_data / REAL[name])
        volumes[name] = thinned(scan.array.astype(np.float32) * scan.slope + scan.intercept)
    for name, hu in volumes.items():
        assert not [change for change, apply in WHOLE.items() if on_slices(apply(hu))], name
        assert not [change for change, apply in (SLICES | PHASES).items() if not on_slices(apply(hu))], name
        other = volumes["tcia" if name == "ircadb" else "ircadb"]
        assert not [which for which in (middle, five, apart) if not on_slices(of_another(hu, other, which))], name


@pytest.mark.real_data
def test_damaged_slices_of_a_real_mr_are_named(real_data: Path) -> None:
    mr = read_scan(real_data / "totalsegmentator_examples" / "example_mr_sm.nii.gz", modality="mr").array
    assert not [change for change, apply in SLICES.items() if not on_slices(apply(mr.astype(float)), in_hu=False)]


@pytest.mark.real_data
def test_slices_of_crops_of_real_scans_are_right(real_data: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("ircadb", "tcia", "totalsegmentator", "totalsegmentator dicom"):
        volume = read_scan(real_data / REAL[name]).array
        for crop, where in crops(volume, rng, least=10):
            assert on_slices(crop) == [], (name, where)


@pytest.mark.real_data
def test_reformats_of_real_scans_are_right(real_data: Path) -> None:
    for name in ("tcia", "totalsegmentator"):
        scan = read_scan(real_data / REAL[name])
        hu = thinned(scan.array)
        for axis in (0, 1):
            planes = np.moveaxis(hu, axis, 2)
            found = slice_findings(np.asfortranarray(planes), 1.0, 0.0, 2, in_hu=True, axial=False)
            assert found == [], (name, axis)


def test_four_constant_slices_of_a_series_are_named_by_file(tmp_path: Path) -> None:
    hu = body()
    hu[:, :, 4:6] = -1000
    (finding,) = read_scan(ct(tmp_path, hu=hu)).findings
    assert finding.code == "SLICE_CONSTANT" and "IM004 to IM005" in finding.detail


def test_a_slice_jump_can_be_accepted(tmp_path: Path) -> None:
    folder = ct(tmp_path, (4, 5), hu=body(), RescaleIntercept=0)
    with pytest.raises(IntakeError, match=r"SLICE_JUMP.*IM003 and IM004, IM005 and IM006"):
        read_scan(folder)
    assert read_scan(folder, accept=["SLICE_JUMP"]).array.shape == (20, 16, 12)
