"""Write one small file (or DICOM folder) for everything that can be wrong with a scan, and ``expected.json``.

    python scripts/make_bad_nifti.py OUT
    liver-pipeline check OUT/scans

``expected.json`` maps each path below OUT to the codes that ``liver-pipeline check`` must report, the errors first;
``label_pairs`` maps a label map to its scan and codes. The phantom is a body of 50 HU in air; nothing comes from a
patient.
"""

from __future__ import annotations

import argparse
import gzip
import json
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
SHAPE = (24, 22, 20)
AFFINE = np.diag([-0.8, 0.8, 2.5, 1.0])
AFFINE[:3, 3] = (9.0, -8.0, 100.0)

Writer = Callable[[Path], None]
SCANS: dict[str, tuple[tuple[str, ...], Writer]] = {}


def case(name: str, *codes: str) -> Callable[[Writer], Writer]:
    """Register a writer for ``scans/<name>`` with the codes that must be found (none: a good file)."""

    def register(writer: Writer) -> Writer:
        SCANS[name] = (codes, writer)
        return writer

    return register


def body(shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> Array:
    """A box of 40 to 60 HU in air, shape as asked."""
    volume = np.full(shape, -1000, dtype=np.float64)
    inner = tuple(slice(n // 4, n - n // 4) if n > 3 else slice(None) for n in shape)
    volume[inner] = 40 + 20 * np.random.default_rng(0).random(volume[inner].shape)
    return np.asfortranarray(volume.round().astype(dtype))


def image(array: Array, affine: Array = AFFINE, kind: Any = nib.Nifti1Image) -> Any:
    """An image in mm whose sform and qform are set and agree (the qform leaves shear out)."""
    built = kind(array, affine)
    built.header.set_xyzt_units("mm")
    built.set_sform(affine, code=1)
    if np.isfinite(affine).all() and np.linalg.matrix_rank(affine) == 4:
        built.set_qform(affine, code=1)
    return built


def save(path: Path, built: Any) -> None:
    """Write an image uncompressed or compressed, by the end of the name; always the same bytes."""
    data = built.to_bytes()
    path.write_bytes(gzip.compress(data, 6, mtime=0) if path.name.endswith(".gz") else data)


def patched(path: Path, **fields: Any) -> None:
    """Write an image with raw header fields changed."""
    data = bytearray(image(body()).to_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    for field, value in fields.items():
        header[field] = value
    data[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(data), 6, mtime=0) if path.name.endswith(".gz") else bytes(data))


def flipped(data: bytes, byte: int, bit: int = 0) -> bytes:
    """Return ``data`` with one bit changed."""
    changed = bytearray(data)
    changed[byte] ^= 1 << bit
    return bytes(changed)


# --- files that are fine -------------------------------------------------------------------------------------------


@case("good.nii.gz")
def _(path: Path) -> None:
    save(path, image(body()))


@case("good_uncompressed.nii")
def _(path: Path) -> None:
    save(path, image(body()))


@case("good_without_suffix")
def _(path: Path) -> None:
    path.write_bytes(gzip.compress(image(body()).to_bytes(), mtime=0))


@case("good_compressed_but_called.nii")
def _(path: Path) -> None:
    path.write_bytes(gzip.compress(image(body()).to_bytes(), mtime=0))


@case("good_two_gzip_members.nii.gz")
def _(path: Path) -> None:
    data = image(body()).to_bytes()
    path.write_bytes(gzip.compress(data[:5000], mtime=0) + gzip.compress(data[5000:], mtime=0))


@case("good_big_endian.nii.gz")
def _(path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    built = nib.Nifti1Image(body(dtype=">i2"), AFFINE, header)
    built.header.set_xyzt_units("mm")
    built.set_sform(AFFINE, code=1)
    built.set_qform(AFFINE, code=1)
    save(path, built)


@case("good_nifti2.nii.gz")
def _(path: Path) -> None:
    save(path, image(body(), kind=nib.Nifti2Image))


@case("good_float32.nii.gz")
def _(path: Path) -> None:
    save(path, image(body(dtype=np.float32)))


@case("good_unsigned_with_intercept.nii.gz")
def _(path: Path) -> None:
    built = image((body().astype(np.int32) + 1024).astype(np.uint16))
    built.header.set_slope_inter(1, -1024)
    save(path, built)


@case("good_slope_zero.nii.gz")
def _(path: Path) -> None:
    patched(path, scl_slope=0.0)


@case("good_singleton_fourth_axis.nii.gz")
def _(path: Path) -> None:
    save(path, image(body((*SHAPE, 1))))


# --- the file ------------------------------------------------------------------------------------------------------


@case("zero_bytes.nii.gz", "EMPTY_FILE")
def _(path: Path) -> None:
    path.write_bytes(b"")


@case("text.nii.gz", "NOT_A_SCAN")
def _(path: Path) -> None:
    path.write_text("404: not found\n" * 100)


@case("text_compressed.nii.gz", "NOT_A_SCAN")
def _(path: Path) -> None:
    path.write_bytes(gzip.compress(b"404: not found\n" * 100, mtime=0))


@case("folder_named_like_a_scan.nii.gz", "NOT_A_SCAN")
def _(path: Path) -> None:
    path.mkdir()


@case("analyze_header.nii", "NOT_A_SCAN")
def _(path: Path) -> None:
    patched(path, magic=b"ni1")


@case("bit_in_voxels.nii.gz", "GZIP_CRC")
def _(path: Path) -> None:
    data = gzip.compress(image(body()).to_bytes(), 0, mtime=0)  # stored blocks: the stream stays valid
    path.write_bytes(flipped(data, 5000, 3))


@case("bit_in_checksum.nii.gz", "GZIP_CRC")
def _(path: Path) -> None:
    path.write_bytes(flipped(gzip.compress(image(body()).to_bytes(), mtime=0), -8))


@case("bit_in_length.nii.gz", "GZIP_CRC")
def _(path: Path) -> None:
    path.write_bytes(flipped(gzip.compress(image(body()).to_bytes(), mtime=0), -4))


@case("garbage_after_gzip.nii.gz", "GZIP_CRC")
def _(path: Path) -> None:
    path.write_bytes(gzip.compress(image(body()).to_bytes(), mtime=0) + b"garbage" * 9)


@case("half.nii.gz", "TRUNCATED")
def _(path: Path) -> None:
    data = gzip.compress(image(body()).to_bytes(), mtime=0)
    path.write_bytes(data[: len(data) // 2])


@case("without_checksum.nii.gz", "TRUNCATED")
def _(path: Path) -> None:
    path.write_bytes(gzip.compress(image(body()).to_bytes(), mtime=0)[:-8])


@case("half_uncompressed.nii", "TRUNCATED")
def _(path: Path) -> None:
    data = image(body()).to_bytes()
    path.write_bytes(data[: len(data) // 2])


@case("half_header.nii", "TRUNCATED")
def _(path: Path) -> None:
    path.write_bytes(image(body()).to_bytes()[:200])


@case("compressed_whole_but_voxels_missing.nii.gz", "TRUNCATED")
def _(path: Path) -> None:
    path.write_bytes(gzip.compress(image(body()).to_bytes()[:-100], mtime=0))


@case("promises_terabytes.nii.gz", "TRUNCATED")
def _(path: Path) -> None:
    patched(path, dim=[3, 32000, 32000, 32000, 1, 1, 1, 1])


@case("longer_than_its_voxels.nii.gz", "TRAILING_BYTES")
def _(path: Path) -> None:
    path.write_bytes(gzip.compress(image(body()).to_bytes() + b"\0" * 100, mtime=0))


@case("no_dimensions.nii.gz", "BAD_HEADER")
def _(path: Path) -> None:
    patched(path, dim=[0, *SHAPE, 1, 1, 1, 1])


@case("negative_dimension.nii.gz", "BAD_HEADER")
def _(path: Path) -> None:
    patched(path, dim=[3, 24, -22, 20, 1, 1, 1, 1])


@case("unknown_datatype.nii.gz", "BAD_HEADER")
def _(path: Path) -> None:
    patched(path, datatype=77)


@case("bitpix_of_another_type.nii.gz", "BAD_HEADER")
def _(path: Path) -> None:
    patched(path, bitpix=32)


@case("voxels_inside_header.nii.gz", "BAD_HEADER")
def _(path: Path) -> None:
    patched(path, vox_offset=16.0)


@case("slope_infinite.nii.gz", "BAD_HEADER")
def _(path: Path) -> None:
    patched(path, scl_slope=np.inf)


@case("complex.nii.gz", "UNSUPPORTED_DTYPE")
def _(path: Path) -> None:
    save(path, image(body(dtype=np.complex64)))


@case("colour.nii.gz", "UNSUPPORTED_DTYPE")
def _(path: Path) -> None:
    save(path, image(np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])))


# --- the grid ------------------------------------------------------------------------------------------------------


@case("picture_2d.nii.gz", "NOT_3D")
def _(path: Path) -> None:
    save(path, image(body((24, 22))))


@case("one_slice.nii.gz", "NOT_3D")
def _(path: Path) -> None:
    save(path, image(body((24, 22, 1))))


@case("series_4d.nii.gz", "NOT_3D")
def _(path: Path) -> None:
    save(path, image(body((*SHAPE, 2))))


@case("affine_flat.nii.gz", "AFFINE_SINGULAR")
def _(path: Path) -> None:
    flat = AFFINE.copy()
    flat[:3, 2] = flat[:3, 1]
    save(path, image(body(), flat))


@case("affine_nan.nii.gz", "AFFINE_SINGULAR")
def _(path: Path) -> None:
    patched(path, srow_x=np.nan)


@case("no_affine.nii.gz", "NO_AFFINE")
def _(path: Path) -> None:
    patched(path, sform_code=0, qform_code=0)


@case("no_affine_no_spacing.nii.gz", "NO_AFFINE")
def _(path: Path) -> None:
    patched(path, sform_code=0, qform_code=0, pixdim=[1.0] * 8)


@case("sform_mirrors_qform.nii.gz", "SFORM_QFORM_CONFLICT")
def _(path: Path) -> None:
    built = image(body())
    built.set_sform(np.diag([-1.0, 1.0, 1.0, 1.0]) @ AFFINE, code=1)
    save(path, built)


@case("sform_quarter_voxel_off.nii.gz", "SFORM_QFORM_CONFLICT")
def _(path: Path) -> None:
    built = image(body())
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.2  # of 0.8 mm: a warning
    built.set_sform(shifted, code=1)
    save(path, built)


def _sheared(path: Path, degrees: float) -> None:
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.radians(degrees))
    built = image(body(), shear @ AFFINE)
    built.header["qform_code"] = 0
    save(path, built)


@case("gantry_tilt.nii.gz", "SHEAR")
def _(path: Path) -> None:
    _sheared(path, 15.0)


@case("shear_tiny.nii.gz", "SHEAR")
def _(path: Path) -> None:
    _sheared(path, 0.3)  # 0.31 of a voxel over the volume


@case("lengths_in_metres.nii.gz", "UNITS")
def _(path: Path) -> None:
    patched(path, xyzt_units=1)


@case("voxels_of_a_micrometre.nii.gz", "SPACING_RANGE")
def _(path: Path) -> None:
    save(path, image(body(), np.diag([0.0008, 0.0008, 0.0025, 1.0])))


@case("identity_affine_full_matrix.nii.gz", "UNIT_SPACING_CT")
def _(path: Path) -> None:
    save(path, image(body((400, 400, 10)), np.eye(4)))


@case("identity_affine_small.nii.gz", "UNIT_SPACING_CT")
def _(path: Path) -> None:
    save(path, image(body(), np.eye(4)))


@case("two_slices.nii.gz", "FEW_SLICES")
def _(path: Path) -> None:
    save(path, image(body((24, 22, 2))))


@case("five_slices.nii.gz", "FEW_SLICES")
def _(path: Path) -> None:
    save(path, image(body((24, 22, 5))))


@case("slices_of_30_mm.nii.gz", "THICK_SLICE")
def _(path: Path) -> None:
    save(path, image(body(), np.diag([0.8, 0.8, 30.0, 1.0])))


@case("slices_of_8_mm.nii.gz", "THICK_SLICE")
def _(path: Path) -> None:
    save(path, image(body(), np.diag([0.8, 0.8, 8.0, 1.0])))


# --- the values ----------------------------------------------------------------------------------------------------


def _with_voxel(path: Path, value: float) -> None:
    volume = body(dtype=np.float32)
    volume[3, 4, 5] = value
    save(path, image(volume))


@case("nan_voxel.nii.gz", "NON_FINITE")
def _(path: Path) -> None:
    _with_voxel(path, np.nan)


@case("infinite_voxel.nii.gz", "NON_FINITE")
def _(path: Path) -> None:
    _with_voxel(path, np.inf)


@case("all_air.nii.gz", "CONSTANT")
def _(path: Path) -> None:
    save(path, image(np.full(SHAPE, -1000, dtype=np.int16)))


@case("intercept_lost.nii.gz", "HU_SCALE")
def _(path: Path) -> None:
    save(path, image((body() + 1024).astype(np.int16)))


@case("normalised.nii.gz", "HU_SCALE")
def _(path: Path) -> None:
    save(path, image((body(dtype=np.float32) / 1000).astype(np.float32)))


@case("slope_of_a_thousand.nii.gz", "HU_SCALE")
def _(path: Path) -> None:
    patched(path, scl_slope=1000.0)


@case("windowed.nii.gz", "HU_SCALE")
def _(path: Path) -> None:
    volume = body()
    volume[2, 2, 2] = 300
    save(path, image(volume.clip(-160, 240)))


# --- slice by slice ------------------------------------------------------------------------------------------------


def column(shape: tuple[int, ...] = SHAPE) -> Array:
    """A column of 40 to 60 HU in noisy air, along the whole of Z."""
    rng = np.random.default_rng(0)
    volume = -1000 + rng.integers(-5, 6, shape)
    volume[6:18, 6:16] = 40 + rng.integers(0, 20, volume[6:18, 6:16].shape)
    return np.asfortranarray(volume.astype(np.int16))


@case("column.nii.gz")
def _(path: Path) -> None:
    save(path, image(column()))


@case("voxels_in_disorder.nii.gz", "NOISE")
def _(path: Path) -> None:
    volume = column().ravel()
    save(path, image(np.random.default_rng(0).permutation(volume).reshape(SHAPE)))


@case("voxels_that_stand_alone.nii.gz", "NOISE")
def _(path: Path) -> None:
    volume = column()
    volume[np.random.default_rng(0).random(SHAPE) < 0.01] = 3071
    save(path, image(volume))


@case("planes_of_one_value.nii.gz", "SLICE_CONSTANT")
def _(path: Path) -> None:
    volume = column()
    volume[10] = 0
    save(path, image(volume))


@case("slice_upside_down.nii.gz", "SLICE_JUMP")
def _(path: Path) -> None:
    volume = column()
    volume[6:18, 4:6] = -100
    volume[:, :, 8] = volume[:, ::-1, 8]
    save(path, image(volume))


@case("slices_of_one_value.nii.gz", "SLICE_CONSTANT")
def _(path: Path) -> None:
    volume = column()
    volume[:, :, 8:11] = -1000
    save(path, image(volume))


@case("slice_twice.nii.gz", "SLICE_REPEATED")
def _(path: Path) -> None:
    volume = column()
    volume[:, :, 8] = volume[:, :, 7]
    save(path, image(volume))


@case("slices_rescaled.nii.gz", "SLICE_JUMP")
def _(path: Path) -> None:
    volume = column()
    volume[:, :, 8] += 150
    save(path, image(volume))


@case("slices_moved.nii.gz", "SLICE_JUMP")
def _(path: Path) -> None:
    volume = column()
    volume[:, :, 8:12] = np.roll(volume[:, :, 8:12], 5, axis=0)
    save(path, image(volume))


# --- other formats -------------------------------------------------------------------------------------------------

VOXELS = body().tobytes(order="F")
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "right-anterior-superior",
    "sizes": "24 22 20",
    "space directions": "(-0.8,0,0) (0,0.8,0) (0,0,2.5)",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(9,-8,100)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 -1 0 0 0 1",
    "Offset": "-9 8 100",
    "ElementSpacing": "0.8 0.8 2.5",
    "DimSize": "24 22 20",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


def nrrd(path: Path, data: bytes = VOXELS, **changes: str) -> None:
    """Write a NRRD file with some fields changed; an empty one is left out."""
    fields = NRRD | {key.replace("_", " "): value for key, value in changes.items()}
    lines = "".join(f"{key}: {value}\n" for key, value in fields.items() if value)
    path.write_bytes(b"NRRD0004\n" + lines.encode() + b"\n" + data)


def metaimage(path: Path, data: bytes = VOXELS, **changes: str) -> None:
    """Write a MetaImage with some fields changed; an empty one is left out."""
    path.write_bytes("".join(f"{k} = {v}\n" for k, v in (META | changes).items() if v).encode() + data)


@case("good_nrrd.nrrd")
def _(path: Path) -> None:
    nrrd(path)


@case("good_compressed_nrrd.nrrd")
def _(path: Path) -> None:
    nrrd(path, gzip.compress(VOXELS, mtime=0), encoding="gzip")


@case("good_detached.nhdr")
def _(path: Path) -> None:
    nrrd(path, b"", data_file="good_detached.raw")
    path.with_suffix(".raw").write_bytes(VOXELS)


@case("good_metaimage.mha")
def _(path: Path) -> None:
    metaimage(path)


@case("good_compressed_metaimage.mha")
def _(path: Path) -> None:
    metaimage(path, zlib.compress(VOXELS), CompressedData="True")


@case("good_freesurfer.mgz")
def _(path: Path) -> None:
    path.write_bytes(gzip.compress(nib.MGHImage(body(), AFFINE).to_bytes(), mtime=0))


@case("good_pair.hdr")
def _(path: Path) -> None:
    nib.Nifti1Pair(body(), AFFINE).to_filename(path)


@case("analyze.hdr", "ANALYZE")
def _(path: Path) -> None:
    nib.AnalyzeImage(body(), AFFINE).to_filename(path)


@case("voxels_gone.mhd", "VOXELS_MISSING")
def _(path: Path) -> None:
    metaimage(path, b"", ElementDataFile="voxels_gone.raw")


@case("text_voxels.nrrd", "UNSUPPORTED_ENCODING")
def _(path: Path) -> None:
    nrrd(path, b"1 2 3", encoding="ascii")


@case("without_directions.nrrd", "NO_AFFINE")
def _(path: Path) -> None:
    nrrd(path, space_directions="")


@case("bit_in_voxels.mgz", "GZIP_CRC")
def _(path: Path) -> None:
    path.write_bytes(flipped(gzip.compress(nib.MGHImage(body(), AFFINE).to_bytes(), 0, mtime=0), 5000, 3))


# --- DICOM ---------------------------------------------------------------------------------------------------------


def _element(tag: int, kind: str, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    data += (b"\0" if kind in ("UI", "OW", "OB") else b" ") * (len(data) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind.encode())
    long = kind in ("OW", "OB")
    return head + (struct.pack("<HI", 0, len(data)) if long else struct.pack("<H", len(data))) + data


def dicom_slice(
    z_mm: float, number: int, changes: dict[int, tuple[str, str]] | None = None, without: tuple[int, ...] = ()
) -> bytes:
    """One explicit little-endian CT slice of 16x16 voxels of 0.8 mm (HU 40 at its centre), at ``z_mm``.

    ``changes`` maps further tags, or others' values, to type and text; the tags in ``without`` are left out.
    """
    pixels = np.full((16, 16), 24, dtype=np.int16)
    pixels[4:12, 4:12] = 1064 + number % 10
    ct = "1.2.840.10008.5.1.4.1.1.2"
    elements: dict[int, tuple[str, bytes | str]] = {
        0x00080016: ("UI", ct),
        0x00080018: ("UI", f"1.2.3.5.{number}"),
        0x00080060: ("CS", "CT"),
        0x0020000E: ("UI", "1.2.3.4"),
        0x00200013: ("IS", str(number)),
        0x00200032: ("DS", f"-6\\-6\\{z_mm:g}"),
        0x00200037: ("DS", "1\\0\\0\\0\\1\\0"),
        0x00280002: ("US", struct.pack("<H", 1)),
        0x00280004: ("CS", "MONOCHROME2"),
        0x00280010: ("US", struct.pack("<H", 16)),
        0x00280011: ("US", struct.pack("<H", 16)),
        0x00280030: ("DS", "0.8\\0.8"),
        0x00280100: ("US", struct.pack("<H", 16)),
        0x00280101: ("US", struct.pack("<H", 16)),
        0x00280102: ("US", struct.pack("<H", 15)),
        0x00280103: ("US", struct.pack("<H", 1)),
        0x00281052: ("DS", "-1024"),
        0x00281053: ("DS", "1"),
        0x7FE00010: ("OW", pixels.tobytes()),
    }
    elements |= changes or {}
    dataset = b"".join(_element(tag, *elements[tag]) for tag in sorted(elements) if tag not in without)
    meta = _element(0x00020002, "UI", ct) + _element(0x00020003, "UI", f"1.2.3.5.{number}")
    group = _element(0x00020001, "OB", b"\0\1") + meta + _element(0x00020010, "UI", "1.2.840.10008.1.2.1")
    return b"\0" * 128 + b"DICM" + _element(0x00020000, "UL", struct.pack("<I", len(group))) + group + dataset


def series(positions_mm: list[float]) -> dict[str, bytes]:
    """File names (not in order of position) and contents of a series."""
    return {f"image_{n}": dicom_slice(z, n) for n, z in enumerate(positions_mm)}


def _folder(path: Path, files: dict[str, bytes]) -> None:
    own = f"1.2.{100 + len(list(path.parent.iterdir()))}\0".encode()  # series that share a UID are parts of one
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data.replace(b"1.2.3.4\0", own))


EVEN = [2.5 * n for n in range(12)]


@case("good_series")
def _(path: Path) -> None:
    _folder(path, series(EVEN[::-1]))


@case("good_series_zipped.zip")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in series(EVEN).items():
            archive.writestr(f"study/{name}", data)


@case("good_series_with_notes", "IGNORED_FILES")
def _(path: Path) -> None:
    _folder(path, {**series(EVEN), "notes.txt": b"second reading"})


@case("series_slice_missing", "UNEVEN_SLICE_GAPS")
def _(path: Path) -> None:
    _folder(path, series(EVEN[:5] + EVEN[6:]))


@case("series_jitter", "UNEVEN_SLICE_GAPS")
def _(path: Path) -> None:
    _folder(path, series([*EVEN[:5], EVEN[5] + 0.06, *EVEN[6:]]))


@case("series_position_twice", "DUPLICATE_SLICE")
def _(path: Path) -> None:
    _folder(path, series([*EVEN, EVEN[3]]))


@case("series_two_in_one", "MIXED_SERIES")
def _(path: Path) -> None:
    _folder(path, {**series(EVEN), "other": dicom_slice(100.0, 99, {0x0020000E: ("UI", "1.2.3.9")})})


@case("series_turned_slice", "IGNORED_FILES")
def _(path: Path) -> None:
    _folder(path, {**series(EVEN), "scout": dicom_slice(30.0, 99, {0x00200037: ("DS", "1\\0\\0\\0\\0\\-1")})})


@case("series_with_dose_report", "IGNORED_FILES")
def _(path: Path) -> None:
    report = {0x00080008: ("CS", "DERIVED\\SECONDARY\\SCREEN SAVE"), 0x00080060: ("CS", "OT")}
    _folder(path, {**series(EVEN), "report": dicom_slice(0.0, 99, report, without=(0x00200032, 0x00200037))})


def changed_from(first: int, changes: dict[int, tuple[str, str]], step: int = 1) -> dict[str, bytes]:
    """A series of twelve slices; every ``step``-th one from ``first`` on has other tags."""
    odd = range(first, 12, step)
    return {f"image_{n}": dicom_slice(z, n, changes if n in odd else None) for n, z in enumerate(EVEN)}


@case("series_some_without_rescale", "RESCALE_MISSING")
def _(path: Path) -> None:
    files = series(EVEN)
    _folder(path, {**files, "image_4": dicom_slice(EVEN[4], 4, without=(0x00281052, 0x00281053))})


@case("series_without_rescale", "RESCALE_MISSING", "HU_SCALE")
def _(path: Path) -> None:
    _folder(path, {f"image_{n}": dicom_slice(z, n, without=(0x00281052, 0x00281053)) for n, z in enumerate(EVEN)})


@case("series_one_without_spacing", "GEOMETRY_MISSING")
def _(path: Path) -> None:
    _folder(path, {**series(EVEN), "image_4": dicom_slice(EVEN[4], 4, without=(0x00280030,))})


@case("series_of_a_projection", "DERIVED_IMAGE")
def _(path: Path) -> None:
    _folder(path, changed_from(0, {0x00080008: ("CS", "DERIVED\\SECONDARY\\PROJECTION IMAGE\\CSA MIP")}))


@case("series_of_two_patients", "MIXED_PATIENTS")
def _(path: Path) -> None:
    files = changed_from(0, {0x00100020: ("LO", "A")})
    _folder(path, {**files, "image_11": dicom_slice(EVEN[11], 11, {0x00100020: ("LO", "B")})})


@case("series_of_two_frames", "MIXED_FRAMES")
def _(path: Path) -> None:
    first, second = ({0x00200052: ("UI", f"1.2.3.{n}")} for n in (1, 2))
    _folder(path, {**changed_from(0, first), "image_0": dicom_slice(EVEN[0], 0, second)})


@case("series_of_two_passes", "MIXED_PASSES")
def _(path: Path) -> None:
    first, second = ({0x00200012: ("IS", str(n))} for n in (1, 2))
    _folder(path, {f"image_{n}": dicom_slice(z, n, second if n % 2 else first) for n, z in enumerate(EVEN)})


@case("good_series_of_two_scans_end_to_end")
def _(path: Path) -> None:
    first, second = ({0x00200012: ("IS", str(n))} for n in (1, 2))
    _folder(path, {f"image_{n}": dicom_slice(z, n, second if n > 6 else first) for n, z in enumerate(EVEN)})


@case("series_jump", "SLICE_SHIFT")
def _(path: Path) -> None:
    files = series(EVEN)
    moved = {f"image_{n}": dicom_slice(z, n, {0x00200032: ("DS", f"-6\\24\\{z:g}")}) for n, z in enumerate(EVEN[:4])}
    _folder(path, files | moved)


@case("series_called_mr", "MODALITY")
def _(path: Path) -> None:
    _folder(path, changed_from(0, {0x00080060: ("CS", "MR")}))


@case("series_half_a_slice", "DICOM_DAMAGED")
def _(path: Path) -> None:
    files = series(EVEN)
    _folder(path, {**files, "image_4": files["image_4"][:-200]})


@case("series_of_one/one_slice.dcm", "DICOM_MULTIFRAME")
def _(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(dicom_slice(0.0, 0))


@case("series_damaged.zip", "ZIP_DAMAGED")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in series(EVEN).items():
            archive.writestr(name, data)
    path.write_bytes(flipped(path.read_bytes(), 800))


@case("pictures.zip", "NOT_A_SCAN")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no slices here")


# --- label maps ----------------------------------------------------------------------------------------------------


def labels(dtype: Any = np.uint8) -> Array:
    """Liver (1) with a tumor (2) inside."""
    label_map = np.zeros(SHAPE, dtype=dtype)
    label_map[8:16, 8:14, 6:14] = 1
    label_map[10:12, 10:12, 8:10] = 2
    return np.asfortranarray(label_map)


def write_label_pairs(folder: Path) -> dict[str, dict[str, Any]]:
    """Write label maps of ``scans/good.nii.gz``; return for each its scan and the codes to be found."""
    shifted, nudged = AFFINE.copy(), AFFINE.copy()
    shifted[2, 3] += 2.5
    nudged[0, 3] += 0.2
    fraction, unknown = labels(np.float32), labels()
    fraction[0, 0, 0] = 0.5
    unknown[0, 0, 0] = 7
    pairs: dict[str, tuple[Any, tuple[str, ...]]] = {
        "good": (image(labels()), ()),
        "good_float": (image(labels(np.float64)), ()),
        "fraction": (image(fraction), ("LABEL_VALUES",)),
        "unknown": (image(unknown), ("LABEL_VALUES",)),
        "empty": (image(np.zeros(SHAPE, np.uint8)), ("LABEL_EMPTY",)),
        "one_slice_short": (image(labels()[:, :, 1:]), ("LABEL_GRID_MISMATCH",)),
        "one_slice_up": (image(labels(), shifted), ("LABEL_GRID_MISMATCH",)),
        "quarter_voxel_off": (image(labels(), nudged), ("LABEL_GRID_MISMATCH",)),
        "identity_affine": (image(labels(), np.eye(4)), ("LABEL_GRID_MISMATCH",)),
    }
    for name, (built, _codes) in pairs.items():
        save(folder / f"{name}.nii.gz", built)
    return {
        f"labels/{name}.nii.gz": {"scan": "scans/good.nii.gz", "codes": list(codes)}
        for name, (_built, codes) in pairs.items()
    }


@case("picture.nii.gz", "PICTURE")
def _picture(path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path, "PNG")


def write_all(folder: Path) -> dict[str, Any]:
    """Write the whole set below ``folder`` (which must be empty or new); return what ``expected.json`` says."""
    (folder / "scans").mkdir(parents=True)
    (folder / "labels").mkdir()
    for name, (_codes, writer) in SCANS.items():
        writer(folder / "scans" / name)
    expected = {
        "scans": {f"scans/{name}": list(codes) for name, (codes, _writer) in SCANS.items()},
        "label_pairs": write_label_pairs(folder / "labels"),
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    return expected


def main() -> int:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description="Write one small file for everything that can be wrong with a scan.")
    parser.add_argument("folder", type=Path, help="a new folder")
    folder = parser.parse_args().folder
    expected = write_all(folder)
    print(f"{len(expected['scans'])} scans and {len(expected['label_pairs'])} label maps in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
