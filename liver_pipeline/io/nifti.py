"""NIfTI files, byte for byte: one pass that decompresses, checks and hashes; atomic writing of label maps."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from liver_pipeline.io.files import whole_file
from liver_pipeline.io.findings import IntakeError, refuse
from liver_pipeline.io.nifti_header import best_affine, checked_header, header_findings, read_header_block, scaling
from liver_pipeline.io.streams import (
    CHUNK,
    StoredVolume,
    coded_stream_errors,
    drain,
    hashed_file,
    inflated,
    read_exactly,
    read_voxels,
    trailing_findings,
)

# A 226 MB label map: isal 1 takes 0.07 s for 0.50 MB, zlib-ng 2 0.12 s for 0.47 MB, zlib 1 0.98 s for 1.3 MB.
GZIP_LEVEL = 1
# A table of labels as an extension of the header, in the XML of Caret: TotalSegmentator writes it.
TABLE = re.compile(rb'<Label\s[^>]*\bKey="([0-9]{1,5})"[^>]*>(?:<!\[CDATA\[)?([^<\]]*)')
LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL: voxels are labels; viewers colour them, and nobody takes them for a scan


def read_nifti(path: Path, *, channels: bool = False) -> StoredVolume:
    """Read a ``.nii`` or ``.nii.gz`` file (known by its first bytes, not its name) in one pass.

    The voxels are inflated into one preallocated array; checksum and length of the gzip stream are verified and the
    file is hashed on the way. Trailing axes of length one are dropped; with ``channels`` a fourth axis is kept, of any
    length. The header comes little-endian, as it is otherwise; the affine is nibabel's.

    Raises:
        IntakeError: EMPTY_FILE, NOT_A_SCAN, GZIP_CRC, TRUNCATED, BAD_HEADER, UNSUPPORTED_DTYPE, NOT_3D, OUT_OF_MEMORY.
        OSError: If the file cannot be read.
    """
    with hashed_file(path) as (file, hashing, size):
        stream, growth = inflated(file)
        header = _own_header(path, stream)
        shape, dtype = checked_header(path, header, channels=channels)
        skip = _bytes_to_voxels(path, header)
        extensions = read_exactly(stream, min(skip, CHUNK))
        count = int(np.prod(shape, dtype=object))
        array = read_voxels(
            path, stream, count, dtype, skip=skip - len(extensions), capacity=size * growth - len(extensions)
        )
        extra = drain(stream)
        sha256 = hashing.finish()
    header = header.as_byteswapped("<")
    header.set_data_shape(shape)
    findings = trailing_findings(array, shape, extra)
    slope, intercept = scaling(path, header)
    affine = best_affine(path, header)
    findings += header_findings(shape[:3], affine, header)
    array = array.reshape(shape, order="F")
    names = tuple((int(value), name.decode("utf-8", "replace")) for value, name in TABLE.findall(extensions))
    return StoredVolume(array, affine, sha256, tuple(findings), slope, intercept, header, value_names=names)


def peek(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape (X, Y, Z) and voxel type from the header, without reading voxels.

    Raises:
        IntakeError: As for :func:`read_nifti`.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file, coded_stream_errors(path):
        stream, _ = inflated(file)
        return checked_header(path, _own_header(path, stream))


def _own_header(path: Path, stream: Any) -> Any:
    """Return the header of a file that holds its voxels, too."""
    header = read_header_block(path, stream)
    magic = bytes(header["magic"])
    if magic[:3] not in (b"n+1", b"n+2"):
        detail = f"a header without voxels (magic {magic!r}): name it .hdr, beside its .img, or convert to .nii"
        raise refuse(path, "NOT_A_SCAN", detail)
    return header


def _bytes_to_voxels(path: Path, header: Any) -> int:
    """Return how many bytes lie between header and voxels."""
    offset, size = float(header["vox_offset"]), int(header["sizeof_hdr"])
    if not size <= offset < 2**62:
        raise refuse(path, "BAD_HEADER", f"vox_offset is {offset:g}; the header is {size} bytes long")
    return int(offset) - size


def intent_code(path: Path, file: io.BufferedReader) -> int:
    """Return NIfTI's intent code, 0 where the opened file says nothing, is of another format, or cannot be read."""
    try:
        with coded_stream_errors(path):
            stream, _ = inflated(file)
            return int(read_header_block(path, stream)["intent_code"])
    except (OSError, IntakeError):
        return 0


def header_like(header: Any, shape: tuple[int, ...], *, intent: int = 0) -> Any:
    """Return a header for uint8 voxels on the grid of ``header``: sform, qform, codes and units to the bit.

    ``intent`` is NIfTI's intent code of what the voxels are, such as :data:`LABEL_INTENT`.

    Free text (descrip, aux_file, db_name, intent_name) and extensions are left out: they can name a patient.
    """
    like = header.as_byteswapped("<")
    like = type(like)(like.binaryblock, endianness="<", check=False)  # without extensions
    like.set_data_dtype(np.uint8)
    like.set_data_shape(shape)
    like.set_data_offset(int(like.single_vox_offset))
    like["magic"] = like.single_magic
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        if field in like:
            like[field] = b""
    for field in ("intent_code", "intent_p1", "intent_p2", "intent_p3", "cal_min", "cal_max", "glmin", "glmax"):
        if field in like:
            like[field] = 0
    like["scl_slope"], like["scl_inter"] = 1, 0
    like["intent_code"] = intent
    return like


def write_nifti(
    path: Path, array: npt.NDArray[np.uint8], header: Any, announce: Callable[[str], None] | None = None
) -> str:
    """Write ``array`` (X, Y, Z) behind ``header`` to ``path``, gzip-compressed where the name ends in ``.gz``.

    The file appears complete or not at all, and the same array gives the same bytes. ``announce`` is called with the
    sha256 before the file appears; if it raises, the file does not. Memory: one slab. A
    Fortran-ordered array is written 40 times faster than a C-ordered one, which has to be transposed.

    Returns:
        sha256 of the file.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    compressor = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, 31) if path.name.endswith(".gz") else None

    def chunks() -> Iterator[bytes]:
        for raw in _raw_chunks(array, header):
            yield compressor.compress(raw) if compressor else raw
        if compressor:
            yield compressor.flush()

    digest = hashlib.sha256()
    with whole_file(path) as temporary:
        with temporary.open("wb") as file:
            for chunk in chunks():
                digest.update(chunk)
                file.write(chunk)
        if announce is not None:
            announce(digest.hexdigest())
    return digest.hexdigest()


def nifti_bytes(array: npt.NDArray[np.uint8], header: Any) -> bytes:
    """Return what :func:`write_nifti` writes into a ``.nii.gz``, compressed as far as isal can."""
    compressor = isal_zlib.compressobj(isal_zlib.ISAL_BEST_COMPRESSION, isal_zlib.DEFLATED, 31)
    return b"".join([*map(compressor.compress, _raw_chunks(array, header)), compressor.flush()])


def _raw_chunks(array: npt.NDArray[np.uint8], header: Any) -> Iterator[bytes]:
    yield header.binaryblock + b"\0" * (int(header.get_data_offset()) - len(header.binaryblock))
    planes = max(1, 4 * CHUNK // max(1, array.shape[0] * array.shape[1]))
    for start in range(0, array.shape[2], planes):
        yield array[:, :, start : start + planes].tobytes(order="F")
