"""What can be wrong with a scan or a label map, as codes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from liver_pipeline.hints import did_you_mean

CODES: dict[str, str] = {
    # the file
    "NOT_FOUND": "there is no such file or folder",
    "READ_FAILED": "the operating system could not read it",
    "READER_FAILED": "the file made its reader fail in a way of its own: it is damaged, or of a kind not met so far",
    "EMPTY_FILE": "the file has zero bytes",
    "NOT_A_SCAN": "none of NIfTI, NRRD, MetaImage, MGH, and no folder or zip of a DICOM series",
    "ANALYZE": "Analyze 7.5 does not say where left and right are",
    "VOXELS_MISSING": "the file of the voxels, or of the header, is not beside the other",
    "UNSUPPORTED_ENCODING": "voxels are stored as text, in many files, or in a way of its own",
    "GZIP_CRC": "the compressed stream is damaged: invalid data, or its checksum or length is wrong",
    "TRUNCATED": "the file ends before its voxels do",
    "TRAILING_BYTES": "the file goes on after its last voxel",
    "BAD_HEADER": "a header field has an impossible value",
    "UNSUPPORTED_DTYPE": "voxels are complex, colour or quadruple precision",
    "OUT_OF_MEMORY": "the volume does not fit into memory",
    # a DICOM series
    "ZIP_DAMAGED": "the zip file, or a file in it, is damaged",
    "DICOM_DAMAGED": "header or pixels of a slice cannot be read",
    "DICOM_MULTIFRAME": "one file of a series was given: the folder is the scan",
    "IGNORED_FILES": "scouts, dose reports, captures or other files beside the slices were left out",
    "GEOMETRY_MISSING": "a slice lacks PixelSpacing, ImageOrientationPatient or ImagePositionPatient",
    "RESCALE_MISSING": "a CT, or some slices of a series, lack RescaleSlope and RescaleIntercept",
    "DERIVED_IMAGE": "the series is no CT as it was taken: a projection, a subtraction, a map, one energy, a cone beam",
    "NO_SERIES": "there is no series of that name among those found",
    "SERIES_CHOSEN": "one of several series was asked for, and this one was read",
    "MIXED_SERIES": "slices belong to several series, or differ in size, spacing, orientation or modality",
    "MIXED_PATIENTS": "slices name different patients",
    "MIXED_FRAMES": "slices have different frames of reference, so that their positions cannot be compared",
    "MIXED_PASSES": "slices of several acquisitions, kernels, echoes or phases overlap or alternate",
    "DUPLICATE_SLICE": "two slices lie at the same position",
    "UNEVEN_SLICE_GAPS": "distances between neighbouring slices differ: slices are missing",
    "SLICE_SHIFT": "slices lie off the straight line of the others: they jump, or the stack is bowed",
    # the grid
    "NOT_3D": "the volume has fewer or more than three axes longer than one voxel",
    "AFFINE_SINGULAR": "the affine holds nan or inf, or maps the volume onto a plane",
    "NO_AFFINE": "the file does not say how it lies in the patient: orientation is a guess",
    "SFORM_QFORM_CONFLICT": "sform and qform place voxels differently",
    "SHEAR": "the axes of the voxel grid are not at right angles",
    "UNITS": "the header says that lengths are not in millimetres",
    "SPACING_RANGE": "a voxel edge is shorter than 0.05 mm or longer than 200 mm, or not what the file says elsewhere",
    "UNIT_SPACING_CT": "voxels of exactly 1 mm at an identity affine: the geometry was lost",
    "FEW_SLICES": "an axis has very few voxels",
    "THICK_SLICE": "slices are so thick that small lesions vanish",
    # the values
    "NON_FINITE": "voxels are nan or infinite",
    "PICTURE": "a JPG or PNG: it has no Hounsfield units and no millimetres",
    "CONSTANT": "every voxel has the same value",
    "HU_SCALE": "values cannot be Hounsfield units",
    "NOISE": "voxels have nothing in common with those beside them: all of them, or too many",
    "SLICE_CONSTANT": "slices, or planes across them, hold one value inside the body",
    "SLICE_REPEATED": "slices are copies of the one before",
    "SLICE_JUMP": "values, or the body, jump between neighbouring slices, or a slice is unlike those beside it",
    "LABEL_MAP": "the values are those of a label map, and it is read as a scan",
    "MODALITY": "the file, or its values, are of another modality than the one it is read as",
    # a label map
    "LABEL_GRID_MISMATCH": "the label map does not lie on the grid of its scan",
    "LABEL_VALUES": "the label map holds fractions or unknown labels",
    "LABEL_NAMES": "the file says by names what its values mean, and it is not what they are read as",
    "LABEL_EMPTY": "the label map is background everywhere",
    "LABEL_UNNAMED": "values that label_map does not name became background",
    "LABEL_MISSING": "there is no label map of that name",
    "SEGMENTS_NOT_ESTIMATED": "the mask does not show one whole liver, from whose shape segments could be told",
    # a run
    "QUALITY_FILE": "quality.json of a run is damaged, or holds what it cannot hold",
    "NO_VALIDATION": "the run has no validation case to tell by",
    # a DICOM result
    "DICOM_REFERENCE": "the scan is no DICOM series, or lacks what a DICOM result must refer to",
    "DICOM_RESULT_FAILED": "a DICOM result could not be built of a mask",
    # a DICOM node
    "PORT_TAKEN": "the node cannot listen on its port",
    "PEER_UNREACHABLE": "a peer does not answer, or does not know us",
    "PEER_REFUSED": "the archive does not take a result",
    "PEER_UNKNOWN": "a peer that may not send, or calls the node by another name, was refused",
    "TRANSFER_SYNTAX": "a peer offers images in a transfer syntax that is not the standard's",
    "INSTANCE_REFUSED": "the node could not keep an instance that was sent: its UIDs are no UIDs, or there is no room",
    "SERIES_INCOMPLETE": "fewer instances of a series came than its sender says it has",
    # a folder of scans
    "NO_SCANS": "the folder holds no scan",
    "DUPLICATE_NAME": "two inputs would write the same mask",
    "OUTPUT_EXISTS": "a mask is there already that this run did not write",
    "PREDICT_FAILED": "preprocessing, the network or post-processing failed",
    "DEVICE_FAILED": "the GPU, not the case, failed: the run ends and the case is tried again next time",
    "WORKER_DIED": "three workers of a cluster died with this case: memory, or a crash of its reader or network",
    "WRITE_FAILED": "the operating system could not write the mask",
    "DISK_FULL": "no space is left for the mask",
    "OUTPUT_READ_ONLY": "the output folder cannot be written to",
}


# Warnings that are only recorded: the result is as good as such a scan allows.
ONLY_RECORDED = frozenset(("FEW_SLICES", "THICK_SLICE", "TRAILING_BYTES", "IGNORED_FILES", "UNITS", "PICTURE"))
# Errors that nobody can accept: no grid can be laid over the volume, no network give a number for it.
FIRM = frozenset(("AFFINE_SINGULAR", "SHEAR", "NON_FINITE"))


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


def known_codes(codes: Collection[str]) -> None:
    """Raise ValueError if one of ``codes`` is no key of ``CODES``."""
    if unknown := sorted(set(codes) - set(CODES)):
        hint = did_you_mean(unknown[0], CODES)
        raise ValueError(f"unknown intake code {unknown[0]!r}{hint}; the codes are {', '.join(CODES)}")


def settle(path: Path | str, findings: Iterable[Finding], accept: Collection[str] = ()) -> tuple[Finding, ...]:
    """Raise if an error is among ``findings``; errors in ``accept``, and not firm, become warnings that say so.

    Raises:
        IntakeError: With all findings, if an error remains.
        ValueError: If ``accept`` holds an unknown code.
    """
    known_codes(accept)
    settled = tuple(_lifted(f) if f.code in accept and f.severity is Severity.ERROR else f for f in findings)
    if any(f.severity is Severity.ERROR for f in settled):
        raise IntakeError(path, settled)
    return settled


def _lifted(finding: Finding) -> Finding:
    if finding.code in FIRM:
        return replace(finding, detail=f"{finding.detail} (it cannot be accepted)")
    return replace(finding, severity=Severity.WARNING, detail=f"{finding.detail}; accepted")
