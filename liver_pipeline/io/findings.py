"""What can be wrong with a scan or a label map, as codes: plain checks on numbers, shapes and affines."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import Affine, affine_is_usable, corner_shift_mm, shear_deg, spacing_of

CODES: dict[str, str] = {
    # the file
    "NOT_FOUND": "there is no such file or folder",
    "READ_FAILED": "the operating system could not read it",
    "EMPTY_FILE": "the file has zero bytes",
    "NOT_A_SCAN": "not a NIfTI file, a DICOM series folder or a zip of one",
    "GZIP_CRC": "the compressed stream is damaged: invalid data, or its checksum or length is wrong",
    "TRUNCATED": "the file ends before its voxels do",
    "TRAILING_BYTES": "the file goes on after its last voxel",
    "BAD_HEADER": "a header field has an impossible value",
    "UNSUPPORTED_DTYPE": "voxels are complex, colour or quadruple precision",
    "OUT_OF_MEMORY": "the volume does not fit into memory",
    # a DICOM series
    "ZIP_DAMAGED": "the zip file, or a file in it, is damaged",
    "DICOM_DAMAGED": "a slice cannot be read, or lacks its position",
    "DICOM_MULTIFRAME": "one DICOM file holds many frames, or one file of a series was given",
    "IGNORED_FILES": "files beside the slices are no slices and were left out",
    "MIXED_SERIES": "slices belong to several series, or differ in size, spacing or orientation",
    "DUPLICATE_SLICE": "two slices lie at the same position",
    "UNEVEN_SLICE_GAPS": "distances between neighbouring slices differ: slices are missing",
    # the grid
    "NOT_3D": "the volume has fewer or more than three axes longer than one voxel",
    "AFFINE_SINGULAR": "the affine holds nan or inf, or maps the volume onto a plane",
    "NO_AFFINE": "sform and qform codes are both 0: orientation is a guess",
    "SFORM_QFORM_CONFLICT": "sform and qform place voxels differently",
    "SHEAR": "the axes of the voxel grid are not at right angles",
    "UNITS": "the header says that lengths are not in millimetres",
    "SPACING_RANGE": "a voxel edge is shorter than 0.05 mm or longer than 200 mm",
    "UNIT_SPACING_CT": "voxels of exactly 1 mm at an identity affine: the geometry was lost",
    "FEW_SLICES": "an axis has very few voxels",
    "THICK_SLICE": "slices are so thick that small lesions vanish",
    # the values
    "NON_FINITE": "voxels are nan or infinite",
    "CONSTANT": "every voxel has the same value",
    "HU_SCALE": "values cannot be Hounsfield units",
    # a label map
    "LABEL_GRID_MISMATCH": "the label map does not lie on the grid of its scan",
    "LABEL_VALUES": "the label map holds fractions or unknown labels",
    "LABEL_EMPTY": "the label map is background everywhere",
    "LABEL_MISSING": "there is no label map of that name",
    # a folder of scans
    "NO_SCANS": "the folder holds no scan",
    "DUPLICATE_NAME": "two inputs would write the same mask",
    "OUTPUT_EXISTS": "a mask is there already that this run did not write",
    "PREDICT_FAILED": "preprocessing, the network or post-processing failed",
    "DEVICE_FAILED": "the GPU, not the case, failed: the run ends and the case is tried again next time",
    "WRITE_FAILED": "the operating system could not write the mask",
    "DISK_FULL": "no space is left for the mask",
    "OUTPUT_READ_ONLY": "the output folder cannot be written to",
}

SHEAR_REPAIRABLE_DEG = 0.1  # rounding in headers; beyond this a gantry tilt or a registration is meant
SHEAR_SILENT_DEG = 0.005  # float32 rounding of a right angle
GRID_SAME = 0.1  # of the smallest voxel edge, at the corner that moves most
GRID_CLOSE = 0.5  # up to half a voxel the nearest voxel is still the same one
THICK_MM = {"ct": 6.0, "mr": 10.0}  # LiTS reaches 6.0 mm
TOO_THICK_MM = 20.0


class Severity(StrEnum):
    """How bad a finding is: an error stops the case, a warning is recorded."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its code (a key of ``CODES``), how bad it is, and what was found."""

    code: str
    severity: Severity
    detail: str

    def __post_init__(self) -> None:
        assert self.code in CODES, f"{self.code} has no meaning in CODES"


class IntakeError(ValueError):
    """A scan or label map that must not be used.

    Attributes:
        path: The file or folder.
        findings: Everything found, warnings too.
        code: Code of the first error.
    """

    def __init__(self, path: Path | str, findings: Iterable[Finding]) -> None:
        self.path = Path(path)
        self.findings = tuple(findings)
        first = next((f for f in self.findings if f.severity is Severity.ERROR), self.findings[0])
        self.code = first.code
        super().__init__(f"{self.path}: {first.code}: {first.detail}")

    def __reduce__(self) -> tuple[type[IntakeError], tuple[Path, tuple[Finding, ...]]]:
        return type(self), (self.path, self.findings)  # crosses process borders (data loader workers)


def error(code: str, detail: str) -> Finding:
    """Return a finding that stops the case."""
    return Finding(code, Severity.ERROR, detail)


def warning(code: str, detail: str) -> Finding:
    """Return a finding that is only recorded."""
    return Finding(code, Severity.WARNING, detail)


def refuse(path: Path | str, code: str, detail: str) -> IntakeError:
    """Return (not raise) the error for one finding."""
    return IntakeError(path, [error(code, detail)])


