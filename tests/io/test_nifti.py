"""NIfTI headers of every kind are read as nibabel reads them or get a code; random bytes never end a run."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from liver_pipeline.cli import main
from liver_pipeline.geometry.affines import shear_drift
from liver_pipeline.geometry.axes import axis_map
from liver_pipeline.geometry.grids import model_grid_for_spacing
from liver_pipeline.io.checks import grid_findings
from liver_pipeline.io.findings import IntakeError, Severity
from liver_pipeline.io.nifti_header import best_affine
from liver_pipeline.io.volumes import read_label_map, read_scan
from tests.codes import code_of
from tests.orientations import OBLIQUE, ORIENTATIONS

SHAPE = (12, 11, 10)
AFFINE = np.eye(4)
AFFINE[:3, :3] = OBLIQUE @ np.diag([-0.8, 0.7, 2.5])
PIXDIM, QFORM_CODE, SFORM_CODE, QUATERN, SROW = 76, 252, 254, 256, 280  # byte offsets in a NIfTI-1 header
MANY = settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def plain(affine: Any = AFFINE, kind: Any = nib.Nifti1Image) -> bytearray:
    hu = np.full(SHAPE, -1000, dtype=np.int16)
    hu[3:9, 3:9, 3:9] = 40 + np.arange(6)
    image = kind(hu, affine)
    image.set_qform(affine, code=1, strip_shears=True)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return bytearray(image.to_bytes())


def qform_only(data: bytearray) -> bytearray:
    struct.pack_into("<h", data, SFORM_CODE, 0)
    return data


@pytest.mark.parametrize("qfac", [0.0, 1.0, -1.0, 0.5, float("nan")])
def test_qfac_is_read_as_nibabel_reads_it(tmp_path: Path, qfac: float) -> None:
    data = qform_only(plain())
    struct.pack_into("<f", data, PIXDIM, qfac)
    (tmp_path / "a.nii").write_bytes(data)
    scan = read_scan(tmp_path / "a.nii")
    np.testing.assert_array_equal(scan.affine, nib.load(tmp_path / "a.nii").affine)
    assert np.sign(np.linalg.det(scan.affine[:3, :3])) == (-1 if qfac == -1.0 else 1)


def test_a_quaternion_is_read_as_far_as_nibabel_reads_it_and_refused_beyond(tmp_path: Path) -> None:
    # 1 - b^2 may be as little as -3 eps of float32 for nibabel; 1.0000005 is beyond.
    for b, code in ((1.0, ""), (float(np.float32(1 + 1.2e-7)), ""), (1.0000005, "BAD_HEADER"), (2.0, "BAD_HEADER"),
                    (float("inf"), "BAD_HEADER")):  # fmt: skip
        data = qform_only(plain())
        struct.pack_into("<3f", data, QUATERN, b, 0, 0)
        (tmp_path / "a.nii").write_bytes(data)
        assert code_of(tmp_path / "a.nii") == code, b
        if not code:
            np.testing.assert_array_equal(read_scan(tmp_path / "a.nii").affine, nib.load(tmp_path / "a.nii").affine)


def test_an_odd_quaternion_beside_an_sform_is_not_used(tmp_path: Path) -> None:
    data = plain()
    struct.pack_into("<3f", data, QUATERN, 2.0, 0, 0)
    (tmp_path / "a.nii").write_bytes(data)
    np.testing.assert_allclose(read_scan(tmp_path / "a.nii").affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("code", [-3, 77])
def test_an_unknown_form_code_counts_as_none_as_in_nibabel(tmp_path: Path, code: int) -> None:
    data = plain(np.diag([2.0, 2.0, 2.0, 1.0]))
    struct.pack_into("<h", data, SFORM_CODE, code)
    struct.pack_into("<f", data, SROW, 7.0)  # the sform that counts no more
    (tmp_path / "a.nii").write_bytes(data)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii").affine, nib.load(tmp_path / "a.nii").affine)
    assert read_scan(tmp_path / "a.nii").spacing == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize("edge", [0.0, -0.7, float("nan"), float("inf")])
def test_edges_that_are_no_lengths_are_refused_where_they_are_needed(tmp_path: Path, edge: float) -> None:
    for data, code in ((qform_only(plain()), "BAD_HEADER"), (plain(), "")):
        struct.pack_into("<f", data, PIXDIM + 8, edge)
        (tmp_path / "a.nii").write_bytes(data)
        assert code_of(tmp_path / "a.nii") == code


def test_check_reports_every_file_beside_one_that_nibabel_cannot_read(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.nii.gz").write_bytes(gzip.compress(bytes(plain())))
    data = qform_only(plain())
    struct.pack_into("<3f", data, QUATERN, 1.0000005, 0, 0)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(data)))
    (tmp_path / "d.nii.gz").write_bytes(b"")
    result = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert result.exit_code == 3 and result.stdout.count("a.nii.gz") == 0
    assert "b.nii.gz: BAD_HEADER" in result.stdout and "d.nii.gz: EMPTY_FILE" in result.stdout
    assert "4 files: 2 with errors" in result.stdout


def test_whatever_a_reader_raises_belongs_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RecursionError("too deep")

    (tmp_path / "a.nii").write_bytes(plain())
    monkeypatch.setattr("liver_pipeline.io.nifti.drain", fail)
    for read in (read_scan, read_label_map):
        with pytest.raises(IntakeError, match="READER_FAILED: RecursionError: too deep"):
            read(tmp_path / "a.nii")


def test_time_units_do_not_hide_units_of_length(tmp_path: Path) -> None:
    for units, code in ((2 | 224, ""), (1 | 56, "UNITS"), (3 | 8, "UNITS")):
        data = plain()
        data[123] = units  # xyzt_units
        (tmp_path / "a.nii").write_bytes(data)
        assert code_of(tmp_path / "a.nii") == code


# --- shear: one rule in check and predict ----------------------------------------------------------------------------


def sheared(degrees: float, permutation: Any, flips: Any, rotation: Any) -> Any:
    affine = np.eye(4)
    shear = np.eye(3)
    shear[0, 2] = np.tan(np.radians(degrees))
    affine[:3, :3] = rotation @ shear @ np.diag([0.7, 0.7, 1.0]) @ (np.eye(3)[:, list(permutation)] * flips)
    return affine


@pytest.mark.parametrize("rotation", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS[::7])
@pytest.mark.parametrize("spacing", [(0.7, 0.7, 1.0), (1.5, 1.5, 2.0), (0.3, 0.3, 0.3), (4.0, 4.0, 4.0)])
@pytest.mark.parametrize("degrees", [0.01, 0.05, 0.1, 0.3, 5.0])
def test_what_intake_lets_pass_the_model_grid_takes(
    degrees: float, spacing: Any, permutation: Any, flips: Any, rotation: Any
) -> None:
    affine = sheared(degrees, permutation, flips, rotation)
    shape = tuple(np.array([300, 300, 400])[list(permutation)])
    model_affine, model_shape = model_grid_for_spacing(affine, shape, spacing)
    if shear_drift(shape, affine) <= 0.5:
        axis_map(affine, shape, model_affine, model_shape)
    elif shear_drift(shape, affine) > 0.6:
        with pytest.raises(ValueError, match="not parallel"):
            axis_map(affine, shape, model_affine, model_shape)


def test_shear_is_measured_as_drift_over_the_volume() -> None:
    # 0.05 degrees over 399 mm is 0.348 mm: half a voxel of 0.7 mm.
    affine = sheared(0.05, (0, 1, 2), (1, 1, 1), np.eye(3))
    assert shear_drift((300, 300, 400), affine) == pytest.approx(399 * np.sin(np.radians(0.05)) / 0.7, rel=1e-3)
    assert shear_drift((300, 300, 400), np.diag([1.0, 2.0, 3.0, 1.0])) == 0.0


@pytest.mark.parametrize(("degrees", "code"), [(0.02, ""), (0.2, "SHEAR"), (1.0, "SHEAR")])
def test_shear_is_silent_a_warning_or_an_error_by_its_drift(tmp_path: Path, degrees: float, code: str) -> None:
    affine = np.diag([0.8, 0.8, 8.0, 1.0])  # 9 steps of 8 mm: 0.03, 0.31 and 1.57 voxels of 0.8 mm
    affine[0, 2] = 8.0 * np.tan(np.radians(degrees))
    data = plain(affine)
    struct.pack_into("<h", data, QFORM_CODE, 0)
    (tmp_path / "a.nii").write_bytes(data)
    if degrees == 1.0:
        with pytest.raises(IntakeError, match=r"SHEAR: .*1\.57 voxels over the volume.*cannot be accepted"):
            read_scan(tmp_path / "a.nii", modality="any", accept=["SHEAR"])  # predict could not go on, either
        return
    found = read_scan(tmp_path / "a.nii", modality="any").findings
    assert [f.code for f in found] == ([code] if code else [])
    assert all("(repair=[SHEAR] mends it)" in f.detail for f in found)  # as it is written on the command line


# --- random headers and bytes ----------------------------------------------------------------------------------------


def outcome(path: Path) -> str:
    """Read a file in all ways; anything but a scan or a code of its own fails the test."""
    code = "read"
    for read in (read_scan, read_label_map):
        try:
            read(path)
        except IntakeError as reason:
            assert reason.code != "READER_FAILED", reason
            code = reason.code
    return code


FIELDS = st.lists(
    st.tuples(
        st.integers(0, 351),
        st.one_of(
            st.floats(width=32).map(lambda v: struct.pack("<f", v)),
            st.integers(-(2**15), 2**15 - 1).map(lambda v: struct.pack("<h", v)),
            st.integers(-(2**31), 2**31 - 1).map(lambda v: struct.pack("<i", v)),
            st.binary(min_size=1, max_size=8),
        ),
    ),
    min_size=1,
    max_size=4,
)


@MANY
@given(changes=FIELDS, compressed=st.booleans(), kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]))
def test_mutated_headers_give_a_scan_or_a_code(tmp_path: Path, changes: Any, compressed: bool, kind: Any) -> None:
    data = plain(kind=kind)
    for at, value in changes:
        data[at : at + len(value)] = value
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(data), 1) if compressed else bytes(data))
    outcome(path)


@MANY
@given(
    at=st.integers(0, 600),
    piece=st.binary(max_size=40),
    cut=st.integers(0, 3000),
    start=st.sampled_from([b"", b"\x1f\x8b", b"\x1f\x8b\x08\0", b"PK\3\4", b"\0" * 128 + b"DICM", b"\x5c\1\0\0"]),
)
def test_random_bytes_give_a_scan_or_a_code(tmp_path: Path, at: int, piece: bytes, cut: int, start: bytes) -> None:
    data = plain()
    data[at:at] = piece
    for content in (start + piece, start + bytes(data[len(start) : cut]), gzip.compress(bytes(data))[: cut or None]):
        (tmp_path / "a.nii").write_bytes(content)
        outcome(tmp_path / "a.nii")


def test_the_affine_is_nibabels_wherever_nibabel_has_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        header = nib.Nifti1Header()
        header.set_data_shape(SHAPE)
        header["pixdim"][:4] = [rng.choice([0, 1, -1]), *rng.uniform(0.5, 5, 3)]
        header["sform_code"], header["qform_code"] = rng.integers(0, 5, 2)
        for field in ("quatern_b", "quatern_c", "quatern_d"):
            header[field] = rng.uniform(-0.57, 0.57)
        header["srow_x"], header["srow_y"], header["srow_z"] = rng.normal(size=(3, 4))
        expected = nib.Nifti1Header(header.binaryblock, check=True).get_best_affine()
        np.testing.assert_array_equal(best_affine(Path("a.nii"), header), expected)


def test_a_person_of_four_centimetres_is_asked_about_and_a_crop_is_not() -> None:
    def told(shape: tuple[int, int, int], *edges: float) -> list[str]:
        found = grid_findings(shape, np.diag([*edges, 1.0]), "ct")
        return [f.detail for f in found if f.code == "SPACING_RANGE" and f.severity is Severity.WARNING]

    (detail,) = told((512, 512, 100), 0.08, 0.08, 0.25)
    assert "40.96x40.96x25 mm" in detail and "in centimetres?" in detail
    assert (
        told((512, 512, 100), 0.7, 0.7, 2.5)
        == told((96, 96, 40), 0.7, 0.7, 2.5)
        == told((512, 512, 20), 0.7, 0.7, 1.0)
        == []
    )
