"""DICOM series through ITK (GDCM inside): found by content, sorted by position, one affine, values in HU."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import Affine
from liver_pipeline.io.files import file_sha256
from liver_pipeline.io.findings import Finding, error, refuse, settle, warning
from liver_pipeline.io.streams import StoredVolume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
IMAGE_CLASSES = {  # SOP classes whose files can be slices; segmentations, reports and plans beside them are left out
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
}
MAX_UNZIPPED = 16 << 30  # bytes; beyond it a zip is taken for a bomb


@dataclass(frozen=True)
class Slice:
    """What one file says about itself: lengths in mm, patient space LPS."""

    path: Path
    series: tuple[Any, ...]  # what all slices of a series share
    position: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]  # (3, 2): step along columns and rows of the image, spacing included
    size: tuple[int, int]
    slope: float
    intercept: float
    whole: bool  # values are whole numbers after slope and intercept


def sop_class(path: Path) -> str | None:
    """Return the SOP class in the file's DICOM preamble, "" if it has none, ``None`` for a file that is not DICOM."""
    with path.open("rb") as file:
        head = file.read(1024)
    if head[128:132] != b"DICM":
        return "" if head[:2] == b"\x08\x00" and head[3:4] == b"\x00" else None  # group 0008 without preamble
    at = head.find(b"\x02\x00\x02\x00UI")
    if at < 0:
        return ""
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")


def may_be_slice(path: Path) -> bool:
    """Return whether the file is DICOM and of a class that can be a slice."""
    kind = sop_class(path)
    return kind is not None and (kind == "" or kind in IMAGE_CLASSES) and path.name != "DICOMDIR"


def is_series_folder(folder: Path) -> bool:
    """Return whether a file directly in ``folder`` may be a slice."""
    return any(file.is_file() and may_be_slice(file) for file in folder.iterdir())


def read_series(path: Path, *, accept: Sequence[str] = ()) -> StoredVolume:
    """Read the one DICOM series in a folder (its own files) or in a zip (all members).

    Slices are ordered by position along the normal, never by name; slope and intercept are applied, so a CT arrives as
    int16 HU with slope 1. Only fractional slopes are kept as slope, intercept and stored voxels (float32 where they
    differ from slice to slice).

    Raises:
        IntakeError: NOT_A_SCAN, ZIP_DAMAGED, DICOM_DAMAGED, DICOM_MULTIFRAME, MIXED_SERIES, DUPLICATE_SLICE,
            UNEVEN_SLICE_GAPS.
    """
    if path.is_dir():
        return _read_files(path, sorted(file for file in path.iterdir() if file.is_file()), accept)
    with tempfile.TemporaryDirectory(prefix="liver-pipeline-") as scratch:
        return _read_files(path, _unzip(path, Path(scratch)), accept)


def _unzip(path: Path, scratch: Path) -> list[Path]:
    """Unpack members under numbers (never under their own names, which may climb out of the folder)."""
    files = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and Path(m.filename).name != "DICOMDIR"]
            if sum(m.file_size for m in members) > MAX_UNZIPPED:
                raise refuse(path, "ZIP_DAMAGED", f"unzips to more than {MAX_UNZIPPED >> 30} GB; unzip it yourself")
            for number, member in enumerate(members):
                files.append(scratch / f"{number:06d}")
                with archive.open(member) as source, files[-1].open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as reason:
        raise refuse(path, "ZIP_DAMAGED", f"{reason}; copy the zip again") from reason
    return files


