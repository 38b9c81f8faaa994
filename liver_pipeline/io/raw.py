"""Voxels behind a text header, in the same file or in one beside it: what NRRD and MetaImage share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from liver_pipeline.geometry.affines import Affine
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.label_names import ValueName
from liver_pipeline.io.streams import (
    CHUNK,
    StoredVolume,
    drain,
    hashed_file,
    inflated,
    read_exactly,
    read_voxels,
    trailing_findings,
)

MAX_HEADER = CHUNK  # bytes; text headers have some hundred
FROM_END = -1


@dataclass(frozen=True)
class RawHeader:
    """What a text header says.

    Attributes:
        shape: Voxels (X, Y, Z), X fastest.
        dtype: As stored, byte order included.
        affine: Voxel index to RAS mm.
        encoding: raw, gzip, zlib or bzip2.
        data: The file of the voxels; that of the header where they are in one.
        start: Bytes of ``data`` before the stream of voxels.
        skip: Bytes of the stream before the first voxel; ``FROM_END``: the voxels are its end.
        modality: "CT", "MR" or "".
        value_names: What values are called, where the file says so.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    affine: Affine
    encoding: str
    data: Path
    start: int = 0
    skip: int = 0
    modality: str = ""
    value_names: tuple[ValueName, ...] = ()


def header_lines(path: Path, last: str = "") -> tuple[list[str], int]:
    """Return the lines of a text header and its length in bytes.

    Args:
        path: The file.
        last: The header ends with the line that begins so; by default with an empty line, or with the file.

    Raises:
        IntakeError: BAD_HEADER if it does not end.
    """
    lines, length = [], 0
    with path.open("rb") as file:
        while line := file.readline(MAX_HEADER):
            length += len(line)
            if length >= MAX_HEADER:
                raise refuse(path, "BAD_HEADER", "the header has no end; copy the file again")
            text = _decoded(line).strip()
            lines.append(text)
            if text == "" if not last else text.startswith(last):
                break
    return lines, length


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def checked_shape(path: Path, sizes: Sequence[int]) -> tuple[int, int, int]:
    """Return three sizes, axes of length one behind them dropped.

    Raises:
        IntakeError: BAD_HEADER, NOT_3D.
    """
    shape = list(sizes)
    if not shape or any(n < 1 for n in shape):
        raise refuse(path, "BAD_HEADER", f"sizes are {shape}")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3 or 1 in shape:
        raise refuse(path, "NOT_3D", f"shape {tuple(shape)}; give one 3D volume (X, Y, Z) a file")
    return shape[0], shape[1], shape[2]


def voxel_file(path: Path, name: str) -> Path:
    """Return the file beside ``path``, or in a folder there, that holds its voxels.

    A header can come from anywhere: it chooses no other file of the machine, such as what lies above an upload.

    Raises:
        IntakeError: VOXELS_MISSING if it is not there, or lies elsewhere.
    """
    folder = Path(os.path.normpath(path.parent.absolute()))  # as written: a folder may hold links
    data = Path(os.path.normpath(folder / name))
    if not data.is_relative_to(folder):
        detail = f"the header names {name!r}, outside of its own folder; put that file beside it and name it so there"
        raise refuse(path, "VOXELS_MISSING", detail)
    if not data.is_file():
        raise refuse(path, "VOXELS_MISSING", f"the header names {name!r}, which is not there; copy both files")
    return data


def read_raw(path: Path, header: RawHeader) -> StoredVolume:
    """Read the voxels that ``header`` describes in one pass, checked and hashed.

    Raises:
        IntakeError: EMPTY_FILE, GZIP_CRC, TRUNCATED, OUT_OF_MEMORY.
        OSError: If a file cannot be read.
    """
    count = int(np.prod(header.shape, dtype=object))
    with hashed_file(header.data) as (file, hashing, size):
        read_exactly(file, header.start)
        stream, growth = inflated(file, header.encoding)
        capacity = max(0, size - header.start) * growth
        skip = header.skip if header.skip != FROM_END else max(0, capacity - count * header.dtype.itemsize)
        array = read_voxels(header.data, stream, count, header.dtype, skip=skip, capacity=capacity)
        extra = drain(stream)
        sha256 = hashing.finish()
    findings = tuple(trailing_findings(array, header.shape, extra))
    return StoredVolume(
        array.reshape(header.shape, order="F"), header.affine, joined_sha256(path, header, sha256), findings,
        modality=header.modality, value_names=header.value_names,
    )  # fmt: skip


def joined_sha256(path: Path, header: RawHeader, of_data: str | None = None) -> str:
    """Return the sha256 of the file, or over those of the header and of the file of voxels beside it."""
    of_data = of_data or file_sha256(header.data)
    if header.data == path:
        return of_data
    return hashlib.sha256(bytes.fromhex(file_sha256(path)) + bytes.fromhex(of_data)).hexdigest()
