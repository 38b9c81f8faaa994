"""NRRD, MetaImage, MGH and pairs of files equal their NIfTI twin; what they lack or have wrong gets the same codes."""

from __future__ import annotations

import bz2
import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.freesurfer.mghformat import MGHImage

from liver_pipeline.io.discovery import find_inputs
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.formats import sniff, stored_sha256, voxel_count
from liver_pipeline.io.volumes import read_label_map, read_scan, write_label_map
from tests.codes import code_of
from tests.orientations import OBLIQUE, every_orientation, every_rotation

SPACING = np.array([0.8, 1.1, 2.5])
LPS = np.diag([-1.0, -1.0, 1.0])


def body() -> Any:
    hu = np.full((14, 13, 12), -1000, dtype=np.int16)
    hu[3:11, 3:10, 3:9] = 40
    hu[3:11, 3, 3:9] = -100
    return hu + np.random.default_rng(0).integers(-8, 9, hu.shape).astype(np.int16)


def affine_of(permutation: Any = (0, 1, 2), flips: Any = (1, 1, 1), rotation: Any = OBLIQUE) -> Any:
    affine = np.eye(4)
    affine[:3, :3] = rotation @ (np.eye(3)[:, list(permutation)] * flips * SPACING)
    affine[:3, 3] = (-31.5, 12.25, 801.125)
    return affine


def nifti(path: Path, array: Any, affine: Any) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def by_itk(path: Path, array: Any, affine: Any, compressed: bool = False) -> Path:
    """Write with SimpleITK, which knows nothing of our readers."""
    image: Any = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS @ affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((LPS @ affine[:3, 3]).tolist())
    sitk.WriteImage(image, str(path), compressed)
    return path


def mgh(path: Path, array: Any, affine: Any, compressed: bool = False) -> Path:
    MGHImage(array, affine).to_filename(path)
    return path


FORMATS = {
    "a.nrrd": (by_itk, False),
    "z.nrrd": (by_itk, True),
    "a.nhdr": (by_itk, False),
    "z.nhdr": (by_itk, True),
    "a.mha": (by_itk, False),
    "z.mha": (by_itk, True),
    "a.mhd": (by_itk, False),
    "z.mhd": (by_itk, True),
    "a.mgh": (mgh, False),
    "a.mgz": (mgh, False),
}
every_format = pytest.mark.parametrize("name", FORMATS)


def written(folder: Path, name: str, array: Any = None, affine: Any = None) -> Path:
    write, compressed = FORMATS[name]
    return write(
        folder / name, body() if array is None else array, affine_of() if affine is None else affine, compressed
    )


@every_orientation
@every_rotation
def test_each_format_equals_its_nifti_twin(tmp_path: Path, permutation: Any, flips: Any, rotation: Any) -> None:
    affine = affine_of(permutation, flips, rotation)
    twin = read_scan(nifti(tmp_path / "twin.nii.gz", body(), affine))
    for name in FORMATS:
        scan = read_scan(written(tmp_path, name, affine=affine))
        np.testing.assert_array_equal(scan.array, twin.array, err_msg=name)
        assert scan.array.flags.f_contiguous and scan.array.dtype == np.int16
        np.testing.assert_allclose(scan.affine, twin.affine, atol=2e-4, err_msg=name)  # MGH: float32 of the centre
        assert [f.code for f in scan.findings] == [f.code for f in twin.findings]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in FORMATS for dtype in ("uint8", "int16", "int32", "float32")]
    + [
        (name, dtype)
        for name in FORMATS
        if "mg" not in name
        for dtype in ("uint16", "float64", "int8", "uint32", "int64")
    ],
)
def test_stored_types_arrive_as_they_are(tmp_path: Path, name: str, dtype: str) -> None:
    array = np.random.default_rng(1).integers(0, 100, (9, 10, 11)).astype(dtype)
    scan = read_scan(written(tmp_path, name, array), modality="any")
    assert scan.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(scan.array, array)


