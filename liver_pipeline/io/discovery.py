"""Which scans lie in a folder, and what the mask of each is called."""

from __future__ import annotations

import math
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from liver_pipeline.io.dicom import is_series_folder
from liver_pipeline.io.dicom_headers import may_be_slice
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.formats import peek_stored, stored_sha256

SCAN_SUFFIXES = (
    ".nii.gz", ".nii", ".zip", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".hdr.gz", ".hdr", ".img.gz", ".img",
)  # fmt: skip
VOXELS_OF_PAIRS = (".img.gz", ".img")  # of two files the header stands for both
PROBABILITIES = ".probabilities.nii.gz"  # what a file of probabilities beside the mask <case>.nii.gz ends in


@dataclass(frozen=True)
class ScanInput:
    """One scan to be read: where it is, and the name of its case (its path below the searched folder, no suffix)."""

    path: Path
    case: str


def find_inputs(root: Path | str, *, leave_out: Iterable[Path] = ()) -> list[ScanInput]:
    """Find the scans below a folder: files that end as :data:`SCAN_SUFFIXES` do, and folders of DICOM slices.

    What is named like a scan is taken for one, so that a folder called ``a.nii.gz`` fails with a code rather than being
    passed over. Hidden names are left out. A file is its own only scan; slices in ``root`` itself are a scan called as
    the folder is.

    Args:
        root: A folder to search with all its sub-folders, or one scan.
        leave_out: Folders not to search, such as an output folder inside ``root``.

    Returns:
        The inputs in order of their case names.

    Raises:
        IntakeError: NOT_FOUND for a misspelt path, NO_SCANS for a folder without any scan.
    """
    root = Path(root)
    if not root.exists():
        raise refuse(root, "NOT_FOUND", "there is no such file or folder; is the path spelt right?")
    if root.is_file():
        return [ScanInput(root, case_name(root.resolve().name))]
    found = [
        ScanInput(path, _case_below(root, path))
        for path in _walk(root, {folder.resolve() for folder in leave_out}, set())
    ]
    if not found:
        raise refuse(
            root, "NO_SCANS", f"no {', '.join(SCAN_SUFFIXES)} or DICOM series in it; name the folder of the scans"
        )
    return sorted(found, key=lambda one: (one.case, one.path.as_posix()))


def case_name(name: str, is_folder: bool = False) -> str:
    """Return ``name`` without the suffix of a scan; the name of a DICOM folder is kept whole.

    Example:
        >>> case_name("site_b/a.1.nii.gz"), case_name("1.2.840.zip"), case_name("1.2.nii", is_folder=True)
        ('site_b/a.1', '1.2.840', '1.2.nii')
    """
    if is_folder:
        return name
    return next((name[: -len(s)] for s in SCAN_SUFFIXES if name.lower().endswith(s) and len(name) > len(s)), name)


def same_names(inputs: Iterable[ScanInput]) -> dict[str, list[Path]]:
    """Return the case names that more than one input has, with their paths.

    Names that differ only in upper and lower case count as the same: they are on the file systems of macOS and Windows.
    """
    paths: dict[str, list[ScanInput]] = defaultdict(list)
    for one in inputs:
        paths[one.case.casefold()].append(one)
    return {group[0].case: [one.path for one in group] for group in paths.values() if len(group) > 1}


def _case_below(root: Path, path: Path) -> str:
    if path == root:
        return root.resolve().name
    return case_name(path.relative_to(root).as_posix(), path.is_dir() and not _named_like_scan(path))


def _named_like_scan(path: Path) -> bool:
    return path.name.lower().endswith(SCAN_SUFFIXES)


def _walk(folder: Path, leave_out: set[Path], seen: set[Path]) -> list[Path]:
    """Return scans in ``folder`` and below; links are followed, each real folder once."""
    if (real := folder.resolve()) in seen | leave_out:
        return []
    seen.add(real)
    found = [folder] if is_series_folder(folder) else []
    entries = _entries(folder)
    names = {entry.name.lower() for entry in entries}
    for entry in entries:
        if _named_like_scan(entry):
            found += [] if _has_header(entry, names) else [entry]
        elif entry.is_dir():
            found += _walk(entry, leave_out, seen)
    return found


def _has_header(entry: Path, names: set[str]) -> bool:
    """Return whether ``entry`` holds the voxels of a header among ``names``."""
    name = entry.name.lower()
    stem = next((name[: -len(suffix)] for suffix in VOXELS_OF_PAIRS if name.endswith(suffix)), None)
    return stem is not None and bool({f"{stem}.hdr", f"{stem}.hdr.gz"} & names)


def _entries(folder: Path) -> Sequence[Path]:
    return [Path(entry.path) for entry in sorted(os.scandir(folder), key=lambda e: e.name) if entry.name[0] != "."]


def input_sha256(path: Path) -> str:
    """Return the hash that reading the scan will give: of the file or its two files, or over the slices of a folder.

    Raises:
        OSError: If it cannot be read.
    """
    return stored_sha256(path)


def voxel_count(path: Path) -> tuple[int, int]:
    """Return number of voxels and bytes a voxel, from the header or (DICOM) the size on disk; (0, 0) if unreadable."""
    try:
        if path.is_dir():
            return sum(f.stat().st_size for f in path.iterdir() if f.is_file() and may_be_slice(f)) // 2, 2
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return sum(member.file_size for member in archive.infolist()) // 2, 2
        if may_be_slice(path):
            return path.stat().st_size // 2, 2
        shape, dtype = peek_stored(path)
        return math.prod(shape), dtype.itemsize
    except Exception:  # reading will say what is wrong with it
        return 0, 0
