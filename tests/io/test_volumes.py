"""Reading and writing: malformed files get their code, good ones arrive as stored, masks keep the grid to the bit."""

from __future__ import annotations

import errno
import gzip
import hashlib
import itertools
import json
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from liver_pipeline.cli import main
from liver_pipeline.geometry.affines import repair_shear, shear_deg
from liver_pipeline.io.findings import CODES, IntakeError, Severity
from liver_pipeline.io.volumes import Scan, label_findings, read_label_map, read_scan, write_label_map
from tests.script_module import load_script

bad = load_script("make_bad_nifti")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "set"
    bad.write_all(folder)
    return folder


def codes_of(path: Path, modality: str = "ct") -> list[str]:
    try:
        return [finding.code for finding in read_scan(path, modality=modality).findings]
    except IntakeError as reason:
        errors = [finding.code for finding in reason.findings if finding.severity is Severity.ERROR]
        assert reason.code == errors[0]
        assert "\n" not in str(reason)
        return [finding.code for finding in reason.findings]


@pytest.mark.parametrize("name", bad.SCANS)
def test_each_malformed_scan_gets_exactly_its_code(written: Path, name: str) -> None:
    assert codes_of(written / "scans" / name) == list(bad.SCANS[name][0])


def test_each_label_pair_gets_exactly_its_code(written: Path) -> None:
    pairs = json.loads((written / "expected.json").read_text())["label_pairs"]
    for name, pair in pairs.items():
        try:
            label = read_label_map(written / name)
            found = [f.code for f in (*label.findings, *label_findings(read_scan(written / pair["scan"]), label))]
        except IntakeError as reason:
            found = [f.code for f in reason.findings]
        assert found == pair["codes"], name


def test_the_malformed_set_covers_every_code_a_file_can_get() -> None:
    covered = {code for codes, _ in bad.SCANS.values() for code in codes}
    of_runs = {"NO_SCANS", "DUPLICATE_NAME", "OUTPUT_EXISTS", "PREDICT_FAILED", "WRITE_FAILED", "DISK_FULL"}
    of_runs |= {"DEVICE_FAILED", "OUTPUT_READ_ONLY", "NOT_FOUND", "READ_FAILED", "READER_FAILED", "OUT_OF_MEMORY"}
    of_runs |= {
        "WORKER_DIED",
        "PORT_TAKEN",
        "PEER_REFUSED",
        "PEER_UNREACHABLE",
        "PEER_UNKNOWN",
        "TRANSFER_SYNTAX",
        "INSTANCE_REFUSED",
        "SERIES_INCOMPLETE",
        "DICOM_REFERENCE",
        "DICOM_RESULT_FAILED",
        "QUALITY_FILE",
        "NO_VALIDATION",
        "SEGMENTS_NOT_ESTIMATED",
    }
    asked = {"NO_SERIES", "SERIES_CHOSEN", "LABEL_MAP"}  # of MR
    of_labels = {"LABEL_GRID_MISMATCH", "LABEL_VALUES", "LABEL_NAMES", "LABEL_EMPTY", "LABEL_MISSING", "LABEL_UNNAMED"}
    assert set(CODES) - covered - of_runs - asked == of_labels


def test_a_missing_file_and_an_unreadable_folder_name_have_codes(tmp_path: Path) -> None:
    assert codes_of(tmp_path / "missing.nii.gz") == ["NOT_FOUND"]
    loop = tmp_path / "loop.nii.gz"
    loop.symlink_to(loop)
    assert codes_of(loop) == ["READ_FAILED"]


def test_an_accepted_error_becomes_a_warning_and_an_unknown_code_is_an_error(written: Path) -> None:
    path = written / "scans" / "intercept_lost.nii.gz"
    (finding,) = read_scan(path, accept=["HU_SCALE"]).findings
    assert (finding.code, finding.severity) == ("HU_SCALE", Severity.WARNING)
    assert finding.detail.endswith("; accepted")
    assert read_scan(path, modality="mr").findings == ()
    with pytest.raises(ValueError, match="unknown intake code 'HUSCALE'"):
        read_scan(path, accept=["HUSCALE"])


def test_voxels_that_are_no_numbers_cannot_be_accepted(written: Path) -> None:
    with pytest.raises(IntakeError, match=r"NON_FINITE: .*fill them .*cannot be accepted"):
        read_scan(written / "scans" / "nan_voxel.nii.gz", accept=["NON_FINITE"])


