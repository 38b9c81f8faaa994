"""Voxels out of files: read once, hashed on the way, checksums compared; a damaged header allocates nothing."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from isal import igzip, igzip_lib

from liver_pipeline.io.findings import Finding, error, refuse, warning
from liver_pipeline.io.label_names import ValueName

CHUNK = 1 << 20
MAX_INFLATION = 1032  # deflate cannot expand further: a header that claims more voxels is not worth an allocation
MAX_BZIP2_INFLATION = 1_400_000  # of 1 GB of zeros; measured
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class StoredVolume:
    """Stored voxels (X, Y, Z) of one file in native byte order, Fortran-ordered, and what its header says.

    Attributes:
        array: The voxels; value = slope * voxel + intercept.
        affine: Voxel index to RAS mm.
        sha256: Of the file; of a header and its file of voxels over both.
        findings: Warnings and errors that the reader met.
        slope: See ``array``.
        intercept: See ``array``.
        header: A NIfTI header where the file has one, else ``None``.
        modality: "CT" or "MR" where the file says so, else "".
        slice_files: Name of the file of each plane along Z, for a folder of DICOM slices; else empty.
        slice_axis: The axis across the slices, where the file says so.
        value_names: What values are called, where the file says so.
    """

    array: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    sha256: str
    findings: tuple[Any, ...] = ()
    slope: float = 1.0
    intercept: float = 0.0
    header: Any = None
    modality: str = ""
    slice_files: tuple[str, ...] = ()
    slice_axis: int | None = None
    value_names: tuple[ValueName, ...] = ()


def begins_with(path: Path, *starts: bytes) -> bool:
    """Tell whether a regular file begins with any of some bytes.

    Raises:
        OSError: If it cannot be read.
    """
    if not path.is_file():  # to open a pipe waits for ever
        return False
    with path.open("rb") as file:
        return file.read(max(map(len, starts))).startswith(starts)


class HashingReader(io.RawIOBase):
    """A file whose bytes are hashed in a helper thread while they are read (hashlib releases the GIL)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from the file; return the number of bytes."""
        chunk = self._file.read(len(buffer))
        buffer[: len(chunk)] = chunk
        if chunk:
            self._last = self._pool.submit(self._digest.update, chunk)
        return len(chunk)

    def finish(self) -> str:
        """Read what is left and return the sha256 of the whole file."""
        while self.readinto(memoryview(bytearray(CHUNK))):
            pass
        if self._last is not None:
            self._last.result()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Stop the helper thread."""
        self._pool.shutdown()
        super().close()


class Inflated(io.RawIOBase):
    """What a zlib or bzip2 stream holds. ``EOFError`` where it ends too early, ``zlib.error`` where it is damaged."""

    def __init__(self, file: Any, decompressor: Any) -> None:
        self._file = file
        self._decompressor = decompressor

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with inflated bytes; return their number, 0 at the end of the stream."""
        part = b""
        while not part and not self._decompressor.eof:
            part = self._inflate(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def _inflate(self, count: int) -> bytes:
        chunk = getattr(self._decompressor, "unconsumed_tail", b"")
        if not chunk and getattr(self._decompressor, "needs_input", True):
            chunk = self._file.read(CHUNK)
        try:
            part = bytes(self._decompressor.decompress(chunk, count))
        except OSError as reason:  # bzip2's way to say so
            raise zlib.error(str(reason)) from reason
        if not (part or chunk or self._decompressor.eof):
            raise EOFError("the compressed stream has no end")
        return part


def inflated(stream: Any, encoding: str | None = None) -> tuple[Any, int]:
    """Return ``stream`` decompressed and by how much it can grow.

    Args:
        stream: Bytes as they are stored.
        encoding: raw, gzip, zlib or bzip2; by default gzip where a buffered ``stream`` begins so, else raw.
    """
    if encoding is None:
        encoding = "gzip" if stream.peek(2)[:2] == GZIP_MAGIC else "raw"
    if encoding == "gzip":
        return igzip.IGzipFile(fileobj=stream, mode="rb"), MAX_INFLATION
    if encoding == "zlib":
        return io.BufferedReader(Inflated(stream, zlib.decompressobj(47)), CHUNK), MAX_INFLATION  # 47: gzip, too
    if encoding == "bzip2":
        return io.BufferedReader(Inflated(stream, bz2.BZ2Decompressor()), CHUNK), MAX_BZIP2_INFLATION
    return stream, 1


@contextlib.contextmanager
def hashed_file(path: Path) -> Iterator[tuple[io.BufferedReader, HashingReader, int]]:
    """Open a file for one pass: give it buffered, the reader that hashes it, and its size in bytes.

    Raises:
        IntakeError: EMPTY_FILE; GZIP_CRC or TRUNCATED for what is read inside.
        OSError: If the file cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise refuse(path, "EMPTY_FILE", "the file has zero bytes; copy it again")
    with path.open("rb") as file, contextlib.closing(HashingReader(file)) as hashing, coded_stream_errors(path):
        yield io.BufferedReader(hashing, CHUNK), hashing, size


