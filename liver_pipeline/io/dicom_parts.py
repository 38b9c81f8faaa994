"""Is this one series, once and whole? Slices in the folders and zips beside, numbers that alternate."""

from __future__ import annotations

import contextlib
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from liver_pipeline.io.dicom_checks import (
    SAME_PLACE_MM,
    conflict_findings,
    overlapping_tags,
    place_findings,
    positions_along,
    refuse_missing,
    refuse_mixed,
)
from liver_pipeline.io.dicom_files import FIRST_ENTRIES, outer_uids, series_files
from liver_pipeline.io.dicom_headers import Slice, read_headers
from liver_pipeline.io.dicom_series import Series, leave_out_strangers
from liver_pipeline.io.findings import Finding, IntakeError, error
from liver_pipeline.io.paths import listed, relative
from liver_pipeline.io.remembering import remembers
from liver_pipeline.io.zips import is_zip

FOLLOW = 0.9  # of the slices
ROUNDED = 0.25  # of the gap between slices, by which those of a copy may be off

_Position = tuple[float, ...]  # of a slice, to a hundredth of a mm
_Entry = tuple[str, bool, bool]  # see `listed`


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
    places, is no part of it; without a SeriesInstanceUID only what makes one even stack with it is. Of those beside it
    the two next folders and zips by name are looked at; :func:`spread_series` knows all of a listing.

    Args:
        path: Of the slices, a folder or zip; for a file of many frames there is nothing to say.
        slices: Of one volume.
    """
    uids = {one.text("SeriesInstanceUID") for one in slices}
    along = positions_along(slices)
    if not (path.is_dir() or is_zip(path)) or along is None or len(uids) > 1:
        return []
    for other in _around(path.absolute()):
        with contextlib.suppress(OSError, IntakeError):
            if not uids & (outer_uids(other) or {""}):
                continue
            with series_files(other) as files:
                headers = read_headers(other, [file for file in files if file.is_file()])
            found, _ = leave_out_strangers(other, headers)
            more = [one for one in found if one.text("SeriesInstanceUID") in uids]
            if count := _more_of(slices, more):
                return [error("MIXED_SERIES", _told(count, other, other.name))]
    return []


def spread_series(volumes: Iterable[tuple[Path, Series]], root: Path) -> dict[Path, dict[str, str]]:
    """Say which of the volumes in several places are parts of one: place to ``uid`` to where more of it lies.

    Many places cost time in proportion to their number, be they copies or parts.

    Args:
        volumes: All that lie in places which have a series in common.
        root: Below which messages name them.
    """
    by_uid: dict[str, list[tuple[Path, Series, set[_Position]]]] = defaultdict(list)
    for path, volume in volumes:
        by_uid[volume.uid].append((path, volume, _places(volume.slices)))
    told: dict[Path, dict[str, str]] = defaultdict(dict)
    for uid, held in by_uid.items():
        everywhere = set().union(*(places for _, _, places in held))
        for path, volume, places in held:
            others = held if uid and places != everywhere else []  # a copy of all that there is lacks nothing
            counts = ((other, _more_of(volume.slices, more.slices)) for other, more, there in others if there - places)
            if found := next(((other, count) for other, count in counts if count), None):
                told[path][uid] = _told(found[1], found[0], relative(found[0], root))
    return told


def _places(slices: Iterable[Slice]) -> set[_Position]:
    return {tuple(one.position.round(2).tolist()) for one in slices if one.position is not None}


def _more_of(slices: Sequence[Slice], more: Sequence[Slice]) -> int:
    """Return how many of ``more``, of the same series, belong to the volume of ``slices`` and lie where none of it is.

    A copy has none, however it was rounded. Another phase in the same series has its own tags, and slices at places
    that both have.
    """
    both = [*slices, *more]
    along = positions_along(both)
    if not more or along is None or more[0].size != slices[0].size or _are_others(both):
        return 0
    if not slices[0].text("SeriesInstanceUID"):
        return len(more) if _is_even([both[i] for i in np.argsort(along, kind="stable")]) else 0
    here = np.sort(along[: len(slices)])
    away = np.abs(along[len(slices) :, None] - here).min(axis=1)
    if away.min() > SAME_PLACE_MM:
        return len(more)
    missing = away > ROUNDED * np.median(np.diff(here)) if len(here) > 1 else away > SAME_PLACE_MM
    return 0 if overlapping_tags(both) else int(missing.sum())


def _is_even(slices: Sequence[Slice]) -> bool:
    """Return whether sorted slices, which nothing else says to be of one series, make one volume without a fault."""
    try:
        refuse_missing(Path(), slices)
        refuse_mixed(Path(), slices)
    except IntakeError:
        return False
    return not (conflict_findings(slices) or place_findings(slices))


def _are_others(slices: Sequence[Slice]) -> bool:
    """Return whether slices are of several patients or frames, whose series got one UID when they were anonymised."""
    return any(finding.code in ("MIXED_PATIENTS", "MIXED_FRAMES") for finding in conflict_findings(slices))


def _told(count: int, place: Path, name: str) -> str:
    kind = "folder" if place.is_dir() else "zip"
    many = f"{count} more slices of the series lie" if count > 1 else "1 more slice of the series lies"
    return f"{many} in the {kind} {name}; put all into one folder"


def _around(path: Path) -> Iterator[Path]:
    """Yield the folder above, what comes first below a folder, and what stands before and after by name."""
    yield path.parent
    with contextlib.suppress(OSError):
        if path.is_dir():
            yield from _next(path, _listing(path))
    with contextlib.suppress(OSError):  # of a folder above that may be passed through, but not looked into
        beside = _listing(path.parent)
        at = bisect(beside, path.name, key=lambda entry: entry[0])
        yield from _next(path.parent, beside[at : at + FIRST_ENTRIES])  # of thousands a few, for each of them
        before = reversed(beside[max(at - 1 - FIRST_ENTRIES, 0) : at])
        yield from _next(path.parent, (entry for entry in before if entry[0] != path.name))


_listing = remembers(16)(listed)


def _next(parent: Path, entries: Iterable[_Entry]) -> Iterator[Path]:
    """Yield the first folder and the first zip among the first few entries."""
    first = list(islice(entries, FIRST_ENTRIES))
    yield from islice((parent / name for name, is_folder, _ in first if is_folder), 1)
    yield from islice((parent / name for name, _, is_file in first if is_file and name.lower().endswith(".zip")), 1)