def _read_files(path: Path, files: Sequence[Path], accept: Sequence[str]) -> StoredVolume:
    candidates = [file for file in files if may_be_slice(file)]
    if not candidates:
        kind = "folder" if path.is_dir() else "zip file"
        raise refuse(path, "NOT_A_SCAN", f"a {kind} without DICOM slices; name the folder that holds them")
    findings = []
    if ignored := len(files) - len(candidates):
        findings.append(warning("IGNORED_FILES", f"{ignored} of {len(files)} files are no slices and were left out"))
    slices = [_describe(path, file) for file in candidates]
    findings += settle(path, _series_findings(path, slices), accept)
    slices, positions = _sort(slices)
    findings += gap_findings(positions)
    if len(slices) < 2:
        findings.append(error("FEW_SLICES", "one slice; a volume needs a series"))
    findings = list(settle(path, findings, accept))
    array, slope, intercept = _read_voxels(path, slices)
    sha256, names = series_sha256(path, candidates), tuple(one.path.name for one in slices)
    return StoredVolume(
        array, _affine(slices), sha256, tuple(findings), slope, intercept, slice_files=names, slice_axis=2
    )


@contextmanager
def _coded_itk_errors(path: Path, file: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as reason:
        raise refuse(path, "DICOM_DAMAGED", f"{_name(path, file)} cannot be read; copy it again") from reason


def _name(path: Path, file: Path) -> str:
    return file.name if path.is_dir() else f"member {int(file.name) + 1}"


def _describe(path: Path, file: Path) -> Slice:
    """Read the header of one file."""
    import itk  # here, because it takes seconds to import

    io = itk.GDCMImageIO.New()
    with _coded_itk_errors(path, file):
        io.SetFileName(str(file))
        io.ReadImageInformation()
    tags = io.GetMetaDataDictionary()

    def tag(key: str) -> str:
        return str(tags[key]).strip() if tags.HasKey(key) else ""

    if io.GetNumberOfDimensions() > 2 and io.GetDimensions(2) > 1:
        raise refuse(
            path, "DICOM_MULTIFRAME", f"{_name(path, file)} has {io.GetDimensions(2)} frames; convert to NIfTI"
        )
    if not tag("0020|0032"):
        raise refuse(path, "DICOM_DAMAGED", f"{_name(path, file)} has no ImagePositionPatient; remove it or convert")
    directions = np.array([list(io.GetDirection(axis)) for axis in range(2)], dtype=np.float64)
    spacing = np.array([io.GetSpacing(axis) for axis in range(2)])
    size = (int(io.GetDimensions(0)), int(io.GetDimensions(1)))
    shared = (tag("0008|0060"), tag("0020|000e"), size, tuple(spacing.round(4)), tuple(directions.ravel().round(3)))
    slope, intercept = float(io.GetRescaleSlope()), float(io.GetRescaleIntercept())
    return Slice(
        path=file,
        series=shared,
        position=np.array([io.GetOrigin(axis) for axis in range(3)], dtype=np.float64),
        axes=(directions * spacing[:, None]).T,
        size=size,
        slope=slope,
        intercept=intercept,
        whole=slope.is_integer() and intercept.is_integer(),
    )


def _series_findings(path: Path, slices: Sequence[Slice]) -> list[Finding]:
    """Refuse slices that make no volume; different SeriesInstanceUIDs alone are a finding, which can be accepted."""
    findings = []
    names = ("modality", "SeriesInstanceUID", "image size", "pixel spacing", "orientation")
    for name, values in zip(names, zip(*(s.series for s in slices), strict=True), strict=True):
        if len(set(values)) > 1:
            detail = f"{len(set(values))} values of {name}; put each series in its own folder"
            if name != "SeriesInstanceUID":
                raise refuse(path, "MIXED_SERIES", detail)
            findings.append(error("MIXED_SERIES", detail))
    return findings


def _sort(slices: Sequence[Slice]) -> tuple[list[Slice], npt.NDArray[np.float64]]:
    """Order slices along their normal; return them with their positions in mm."""
    normal = np.cross(slices[0].axes[:, 0], slices[0].axes[:, 1])
    normal /= np.linalg.norm(normal)
    positions = np.array([s.position @ normal for s in slices])
    order = np.argsort(positions, kind="stable")
    return [slices[i] for i in order], positions[order]


def _affine(slices: Sequence[Slice]) -> Affine:
    """Return the affine to RAS; the step between slices is measured, so a tilted gantry shows as shear."""
    affine = np.eye(4)
    affine[:3, :2] = slices[0].axes
    affine[:3, 2] = (slices[-1].position - slices[0].position) / max(1, len(slices) - 1)
    if len(slices) == 1:
        affine[:3, 2] = np.cross(slices[0].axes[:, 0], slices[0].axes[:, 1])
    affine[:3, 3] = slices[0].position
    return LPS_TO_RAS @ affine


def _read_voxels(path: Path, slices: Sequence[Slice]) -> tuple[npt.NDArray[Any], float, float]:
    """Return voxels (X, Y, Z) with their slope and intercept; one slice at a time beside the volume."""
    first = slices[0]
    whole = all(s.whole for s in slices)
    uniform = all((s.slope, s.intercept) == (first.slope, first.intercept) for s in slices)
    dtype = np.dtype(np.int16 if whole or uniform else np.float32)
    slope, intercept = (first.slope, first.intercept) if uniform and not whole else (1.0, 0.0)
    volume = np.empty((*first.size, len(slices)), dtype=dtype, order="F")
    for index, one in enumerate(slices):
        with _coded_itk_errors(path, one.path):
            values = _pixels(one)
        if values.shape != first.size:
            raise refuse(path, "DICOM_DAMAGED", f"{_name(path, one.path)} has pixels of shape {values.shape}")
        if volume.dtype.kind == "i":
            if not whole:
                values = np.rint((values - intercept) / slope)
            if volume.dtype == np.int16 and (values.min() < -32768 or values.max() > 32767):
                volume = volume.astype(np.int32, order="F")  # 16 bits unsigned and full: rare, so paid for only then
        volume[:, :, index] = values
    return volume, slope, intercept


def _pixels(one: Slice) -> npt.NDArray[Any]:
    """Return the values (X, Y) of one slice after slope and intercept."""
    import itk

    io = itk.GDCMImageIO.New()
    io.SetFileName(str(one.path))
    io.ReadImageInformation()
    small = io.GetComponentTypeAsString(io.GetComponentType()) in ("short", "char", "unsigned_char")
    kind = itk.Image[itk.SS if small else itk.D, 3]
    reader = itk.ImageFileReader[kind].New(FileName=str(one.path), ImageIO=io)
    reader.Update()
    return np.array(itk.GetArrayViewFromImage(reader.GetOutput())[0].T)


def series_sha256(path: Path, files: Sequence[Path] | None = None) -> str:
    """Return sha256 of a zip file, or over the sorted hashes of the slices of a folder (names do not matter)."""
    if path.is_file():
        return file_sha256(path)
    slices = files if files is not None else [f for f in path.iterdir() if f.is_file() and may_be_slice(f)]
    digests = sorted(bytes.fromhex(file_sha256(one)) for one in slices)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def gap_findings(positions_mm: npt.NDArray[np.float64]) -> list[Finding]:
    """Check sorted slice positions: no two the same, gaps within 5 % of their median (1 %: warning)."""
    gaps = np.diff(positions_mm)
    if len(gaps) == 0:
        return []
    if gaps.min() < 1e-3:
        at = float(positions_mm[int(gaps.argmin())])
        return [error("DUPLICATE_SLICE", f"two slices at {at:.3f} mm; keep one phase or reconstruction per folder")]
    median = float(np.median(gaps))
    off = float(np.abs(gaps - median).max())
    detail = (
        f"slice gaps from {gaps.min():.3f} to {gaps.max():.3f} mm (median {median:.3f} mm); find the missing slices"
    )
    if off > 0.05 * median:
        return [error("UNEVEN_SLICE_GAPS", detail)]
    return [warning("UNEVEN_SLICE_GAPS", detail)] if off > max(0.01 * median, 0.01) else []