@every_format
def test_label_maps_are_read_and_masks_lie_on_the_grid(tmp_path: Path, name: str) -> None:
    labels = np.zeros((14, 13, 12), dtype=np.uint8)
    labels[4:9, 4:9, 4:8], labels[5, 5, 5] = 1, 2
    label = read_label_map(written(tmp_path, name, labels))
    np.testing.assert_array_equal(label.array, labels)
    write_label_map(tmp_path / "mask.nii.gz", labels, label)
    again = read_label_map(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(again.affine, label.affine)
    mask = nib.load(tmp_path / "mask.nii.gz")
    for affine, code in (mask.get_sform(coded=True), mask.get_qform(coded=True)):  # viewers read the one or the other
        np.testing.assert_allclose(affine, affine_of(), atol=2e-4)
        assert code == 1  # scanner
    with pytest.raises(IntakeError, match="LABEL_VALUES"):
        read_label_map(tmp_path / name, allowed=(0, 1))


@every_format
def test_hash_size_and_case_name_are_known_before_reading(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    assert stored_sha256(path) == read_scan(path).sha256
    assert voxel_count(path) == (14 * 13 * 12, 2)
    (found,) = find_inputs(tmp_path)
    assert (found.path, found.case) == (path, name[0])
    before = stored_sha256(path)
    data = next((p for p in sorted(tmp_path.iterdir()) if p.suffix in (".raw", ".zraw", ".gz")), path)
    data.write_bytes(data.read_bytes() + b"\0")
    assert stored_sha256(path) != before


@every_format
def test_the_content_counts_not_the_name(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    path.rename(tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "scan.nii").array, body())


@every_format
def test_a_file_cut_short_is_truncated(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    data = next((p for p in sorted(tmp_path.iterdir()) if p.suffix in (".raw", ".zraw", ".gz")), path)
    whole = data.read_bytes()
    header = 0 if data != path else len(whole) - 600 if name != "a.mgh" else 400
    for length in (len(whole) - 100 if name[:3] != "a.m" or "mh" in name else len(whole) - 1000, header + 300):
        data.write_bytes(whole[:length])
        assert code_of(path) == "TRUNCATED", length


@pytest.mark.parametrize("name", ["z.nrrd", "z.nhdr", "z.mha", "z.mhd", "a.mgz"])
def test_no_flipped_bit_of_a_compressed_file_changes_a_voxel_silently(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    data = next((p for p in sorted(tmp_path.iterdir()) if p.suffix in (".zraw", ".gz")), path)
    whole = data.read_bytes()
    start = 0 if data != path else max(whole.find(b"\n\n") + 2, whole.find(b"LOCAL\n") + 6, 0) if name != "a.mgz" else 0
    refused = 0
    for bit in np.random.default_rng(2).integers(8 * (start + 10), 8 * len(whole), 80).tolist():
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        data.write_bytes(changed)
        try:
            scan = read_scan(path)
        except IntakeError as reason:
            assert reason.code in ("GZIP_CRC", "TRUNCATED", "NOT_A_SCAN"), (bit, reason)
            refused += 1
        else:
            np.testing.assert_array_equal(scan.array, body())
    assert refused >= 76


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd"])
def test_voxels_that_are_not_there_are_told(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    next(p for p in tmp_path.iterdir() if p.suffix == ".raw").unlink()
    with pytest.raises(IntakeError, match=r"VOXELS_MISSING: the header names 'a\.raw'"):
        read_scan(path)
    assert len(stored_sha256(path)) == 64


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd"])
def test_a_header_names_no_file_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "scan" / "below").mkdir(parents=True)
    path = written(tmp_path / "scan", name)
    text = path.read_text()
    for place in (tmp_path / "scan" / "b.raw", tmp_path / "scan" / "below" / "b.raw", tmp_path / "b.raw"):
        place.write_bytes((tmp_path / "scan" / "a.raw").read_bytes())
    for inside in ("./b.raw", "below/b.raw", "../scan/b.raw", str(tmp_path / "scan" / "b.raw")):
        path.write_text(text.replace("a.raw", inside))
        assert code_of(path) == "", inside
    for outside in ("../b.raw", "below/../../b.raw", str(tmp_path / "b.raw"), "/etc/passwd"):
        path.write_text(text.replace("a.raw", outside))
        with pytest.raises(IntakeError, match=r"VOXELS_MISSING: .* outside of its own folder"):
            read_scan(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_bytes_behind_the_voxels_are_a_warning(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    path.write_bytes(path.read_bytes() + b"12345")
    assert [f.code for f in read_scan(path).findings] == ["TRAILING_BYTES"]


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha"])
def test_whole_planes_behind_the_voxels_are_slices_that_the_header_lost(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name) if name in FORMATS else nifti(tmp_path / name, body(), affine_of())
    plane = int(np.prod(body().shape[:2])) * 2  # int16
    path.write_bytes(path.read_bytes() + bytes(plane))
    assert code_of(path) == "TRAILING_BYTES"
    assert [f.code for f in read_scan(path, accept=["TRAILING_BYTES"]).findings] == ["TRAILING_BYTES"]


# --- NRRD ------------------------------------------------------------------------------------------------------------

NRRD = {
    "type": "short", "dimension": "3", "space": "right-anterior-superior", "sizes": "14 13 12",
    "space directions": "(0.8,0,0) (0,1.1,0) (0,0,2.5)", "kinds": "domain domain domain", "endian": "little",
    "encoding": "raw", "space origin": "(-31.5,12.25,801.125)",
}  # fmt: skip


def nrrd(path: Path, data: bytes | None = None, **changes: str | None) -> Path:
    fields = {**NRRD, **{key.replace("_", " "): value for key, value in changes.items()}}
    header = "NRRD0005\n# made by hand\n" + "".join(f"{k}: {v}\n" for k, v in fields.items() if v is not None)
    voxels = body().tobytes(order="F") if data is None else data
    path.write_bytes(f"{header}modality:=CT\n\n".encode() + voxels)
    return path


@pytest.mark.parametrize(
    ("space", "signs"),
    [("right-anterior-superior", (1, 1, 1)), ("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1)),
     ("LPS", (-1, -1, 1)), ("left-posterior-superior", (-1, -1, 1))],
)  # fmt: skip
def test_the_space_of_a_nrrd_says_where_its_axes_run(tmp_path: Path, space: str, signs: Any) -> None:
    scan = read_scan(nrrd(tmp_path / "a.nrrd", space=space))
    expected = np.diag([*signs, 1.0]) @ np.array(
        [[0.8, 0, 0, -31.5], [0, 1.1, 0, 12.25], [0, 0, 2.5, 801.125], [0, 0, 0, 1]]
    )
    np.testing.assert_allclose(scan.affine, expected, atol=1e-5)
    assert scan.modality == "CT" and scan.findings == ()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"space": None}, "NO_AFFINE"),
        ({"space": None, "space_dimension": "3"}, "NO_AFFINE"),
        ({"space": "scanner-xyz"}, "NO_AFFINE"),
        ({"space_directions": None}, "NO_AFFINE"),
        ({"space_directions": None, "spacings": "0.8 1.1 2.5"}, "NO_AFFINE"),
        ({"space_directions": "none none none"}, "NO_AFFINE"),
        ({"space_directions": "(0.8,0,0) (0,1.1,0)"}, "NO_AFFINE"),
        ({"space_directions": "(a,0,0) (0,1.1,0) (0,0,2.5)"}, "BAD_HEADER"),
        ({"space_directions": "(nan,0,0) (0,1.1,0) (0,0,2.5)"}, "AFFINE_SINGULAR"),
        ({"space_directions": "(1,0,0) (1,0,0) (0,0,2.5)"}, "AFFINE_SINGULAR"),
        ({"space_origin": None}, "NO_AFFINE"),
        ({"space_units": '"cm" "cm" "cm"'}, "UNITS"),
        ({"space_units": '"mm" "mm" "mm"'}, ""),
        ({"type": "block"}, "UNSUPPORTED_DTYPE"),
        ({"type": None}, "UNSUPPORTED_DTYPE"),
        ({"endian": None}, "BAD_HEADER"),
        ({"encoding": "ascii"}, "UNSUPPORTED_ENCODING"),
        ({"encoding": "hex"}, "UNSUPPORTED_ENCODING"),
        ({"encoding": None}, "UNSUPPORTED_ENCODING"),
        ({"line_skip": "2"}, "UNSUPPORTED_ENCODING"),
        ({"line_skip": "two"}, "BAD_HEADER"),
        ({"sizes": "14 13"}, "NOT_3D"),
        ({"sizes": "14 13 -12"}, "BAD_HEADER"),
        ({"sizes": "14 13 twelve"}, "BAD_HEADER"),
        ({"sizes": "1e400 13 12"}, "BAD_HEADER"),
        ({"sizes": "14 13 6 2", "dimension": "4"}, "NOT_3D"),
        ({"sizes": "14 13 1", }, "NOT_3D"),
        ({"dimension": "4"}, "BAD_HEADER"),
        ({"sizes": "1400 1300 1200"}, "TRUNCATED"),
        ({"data_file": "LIST"}, "UNSUPPORTED_ENCODING"),
        ({"data_file": "a%03d.raw 1 9 1"}, "UNSUPPORTED_ENCODING"),
        ({"data_file": "gone.raw"}, "VOXELS_MISSING"),
    ],
)  # fmt: skip
def test_what_a_nrrd_lacks_or_has_wrong_gets_a_code(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    assert code_of(nrrd(tmp_path / "a.nrrd", **changes)) == code


def test_somebodys_own_pair_is_no_field_of_a_nrrd(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd")
    path.write_bytes(path.read_bytes().replace(b"modality:=CT", b"modality:=CT\nspace:=LPS\nsizes:=1 2 3"))
    np.testing.assert_allclose(read_scan(path).affine[:3, 3], (-31.5, 12.25, 801.125), atol=1e-4)


def test_segments_of_slicer_that_overlap_are_refused_with_what_to_do(tmp_path: Path) -> None:
    labels = (body() > -500).astype(np.uint8)
    for count, sizes, directions in ((1, "", ""), (2, "2 ", "none ")):
        voxels = np.stack([labels] * count).tobytes(order="F")
        path = nrrd(
            tmp_path / "a.seg.nrrd", voxels, type="uint8", sizes=f"{sizes}14 13 12", dimension=str(2 + count),
            space_directions=f"{directions}(0.8,0,0) (0,1.1,0) (0,0,2.5)",
        )  # fmt: skip
        path.write_bytes(path.read_bytes().replace(b"modality:=CT", b"Segment0_ID:=Segment_1"))
        if count == 1:
            np.testing.assert_array_equal(read_label_map(path).array, labels)
    with pytest.raises(IntakeError, match=r"NOT_3D: .* 2 layers; export them to a label map"):
        read_label_map(path)


def test_encodings_and_skips_of_a_nrrd(tmp_path: Path) -> None:
    voxels = body().tobytes(order="F")
    for encoding, data in (
        ("gzip", gzip.compress(voxels)), ("gz", gzip.compress(voxels)), ("bzip2", bz2.compress(voxels)),
        ("bz2", bz2.compress(voxels)),
    ):  # fmt: skip
        np.testing.assert_array_equal(read_scan(nrrd(tmp_path / "a.nrrd", data, encoding=encoding)).array, body())
    assert code_of(nrrd(tmp_path / "a.nrrd", bz2.compress(voxels)[:-9], encoding="bzip2")) == "TRUNCATED"
    broken = bytearray(bz2.compress(voxels))
    broken[len(broken) // 2] ^= 4
    assert code_of(nrrd(tmp_path / "a.nrrd", bytes(broken), encoding="bzip2")) == "GZIP_CRC"
    for skip, before in (("7", b"1234567"), ("-1", b"1234567890")):
        scan = read_scan(nrrd(tmp_path / "a.nrrd", before + voxels, byte_skip=skip))
        np.testing.assert_array_equal(scan.array, body())
        (tmp_path / "beside.raw").write_bytes(before + voxels)
        scan = read_scan(nrrd(tmp_path / "a.nhdr", b"", byte_skip=skip, data_file="beside.raw"))
        np.testing.assert_array_equal(scan.array, body())


def test_big_endian_voxels_arrive_in_native_order(tmp_path: Path) -> None:
    swapped = body().astype(">i2").tobytes(order="F")
    np.testing.assert_array_equal(read_scan(nrrd(tmp_path / "a.nrrd", swapped, endian="big")).array, body())
    np.testing.assert_array_equal(
        read_scan(meta(tmp_path / "a.mha", swapped, BinaryDataByteOrderMSB="True")).array, body()
    )


# --- MetaImage -------------------------------------------------------------------------------------------------------

META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "31.5 -12.25 801.125",
    "CenterOfRotation": "0 0 0", "AnatomicalOrientation": "RAI", "ElementSpacing": "0.8 1.1 2.5",
    "DimSize": "14 13 12", "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL",
}  # fmt: skip


def meta(path: Path, data: bytes | None = None, **changes: str | None) -> Path:
    fields = {key: changes.get(key, value) for key, value in META.items()}
    fields = {**{k: v for k, v in changes.items() if k not in META}, **fields}
    fields = {"ObjectType": fields.pop("ObjectType"), **fields}
    header = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)
    path.write_bytes(header.encode() + (body().tobytes(order="F") if data is None else data))
    return path


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, ""),
        ({"TransformMatrix": None}, "NO_AFFINE"),
        ({"TransformMatrix": None, "Orientation": "1 0 0 0 1 0 0 0 1"}, ""),
        ({"TransformMatrix": "1 0 0 0 1 0"}, "BAD_HEADER"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, "AFFINE_SINGULAR"),
        ({"Offset": None}, "NO_AFFINE"),
        ({"Offset": None, "Position": "0 0 0"}, ""),
        ({"ElementSpacing": None}, "NO_AFFINE"),
        ({"ElementSpacing": None, "ElementSize": "0.8 1.1 2.5"}, ""),
        ({"ElementSpacing": "0.8 x 2.5"}, "NO_AFFINE"),
        ({"DistanceUnits": "um"}, "UNITS"),
        ({"DimSize": None}, "BAD_HEADER"),
        ({"DimSize": "14 13 0"}, "BAD_HEADER"),
        ({"DimSize": "14 13"}, "NOT_3D"),
        ({"DimSize": "140 130 120"}, "TRUNCATED"),
        ({"ElementType": "MET_LONG"}, "UNSUPPORTED_DTYPE"),
        ({"ElementNumberOfChannels": "3"}, "UNSUPPORTED_DTYPE"),
        ({"BinaryData": "False"}, "UNSUPPORTED_ENCODING"),
        ({"ElementDataFile": "LIST"}, "UNSUPPORTED_ENCODING"),
        ({"ElementDataFile": "a%03d.raw 1 9 1"}, "UNSUPPORTED_ENCODING"),
        ({"ElementDataFile": "gone.raw"}, "VOXELS_MISSING"),
        ({"ElementDataFile": None}, "BAD_HEADER"),
        ({"CompressedData": "True"}, "GZIP_CRC"),
    ],
)
def test_what_a_metaimage_lacks_or_has_wrong_gets_a_code(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    assert code_of(meta(tmp_path / "a.mha", **changes)) == code


def test_zlib_and_skips_of_a_metaimage(tmp_path: Path) -> None:
    voxels = body().tobytes(order="F")
    for data in (zlib.compress(voxels), gzip.compress(voxels)):
        np.testing.assert_array_equal(read_scan(meta(tmp_path / "a.mha", data, CompressedData="True")).array, body())
    for skip, before in (("7", b"1234567"), ("-1", b"1234567890")):
        (tmp_path / "beside.raw").write_bytes(before + voxels)
        scan = read_scan(meta(tmp_path / "a.mhd", b"", HeaderSize=skip, ElementDataFile="beside.raw"))
        np.testing.assert_array_equal(scan.array, body())
    assert read_scan(meta(tmp_path / "a.mha", Modality="MET_MOD_CT")).modality == "CT"
    assert [f.code for f in read_scan(meta(tmp_path / "a.mha", Modality="MET_MOD_CT"), modality="mr").findings] == [
        "MODALITY"
    ]


# --- MGH -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "value", "code"),
    [(28, b"\0\0", "NO_AFFINE"), (4, b"\xff\xff\xff\xff", "BAD_HEADER"), (16, b"\0\0\0\2", "NOT_3D"),
     (20, b"\0\0\0\x63", "UNSUPPORTED_DTYPE"), (30, b"\0\0\0\0", "BAD_HEADER"), (4, b"\0\0\7\0", "TRUNCATED")],
)  # fmt: skip
def test_what_a_freesurfer_header_has_wrong_gets_a_code(tmp_path: Path, at: int, value: bytes, code: str) -> None:
    data = bytearray(written(tmp_path, "a.mgh").read_bytes())
    data[at : at + len(value)] = value
    (tmp_path / "a.mgh").write_bytes(data)
    assert code_of(tmp_path / "a.mgh") == code


# --- two files -------------------------------------------------------------------------------------------------------


def analyze(folder: Path, array: Any = None) -> Path:
    image = nib.AnalyzeImage(body() if array is None else array, None)
    image.header.set_zooms(SPACING)
    image.to_filename(folder / "a.hdr")
    return folder / "a.hdr"


@pytest.mark.parametrize("suffix", ["hdr", "img"])
def test_analyze_is_refused_with_what_to_do_or_read_with_named_axes(tmp_path: Path, suffix: str) -> None:
    path = analyze(tmp_path).with_suffix(f".{suffix}")
    with pytest.raises(IntakeError, match=r"ANALYZE: .*--orientation LAS"):
        read_scan(path)
    for orientation in ("LAS", "RAS", "ASL", "IRP"):
        scan = read_scan(path, orientation=orientation)
        assert "".join(nib.aff2axcodes(scan.affine)) == orientation
        np.testing.assert_allclose(scan.spacing, SPACING, rtol=1e-6)
        np.testing.assert_array_equal(scan.array, body())
        middle = scan.affine @ [*((np.array(scan.array.shape) - 1) / 2), 1]
        np.testing.assert_allclose(middle[:3], 0, atol=1e-5)
    assert scan.sha256 == stored_sha256(path)
    labels = (body() > -500).astype(np.uint8)
    np.testing.assert_array_equal(read_label_map(analyze(tmp_path, labels), orientation="LAS").array, labels)


@pytest.mark.parametrize("orientation", ["LA", "LAX", "LLS", "las", "LASR"])
def test_an_orientation_that_names_no_three_axes_is_the_callers_mistake(tmp_path: Path, orientation: str) -> None:
    with pytest.raises(ValueError, match="such as 'LAS'"):
        read_scan(analyze(tmp_path), orientation=orientation)


def test_an_orientation_does_not_touch_files_that_have_one(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", body(), affine_of())
    np.testing.assert_array_equal(read_scan(path, orientation="LAS").affine, read_scan(path).affine)


@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("a.hdr.gz", "a.img.gz")])
def test_a_pair_of_nifti_files_equals_its_single_file(tmp_path: Path, names: tuple[str, str]) -> None:
    nib.Nifti1Pair(body(), affine_of()).to_filename(tmp_path / names[1])
    twin = read_scan(nifti(tmp_path / "twin.nii", body(), affine_of()))
    for name in names:
        scan = read_scan(tmp_path / name)
        np.testing.assert_array_equal(scan.array, twin.array)
        np.testing.assert_allclose(scan.affine, twin.affine, atol=1e-5)
        assert scan.sha256 == stored_sha256(tmp_path / name)
    write_label_map(tmp_path / "mask.nii.gz", (body() > -500).astype(np.uint8), scan)
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii.gz").affine, affine_of(), atol=1e-5)
    (tmp_path / names[1]).unlink()
    assert code_of(tmp_path / names[0]) == "VOXELS_MISSING"


