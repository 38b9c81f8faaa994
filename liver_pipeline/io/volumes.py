"""Scans and label maps in and out: NIfTI files, DICOM series folders, zips of a series; every read is checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import (
    Affine,
    affine_is_usable,
    is_along_body,
    repair_shear,
    slice_axis,
    spacing_of,
)
from liver_pipeline.io.checks import affine_findings, grid_findings, label_grid_findings
from liver_pipeline.io.failures import machine_finding
from liver_pipeline.io.file_names import MASK_SUFFIXES
from liver_pipeline.io.findings import Finding, IntakeError, Severity, known_codes, refuse, settle
from liver_pipeline.io.formats import read_stored
from liver_pipeline.io.hu import modality_findings, value_findings
from liver_pipeline.io.label_names import ValueName
from liver_pipeline.io.label_values import PLAIN_LABELS, whole_labels
from liver_pipeline.io.masks import write_mask
from liver_pipeline.io.noise import noise_findings
from liver_pipeline.io.pairs import known_orientation
from liver_pipeline.io.slices import slice_findings
from liver_pipeline.io.streams import StoredVolume
from liver_pipeline.labels import LABEL_VALUES_SAY, LabelValues, meanings


@dataclass(frozen=True)
class Scan:
    """A volume as it lies in its file, with what is needed to write a label map on the same grid.

    Attributes:
        array: Voxels (X, Y, Z) in file axis order and stored dtype (native byte order); Fortran-ordered.
        affine: Voxel index to RAS mm, float64 (4, 4).
        slope: value (HU) = slope * array + intercept.
        intercept: See ``slope``.
        header: Little-endian NIfTI header that holds sform, qform, their codes and units.
        path: Where it was read from.
        sha256: Of the file; of a DICOM folder over its slices.
        findings: Warnings.
        slice_files: Name of the file of each plane along Z, of a folder of DICOM slices; empty for anything else.
        modality: "CT" or "MR" where the file says so, else "".
        value_names: What values are called, where the file says so.
    """

    array: npt.NDArray[Any]
    affine: Affine
    slope: float
    intercept: float
    header: Any
    path: Path
    sha256: str
    findings: tuple[Finding, ...]
    slice_files: tuple[str, ...] = ()
    modality: str = ""
    value_names: tuple[ValueName, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths along the array axes in mm."""
        return spacing_of(self.affine)


def read_scan(
    path: Path | str,
    *,
    modality: str = "ct",
    accept: Collection[str] = (),
    repair: Collection[str] = (),
    series: str | None = None,
    orientation: str | None = None,
) -> Scan:
    """Read and check one scan.

    Args:
        path: A file of NIfTI, NRRD, MetaImage or MGH (compressed or not, known by its content), or either of two
            files of header and voxels; a folder or a zip of a DICOM series, or an enhanced CT or MR of many frames.
        modality: "ct" also checks that values can be Hounsfield units; anything else, such as "mr", does not.
        accept: Codes of errors to take as warnings, for a user who knows better; AFFINE_SINGULAR, SHEAR and
            NON_FINITE stay errors.
        repair: ("SHEAR",) turns a shear of at most half a voxel over the volume into right angles in ``affine``; the
            header is kept.
        series: Of a DICOM folder or zip that holds several: the ``uid`` of one that
            :func:`liver_pipeline.io.dicom.find_series` lists, "thinnest", or "contrast". SERIES_CHOSEN says why.
        orientation: Where the axes of an Analyze 7.5 file run to, such as "LAS" (to the left, to the front, up): it
            does not say so itself. Files that do are not touched by it.

    Returns:
        The scan; its findings are warnings.

    Raises:
        IntakeError: With the code of what is wrong; see ``liver_pipeline.io.findings.CODES``.
    """
    known_orientation(orientation)
    with _own_errors(Path(path), accept):
        return _read(Path(path), modality, accept, repair, series, orientation)


