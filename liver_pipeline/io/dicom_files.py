"""Which files are the slices: those of a folder, the unpacked members of a zip, or one file of many frames."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from pydicom.uid import UID

from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.dicom_classes import OUTLINES, series_uid_in, series_uid_of, slice_sha256, sop_class
from liver_pipeline.io.dicom_headers import file_name
from liver_pipeline.io.findings import IntakeError, refuse
from liver_pipeline.io.paths import listed
from liver_pipeline.io.remembering import remembers
from liver_pipeline.io.zips import heads, is_zip, unzip

FIRST_ENTRIES = 100  # of a folder or zip, among which its first slice is looked for
NONE: Mapping[Path, str] = {}
NUMBER = re.compile(r"(?:[0-9A-Fa-f]{8,}|[0-9])(?:[0-9A-Fa-f]{8,}|[0-9.-])*")


@contextmanager
def series_files(path: Path) -> Iterator[list[Path]]:
    """Give what is no folder in a folder (it may be a link to nowhere), the unpacked members of a zip, or the file.

    Raises:
        IntakeError: READ_FAILED where nothing can be unpacked; see also :func:`~liver_pipeline.io.zips.unzip`.
    """
    if path.is_dir():
        yield [path / name for name, is_folder, _ in listed(path) if not is_folder]
        return
    if sop_class(path) is not None:
        yield [path]
        return
    try:
        scratch = tempfile.TemporaryDirectory(prefix="liver-pipeline-")
    except OSError:
        detail = "there is no temporary folder that it can be unpacked to; name one with TMPDIR=FOLDER"
        raise refuse(path, "READ_FAILED", detail) from None
    with scratch as folder:
        yield unzip(path, Path(folder))


def refuse_lost(path: Path, files: Sequence[Path], slices: Collection[Path]) -> None:
    """Refuse a place without slices, or one in which some seem to be lost.

    Args:
        path: The folder, zip or file that messages name.
        files: All there.
        slices: Those that can be slices.

    Raises:
        IntakeError: NOT_A_SCAN where there is none; DICOM_DAMAGED where some seem to be lost, see :func:`lost_files`.
    """
    if not slices:
        raise refuse(path, "NOT_A_SCAN", _why_none(path, files))
    if lost := lost_files(files, slices):
        names = ", ".join(file_name(path, file) for file in lost[:6])
        detail = f"{len(lost)} files are named as the slices are, and are no DICOM ({names})"
        raise refuse(path, "DICOM_DAMAGED", f"{detail}; copy them again, or take them out")


def _why_none(path: Path, files: Sequence[Path]) -> str:
    """Say what is there instead of slices, and what to do."""
    kinds = {kind for file in files if file.is_file() and (kind := sop_class(file))}
    if kinds & OUTLINES:
        return "a DICOM segmentation or structure set; export it as a label map (NIfTI, NRRD), such as with 3D Slicer"
    if kinds:
        named = ", ".join(sorted(UID(kind).name for kind in kinds))
        return f"DICOM of another kind than images of CT or MR ({named}); name the folder that holds the slices"
    if path.is_dir():
        return "a folder without DICOM slices; name the folder that holds them"
    return "no DICOM slices in the zip; unzip what is of another format"


def lost_files(files: Collection[Path], slices: Collection[Path]) -> list[Path]:
    """Return the files that are no DICOM and are named as slices are: empty or overwritten ones, links to nowhere.

    A slice lost inside the volume leaves a gap; one lost at its ends leaves nothing. Names are compared with their
    numbers taken out; those without a number, such as README, say nothing.
    """
    known = set(slices)
    patterns = {_pattern(file.name) for file in known}
    alike = [file for file in files if file not in known and _pattern(file.name) in patterns]
    alike = [file for file in alike if NUMBER.search(file.name)]
    return [file for file in alike if not file.is_file() or sop_class(file) is None]  # to open a pipe waits for ever


def _pattern(name: str) -> str:
    return NUMBER.sub("#", Path(name).stem) + Path(name).suffix.rstrip("0123456789").lower()


def series_uids(path: Path) -> set[str]:
    """Return each SeriesInstanceUID in a folder (its own files), a zip or a DICOM file; empty for anything else.

    Files are read no further than that. A zip that is damaged counts as without any.

    Raises:
        OSError: If a file cannot be read.
    """
    with contextlib.suppress(IntakeError):
        return set(_uids(path)) - {""}
    return set()


@remembers(64)
def outer_uids(path: Path) -> frozenset[str]:
    """Return SeriesInstanceUID of the first and of the last slice in a folder or zip, among its outer few files.

    Raises:
        IntakeError: ZIP_DAMAGED.
        OSError: If a file cannot be read.
    """
    ends = (islice(_uids(path, backwards=backwards), FIRST_ENTRIES) for backwards in (False, True))
    return frozenset(next(filter(None, end), "") for end in ends) - {""}


def _uids(path: Path, *, backwards: bool = False) -> Iterator[str]:
    """Yield the SeriesInstanceUID of each file, "" for what is no slice, in the order of names, or of a zip's list."""
    if path.is_dir():
        names = [name for name, _, is_file in listed(path) if is_file]  # to open a pipe waits for ever
        yield from (series_uid_of(path / name) for name in (reversed(names) if backwards else names))
    elif is_zip(path):
        yield from map(series_uid_in, heads(path, backwards=backwards))
    elif path.is_file():
        yield series_uid_of(path)


def series_sha256(path: Path, files: Sequence[Path] | None = None, known: Mapping[Path, str] = NONE) -> str:
    """Return sha256 of a file, or over the sorted hashes of the slices of a folder (names do not matter).

    Args:
        path: The file or folder.
        files: The slices; None: all that can be.
        known: sha256 of files that were hashed while they were read.
    """
    if path.is_file():
        return known.get(path) or file_sha256(path)
    if files is None:
        there = (path / name for name, _, is_file in listed(path) if is_file)  # to open a pipe waits for ever
        told = [sha256 for file in there if (sha256 := slice_sha256(file)) is not None]
    else:
        told = [known.get(file) or file_sha256(file) for file in files]
    return hashlib.sha256(b"".join(sorted(map(bytes.fromhex, told)))).hexdigest()
