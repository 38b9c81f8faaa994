"""What a DICOM file is, by its first bytes: its SOP class, whether it can be a slice, and its series."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydicom.config import disable_value_validation
from pydicom.filereader import read_partial
from pydicom.tag import Tag

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
IMAGE_CLASSES = {  # SOP classes whose files can be slices; segmentations, reports and plans beside them are left out
    CT: "CT",
    f"{CT}.1": "CT",  # enhanced
    f"{CT}.2": "CT",  # enhanced, converted from single slices
    MR: "MR",
    f"{MR}.1": "MR",
    f"{MR}.4": "MR",
    SECONDARY_CAPTURE: "",
    f"{SECONDARY_CAPTURE}.2": "",  # many frames of 8 bits
    f"{SECONDARY_CAPTURE}.3": "",  # many frames of 16 bits
}
OUTLINES = frozenset(  # segmentations of either kind, structure set
    ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.481.3")
)
PREAMBLE = 1024  # bytes, in which the class is told
SERIES_UID = Tag("SeriesInstanceUID")


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom from warning of odd values, which it quotes: they can name a patient."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def sop_class(path: Path) -> str | None:
    """Return the SOP class in the file's DICOM preamble, "" if it has none, ``None`` for a file that is not DICOM."""
    with path.open("rb") as file:
        return class_in(file.read(PREAMBLE))


def class_in(head: bytes) -> str | None:
    """Return what :func:`sop_class` does for a file that begins with ``head``, ``PREAMBLE`` bytes of it or more."""
    head = head[:PREAMBLE]
    if head[128:132] != b"DICM" and head[:6] != b"\x02\x00\x00\x00UL":  # without preamble: group 0002, or 0008
        return "" if head[:2] == b"\x08\x00" and head[3:4] == b"\x00" else None
    at = head.find(b"\x02\x00\x02\x00UI")
    if at < 0:
        return ""
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")


def series_uid_of(path: Path) -> str:
    """Return SeriesInstanceUID of a file that can be a slice, "" for any other; little of it is read."""
    with path.open("rb") as stream:
        if not head_of_slice(path, stream.read(PREAMBLE)):
            return ""
        stream.seek(0)
        return _series_uid(stream)


def series_uid_in(head: bytes) -> str:
    """Return the same for a file that begins with ``head``."""
    return _series_uid(io.BytesIO(head)) if can_be_slice(class_in(head)) else ""


def _series_uid(stream: BinaryIO) -> str:
    try:
        with quietly():
            header = read_partial(stream, stop_when=lambda tag, vr, length: tag > SERIES_UID, force=True)
        return str(header.get(SERIES_UID).value or "") if SERIES_UID in header else ""
    except Exception:  # reading it in full says what is wrong
        return ""


def may_be_slice(path: Path) -> bool:
    """Return whether the file is DICOM and of a class that can be a slice."""
    with path.open("rb") as file:
        return head_of_slice(path, file.read(PREAMBLE))


def slice_sha256(path: Path) -> str | None:
    """Return the sha256 of a file that can be a slice, None for any other. It is opened once."""
    with path.open("rb") as file:
        if not head_of_slice(path, file.read(PREAMBLE)):
            return None
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def head_of_slice(path: Path, head: bytes) -> bool:
    """Return whether a file that begins with ``head``, ``PREAMBLE`` bytes of it or more, can be a slice."""
    return path.name != "DICOMDIR" and can_be_slice(class_in(head))


def can_be_slice(kind: str | None) -> bool:
    """Return whether files of a class, as :func:`sop_class` tells it, can be slices."""
    return kind is not None and (kind == "" or kind in IMAGE_CLASSES)