# --- folders ---------------------------------------------------------------------------------------------------------


def test_every_format_in_a_folder_is_a_case_and_none_is_passed_over(tmp_path: Path) -> None:
    for number, name in enumerate(FORMATS):
        (tmp_path / str(number)).mkdir()
        written(tmp_path / str(number), name)
    nifti(tmp_path / "n.nii.gz", body(), affine_of())
    (tmp_path / "analyze").mkdir()
    analyze(tmp_path / "analyze")
    (tmp_path / "lonely").mkdir()
    analyze(tmp_path / "lonely").unlink()  # leaves a.img
    cases = [one.case for one in find_inputs(tmp_path)]
    assert sorted(cases) == sorted(
        [f"{n}/{name[0]}" for n, name in enumerate(FORMATS)] + ["n", "analyze/a", "lonely/a"]
    )
    codes = {one.case: code_of(one.path) for one in find_inputs(tmp_path)}
    assert codes.pop("analyze/a") == "ANALYZE" and codes.pop("lonely/a") == "VOXELS_MISSING"
    assert set(codes.values()) == {""}


def test_what_is_packed_once_more_is_told(tmp_path: Path) -> None:
    whole = written(tmp_path, "a.nrrd").read_bytes()
    for data, said in ((gzip.compress(gzip.compress(whole)), "twice"), (gzip.compress(whole), "a compressed NRRD")):
        (tmp_path / "a.nii.gz").write_bytes(data)
        with pytest.raises(IntakeError, match=f"NOT_A_SCAN: .*as {said}|NOT_A_SCAN: .*compressed {said}"):
            read_scan(tmp_path / "a.nii.gz")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.nrrd", whole)
    with pytest.raises(IntakeError, match=r"NOT_A_SCAN: no DICOM slices in the zip; unzip"):
        read_scan(tmp_path / "a.zip")


