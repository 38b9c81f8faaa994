"""What may come in: names that stay in their folder, as many bytes and files as a scan has, no zip bombs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PurePosixPath

from starlette.requests import ClientDisconnect

from liver_pipeline.app.cases import MAX_CASES, CaseFolder
from liver_pipeline.io.file_names import PICTURE_SUFFIXES
from liver_pipeline.io.files import DISK_FULL, whole_file
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.zips import is_zip, opened_zip

MAX_BYTES_A_CASE = 4 << 30
MAX_UNPACKED = 8 << 30  # of a zip
MAX_FILES_A_CASE = 20_000  # slices of a study
NO_SPACE = "no space is left on the disk of the app; free some, then try again"
PAIRS = (".mhd", ".raw", ".zraw", ".nhdr", ".hdr", ".img", ".gz")  # one file names the other


class Refusal(ValueError):
    """Something that the app does not take.

    Attributes:
        status: Of the HTTP answer.
        code: What is wrong, in one word.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code = status, code


def refuse_too_many(cases: CaseFolder, more: int) -> None:
    """Raise Refusal TOO_MANY_CASES where the app would hold too many with so many more."""
    if len(cases.ids()) + more > MAX_CASES:
        raise Refusal(413, "TOO_MANY_CASES", f"the app holds {MAX_CASES} cases; delete some")


@contextlib.contextmanager
def full_disk_refused(detail: str) -> Iterator[None]:
    """Turn what a full disk raises inside into the Refusal DISK_FULL; other errors pass."""
    try:
        yield
    except OSError as reason:
        if reason.errno not in DISK_FULL:
            raise
        raise Refusal(507, "DISK_FULL", detail) from None


def stored_name(name: str, number: int) -> str:
    """Return what an uploaded file is called on disk: people's names for scans can name a patient.

    Only what its content needs is kept of the name: its suffixes, or all of it where one file names another.

    Raises:
        Refusal: BAD_NAME for names that lead out of the folder, hidden ones, and such that no file system holds;
            PICTURE for a PNG or JPG, whose mask has no volume to show.

    Example:
        >>> stored_name("Doe, Jane/portal venous.nii.gz", 1), stored_name("IM0001", 2), stored_name("a/ct.mhd", 1)
        ('scan-00001.nii.gz', 'scan-00002', 'ct.mhd')
    """
    parts = PurePosixPath(name).parts
    if (
        not parts
        or "\\" in name
        or name.startswith("/")
        or any(p.startswith(".") or not p.isprintable() for p in parts)
    ):
        raise Refusal(400, "BAD_NAME", "a file's name is empty, hidden, absolute, or leads out of its folder")
    if len(parts) > 20 or any(len(os.fsencode(part)) > 200 for part in parts):
        raise Refusal(400, "BAD_NAME", "a file's name is too long")
    last = parts[-1].lower()
    if last.endswith(PICTURE_SUFFIXES):
        raise Refusal(
            415, "PICTURE", "the app takes scans; of a picture: liver-pipeline predict RUN slice.png mask.png"
        )
    for suffix in (".nii.gz", ".nii", ".zip", ".nrrd", ".mha", ".mgz", ".mgh", ".dcm"):
        if last.endswith(suffix):
            return f"scan-{number:05d}{suffix}"
    return parts[-1] if last.endswith(PAIRS) else f"scan-{number:05d}"


async def store(folder: Path, name: str, chunks: AsyncIterator[bytes], announced: int | None) -> int:
    """Write an upload into ``folder``, whole or not at all.

    Args:
        folder: Of the case's scan or reference.
        name: As the sender calls the file.
        chunks: Its content.
        announced: Its size, where the sender says it.

    Returns:
        The bytes that were written.

    Raises:
        Refusal: TOO_LARGE, TOO_MANY_FILES, DISK_FULL, UPLOAD_BROKEN, BAD_NAME; nothing is left of the file.
    """
    there = list(folder.iterdir())
    used = sum(path.stat().st_size for path in there)
    if len(there) >= MAX_FILES_A_CASE:
        raise Refusal(413, "TOO_MANY_FILES", f"a case holds {MAX_FILES_A_CASE} files at most")
    path = folder / stored_name(name, len(there) + 1)
    if used + (announced or 0) > MAX_BYTES_A_CASE:
        raise Refusal(413, "TOO_LARGE", f"a case holds {MAX_BYTES_A_CASE >> 30} GiB at most")
    size = 0
    try:
        with full_disk_refused(NO_SPACE), whole_file(path) as temporary, temporary.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if used + size > MAX_BYTES_A_CASE:
                    raise Refusal(413, "TOO_LARGE", f"a case holds {MAX_BYTES_A_CASE >> 30} GiB at most")
                file.write(chunk)
    except ClientDisconnect:
        raise Refusal(400, "UPLOAD_BROKEN", "the sender went away before the end") from None
    return size


def refuse_bomb(path: Path | None) -> None:
    """Refuse a zip file that unpacks into far too much, cannot be unpacked, or whose names lead out of it.

    Raises:
        Refusal: ZIP_REFUSED.
    """
    if path is None or not is_zip(path):
        return
    try:
        with opened_zip(path, most_bytes=MAX_UNPACKED, most_files=MAX_FILES_A_CASE) as (_, members):
            names = [PurePosixPath(member.filename) for member in members]
    except IntakeError as reason:
        raise Refusal(400, "ZIP_REFUSED", f"the zip was not taken: {reason.findings[0].detail}") from reason
    if any(".." in name.parts or name.is_absolute() for name in names):
        raise Refusal(400, "ZIP_REFUSED", "names in the zip lead out of it")
