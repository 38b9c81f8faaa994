"""FreeSurfer volumes, ``.mgh`` and ``.mgz``: nibabel's header, our stream (nibabel does not compare checksums)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError

from liver_pipeline.io.findings import refuse
from liver_pipeline.io.raw import checked_shape
from liver_pipeline.io.streams import (
    StoredVolume,
    coded_stream_errors,
    drain,
    hashed_file,
    inflated,
    read_exactly,
    read_voxels,
)

MAGIC = b"\0\0\0\1"  # version 1, big-endian
HEADER_BYTES = 284  # voxels begin here
GOOD_RAS = slice(28, 30)
KNOWN_BYTES = 90  # of these nibabel's header has fields; what it adds to them lies behind the voxels


def read_mgh(path: Path) -> StoredVolume:
    """Read a FreeSurfer volume in one pass, checked and hashed.

    Raises:
        IntakeError: EMPTY_FILE, GZIP_CRC, TRUNCATED, BAD_HEADER, UNSUPPORTED_DTYPE, NOT_3D, NO_AFFINE, OUT_OF_MEMORY.
        OSError: If it cannot be read.
    """
    with hashed_file(path) as (file, hashing, size):
        stream, growth = inflated(file)
        header = _header(path, stream)
        shape, dtype = _checked(path, header)
        count = int(np.prod(shape, dtype=object))
        array = read_voxels(path, stream, count, dtype, capacity=size * growth)
        drain(stream)  # scan parameters and tags follow the voxels
        sha256 = hashing.finish()
    return StoredVolume(array.reshape(shape, order="F"), np.asarray(header.get_affine(), dtype=np.float64), sha256)


def peek_mgh(path: Path) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Return shape (X, Y, Z) and voxel type from the header."""
    with path.open("rb") as file, coded_stream_errors(path):
        stream, _ = inflated(file)
        return _checked(path, _header(path, stream))


def _header(path: Path, stream: Any) -> Any:
    block = read_exactly(stream, HEADER_BYTES)
    if len(block) < HEADER_BYTES:
        raise refuse(path, "TRUNCATED", f"{len(block)} bytes, shorter than an MGH header ({HEADER_BYTES})")
    if block[GOOD_RAS] != b"\0\1":  # nibabel would set it, and a geometry of its own
        raise refuse(path, "NO_AFFINE", "the header says that its geometry is not known: restore it")
    blank = MGHHeader().binaryblock
    return MGHHeader(block[:KNOWN_BYTES] + blank[KNOWN_BYTES:], check=False)


def _checked(path: Path, header: Any) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    shape = checked_shape(path, [int(n) for n in header["dims"]])
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype()).newbyteorder(">")
    except (KeyError, HeaderDataError) as reason:
        raise refuse(path, "UNSUPPORTED_DTYPE", f"type {int(header['type'])}; export integers or float32") from reason
    edges = np.asarray(header["delta"], dtype=np.float64)
    if not (np.isfinite(edges).all() and (edges > 0).all()):
        raise refuse(path, "BAD_HEADER", f"delta is {edges.tolist()}; restore the spacing")
    return shape, dtype