def read_label_map(
    path: Path | str,
    *,
    allowed: Collection[int] = PLAIN_LABELS,
    label_map: LabelValues | None = None,
    accept: Collection[str] = (),
    orientation: str | None = None,
) -> Scan:
    """Read and check one label map; whole numbers stored as floats are fine.

    Args:
        path: As for :func:`read_scan`.
        allowed: Labels that may occur, 0 to 255.
        label_map: What the values of the file mean, such as ``{6: 1}``, instead of ``allowed``: 0, 1 or 2, or
            ``liver_or_tumor`` (3 in the result) where tumors were not outlined. Values that it does not name, such as
            other organs, become background, and warning LABEL_UNNAMED lists them. Without it, names of liver and tumor
            in the file itself (3D Slicer's segments, a table of labels in NIfTI) decide, and warning LABEL_NAMES tells.
        accept: As for :func:`read_scan`.
        orientation: As for :func:`read_scan`.

    Returns:
        A scan whose array is uint8 (X, Y, Z), slope 1, intercept 0. Background everywhere: warning LABEL_EMPTY.

    Raises:
        IntakeError: LABEL_VALUES for fractions or labels not in ``allowed``, LABEL_NAMES where the file's own names are
            not clear, and whatever a scan can have.
        ValueError: If ``label_map`` is not as described.
    """
    known_orientation(orientation)
    if label_map is not None and meanings(label_map) is None:
        raise ValueError(f"label_map is {label_map!r}; expected {LABEL_VALUES_SAY}")
    with _own_errors(Path(path), accept):
        raw = _read(Path(path), "label", accept, orientation=orientation)
        names = raw.value_names if tuple(allowed) == PLAIN_LABELS else ()
        labels, findings = whole_labels(raw.array, (raw.slope, raw.intercept), allowed, label_map, names)
        settled = settle(path, (*raw.findings, *findings), accept)
        return replace(raw, array=labels, slope=1.0, intercept=0.0, findings=settled)


def write_label_map(
    path: Path | str,
    label_map: npt.NDArray[np.uint8],
    like: Scan,
    overwrite: bool = False,
    announce: Callable[[str], None] | None = None,
) -> str:
    """Write a label map on the grid of ``like``; of NIfTI sform, qform, codes and units are kept to the bit.

    The file appears by an atomic rename, complete or not at all, and depends only on labels and header.

    Args:
        path: Ends in ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha``, which is the format; its folder exists.
        label_map: uint8 (X, Y, Z), shape of ``like.array``.
        like: The scan.
        overwrite: Replace a file that is there.
        announce: Called with the sha256 just before the file appears.

    Returns:
        sha256 of the file.

    Raises:
        FileExistsError: If ``path`` is there and ``overwrite`` is false.
        ValueError: If dtype, shape or name are wrong.
        OSError: If it cannot be written; nothing is left behind.
    """
    path = Path(path)
    if not path.name.endswith(MASK_SUFFIXES):
        raise ValueError(f"{path}: a label map is written as {', '.join(MASK_SUFFIXES)}")
    if label_map.dtype != np.uint8 or label_map.shape != like.array.shape:
        raise ValueError(
            f"label_map is {label_map.dtype} {label_map.shape}; expected uint8 {like.array.shape}, the scan's grid"
        )
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; overwrite=True replaces it")
    return write_mask(path, label_map, like.header, announce)


def label_findings(scan: Scan, label: Scan) -> list[Finding]:
    """Return LABEL_GRID_MISMATCH where ``label`` does not lie on the grid of ``scan``, else an empty list.

    Shapes must be equal. The corner voxel that moves most between the two affines may move by a tenth of the smallest
    voxel edge silently, by half of it with a warning (the nearest voxel is still the same one).
    """
    return label_grid_findings(scan.array.shape, scan.affine, label.array.shape, label.affine)