def test_tiny_shear_is_repaired_on_request(written: Path) -> None:
    path = written / "scans" / "shear_tiny.nii.gz"
    kept, repaired = read_scan(path), read_scan(path, repair=["SHEAR"])
    assert shear_deg(kept.affine) == pytest.approx(0.3, rel=1e-3)
    assert shear_deg(repaired.affine) < 1e-5
    (asked,), (done,) = ([f.detail for f in scan.findings if f.code == "SHEAR"] for scan in (kept, repaired))
    assert asked.endswith("(repair=[SHEAR] mends it)") and done.endswith("(they were turned to right angles)")
    np.testing.assert_allclose(repaired.spacing, kept.spacing, rtol=1e-6)
    np.testing.assert_array_equal(repair_shear(np.eye(4)), np.eye(4))


@pytest.mark.parametrize(
    "name", [name for name, (codes, _) in bad.SCANS.items() if name.startswith("good") and not codes]
)
def test_a_good_scan_arrives_as_stored_and_in_hounsfield_units(written: Path, name: str) -> None:
    scan = read_scan(written / "scans" / name)
    assert scan.array.flags.f_contiguous and scan.array.dtype.isnative
    if "series" in name:
        assert scan.array.shape == (16, 16, 12) and scan.array.dtype == np.int16
        assert (scan.slope, scan.intercept, scan.array.min(), scan.array[8, 8].min()) == (1.0, 0.0, -1000, 40)
        assert nib.aff2axcodes(scan.affine) == ("L", "P", "S")
        np.testing.assert_allclose(scan.spacing, (0.8, 0.8, 2.5), rtol=1e-6)
        np.testing.assert_allclose(scan.affine[:3, 3], (6, 6, 0), atol=1e-6)
        return
    values = scan.slope * scan.array.astype(np.float64) + scan.intercept
    np.testing.assert_array_equal(values, bad.body())
    np.testing.assert_allclose(scan.affine, bad.AFFINE, atol=1e-6)
    np.testing.assert_allclose(scan.spacing, (0.8, 0.8, 2.5), rtol=1e-6)
    if not name.endswith((".nhdr", ".hdr")):  # those are two files
        assert scan.sha256 == hashlib.sha256((written / "scans" / name).read_bytes()).hexdigest()


def test_slices_are_ordered_by_position_not_by_name(written: Path) -> None:
    # good_series is written top down: image_0 (HU 40 inside) is the highest slice, image_1 below it has 41, ...
    inside = read_scan(written / "scans" / "good_series").array[8, 8]
    np.testing.assert_array_equal(inside, [40 + n % 10 for n in range(11, -1, -1)])


def test_the_hash_of_a_series_does_not_depend_on_file_names(written: Path, tmp_path: Path) -> None:
    source = written / "scans" / "good_series"
    for number, file in enumerate(sorted(source.iterdir())):
        (tmp_path / f"{number:03d}.dcm").write_bytes(file.read_bytes())
    assert read_scan(tmp_path).sha256 == read_scan(source).sha256


@pytest.mark.parametrize(
    ("slope", "dtype", "expected_slope", "value"), [("2", "int16", 1.0, 1104.0), ("0.5", "int16", 0.5, -492.0)]
)
def test_dicom_slope_is_applied_or_kept_where_it_is_a_fraction(
    tmp_path: Path, slope: str, dtype: str, expected_slope: float, value: float
) -> None:
    for n in range(9):
        (tmp_path / f"{n}").write_bytes(bad.dicom_slice(2.5 * n, 0, {0x00281053: ("DS", slope)}))
    scan = read_scan(tmp_path, accept=["HU_SCALE"])
    assert (str(scan.array.dtype), scan.slope) == (dtype, expected_slope)
    assert scan.slope * scan.array[8, 8, 4] + scan.intercept == value  # slope * 1064 - 1024


def test_a_fractional_slope_that_differs_between_slices_gives_float_values(tmp_path: Path) -> None:
    for n in range(9):
        (tmp_path / f"{n}").write_bytes(bad.dicom_slice(2.5 * n, 0, {0x00281053: ("DS", "0.5" if n else "0.25")}))
    scan = read_scan(tmp_path, accept=["HU_SCALE"])
    assert scan.array.dtype == np.float32 and (scan.slope, scan.intercept) == (1.0, 0.0)
    np.testing.assert_array_equal(scan.array[8, 8], [1064 * 0.25 - 1024] + [1064 * 0.5 - 1024] * 8)