@contextlib.contextmanager
def coded_stream_errors(path: Path) -> Iterator[None]:
    """Turn what a damaged compressed stream raises into an intake error."""
    try:
        yield
    except EOFError as reason:
        raise refuse(path, "TRUNCATED", "the compressed stream ends too early; copy the file again") from reason
    except (gzip.BadGzipFile, igzip_lib.IsalError, zlib.error) as reason:  # type: ignore[misc]  # a stub without base
        raise refuse(path, "GZIP_CRC", f"the compressed stream is damaged ({reason}); copy the file again") from reason


def read_voxels(
    path: Path, stream: Any, count: int, dtype: np.dtype[Any], *, skip: int = 0, capacity: int
) -> npt.NDArray[Any]:
    """Return the next ``count`` voxels of ``stream`` as a flat array in native byte order.

    Args:
        path: For messages.
        stream: Decompressed.
        count: Number of voxels.
        dtype: As stored.
        skip: Bytes before the first voxel.
        capacity: Bytes that the stream can hold at most.

    Raises:
        IntakeError: TRUNCATED where the stream is too short for them, OUT_OF_MEMORY.
    """
    wanted = count * dtype.itemsize
    if skip + wanted > capacity:
        raise refuse(path, "TRUNCATED", f"the header promises {wanted} bytes of voxels, more than the file can hold")
    if len(read_exactly(stream, skip)) < skip:
        raise refuse(path, "TRUNCATED", "the file ends before its voxels begin; copy it again")
    try:
        array = np.empty(count, dtype=dtype)
    except MemoryError as reason:
        raise refuse(path, "OUT_OF_MEMORY", f"{wanted / 1e9:.1f} GB of voxels do not fit into memory") from reason
    got = _fill(stream, array.view(np.uint8).data)
    if got < wanted:
        raise refuse(path, "TRUNCATED", f"{got} of {wanted} bytes of voxels; copy the file again")
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array


def trailing_findings(array: npt.NDArray[Any], shape: Sequence[int], extra: int) -> list[Finding]:
    """Return what to say of ``extra`` bytes behind the voxels: whole planes of them are slices that the header lost.

    Args:
        array: The voxels that were read.
        shape: Theirs, the slowest axis last.
        extra: Number of bytes.
    """
    planes = extra // (array.nbytes // shape[-1])
    if planes:
        detail = f"{extra} bytes follow the last voxel, {planes} more planes beside the {shape[-1]} of the header"
        return [error("TRAILING_BYTES", f"{detail}; write the file again with its true shape")]
    return [warning("TRAILING_BYTES", f"{extra} bytes follow the last voxel and were ignored")] if extra else []


def _fill(stream: Any, buffer: memoryview) -> int:
    """Read until ``buffer`` is full or the stream ends; return the number of bytes."""
    got = 0
    while got < len(buffer):
        step = stream.readinto(buffer[got : got + CHUNK])
        if not step:
            break
        got += step
    return got


def read_exactly(stream: Any, count: int) -> bytes:
    """Return ``count`` bytes, or fewer where the stream ends; read in chunks, so a wrong count allocates nothing."""
    parts: list[bytes] = []
    while count > 0:
        part = stream.read(min(count, CHUNK))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def drain(stream: Any) -> int:
    """Read to the end, where gzip compares checksum and length; return the number of bytes."""
    extra = 0
    while step := stream.read(CHUNK):
        extra += len(step)
    return extra
