"""What lies in a folder of DICOM files, a zip or a file of many frames: looked at once for all the series in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from liver_pipeline.io.dicom_classes import quietly
from liver_pipeline.io.dicom_files import refuse_lost, series_files
from liver_pipeline.io.dicom_headers import Slice, read_headers
from liver_pipeline.io.dicom_series import Series, leave_out_strangers, split_series
from liver_pipeline.io.findings import Finding, warning
from liver_pipeline.io.remembering import remembers


@dataclass(frozen=True)
class DicomPlace:
    """The planes in one place.

    Attributes:
        changed: The files that can be slices, with their times of change in ns, before they were looked into.
        slices: The planes that can make volumes.
        volumes: These as volumes, in order of their ``uid``.
        notes: What was left out.
    """

    changed: Mapping[Path, int]
    slices: tuple[Slice, ...]
    volumes: tuple[Series, ...]
    notes: tuple[Finding, ...]

    def still_holds(self, slices: Sequence[Slice]) -> bool:
        """Tell whether none of the slices' files was written to since.

        Raises:
            OSError: If one is gone.
        """
        return all(file.stat().st_mtime_ns == self.changed[file] for file in {one.path for one in slices})


@contextmanager
def opened_place(path: Path) -> Iterator[DicomPlace]:
    """Give what lies in a folder of DICOM files (its own files), in a zip, or in a file of many frames.

    Headers alone are read. Meanwhile the members of a zip are there, unpacked. What is told of a folder may have been
    seen before: see :meth:`DicomPlace.still_holds`.

    Raises:
        IntakeError: NOT_A_SCAN, DICOM_DAMAGED, ZIP_DAMAGED.
        OSError: If a file cannot be read.
    """
    if path.is_dir():
        yield _folder(path)
        return
    with series_files(path) as files:
        yield _look(path, files)


def look_again(path: Path) -> DicomPlace:
    """Return what lies in a folder now; raises as :func:`opened_place` does."""
    with series_files(path) as files:
        return _look(path, files)


_folder = remembers(2)(look_again)  # a folder of thousands of series takes a few kB a slice


def _look(path: Path, files: Sequence[Path]) -> DicomPlace:
    changed = {file: file.stat().st_mtime_ns for file in files if file.is_file()}  # to open a pipe waits for ever
    with quietly():
        planes = read_headers(path, list(changed))
    changed = {file: changed[file] for file in dict.fromkeys(one.path for one in planes)}
    refuse_lost(path, files, changed)
    kept, left_out = leave_out_strangers(path, planes)
    return DicomPlace(changed, tuple(kept), tuple(split_series(kept)), (*_ignored(len(files), len(changed)), *left_out))


def _ignored(total: int, used: int) -> list[Finding]:
    detail = f"{total - used} of {total} files are no slices and were left out"
    return [warning("IGNORED_FILES", detail)] if used < total else []