def test_a_scan_that_is_packed_in_another_way_is_a_row_and_not_passed_over(tmp_path: Path) -> None:
    whole = nifti(tmp_path / "a.nii", body(), affine_of()).read_bytes()
    (tmp_path / "b.nii.bz2").write_bytes(bz2.compress(whole))
    (tmp_path / "c.nii.zst").write_bytes(b"\x28\xb5\x2f\xfd" + whole)
    found = find_inputs(tmp_path)
    assert [one.case for one in found] == ["a", "b", "c"]
    for one, kind in zip(found[1:], ("bzip2", "zstd"), strict=True):
        with pytest.raises(IntakeError, match=f"NOT_A_SCAN: .*as {kind} does.*convert it"):
            read_scan(one.path)


def test_text_that_looks_like_no_header_is_no_scan(tmp_path: Path) -> None:
    for name, text in (
        ("a.mha", "404: not found"),
        ("a.nrrd", "hello = world"),
        ("a.mgz", "MGH"),
        ("a.hdr", "x" * 400),
    ):
        (tmp_path / name).write_text(text)
        assert code_of(tmp_path / name) in ("NOT_A_SCAN", "VOXELS_MISSING")
    assert sniff(meta(tmp_path / "b.mha")) == "metaimage"


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(FORMATS)),
    changes=st.lists(st.tuples(st.integers(0, 900), st.binary(max_size=8)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 900)),
)
def test_mutated_files_give_a_scan_or_a_code(tmp_path: Path, name: str, changes: Any, cut: int | None) -> None:
    path = written(tmp_path, name)
    data = bytearray(gzip.decompress(path.read_bytes()) if name == "a.mgz" else path.read_bytes())
    for at, value in changes:
        data[at : at + max(1, len(value))] = value
    path.write_bytes(gzip.compress(bytes(data[:cut]), 1) if name == "a.mgz" else data[:cut])
    for read in (read_scan, read_label_map):
        try:
            read(path)
        except IntakeError as reason:
            assert reason.code != "READER_FAILED", reason
