"""What a node has received: a private folder with one folder a series, whose names are hashes of their UIDs.

UIDs come from the wire and can be traced to a patient: neither a path nor a log line holds one.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Collection
from pathlib import Path
from threading import Lock

import pydicom
from pydicom.dataset import Dataset

from liver_pipeline.io.dicom_classes import quietly
from liver_pipeline.io.files import remove, remove_temporary, sync, whole_file
from liver_pipeline.io.remembering import remembers

NAMING: list[str | int] = ["StudyInstanceUID", "SeriesInstanceUID"]
NAME_DIGITS = 20  # of the hash: two series of a hospital do not meet


def is_hashed(name: str) -> bool:
    """Tell whether a file or folder is named as the node names what it keeps, whatever the ending: others' are not."""
    return re.fullmatch(rf"[0-9a-f]{{{NAME_DIGITS}}}(\..*)?", name) is not None


def hashed(uid: str) -> str:
    """Return the name that stands for a UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:NAME_DIGITS]


@remembers(10_000)  # series; each file of theirs comes by a rename
def _instances(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.glob("*.dcm"))


class Inbox:
    """Received series on disk; safe to use from several threads.

    Args:
        folder: Is made, for its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        remove_temporary(folder)  # left by a node that was killed
        self._lock = Lock()
        # What a process finds at its start counts as if it had just come.
        self._touched = {path.name: time.monotonic() for path in self.folders()}

    def folders(self) -> list[Path]:
        """Return the folders of all series, also of one without a file."""
        return [path for path in self.folder.iterdir() if is_hashed(path.name) and path.is_dir()]

    def keep(self, series: str, instance: str, content: bytes) -> None:
        """Write one instance, synced to disk when this returns; the same one again replaces it.

        Args:
            series: SeriesInstanceUID.
            instance: SOPInstanceUID.
            content: The file.

        Raises:
            OSError: If it cannot be written; nothing of it is left.
        """
        name = hashed(series)
        with self._lock:
            self._touched[name] = time.monotonic()
            path = self.folder / name
            if not path.exists():
                path.mkdir(mode=0o700)
                sync(self.folder)
            with whole_file(path / f"{hashed(instance)}.dcm") as temporary:
                temporary.write_bytes(content)
            self._touched[name] = time.monotonic()

    def instances(self, name: str) -> frozenset[str]:
        """Return the names of the files of a series; none where there is no such series."""
        try:
            return _instances(self.folder / name)
        except FileNotFoundError:
            return frozenset()

    def names(self) -> list[str]:
        """Return the names of all series that hold something, as :meth:`idle` orders them."""
        return [name for name in self.idle(0.0) if self.instances(name)]

    def idle(self, seconds: float) -> list[str]:
        """Return the names of the series for which nothing came for so long, the longest first."""
        with self._lock:
            before = time.monotonic() - seconds
            idle = [(touched, name) for name, touched in self._touched.items() if touched <= before]
        return [name for _, name in sorted(idle)]

    def header(self, name: str) -> Dataset:
        """Return which study and series it is, as its first instance says; empty where that cannot be read."""
        for file in sorted(self.instances(name))[:1]:
            with quietly(), contextlib.suppress(Exception):
                return pydicom.dcmread(self.folder / name / file, specific_tags=NAMING, stop_before_pixels=True)
        return Dataset()

    def remove(self, name: str, instances: Collection[str] | None = None) -> bool:
        """Remove a series; with ``instances`` only if it still holds just these. Return whether it was removed."""
        with self._lock:
            if instances is not None and self.instances(name) != frozenset(instances):
                return False
            remove(self.folder / name, strict=False)
            self._touched.pop(name, None)
            return True