def settle(path: Path | str, findings: Iterable[Finding], accept: Collection[str] = ()) -> tuple[Finding, ...]:
    """Raise if an error is among ``findings``; errors whose code is in ``accept`` become warnings.

    Raises:
        IntakeError: With all findings, if an error remains.
        ValueError: If ``accept`` holds an unknown code.
    """
    if unknown := set(accept) - set(CODES):
        raise ValueError(f"unknown intake code {sorted(unknown)[0]!r}; the codes are {', '.join(CODES)}")
    settled = tuple(replace(f, severity=Severity.WARNING) if f.code in accept else f for f in findings)
    if any(f.severity is Severity.ERROR for f in settled):
        raise IntakeError(path, settled)
    return settled


def affine_findings(affine: Affine) -> list[Finding]:
    """Check one affine: usable, plausible voxel edges, right angles."""
    if not affine_is_usable(affine):
        rows = np.round(affine[:3], 4).tolist()
        return [
            error("AFFINE_SINGULAR", f"affine {rows} maps the volume onto a plane, or is not finite; mend the header")
        ]
    found = []
    spacing = spacing_of(affine)
    if min(spacing) < 0.05 or max(spacing) > 200.0:
        found.append(error("SPACING_RANGE", f"spacing {_mm(spacing)}; expected 0.05 to 200 mm"))
    angle = shear_deg(affine)
    if angle > SHEAR_REPAIRABLE_DEG:
        found.append(
            error("SHEAR", f"axes miss a right angle by {angle:.2f} degrees; resample onto an orthogonal grid first")
        )
    elif angle > SHEAR_SILENT_DEG:
        found.append(warning("SHEAR", f"axes miss a right angle by {angle:.4f} degrees (repair=('SHEAR',) mends it)"))
    return found


def form_findings(shape: Sequence[int], sform: Affine, qform: Affine) -> list[Finding]:
    """Compare sform and qform where both are set: the corner that moves most, against the smallest voxel edge."""
    if not (affine_is_usable(sform) and affine_is_usable(qform)):
        return []  # said by affine_findings, or the qform is unused
    shift, edge = corner_shift_mm(shape, sform, qform), min(spacing_of(sform))
    if shift <= GRID_SAME * edge:
        return []
    detail = f"sform and qform differ by up to {shift:.3g} mm (smallest voxel edge {edge:.3g} mm); keep the right one"
    return [(error if shift > GRID_CLOSE * edge else warning)("SFORM_QFORM_CONFLICT", detail)]


def grid_findings(shape: Sequence[int], affine: Affine, modality: str) -> list[Finding]:
    """Check number and thickness of slices, and for CT whether the geometry was lost (identity affine)."""
    found = []
    spacing = spacing_of(affine)
    if min(shape) < 3:
        found.append(error("FEW_SLICES", f"shape {tuple(shape)}; a volume needs at least 3 voxels along each axis"))
    elif min(shape) < 8:
        found.append(warning("FEW_SLICES", f"shape {tuple(shape)}; results on so few slices are poor"))
    if max(spacing) > TOO_THICK_MM:
        found.append(error("THICK_SLICE", f"spacing {_mm(spacing)}; slices above {TOO_THICK_MM:g} mm are refused"))
    elif max(spacing) > THICK_MM.get(modality, THICK_MM["mr"]):
        found.append(warning("THICK_SLICE", f"spacing {_mm(spacing)}; small lesions may be missed"))
    if modality == "ct" and np.array_equal(np.abs(affine), np.eye(4)):
        full_matrix = sorted(shape)[1] >= 400  # a scanner's 512x512 with 1 mm voxels at the origin (LiTS 28-47)
        detail = f"shape {tuple(shape)} with voxels of exactly 1 mm and origin 0; restore the spacing from the source"
        found.append((error if full_matrix else warning)("UNIT_SPACING_CT", detail))
    return found


def value_findings(low: float, high: float, modality: str) -> list[Finding]:
    """Check the range of values (HU for ct, after slope and intercept)."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return [error("NON_FINITE", "voxels are nan or infinite; fill them (air is -1024 HU) or export again")]
    if low == high:
        return [error("CONSTANT", f"every voxel is {low:g}; nothing to segment")]
    if modality != "ct":
        return []
    span = f"values {low:g} to {high:g}"
    if low >= 0:
        return [error("HU_SCALE", f"{span}: no HU below 0; was the intercept (-1024) lost, or the scan rescaled?")]
    if high - low < 200:
        return [error("HU_SCALE", f"{span}: range too small for HU; was the scan normalised?")]
    if low < -33000 or high > 66000:
        return [error("HU_SCALE", f"{span}: beyond what HU can be; look at scl_slope and scl_inter")]
    if low > -200:
        return [warning("HU_SCALE", f"{span}: no air (-1000 HU); was the scan windowed or cropped?")]
    return []


def label_grid_findings(
    shape: Sequence[int], affine: Affine, label_shape: Sequence[int], label_affine: Affine
) -> list[Finding]:
    """Compare the grids of a scan and its label map.

    Silent up to a tenth of the smallest voxel edge at the corner that moves most, a warning up to half of it (the
    nearest voxel is still the same one), an error beyond.
    """
    code = "LABEL_GRID_MISMATCH"
    if tuple(shape) != tuple(label_shape):
        return [error(code, f"label map has shape {tuple(label_shape)}, scan {tuple(shape)}; resample the label map")]
    shift, edge = corner_shift_mm(shape, affine, label_affine), min(spacing_of(affine))
    if shift <= GRID_SAME * edge:
        return []
    hint = "; its affine is the identity" if np.array_equal(np.abs(label_affine), np.eye(4)) else ""
    detail = f"label map lies up to {shift:.3g} mm off the scan (smallest voxel edge {edge:.3g} mm){hint}"
    return [(error if shift > GRID_CLOSE * edge else warning)(code, detail)]


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


def _mm(spacing: Sequence[float]) -> str:
    return "x".join(f"{edge:.4g}" for edge in spacing) + " mm"
