"""Studies of several DICOM series: each volume is a case of its own, or one of a study is chosen."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from liver_pipeline.io.dicom import find_series
from liver_pipeline.io.dicom_files import series_uids
from liver_pipeline.io.dicom_parts import spread_series
from liver_pipeline.io.dicom_series import FEW, Series, choose_series, listing
from liver_pipeline.io.discovery import ScanInput, find_inputs
from liver_pipeline.io.findings import IntakeError, refuse
from liver_pipeline.io.screen import with_bar

logger = logging.getLogger(__name__)

WAYS = ("thinnest", "contrast")  # to choose one of a study's series, beside naming it


def find_volumes(
    root: Path | str, *, series: str | None = None, accept: Collection[str] = (), pictures: bool = False
) -> list[ScanInput]:
    """Find the scans below a folder, of a study with several DICOM series each volume, or the one that is asked for.

    Args:
        root: As for :func:`liver_pipeline.io.discovery.find_inputs`.
        series: "thinnest", "contrast", or the ``uid`` of a series: one volume of each study (StudyInstanceUID), whether
            its series lie in one place or in folders of their own; of a named one the others are left out, and counted.
            What is not DICOM is not touched by it. None: each volume of at least three slices is a case, called
            ``<case>/<uid>`` where several lie in one place.
        pictures: As for :func:`liver_pipeline.io.discovery.find_inputs`.
        accept: With MIXED_SERIES what lies in one place is one volume.

    Returns:
        The inputs in order of their case names. What cannot be read is among them: reading it says why.

    Raises:
        IntakeError: NOT_FOUND, NO_SCANS; NO_SERIES if no place has the series that is named.
    """
    return volumes_of(find_inputs(root, pictures=pictures), Path(root), series=series, accept=accept)


def volumes_of(
    found: Iterable[ScanInput], root: Path, *, series: str | None = None, accept: Collection[str] = ()
) -> list[ScanInput]:
    """Return the volumes of inputs that were found below ``root`` already; see :func:`find_volumes`.

    Raises:
        IntakeError: NO_SERIES if no place has the series that is named.
    """
    together = "MIXED_SERIES" in accept
    if series is not None:
        found = _chosen(list(found), root, series, together=together)
    elif not together:
        found = _each(found, root)
    return sorted(found, key=lambda one: (one.case, one.path.as_posix()))


def _each(found: Iterable[ScanInput], root: Path) -> Iterator[ScanInput]:
    """Yield each volume of each input; one that is a part of a series says where more of it is."""
    volumes: list[ScanInput] = []
    places: dict[str, list[Path]] = defaultdict(list)
    for one in with_bar(found, "Looking for series", "scan"):
        uids = _uids(one)
        volumes += _volumes(one) if len(uids) > 1 else [one]
        for uid in uids:
            places[uid].append(one.path)
    shared = dict.fromkeys(path for paths in places.values() if len(paths) > 1 for path in paths)
    parts = spread_series(((path, volume) for path in shared for volume in _listed(path)), root)
    for one in volumes:
        told = parts.get(one.path, {})
        yield replace(one, elsewhere=next(iter(told.values()), "") if one.series is None else told.get(one.series, ""))


def _uids(one: ScanInput) -> set[str]:
    try:
        return series_uids(one.path)
    except OSError:  # reading it says what is wrong
        return set()


def _volumes(one: ScanInput) -> list[ScanInput]:
    """Return the volumes of a folder or zip that holds several; else itself, which reading may still refuse."""
    found = _listed(one.path)
    volumes = [each for each in found if len(each.slices) >= FEW]
    if len(found) < 2 or not volumes:
        return [one]
    why = f"one of {len(volumes)} scans there, each a case of its own"
    if few := [each.uid for each in found if each not in volumes]:
        none = f"{len(few)} series of fewer than {FEW} slices are no scans"
        logger.warning("%s: %s: %s", one.path, none, few[0])
        why += f"; {none}"
    return [
        replace(one, case=f"{one.case}/{each.uid}", series=each.uid, why=f"{each}: {why}", title=each.title)
        for each in volumes
    ]


def _chosen(found: Sequence[ScanInput], root: Path, which: str, *, together: bool) -> Iterator[ScanInput]:
    """Yield one volume a study, and what is no DICOM."""
    studies: dict[str, list[tuple[ScanInput, Series]]] = defaultdict(list)
    for one in with_bar(found, "Looking for series", "scan"):
        volumes = _listed(one.path) if _uids(one) else []
        if not volumes:
            yield one
        for volume in volumes:
            studies[volume.slices[0].text("StudyInstanceUID") or str(one.path)].append((one, volume))
    named = which not in WAYS
    if named and studies and not any(volume.uid == which for pairs in studies.values() for _, volume in pairs):
        there = [volume for pairs in studies.values() for _, volume in pairs]
        raise refuse(root, "NO_SERIES", listing(there, f"there is no series {which!r}"))
    pairs = [(one.path, volume) for ones in studies.values() for one, volume in ones]
    parts = {} if together else spread_series(pairs, root)
    left_out = 0
    chosen: list[ScanInput] = []
    for held in studies.values():
        volumes = [volume for _, volume in held]
        if named and all(volume.uid != which for volume in volumes):
            left_out += 1
            continue
        try:
            best, why = choose_series(root, volumes, which)
        except IntakeError:  # the study is a case all the same: reading it says that there is none
            chosen.append(replace(held[0][0], series=which))
            continue
        one = next(one for one, volume in held if volume is best)
        chosen.append(replace(one, series=best.uid, why=why, elsewhere=parts.get(one.path, {}).get(best.uid, "")))
    if left_out:
        logger.warning("%s: %d studies have no series %s and are left out", root, left_out, which)
    yield from _with_own_names(chosen)


def _listed(path: Path) -> list[Series]:
    """Return the series at a place; none of what cannot be read."""
    try:
        return find_series(path)
    except (IntakeError, OSError):
        return []


def _with_own_names(chosen: Iterable[ScanInput]) -> list[ScanInput]:
    """Add the series to the names of cases where two studies lie in one place."""
    chosen = list(chosen)
    times = Counter(one.case for one in chosen)
    return [replace(one, case=f"{one.case}/{one.series}") if times[one.case] > 1 else one for one in chosen]
