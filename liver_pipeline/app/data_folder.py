"""Scans that lie on the app's machine already: a folder to look through, and nothing outside of it."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

from liver_pipeline.io.dicom_classes import may_be_slice
from liver_pipeline.io.file_names import SCAN_SUFFIXES, VOXELS_OF_PAIRS
from liver_pipeline.io.paths import real_path

MAX_LISTED = 1000  # names of a folder
LOOKED_AT = 20  # files of a folder, to see whether they are slices


class DataFolder:
    """What can be named by a path below one folder; links that lead out of it count as not there.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def find(self, path: str) -> Path:
        """Return the scan at ``path`` below the folder.

        Raises:
            ValueError: If there is none, or it lies elsewhere.
        """
        found = self._below(path)
        if found == self.root:
            raise ValueError("name a scan below the data folder")
        return found

    def look(self, path: str = "") -> dict[str, Any]:
        """Return what lies in a folder: names of ``folders`` and ``scans``, and how many more than are listed.

        ``is_series`` tells whether DICOM slices lie in it, so that the folder itself is a scan.

        Raises:
            ValueError: If there is no such folder.
        """
        folder = self._below(path)
        if not folder.is_dir():
            raise ValueError("there is no such folder below the data folder")
        names = sorted(entry.name for entry in self._entries(folder))
        folders = [name for name in names if (folder / name).is_dir()]
        files = [name for name in names if (folder / name).is_file()]
        scans = [name for name in files if name.lower().endswith(SCAN_SUFFIXES) and not name.endswith(VOXELS_OF_PAIRS)]
        others = (folder / name for name in files if name not in set(scans))
        return {
            "path": folder.relative_to(self.root).as_posix() if folder != self.root else "",
            "folders": folders[:MAX_LISTED],
            "scans": scans[:MAX_LISTED],
            "more": max(len(folders) - MAX_LISTED, 0) + max(len(scans) - MAX_LISTED, 0),
            "is_series": folder != self.root and any(may_be_slice(file) for file in islice(others, LOOKED_AT)),
        }

    def _below(self, path: str) -> Path:
        try:
            found = real_path(self.root / path)
            there = found.is_relative_to(self.root) and found.exists() and not self._is_hidden(found)
        except (OSError, ValueError):  # a name that no file system holds
            there = False
        if not there:
            raise ValueError("there is no such path below the data folder")
        return found

    def _is_hidden(self, path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(self.root).parts)

    def _entries(self, folder: Path) -> list[Path]:
        found = [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")]
        return [path for path in found if not path.is_symlink() or real_path(path).is_relative_to(self.root)]