def _read(
    path: Path,
    modality: str,
    accept: Collection[str],
    repair: Collection[str] = (),
    series: str | None = None,
    orientation: str | None = None,
) -> Scan:
    volume = read_stored(path, accept=accept, series=series, labels=modality == "label", orientation=orientation)
    header = volume.header if volume.header is not None else _header_of(volume)
    affine = volume.affine if volume.header is not None else np.asarray(header.get_sform(), dtype=np.float64)
    names = volume.slice_files if path.is_dir() else ()  # members of a zip were numbered
    said = volume.modality if volume.modality in ("CT", "MR") else ""
    findings = (*volume.findings, *modality_findings(volume.modality, modality))
    voxels = (volume.array, affine, volume.slope, volume.intercept)
    scan = Scan(*voxels, header, path, volume.sha256, findings, names, said, volume.value_names)
    return checked(scan, modality, accept, repair, slices=volume.slice_axis)


def _header_of(volume: StoredVolume) -> Any:
    """Return a NIfTI header for what had none: its float32 sform is what a reader of the mask sees."""
    header = nib.Nifti1Header()
    header.set_data_shape(volume.array.shape)
    header.set_data_dtype(volume.array.dtype)
    header.set_xyzt_units("mm")
    if affine_is_usable(volume.affine):
        header.set_qform(volume.affine, code=1, strip_shears=True)
    header.set_sform(volume.affine, code=1)
    return header


@contextmanager
def _own_errors(path: Path, accept: Collection[str]) -> Iterator[None]:
    """Turn whatever goes wrong while ``path`` is read into an error of that file."""
    known_codes(accept)
    try:
        yield
    except IntakeError:
        raise
    except FileNotFoundError as reason:
        raise refuse(path, "NOT_FOUND", "there is no such file or folder; is the path spelt right?") from reason
    except Exception as reason:  # a damaged file must not end a run of many, however it was damaged
        if (found := machine_finding(reason)) is not None:
            raise IntakeError(path, [found]) from reason
        line = " ".join(f"{type(reason).__name__}: {reason}".split())[:300]
        raise refuse(path, "READER_FAILED", f"{line}; write the file again with another program") from reason


def checked(
    scan: Scan, modality: str, accept: Collection[str], repair: Collection[str], *, slices: int | None = None
) -> Scan:
    """Add the findings on grid and values; raise if an error is among all findings.

    ``slices`` is the axis across the slices, where that is known.
    """
    findings = [*scan.findings, *affine_findings(scan.array.shape, scan.affine, repair)]
    if affine_is_usable(scan.affine):
        findings += grid_findings(scan.array.shape, scan.affine, modality)
        slices = slice_axis(scan.affine) if slices is None else slices
    findings += _findings_on_values(scan, modality, slices)
    settled = settle(scan.path, findings, accept)
    if "SHEAR" in repair and any(f.code == "SHEAR" for f in settled):
        return replace(scan, affine=repair_shear(scan.affine), findings=settled)
    return replace(scan, findings=settled)


def _findings_on_values(scan: Scan, modality: str, slices: int | None) -> list[Finding]:
    found = value_findings(scan.array, scan.slope, scan.intercept, modality)
    if any(f.code == "MODALITY" for f in scan.findings):  # the file has said so already
        found = [f for f in found if f.code != "MODALITY"]
    in_hu = modality == "ct" and not any(f.code == "HU_SCALE" and f.severity is Severity.ERROR for f in found)
    if scan.modality == "MR":  # values of an MR are no failed HU: MODALITY says it
        found = [replace(f, severity=Severity.WARNING) if f.code == "HU_SCALE" else f for f in found]
    if modality == "label" or any(f.code in ("NON_FINITE", "CONSTANT") for f in found):
        return found
    found += noise_findings(scan.array, scan.slope, in_hu=in_hu)
    if slices is not None:
        found += slice_findings(
            scan.array, scan.slope, scan.intercept, slices, in_hu=in_hu, axial=is_along_body(scan.affine, slices),
            names=scan.slice_files,
        )  # fmt: skip
    return found
