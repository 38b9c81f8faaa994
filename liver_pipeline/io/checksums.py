"""Checksums: of files and folders, of values, and those inside archives."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from liver_pipeline.io.paths import refuse_pipe


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, which is read in parts.

    Raises:
        OSError: If it cannot be read.
    """
    refuse_pipe(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path) -> str:
    """Return the sha256 over names and contents of the files in a folder.

    Raises:
        OSError: If one cannot be read.
    """
    return content_sha256({path.name: file_sha256(path) for path in folder.iterdir()})


def content_sha256(value: Any) -> str:
    """Return the sha256 of a value that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class DamagedFileError(ValueError):
    """A file whose content is not what was written."""


def verify_archive(path: str | Path) -> None:
    """Compare every record of a zip file, such as ``torch.save`` writes, with its checksum; torch.load itself does not.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it was cut short or changed since it was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file makes zipfile fail in any of a dozen ways
        raise DamagedFileError(str(error)) from None
    if damaged is not None:
        raise DamagedFileError(f"checksum of {damaged} is wrong")
