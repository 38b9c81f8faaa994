"""Which DICOM planes belong together: strangers are left out, series found, passes of a series told apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from liver_pipeline.geometry.affines import GRID_SAME
from liver_pipeline.io.dicom_checks import SAME_DIRECTION, most_common, named, overlapping_tags, positions_along, usual
from liver_pipeline.io.dicom_classes import IMAGE_CLASSES, SECONDARY_CAPTURE
from liver_pipeline.io.dicom_headers import Slice
from liver_pipeline.io.dicom_kinds import is_derived
from liver_pipeline.io.findings import Finding, refuse, warning

TURNED = 0.17  # of a unit vector, 10 degrees: another plane, such as a scout's
FEW = 3  # a volume has at least as many slices


@dataclass(frozen=True)
class Series:
    """One volume among DICOM files.

    Attributes:
        uid: SeriesInstanceUID; of several passes in one series with what tells them apart, ``1.2.3/EchoTime=4.6``.
        description: SeriesDescription, "" where it is empty.
        modality: "CT", "MR" or whatever DICOM says.
        thickness_mm: Distance between slices; 0 where it is unknown.
        contrast: ContrastBolusAgent, "" where there was none.
        slices: Its planes.
    """

    uid: str
    description: str
    modality: str
    thickness_mm: float
    contrast: str
    slices: tuple[Slice, ...]

    def __str__(self) -> str:
        return f"{self.uid or 'without UID'}{self._told()}"

    @property
    def title(self) -> str:
        """What people tell it by: its number in the study, where it has one, in place of its UID."""
        words = ("series", self.slices[0].text("SeriesNumber"), self.uid.partition("/")[2])
        return " ".join(word for word in words if word) + self._told()

    def _told(self) -> str:
        what = f" '{self.description}'" if self.description else ""
        with_contrast = ", contrast" if self.contrast else ""
        count = f"{len(self.slices)} {self.modality or 'unknown'} slices"
        return f"{what} ({count}, {self.thickness_mm:.4g} mm{with_contrast})"


def leave_out_strangers(path: Path, slices: Sequence[Slice]) -> tuple[list[Slice], list[Finding]]:
    """Return the slices that can make volumes, and a note on scouts, dose reports and captures among them.

    A plane is a stranger if it is in colour, a scout (LOCALIZER), a secondary capture beside CT or MR, has no place in
    space and does not look like its neighbours, or is one of few that are turned, or of another size and kind. What is
    left must still be regular, so that a slice left out by mistake leaves a gap that is refused.

    Raises:
        IntakeError: NOT_A_SCAN if nothing is left.
    """
    likely: list[Slice] = []
    captures = {one for one in slices if one.text("SOPClassUID").startswith(SECONDARY_CAPTURE)}
    reasons: dict[str, list[Slice]] = defaultdict(list)
    for one in slices:
        if one.text("SOPClassUID") not in ("", *IMAGE_CLASSES) or 0 in one.size:
            reasons["objects without slices"].append(one)
        elif one.text("SamplesPerPixel") not in ("", "1"):
            reasons["colour pictures"].append(one)
        elif "LOCALIZER" in one.text("ImageType").upper():
            reasons["scouts"].append(one)
        elif one in captures and len(captures) < len(slices):
            reasons["secondary captures"].append(one)
        else:
            likely.append(one)
    kept: list[Slice] = []
    by_series = _by_series(likely)
    for group in by_series.values():
        odd = _odd_ones(group, among_others=len(by_series) > 1)
        odd = _not_next([one for one in group if one not in odd], odd)
        reasons["not slices of the volume"] += odd
        kept += [one for one in group if one not in odd]
    left = [f"{len(ones)} {reason} ({named(ones, 3)})" for reason, ones in reasons.items() if ones]
    if not kept:
        raise refuse(path, "NOT_A_SCAN", f"no slices of a volume: {'; '.join(left)}; name the folder that holds them")
    return kept, [warning("IGNORED_FILES", f"left out: {'; '.join(left)}")] if left else []


def _by_series(slices: Sequence[Slice]) -> dict[str, list[Slice]]:
    """Return slices by SeriesInstanceUID; those without one belong to the only series there is."""
    groups: dict[str, list[Slice]] = defaultdict(list)
    for one in slices:
        groups[one.text("SeriesInstanceUID")].append(one)
    if len(groups) == 2 and "" in groups:
        (uid,) = (uid for uid in groups if uid)
        return {uid: [one for one in slices if one.text("SeriesInstanceUID") in ("", uid)]}
    return groups


def _odd_ones(group: Sequence[Slice], *, among_others: bool) -> list[Slice]:
    """Return the planes of one series that are not of its volume: few, and unlike the rest."""
    placed = [one for one in group if one.position is not None and one.directions is not None]
    made = len(group) < FEW and all(_is_made(one) for one in group)
    if not placed or (made and among_others):
        return list(group) if among_others else []
    kinds, sizes = ([f(one) for one in placed] for f in (_kind, lambda one: one.size))
    kind, size = most_common(kinds), most_common(sizes)
    axes = usual(np.array([one.directions for one in placed]).reshape(len(placed), 6))
    odd = []
    for one in group:
        other_kind, other_size = _kind(one) != kind, one.size != size
        nowhere = one.position is None and one.directions is None
        turned = one.directions is not None and np.abs(one.directions.ravel() - axes).max() > TURNED
        if (
            turned
            or (other_kind and _is_made(one))
            or (nowhere and (other_kind or other_size))
            or (other_kind and other_size)
        ):
            odd.append(one)
    return odd if len(odd) <= max(FEW, len(group) // 10) and len(odd) < len(placed) else []


def _not_next(kept: Sequence[Slice], odd: Sequence[Slice]) -> list[Slice]:
    """Return those of ``odd`` that do not lie where the next planes of the volume would, below or above it.

    A plane of the volume that looks otherwise, inside of it, leaves a gap that is refused; at its ends nothing would.
    """
    along = positions_along(kept) if len(kept) >= FEW else None
    if along is None or np.ptp(along) == 0:
        return list(odd)
    first, last = kept[int(along.argmin())], kept[int(along.argmax())]
    start, end, axes = first.position, last.position, first.directions
    assert start is not None and end is not None and axes is not None, "positions_along has looked"
    step = (end - start) / (len(kept) - 1)

    def is_next(one: Slice) -> bool:
        place, turned = one.position, one.directions
        if place is None or turned is None or one.size != first.size or np.abs(turned - axes).max() > SAME_DIRECTION:
            return False
        steps = float((place - start) @ step / (step @ step))
        away = np.linalg.norm(place - start - round(steps) * step) / np.linalg.norm(step)
        return 0.5 < max(-steps, steps - len(kept) + 1) < len(odd) + 0.5 and bool(away < GRID_SAME)

    return [one for one in odd if not is_next(one)]


def _is_made(one: Slice) -> bool:
    """Return whether a plane was made of images, or of figures, such as a dose report."""
    return "SECONDARY" in one.text("ImageType").upper()


def _kind(one: Slice) -> tuple[str, str]:
    return one.modality, one.text("ImageType")


def split_series(slices: Sequence[Slice]) -> list[Series]:
    """Return the volumes: one a SeriesInstanceUID, and one a pass where passes of a series overlap in space."""
    found = []
    for uid, group in _by_series(slices).items():
        for part, ones in _passes(group).items():
            found.append(_series(f"{uid}/{part}" if part else uid, ones))
    return sorted(found, key=lambda one: one.uid)


def _passes(group: list[Slice]) -> dict[str, list[Slice]]:
    """Return slices by what tells overlapping passes apart; all under "" where there is one, or no clean cut."""
    if not (tags := overlapping_tags(group)):
        return {"": group}
    parts: dict[str, list[Slice]] = defaultdict(list)
    for one in group:
        parts[",".join(f"{tag}={one.text(tag)}" for tag in tags if one.text(tag))].append(one)
    clean = all(len(part) >= FEW and not overlapping_tags(part) for part in parts.values())
    return dict(parts) if clean and "" not in parts else {"": group}


def _series(uid: str, slices: Sequence[Slice]) -> Series:
    along = positions_along(slices)
    gap = float(np.median(np.diff(np.sort(along)))) if along is not None and len(along) > 1 else 0.0
    agent = next((one.text("ContrastBolusAgent") for one in slices if one.text("ContrastBolusAgent")), "")
    contrast = "" if agent.upper() in ("NONE", "NO", "N", "WITHOUT") else agent
    first = slices[0]
    return Series(uid, first.text("SeriesDescription"), first.modality, gap, contrast, tuple(slices))


def choose_series(path: Path, found: Sequence[Series], which: str) -> tuple[Series, str]:
    """Return the series that ``which`` names, and the reason for the record.

    Args:
        path: For messages.
        found: From :func:`liver_pipeline.io.dicom.find_series`.
        which: A ``uid``; "thinnest" for the one with the smallest distance between slices (of equals the longest);
            "contrast" for the thinnest of those with a contrast agent. Projections, maps and the like are chosen where
            there is nothing else.

    Raises:
        IntakeError: NO_SERIES with the list of what there is.
    """
    exact = [one for one in found if one.uid == which]
    if exact:
        return exact[0], f"{exact[0]}: named, of {len(found)} series"
    volumes = [one for one in found if len(one.slices) >= FEW and one.thickness_mm > 0]
    if which == "contrast":
        volumes = [one for one in volumes if one.contrast]
    volumes = [one for one in volumes if not is_derived(one.slices)] or volumes
    if which not in ("thinnest", "contrast") or not volumes:
        raise refuse(path, "NO_SERIES", listing(found, f"there is no series {which!r}"))
    best = min(volumes, key=lambda one: (round(one.thickness_mm, 3), -len(one.slices), one.uid))
    of = "with contrast, thinnest" if which == "contrast" else "thinnest"
    return best, f"{best}: {of} of {len(volumes)} of {len(found)} series"


def listing(found: Sequence[Series], why: str) -> str:
    """Return the message that lists what there is."""
    listed = "; ".join(str(one) for one in found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")
    rules = "thinnest, or contrast" if any(one.contrast for one in found) else "thinnest"
    return f"{why}; name one of: {listed}; or {rules}"
