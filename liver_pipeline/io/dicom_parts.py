"""Is this one series, once and whole? Slices in the folders and zips beside, numbers that alternate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from liver_pipeline.io.dicom_checks import SAME_PLACE_MM, positions_along
from liver_pipeline.io.dicom_files import FIRST_ENTRIES, outer_uids, series_files
from liver_pipeline.io.dicom_headers import Slice, may_be_slice, read_headers
from liver_pipeline.io.findings import Finding, IntakeError, error
from liver_pipeline.io.zips import is_zip

FOLLOW = 0.9  # of the slices


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


def parts_elsewhere(path: Path, slices: Sequence[Slice]) -> list[Finding]:
    """Return MIXED_SERIES if a folder or zip beside, above or below holds more slices of the series of ``slices``.

    An export can spread a series over folders, or zips, of a hundred files each. A copy, or another phase at the same
    places, is no part of it. Of those beside it the two next folders and zips by name are looked at.

    Args:
        path: Of the slices, a folder or zip; for a file of many frames there is nothing to say.
        slices: Of one volume.
    """
    uids = {one.text("SeriesInstanceUID") for one in slices}
    along = positions_along(slices)
    if not (path.is_dir() or is_zip(path)) or along is None or len(uids) > 1 or uids == {""}:
        return []
    for other in _around(path.absolute()):
        with contextlib.suppress(OSError, IntakeError):
            if not uids & outer_uids(other):
                continue
            with series_files(other) as files:
                found = read_headers(other, [file for file in files if file.is_file() and may_be_slice(file)])
            more = [one for one in found if one.text("SeriesInstanceUID") in uids]
            places = positions_along([*slices, *more])
            if places is None or not more or more[0].size != slices[0].size:
                continue
            if np.abs(places[len(slices) :, None] - along).min() > SAME_PLACE_MM:
                kind = "folder" if other.is_dir() else "zip"
                detail = f"{len(more)} more slices of the series lie in the {kind} {other.name}"
                return [error("MIXED_SERIES", f"{detail}, none at the place of one here; put all into one folder")]
    return []


def _around(path: Path) -> Iterator[Path]:
    """Yield the folder above, what comes first below a folder, and what stands before and after by name."""
    yield path.parent
    if path.is_dir():
        yield from _next(path, sorted(entry.name for entry in os.scandir(path)))
    names = sorted(entry.name for entry in os.scandir(path.parent))
    yield from _next(path.parent, [name for name in names if name > path.name])
    yield from _next(path.parent, [name for name in reversed(names) if name < path.name])


def _next(parent: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield the first folder and the first zip among the first few names."""
    places = [parent / name for name in names[:FIRST_ENTRIES]]
    yield from islice((place for place in places if place.is_dir()), 1)
    yield from islice((place for place in places if place.suffix.lower() == ".zip" and place.is_file()), 1)
