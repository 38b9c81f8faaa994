"""Header and voxels in two files, ``.hdr`` and ``.img``: NIfTI, and Analyze 7.5, which knows no orientation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.nifti_header import best_affine, checked_header, header_findings, read_header_block, scaling
from liver_pipeline.io.streams import (
    StoredVolume,
    coded_stream_errors,
    drain,
    hashed_file,
    inflated,
    read_voxels,
    trailing_findings,
)

_SUFFIXES = {".hdr": ".img", ".hdr.gz": ".img.gz"}
_AXES = ("RL", "AP", "SI")  # the first is where the patient axes of an affine run to


def is_pair(path: Path) -> bool:
    """Return whether the file is named like one of the two."""
    return path.name.lower().endswith((*_SUFFIXES, *_SUFFIXES.values()))


def pair_files(path: Path) -> tuple[Path, Path]:
    """Return the files of header and voxels, whichever of the two ``path`` is.

    Raises:
        IntakeError: VOXELS_MISSING if the other one is not there.
    """
    for header, data in _SUFFIXES.items():
        for mine, other in ((header, data), (data, header)):
            if path.name.lower().endswith(mine):
                stem = path.name[: -len(mine)]
                names = [stem + suffix for suffix in (other, other.upper(), other.removesuffix(".gz"), f"{other}.gz")]
                beside = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
                if beside is None:
                    raise refuse(path, "VOXELS_MISSING", f"{stem}{other} is not beside it; copy both files")
                return (path, beside) if mine == header else (beside, path)
    raise refuse(path, "NOT_A_SCAN", "not named .hdr or .img")


def read_pair(path: Path, orientation: str | None = None) -> StoredVolume:
    """Read a pair of files, checked and hashed.

    Args:
        path: Either of them.
        orientation: Where the axes of an Analyze file run to, such as "LAS": X to the left, Y to the front, Z up.

    Raises:
        IntakeError: ANALYZE without ``orientation``, VOXELS_MISSING, and as for a NIfTI file.
        OSError: If one cannot be read.
    """
    header_file, data_file = pair_files(path)
    header = _header(header_file)
    shape, dtype = checked_header(path, header)
    nifti = isinstance(header, nib.Nifti1Header)
    if not nifti and orientation is None:
        detail = "Analyze 7.5 does not say where left and right are; convert it where it was made, or name its axes"
        raise refuse(
            path, "ANALYZE", f"{detail} (--orientation LAS, or orientation='LAS': to the left, to the front, up)"
        )
    slope, intercept = scaling(path, header)
    skip = max(0.0, float(header["vox_offset"]))
    with hashed_file(data_file) as (file, hashing, size):
        stream, growth = inflated(file)
        count = int(np.prod(shape, dtype=object))
        array = read_voxels(data_file, stream, count, dtype, skip=_whole(path, skip), capacity=size * growth)
        extra = drain(stream)
        digests = bytes.fromhex(file_sha256(header_file)) + bytes.fromhex(hashing.finish())
    findings = trailing_findings(array, shape, extra)
    affine = best_affine(path, header) if nifti else _named_axes(path, header, shape, str(orientation))
    if nifti:
        findings += header_findings(shape, affine, header)
        header = header.as_byteswapped("<")
        header.set_data_shape(shape)
    return StoredVolume(
        array.reshape(shape, order="F"), affine, hashlib.sha256(digests).hexdigest(), tuple(findings), slope, intercept,
        header if nifti else None,
    )  # fmt: skip


def pair_sha256(path: Path) -> str:
    """Return the hash that :func:`read_pair` gives."""
    return hashlib.sha256(b"".join(bytes.fromhex(file_sha256(one)) for one in pair_files(path))).hexdigest()


def peek_pair(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape (X, Y, Z) and voxel type from the header."""
    return checked_header(path, _header(pair_files(path)[0]))


def known_orientation(orientation: str | None) -> None:
    """Raise ValueError unless ``orientation`` names one end of each of the three axes."""
    if orientation is None:
        return
    ends = [next((axis for axis in _AXES if letter in axis), "") for letter in orientation]
    if len(orientation) != 3 or sorted(ends) != sorted(_AXES):
        raise ValueError(f"orientation is {orientation!r}; expected three of R or L, A or P, S or I, such as 'LAS'")


def _header(path: Path) -> Any:
    with path.open("rb") as file, coded_stream_errors(path):
        stream, _ = inflated(file)
        header = read_header_block(path, stream)
    magic = bytes(header["magic"])[:3]
    if magic in (b"ni1", b"ni2", b"n+1", b"n+2"):
        return header
    return nib.Spm99AnalyzeHeader(header.binaryblock, endianness=header.endianness, check=False)


def _whole(path: Path, offset: float) -> int:
    if not offset < 2**62:
        raise refuse(path, "BAD_HEADER", f"vox_offset is {offset:g}")
    return int(offset)


def _named_axes(path: Path, header: Any, shape: Sequence[int], orientation: str) -> npt.NDArray[np.float64]:
    """Return the affine of a volume round the origin whose axes run to the ends that ``orientation`` names."""
    edges = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))  # SPM marks a flip by a negative one
    if not (np.isfinite(edges).all() and (edges > 0).all()):
        raise refuse(path, "BAD_HEADER", f"pixdim[1:4] is {edges.tolist()}; restore the spacing")
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, letter in enumerate(orientation):
        patient = next(n for n, ends in enumerate(_AXES) if letter in ends)
        affine[patient, axis] = edges[axis] * (1 if letter == _AXES[patient][0] else -1)
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine
