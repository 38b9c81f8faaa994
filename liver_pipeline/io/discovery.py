"""Which scans lie in a folder, and what the mask of each is called."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from liver_pipeline.io.dicom_classes import may_be_slice
from liver_pipeline.io.file_names import (
    CAPTURES,
    MASK_SUFFIXES,
    NO_SLICES,
    PACKED,
    PICTURE_SUFFIXES,
    RECORD,
    SCAN_SUFFIXES,
    STALE,
    VOLUME_SUFFIXES,
    VOXELS_OF_PAIRS,
    case_name,
)
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.masks import is_label_map
from liver_pipeline.io.paths import is_there, listed, real_path
from liver_pipeline.io.screen import with_bar

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanInput:
    """One scan to be read.

    Attributes:
        path: Where it is.
        case: Its name: its path below the searched folder, no suffix.
        series: Which of several DICOM series there; see :func:`liver_pipeline.io.dicom_series.choose_series`.
        why: The reason for the record, where that series was chosen.
        title: What people call that series, where several there are cases of their own.
        elsewhere: What of that series lies in another place of the same listing, so that this is not all of it.
    """

    path: Path
    case: str
    series: str | None = None
    why: str = ""
    title: str = ""
    elsewhere: str = ""


def find_inputs(root: Path | str, *, label_maps: bool = False, pictures: bool = False) -> list[ScanInput]:
    """Find the scans below a folder: files that end as :data:`SCAN_SUFFIXES` do, and folders of DICOM slices.

    What is named like a scan is taken for one, so that a folder called ``a.nii.gz`` fails with a code rather than being
    passed over. Hidden names are left out. A file is its own only scan; slices in ``root`` itself are a scan called as
    the folder is.

    Args:
        root: A folder to search with all its sub-folders, or one scan.
        label_maps: Label maps are looked for, not scans. Otherwise what this package wrote (masks, probabilities), what
            calls itself a label map, and the references of data sets known by their names are left out, and counted.
        pictures: Where there is no scan, JPG and PNG files are taken; beside scans they are left out, and counted.

    Returns:
        The inputs in order of their case names.

    Raises:
        IntakeError: NOT_FOUND for a misspelt path, NO_SCANS for a folder without any scan.
    """
    root = Path(root)
    if not root.exists():
        raise refuse(root, "NOT_FOUND", "there is no such file or folder; is the path spelt right?")
    if root.is_file():
        return [ScanInput(root, case_name(real_path(root).name))]
    paths = [path for path in with_bar(_walk(root, set()), "Looking for scans", "file") if path is not None]
    files = _files_below(root, set()) if pictures or not paths else ()
    drawn = [path for path in files if path.name.lower().endswith(PICTURE_SUFFIXES)]
    if paths and (beside := [path for path in drawn if not is_label_map(path)]):
        shown = ", ".join(path.relative_to(root).as_posix() for path in beside[:3])
        logger.warning(
            "%s: %d pictures are left out beside scans: %s, ...; give them a folder", root, len(beside), shown
        )
    paths = paths or (drawn if pictures else [])
    looked_at = [] if label_maps else with_bar(paths, "Looking for label maps", "file")
    labels = {path for path in looked_at if is_label_map(path)}
    if labels:
        shown = ", ".join(sorted(path.relative_to(root).as_posix() for path in labels)[:3])
        logger.warning("%s: %d label maps, masks or probabilities are no scans: %s, ...", root, len(labels), shown)
    found = [ScanInput(path, _case_below(root, path)) for path in paths if path not in labels]
    if not found:
        kinds = f"no DICOM series and no file that ends in {', '.join(s for s in SCAN_SUFFIXES if s not in PACKED)}"
        there = f"only {len(labels)} label maps" if labels else kinds
        if drawn and not pictures:
            there = f"{len(drawn)} pictures, which only runs of 2D networks (roi_size [X, Y, 1]) take, and no scan"
        raise refuse(root, "NO_SCANS", f"{there} in it; name the folder of the scans")
    return sorted(found, key=lambda one: (one.case, one.path.as_posix()))


def volume_files(folder: Path) -> list[Path]:
    """Return the files below a folder that are named as a volume is, of header and voxels the header; no hidden ones.

    Zips, DICOM folders, and masks of cases that have failed since (``.stale``), are not among them. Links are followed,
    each real folder once; one that cannot be looked into is passed over with a warning.
    """
    files = sorted(_files_below(folder, set()))
    names = {str(path).lower() for path in files}
    return [
        path
        for path in files
        if path.name.lower().endswith(VOLUME_SUFFIXES) and not _is_stale(path) and not _has_header(path, names)
    ]


def _files_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield what is no folder below a folder, nothing hidden; a link to nowhere is for the reader to refuse."""
    if (real := real_path(folder)) in seen:
        return
    seen.add(real)
    try:
        there = listed(folder)
    except OSError as reason:
        logger.warning("%s cannot be looked into, and is passed over: %s", folder, reason.strerror)
        return
    for name, is_folder, _ in there:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _files_below(folder / name, seen)
        else:
            yield folder / name


def _is_stale(path: Path) -> bool:
    return case_name(path.name).endswith((STALE, f"{STALE}.probabilities"))


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
        return real_path(root).name
    return case_name(path.relative_to(root).as_posix(), not _named_like_scan(path) and path.is_dir())


def _named_like_scan(path: Path) -> bool:
    return path.name.lower().endswith(SCAN_SUFFIXES)


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path | None]:
    """Yield the scans in ``folder`` and below; links are followed, each real folder once.

    A file or folder that cannot be looked into is among them: reading it gives its code, and the others go on. None
    stands for each file that was opened and is no slice: on a slow disk thousands of them take minutes.
    """
    if (real := real_path(folder)) in seen:
        return
    seen.add(real)
    try:
        there = listed(folder)
    except OSError:
        yield folder
        return
    if (yield from _holds_slices(folder / name for name, _, is_file in there if is_file)):
        yield folder
    entries = [(folder / name, is_folder) for name, is_folder, _ in there if not name.startswith(".")]
    names = {str(entry).lower() for entry, _ in entries}
    for entry, is_folder in entries:
        if _named_like_scan(entry):
            if not _has_header(entry, names):
                yield entry
        elif is_folder and not _is_captures(entry):
            yield from _walk(entry, seen)


def _holds_slices(files: Iterable[Path]) -> Generator[None, None, bool]:
    """Return whether there are DICOM slices among the files of a folder: one that can be read, or what is named as one.

    Volumes of other formats, known by their names, are not opened. Yields once for each file that is no slice.
    """
    unread = False
    for file in files:
        if file.name.lower().endswith(NO_SLICES):
            continue
        ending = file.suffix.lower()
        try:
            if may_be_slice(file):
                return True
        except OSError:
            unread |= ending in ("", ".dcm", ".ima", ".dicom") or ending[1:].isdigit()
        yield
    return unread


def _is_captures(folder: Path) -> bool:
    """Return whether a folder holds the pictures of a mask beside it."""
    stem = folder.name.removesuffix(CAPTURES)
    return stem != folder.name and any(is_there(folder.with_name(f"{stem}{end}")) for end in (*MASK_SUFFIXES, RECORD))


def _has_header(entry: Path, names: set[str]) -> bool:
    """Return whether ``entry`` holds the voxels of a header among ``names``."""
    name = str(entry).lower()
    stem = next((name[: -len(suffix)] for suffix in VOXELS_OF_PAIRS if name.endswith(suffix)), None)
    return stem is not None and bool({f"{stem}.hdr", f"{stem}.hdr.gz"} & names)
