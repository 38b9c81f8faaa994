"""Zips of DICOM slices: looked into and unpacked within limits, whatever they say of themselves."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from liver_pipeline.io.findings import IntakeError, refuse
from liver_pipeline.io.streams import CHUNK, begins_with

ZIP_MAGIC = b"PK\3\4"
HEAD_BYTES = 1 << 16  # of a member, in which its kind is looked for
MAX_UNZIPPED = 16 << 30  # bytes; beyond it a zip is taken for a bomb
MAX_LIST = 16 << 20  # bytes of the list of members, some 100 each: each of them takes memory, and a file when unpacked
ENCRYPTED = 1  # bit of a member's flags
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of others zipfile unpacks in one go what can be GB from 4 kB


class _ShortReads(io.BufferedReader):
    """A file of which no more than ``MAX_LIST`` is read at once: zipfile reads as long a list as the zip says."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_LIST:
            raise zipfile.BadZipFile(f"a list of members of more than {MAX_LIST >> 20} MB")
        return super().read(size)


def is_zip(path: Path) -> bool:
    """Tell whether a file is a zip with something in it, by its first bytes.

    Raises:
        OSError: If it cannot be read.
    """
    return begins_with(path, ZIP_MAGIC)


@contextmanager
def opened_zip(
    path: Path, *, most_bytes: int | None = None, most_files: int | None = None
) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """Open a zip and list its members, without folders and DICOMDIR, in their order.

    Reading a member gives no more than the size that the list claims.

    Args:
        path: Of the zip.
        most_bytes: That it may unzip to; None: :data:`MAX_UNZIPPED`.
        most_files: That it may hold; None: as many as a list of :data:`MAX_LIST` has.

    Raises:
        IntakeError: ZIP_DAMAGED if it is damaged, encrypted, packed in a way of its own, or claims far too much.
        OSError: If it cannot be read.
    """
    try:
        with _ShortReads(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and PurePosixPath(m.filename).name != "DICOMDIR"]
            if refusal := _refusal(members, most_bytes or MAX_UNZIPPED, most_files):
                raise refuse(path, "ZIP_DAMAGED", f"{refusal}; unzip it yourself")
            yield archive, members
    except (IntakeError, OSError, MemoryError):
        raise
    except Exception as reason:  # a damaged zip makes zipfile fail in any of a dozen ways
        raise refuse(path, "ZIP_DAMAGED", f"{reason}; copy the zip again") from reason


def _refusal(members: list[zipfile.ZipInfo], most_bytes: int, most_files: int | None) -> str:
    """Say why members are not unpacked, though they may be whole; "" where nothing is against it."""
    if any(member.flag_bits & ENCRYPTED for member in members):
        return "it is encrypted"
    if odd := {member.compress_type for member in members} - set(METHODS):
        return f"its members are packed by method {min(odd)}, neither stored nor deflated"
    if most_files is not None and len(members) > most_files:
        return f"it holds more than {most_files} files"
    if sum(member.file_size for member in members) > most_bytes:
        return f"it unzips to more than {most_bytes / (1 << 30):.3g} GB"
    return ""


def heads(path: Path, *, backwards: bool = False) -> Iterator[bytes]:
    """Yield the first bytes of each member, in the order of the list or from its end; raises as :func:`opened_zip`."""
    with opened_zip(path) as (archive, members):
        for member in reversed(members) if backwards else members:
            with archive.open(member) as stream:
                yield stream.read(HEAD_BYTES)


def unzip(path: Path, scratch: Path, *, folders: bool = False) -> list[Path]:
    """Unpack members under numbers (their own names may climb out of the folder, occur twice, or be too long).

    Args:
        path: Of the zip.
        scratch: A folder.
        folders: Put each into a folder called as the one that it lies in.

    Raises:
        IntakeError: ZIP_DAMAGED.
        OSError: If the zip cannot be read, or ``scratch`` not be written to.
    """
    files = []
    with opened_zip(path) as (archive, members):
        for number, member in enumerate(members):
            *above, name = PurePosixPath(member.filename).parts
            folder = scratch / _plain(above[-1]).lstrip(".") if folders and above else scratch
            folder.mkdir(exist_ok=True)
            files.append(folder / f"{number:06d}.{_plain(name)}")
            with archive.open(member) as source, files[-1].open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
    return files


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-40:]


def unzipped_bytes(path: Path) -> int:
    """Return how much the members are said to hold; raises as :func:`opened_zip`."""
    with opened_zip(path) as (_, members):
        return sum(member.file_size for member in members)