def test_reading_allocates_the_volume_once(tmp_path: Path) -> None:
    volume = np.asfortranarray(np.random.default_rng(0).integers(-1000, 1000, (128, 128, 300), dtype=np.int16))
    nib.Nifti1Image(volume, bad.AFFINE).to_filename(tmp_path / "a.nii.gz")
    read_scan(tmp_path / "a.nii.gz", accept=["HU_SCALE"])
    tracemalloc.start()
    scan = read_scan(tmp_path / "a.nii.gz", accept=["HU_SCALE"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # beside the voxels: the compressed bytes that wait for the hash thread (at most the file) and buffers
    assert peak < scan.array.nbytes + (tmp_path / "a.nii.gz").stat().st_size + 6e6


# --- writing -------------------------------------------------------------------------------------------------------

ORDERS = [(p, f) for p in itertools.permutations(range(3)) for f in itertools.product((1, -1), repeat=3)]
SMALL = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def rotation(angles: tuple[float, float, float]) -> Any:
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        i, j = [a for a in range(3) if a != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def raw_fields(path: Path) -> dict[str, bytes]:
    header = nib.load(path).header
    kept = "sform_code qform_code xyzt_units srow_x srow_y srow_z quatern_b quatern_c quatern_d"
    kept += " qoffset_x qoffset_y qoffset_z"
    return {field: header[field].tobytes() for field in kept.split()} | {"pixdim": header["pixdim"][:4].tobytes()}


@SMALL
@given(
    order=st.sampled_from(ORDERS),
    angles=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    codes=st.sampled_from([(1, 1), (0, 2), (1, 0), (2, 1), (4, 0)]),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    units=st.sampled_from(["mm", "unknown"]),
)
def test_a_mask_keeps_the_grid_of_its_scan_to_the_bit(
    tmp_path: Path, order: Any, angles: Any, codes: tuple[int, int], kind: Any, units: str
) -> None:
    permutation, flips = order
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ np.eye(3)[:, permutation] * flips * (0.7, 0.9, 2.5)
    affine[:3, 3] = (-31.7, 12.3, 801.1)
    image = kind(bad.body((9, 10, 11)), affine)
    image.header.set_xyzt_units(units)
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine, code=codes[1])
    image.header["descrip"] = b"Jane Doe"
    image.to_filename(tmp_path / "scan.nii.gz")
    scan = read_scan(tmp_path / "scan.nii.gz")
    labels = np.random.default_rng(0).integers(0, 3, (9, 10, 11)).astype(np.uint8)
    sha256 = write_label_map(tmp_path / "mask.nii.gz", labels, scan, overwrite=True)

    assert sha256 == hashlib.sha256((tmp_path / "mask.nii.gz").read_bytes()).hexdigest()
    assert raw_fields(tmp_path / "mask.nii.gz") == raw_fields(tmp_path / "scan.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), labels)
    np.testing.assert_array_equal(mask.affine, scan.affine)
    assert mask.get_data_dtype() == np.uint8 and bytes(mask.header["descrip"]).strip(b"\0") == b""
    again = read_label_map(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(again.array, labels)
    assert label_findings(scan, again) == []


@pytest.mark.parametrize("name", ["good_series", "good_big_endian.nii.gz", "good_singleton_fourth_axis.nii.gz"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_mask_of_a_series_or_an_odd_file_lies_on_its_grid(
    written: Path, tmp_path: Path, name: str, suffix: str
) -> None:
    scan = read_scan(written / "scans" / name)
    labels = np.zeros(scan.array.shape, dtype=np.uint8)
    labels[2:5, 3:6, 4:7] = 2
    write_label_map(tmp_path / f"mask{suffix}", labels, scan)
    again = read_label_map(tmp_path / f"mask{suffix}")
    np.testing.assert_array_equal(again.array, labels)
    np.testing.assert_array_equal(again.affine, scan.affine)
    assert float(nib.Nifti1Header(again.header.binaryblock)["scl_slope"]) == 1.0


def a_scan(written: Path) -> Scan:
    return read_scan(written / "scans" / "good.nii.gz")


def test_a_mask_that_is_there_is_not_overwritten_unless_asked(written: Path, tmp_path: Path) -> None:
    scan, path = a_scan(written), tmp_path / "mask.nii.gz"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_label_map(path, bad.labels(), scan)
    assert path.read_bytes() == b"mine"
    write_label_map(path, bad.labels(), scan, overwrite=True)
    assert read_label_map(path).array.max() == 2


@pytest.mark.parametrize("labels", [np.zeros(bad.SHAPE, np.int64), np.zeros((3, 3, 3), np.uint8)])
def test_a_label_map_of_other_type_or_shape_is_refused(written: Path, tmp_path: Path, labels: Any) -> None:
    with pytest.raises(ValueError, match="expected uint8 \\(24, 22, 20\\)"):
        write_label_map(tmp_path / "mask.nii.gz", labels, a_scan(written))


def test_a_full_disk_leaves_nothing_behind(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    scan, path = a_scan(written), tmp_path / "mask.nii.gz"
    path.write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_label_map(path, bad.labels(), scan, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["mask.nii.gz"] and path.read_bytes() == b"older"


def test_layout_in_memory_does_not_change_the_file(written: Path, tmp_path: Path) -> None:
    scan, labels = a_scan(written), bad.labels()
    first = write_label_map(tmp_path / "f.nii.gz", np.asfortranarray(labels), scan)
    assert write_label_map(tmp_path / "c.nii.gz", np.ascontiguousarray(labels), scan) == first


# --- the command ---------------------------------------------------------------------------------------------------


def test_check_reports_one_object_a_file_and_exits_3_on_errors(written: Path) -> None:
    result = CliRunner().invoke(main, ["check", str(written / "scans"), "--json"])
    reports = {Path(r["path"]).name: r for r in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 3
    assert reports["half.nii.gz"]["codes"] == ["TRUNCATED"] and reports["half.nii.gz"]["severity"] == "error"
    assert reports["five_slices.nii.gz"]["severity"] == "warning"
    assert reports["good.nii.gz"] == {
        "path": str(written / "scans" / "good.nii.gz"), "codes": [], "severity": None, "detail": ""
    }  # fmt: skip


def test_a_name_with_a_line_break_is_one_line_for_check(tmp_path: Path) -> None:
    for name in ("a\nerror   b.nii.gz", "c\rd.nii", "e\u2028f.nii"):
        (tmp_path / name).write_bytes(b"no scan")
    lines = CliRunner().invoke(main, ["check", str(tmp_path)]).stdout.splitlines()
    assert [line.startswith("error") for line in lines] == [True] * 3 + [False] * 2


def test_check_exits_0_where_nothing_is_wrong_and_2_on_a_misspelt_path(written: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(main, ["check", str(written / "scans" / "good.nii.gz")]).exit_code == 0
    assert run(main, ["check", str(written / "scans" / "five_slices.nii.gz")]).exit_code == 0
    assert run(main, ["check", str(written / "scan")]).exit_code == 2
    assert run(main, ["check", str(tmp_path)]).exit_code == 2


def test_check_compares_label_maps_with_their_scans(written: Path) -> None:
    good, up = str(written / "scans" / "good.nii.gz"), str(written / "labels" / "one_slice_up.nii.gz")
    result = CliRunner().invoke(main, ["check", good, "--labels", up])
    assert result.exit_code == 3 and "LABEL_GRID_MISMATCH" in result.stdout
    missing = CliRunner().invoke(main, ["check", str(written / "scans"), "--labels", str(written / "labels"), "--json"])
    assert "LABEL_MISSING" in missing.stdout


# --- real scans ----------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_real_scans_get_the_codes_they_deserve(real_data: Path) -> None:
    series = real_data / "gstt_msd_liver14_3slices"
    assert codes_of(series / "dcm") == ["UNEVEN_SLICE_GAPS"]
    assert "THICK_SLICE" in codes_of(series / "ct-test-data.nii.gz")
    examples = real_data / "totalsegmentator_examples"
    assert codes_of(examples / "example_ct.nii.gz") == []
    assert read_scan(examples / "example_ct.nii.gz").array.dtype == np.int32
    assert codes_of(examples / "example_mr_sm.nii.gz", "mr") == []
    assert codes_of(examples / "example_seg.nii.gz") == ["HU_SCALE"]  # a mask in the place of a scan
    assert codes_of(real_data / "3dircadb1_01" / "MASKS_DICOM.zip") == ["MIXED_SERIES"]
    assert codes_of(real_data / "dcmqi_liver_3slice" / "ct-3slice") == ["FEW_SLICES"]


@pytest.mark.real_data
def test_a_jpeg_compressed_series_lies_where_its_label_map_says(real_data: Path) -> None:
    examples = real_data / "totalsegmentator_examples"
    scan = read_scan(examples / "example_ct_dicom")
    label = read_label_map(examples / "example_seg_dicom.nii.gz", allowed=range(256))
    assert scan.array.shape == label.array.shape == (512, 512, 20)
    voxel = np.linalg.inv(label.affine) @ scan.affine @ [[100.0], [50.0], [3.0], [1.0]]
    np.testing.assert_allclose(voxel.ravel()[:3], (100, 511 - 50, 3), atol=1e-2)  # LPS against LAS
    liver = scan.array[label.array[:, ::-1] == 5]
    assert 80 < liver.mean() < 140 and liver.std() < 40  # portal-venous liver


@pytest.mark.real_data
def test_a_series_and_its_zip_hold_the_same_voxels_and_masks_agree_in_patient_space(
    real_data: Path, tmp_path: Path
) -> None:
    import zipfile

    scan = read_scan(real_data / "3dircadb1_01" / "PATIENT_DICOM.zip")
    assert (scan.array.shape, str(scan.array.dtype), scan.findings) == ((512, 512, 129), "int16", ())
    with zipfile.ZipFile(real_data / "3dircadb1_01" / "MASKS_DICOM.zip") as archive:
        archive.extractall(tmp_path, [n for n in archive.namelist() if n.startswith("MASKS_DICOM/liver/")])
    liver = read_label_map(tmp_path / "MASKS_DICOM" / "liver", allowed=(0, 255))
    assert label_findings(scan, liver) == []
    segments = read_label_map(
        real_data / "couinaud_label_maps_mit" / "3Dircadb_label_3Dircadb-1.nii.gz", allowed=range(9)
    )
    # LPS against LAS: the same voxels once y runs the other way
    a, b = liver.array > 0, segments.array[:, ::-1] > 0
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.99
    assert 2 * (a & (segments.array > 0)).sum() / (a.sum() + b.sum()) < 0.7


@pytest.mark.real_data
@pytest.mark.parametrize("count", [12, pytest.param(120, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_a_real_ct_changes_a_voxel_silently(real_data: Path, tmp_path: Path, count: int) -> None:
    # A flip in the distance of a repeat can point at an equal repeat: 2 of these 120 inflate to the very same bytes.
    data = (real_data / "totalsegmentator_examples" / "example_ct.nii.gz").read_bytes()
    content, scratch = gzip.decompress(data), tmp_path / "flipped.nii.gz"
    refused = 0
    for bit in np.random.default_rng(7).integers(0, 8 * len(data), count).tolist():
        scratch.write_bytes(bad.flipped(data, bit // 8, bit % 8))
        try:
            read_scan(scratch)
        except IntakeError as reason:
            assert reason.code in ("GZIP_CRC", "TRUNCATED", "NOT_A_SCAN")
            refused += 1
        else:
            assert gzip.decompress(scratch.read_bytes()) == content
    assert refused >= 0.95 * count


def test_no_flipped_bit_of_a_small_ct_changes_a_voxel_silently(written: Path, tmp_path: Path) -> None:
    path = written / "scans" / "good.nii.gz"
    data, voxels = path.read_bytes(), read_scan(path).array
    for bit in [*range(80), *np.random.default_rng(1).integers(80, 8 * len(data), 200).tolist()]:
        (tmp_path / "flipped.nii.gz").write_bytes(bad.flipped(data, bit // 8, bit % 8))
        try:
            read = read_scan(tmp_path / "flipped.nii.gz")
        except IntakeError:
            continue
        assert 3 <= bit // 8 < 10  # flags, time stamp, hints and system in the gzip header: no checksum covers them
        np.testing.assert_array_equal(read.array, voxels)


def test_the_script_writes_the_set_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_bad_nifti.py", str(tmp_path / "set")])
    assert bad.main() == 0
    assert set(bad.SCANS) <= {
        file.relative_to(tmp_path / "set" / "scans").as_posix() for file in (tmp_path / "set" / "scans").rglob("*")
    }
