"""Is this one series, once and whole? Files that were slices, slices in the folders beside, numbers that come twice."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from liver_pipeline.io.dicom_checks import SAME_PLACE_MM, positions_along
from liver_pipeline.io.dicom_headers import Slice, may_be_slice, quick_series_uid, read_headers, sop_class
from liver_pipeline.io.findings import Finding, IntakeError, error

NUMBER = re.compile(r"(?:[0-9A-Fa-f]{8,}|[0-9])(?:[0-9A-Fa-f]{8,}|[0-9.-])*")
FOLLOW = 0.9  # of the slices
FIRST_ENTRIES = 100  # entries of a folder beside, among which its first slice is looked for


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


def woven_findings(slices: Sequence[Slice]) -> list[Finding]:
    """Return MIXED_PASSES if the numbers of every second slice of a CT, third or fourth, follow each other.

    Those of one pass follow each other from slice to slice, upwards or downwards. (MR may number odd slices first.)
    """
    along, numbers = positions_along(slices), [one.numbers("InstanceNumber", 1) for one in slices]
    known = [number[0] for number in numbers if number is not None]
    if slices[0].modality != "CT" or along is None or not len(slices) == len(known) > 1:
        return []
    order = np.argsort(along, kind="stable")
    ordered = np.array(known)[order]
    if np.diff(along[order]).min() < SAME_PLACE_MM:  # DUPLICATE_SLICE says it
        return []
    for step in (2, 3, 4):
        if len(ordered) > 2 * step and (np.abs(ordered[step:] - ordered[:-step]) == 1).mean() > FOLLOW:
            detail = f"every {step}. slice has the next InstanceNumber: {step} passes that alternate"
            return [error("MIXED_PASSES", f"{detail}; put each into its own folder")]
    return []


def parts_elsewhere(folder: Path, slices: Sequence[Slice]) -> list[Finding]:
    """Return MIXED_SERIES if a folder beside, above or below holds more slices of the series of ``slices``.

    An export can spread a series over folders of a hundred files each. A copy, or another phase at the same places, is
    no part of it. Of the folders beside it the two next ones by name are looked at.

    Args:
        folder: Of the slices; for a file or a zip there is nothing to say.
        slices: Of one volume.
    """
    uids = {one.text("SeriesInstanceUID") for one in slices}
    along = positions_along(slices)
    if not folder.is_dir() or along is None or len(uids) > 1 or uids == {""}:
        return []
    for other in _around(folder.absolute()):
        with contextlib.suppress(OSError, IntakeError):
            if not uids & {_first_uid(other)}:
                continue
            files = [file for file in other.iterdir() if file.is_file() and may_be_slice(file)]
            more = [one for one in read_headers(other, files) if one.text("SeriesInstanceUID") in uids]
            places = positions_along([*slices, *more])
            if places is None or not more or more[0].size != slices[0].size:
                continue
            if np.abs(places[len(slices) :, None] - along).min() > SAME_PLACE_MM:
                detail = f"{len(more)} more slices of the series lie in the folder {other.name}"
                return [error("MIXED_SERIES", f"{detail}, none at the place of one here; put all into one folder")]
    return []


def _around(folder: Path) -> Iterator[Path]:
    """Yield the folder above, the first one below, and those before and after by name."""
    yield folder.parent
    yield from _next_folder(folder, sorted(entry.name for entry in os.scandir(folder)))
    names = sorted(entry.name for entry in os.scandir(folder.parent))
    yield from _next_folder(folder.parent, [name for name in names if name > folder.name])
    yield from _next_folder(folder.parent, [name for name in reversed(names) if name < folder.name])


def _next_folder(parent: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield the first folder among the first few names."""
    yield from islice((parent / name for name in names[:FIRST_ENTRIES] if (parent / name).is_dir()), 1)


def _first_uid(folder: Path) -> str:
    """Return SeriesInstanceUID of the first slice in a folder, "" where the first few files are none."""
    for entry in islice(os.scandir(folder), FIRST_ENTRIES):
        if entry.is_file() and may_be_slice(Path(entry.path)):
            with Path(entry.path).open("rb") as stream:
                return quick_series_uid(stream)
    return ""
