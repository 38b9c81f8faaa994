"""What a NIfTI header says, read as nibabel reads it: shape, type, scaling, affine, and what is wrong with them."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from liver_pipeline.io.checks import form_findings
from liver_pipeline.io.findings import Finding, error, refuse, warning
from liver_pipeline.io.streams import read_exactly

HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
OTHERS = {  # what a scan may be packed in, or taken for
    b"\x1f\x8b": "what was compressed twice", b"NRRD": "a compressed NRRD", b"BZh": "bzip2", b"PK": "an empty zip",
    b"\xfd7zX": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"GIF8": "GIF",
    b"\x89HDF": "HDF5",
}  # fmt: skip
QUIET = logging.getLogger(f"{__name__}.quiet")
QUIET.disabled = True  # nibabel logs each repair; what matters becomes a finding


def read_header_block(path: Path, stream: Any) -> Any:
    """Return the header that the stream begins with, in its own byte order.

    Raises:
        IntakeError: TRUNCATED, NOT_A_SCAN.
    """
    first = read_exactly(stream, 4)
    for size, kind in HEADERS.items():
        for endian in "<>":
            if first == struct.pack(f"{endian}i", size):
                block = first + read_exactly(stream, size - 4)
                if len(block) < size:
                    raise refuse(path, "TRUNCATED", f"{len(block)} bytes, shorter than a NIfTI header ({size})")
                return kind(block, endianness=endian, check=False)
    raise refuse(
        path, "NOT_A_SCAN", f"not a NIfTI file (it begins with {first!r}{_known(first)}); convert it to .nii.gz"
    )


def _known(first: bytes) -> str:
    """Return what else begins so."""
    return next((f", as {what} does" for magic, what in OTHERS.items() if first.startswith(magic)), "")


def checked_header(path: Path, header: Any, *, channels: bool = False) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape (X, Y, Z), with ``channels`` maybe (X, Y, Z, C), and voxel type.

    Raises:
        IntakeError: BAD_HEADER, NOT_3D, UNSUPPORTED_DTYPE.
    """
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7 or any(n < 1 for n in dim[1 : dim[0] + 1]):
        raise refuse(path, "BAD_HEADER", f"dim is {dim}")
    shape = dim[1 : dim[0] + 1]
    while len(shape) > 3 + channels and shape[-1] == 1:
        shape.pop()
    if not 3 <= len(shape) <= 3 + channels or 1 in shape[:3]:
        raise refuse(path, "NOT_3D", f"shape {tuple(shape)}; give one 3D volume (X, Y, Z) a file")
    return tuple(shape), _voxel_type(path, header)


def _voxel_type(path: Path, header: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except (KeyError, HeaderDataError) as reason:
        raise refuse(path, "BAD_HEADER", f"datatype {int(header['datatype'])} is none of NIfTI's") from reason
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise refuse(path, "UNSUPPORTED_DTYPE", f"voxels are {dtype}; export integers or float32")
    if int(header["bitpix"]) != dtype.itemsize * 8:
        raise refuse(path, "BAD_HEADER", f"bitpix {int(header['bitpix'])} does not fit datatype {dtype}")
    return dtype


def as_nibabel_reads(header: Any) -> Any:
    """Return a copy with the small repairs that ``nibabel.load`` makes: qfac 1 or -1, known form codes."""
    repaired = header.copy()
    repaired.check_fix(logger=QUIET, error_level=100)
    return repaired


def best_affine(path: Path, header: Any) -> npt.NDArray[np.float64]:
    """Return the affine as nibabel takes it: sform, else qform, else spacing alone (LAS).

    Raises:
        IntakeError: BAD_HEADER for edges that are no lengths, or a quaternion that nibabel refuses.
    """
    repaired = as_nibabel_reads(header)
    if int(repaired["sform_code"]) == 0 and not _has_edges(header):
        edges = [float(edge) for edge in header["pixdim"][1:4]]
        raise refuse(path, "BAD_HEADER", f"pixdim[1:4] is {edges} and there is no sform; restore the spacing")
    try:
        return np.asarray(repaired.get_best_affine(), dtype=np.float64)
    except (ValueError, HeaderDataError) as reason:
        quaternion = [float(header[f"quatern_{axis}"]) for axis in "bcd"]
        detail = f"the qform's quaternion {quaternion} is no rotation ({reason}); write the header again"
        raise refuse(path, "BAD_HEADER", detail) from reason


def _has_edges(header: Any) -> bool:
    """Return whether the lengths of a voxel's edges are lengths."""
    edges = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    return bool(np.isfinite(edges).all() and (edges > 0).all())


def scaling(path: Path, header: Any) -> tuple[float, float]:
    """Return (slope, intercept); a slope of 0 or nan means unscaled, as NIfTI says.

    Raises:
        IntakeError: BAD_HEADER for an infinite slope, or a slope without a finite intercept.
    """
    if "scl_slope" not in header:
        return 1.0, 0.0
    slope = float(header["scl_slope"])
    intercept = float(header["scl_inter"]) if "scl_inter" in header else 0.0  # SPM's Analyze has a slope alone
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise refuse(path, "BAD_HEADER", f"scl_slope {slope} with scl_inter {intercept}")
    return slope, intercept


def header_findings(shape: tuple[int, ...], affine: npt.NDArray[np.float64], header: Any) -> list[Finding]:
    """Check units of length, whether any affine is stored, and whether the two that can be agree."""
    found = []
    if units := {1: "metres", 3: "micrometres"}.get(int(header["xyzt_units"]) & 7):  # the rest is of time
        found.append(error("UNITS", f"xyzt_units says {units}; write millimetres (2) into the header"))
    repaired = as_nibabel_reads(header)
    sform, qform = (int(repaired[code]) > 0 for code in ("sform_code", "qform_code"))
    if sform and qform and _has_edges(header):
        found += form_findings(shape, affine, _qform(repaired))
    if not (sform or qform):
        detail = "sform and qform codes are 0; spacing is kept, orientation taken as LAS"
        if np.array_equal(header["pixdim"][1:4], (1, 1, 1)):
            found.append(error("NO_AFFINE", "sform and qform codes are 0 and voxels 1 mm: restore the geometry"))
        else:
            found.append(warning("NO_AFFINE", detail))
    return found


def _qform(header: Any) -> npt.NDArray[np.float64]:
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (ValueError, HeaderDataError):
        return np.full((4, 4), np.nan)
