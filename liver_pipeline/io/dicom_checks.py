"""Do these DICOM planes make one volume? What is missing, what conflicts, and where positions are irregular."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.affines import GRID_CLOSE, GRID_SAME
from liver_pipeline.io.dicom_headers import Slice
from liver_pipeline.io.findings import Finding, error, refuse, warning

SAME_PLACE_MM = 1e-3
SAME_DIRECTION = 1e-3  # of a unit vector: a quarter of a pixel over half of 512
SAME_SPACING = 1e-4  # relative: a twentieth of a pixel over 512
GAP_ERROR, GAP_WARNING = 0.05, 0.01  # of the median gap
# Slices of one volume may differ in these where one group follows the other, such as two scans end to end.
PASS_TAGS = (
    "AcquisitionNumber", "ConvolutionKernel", "KVP", "TriggerTime", "NominalPercentageOfCardiacPhase",
    "TemporalPositionIdentifier", "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue", "ComplexImageComponent",
    "StackID", "ImageType", "ContrastBolusAgent", "SeriesNumber", "SeriesDescription", "SliceThickness", "ProtocolName",
    "FilterType", "ReconstructionDiameter", "PatientPosition", "GantryDetectorTilt",
)  # fmt: skip


def named(slices: Iterable[Slice], limit: int = 6) -> str:
    """Return the names of slices, the first few of many."""
    names = [one.name for one in slices]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def refuse_missing(path: Path, slices: Sequence[Slice]) -> None:
    """Refuse slices whose place in space is unknown, or a series of which only some have a rescale.

    Raises:
        IntakeError: GEOMETRY_MISSING, RESCALE_MISSING, with the names of the slices.
    """
    needs: dict[str, Callable[[Slice], Any]] = {
        "ImagePositionPatient": lambda one: one.position,
        "ImageOrientationPatient": lambda one: one.directions,
        "PixelSpacing": lambda one: one.pixel_spacing,
    }
    for tag, value in needs.items():
        if lacking := [one for one in slices if value(one) is None]:
            detail = f"{tag} is missing, or impossible, in {len(lacking)} of {len(slices)} slices ({named(lacking)})"
            raise refuse(path, "GEOMETRY_MISSING", f"{detail}; export them again, or remove what is no slice")
    lacking = [one for one in slices if one.rescale is None]
    if lacking and len(lacking) < len(slices):
        detail = f"RescaleSlope and RescaleIntercept are not in all slices: {len(lacking)} of {len(slices)} lack them"
        raise refuse(path, "RESCALE_MISSING", f"{detail} ({named(lacking)}); export the series again")


def refuse_mixed(path: Path, slices: Sequence[Slice]) -> None:
    """Refuse slices that cannot lie in one array.

    Raises:
        IntakeError: MIXED_SERIES with the names of the slices that differ from most.
    """
    exact: dict[str, Callable[[Slice], Hashable]] = {"modality": lambda one: one.modality, "size": lambda one: one.size}
    for what, value in exact.items():
        values = [value(one) for one in slices]
        refuse_odd(path, what, slices, [one != most_common(values) for one in values])
    spacing = np.array([one.pixel_spacing for one in slices])
    refuse_odd(path, "pixel spacing", slices, np.abs(spacing / usual(spacing) - 1.0).max(axis=1) > SAME_SPACING)
    directions = np.array([one.directions for one in slices]).reshape(len(slices), 6)
    away = np.abs(directions - usual(directions)).max(axis=1)
    refuse_odd(path, "orientation", slices, away > SAME_DIRECTION)


def usual(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the row that occurs most often, to three digits."""
    rounded = [tuple(row) for row in (rows + 0.0).round(3).tolist()]
    found: npt.NDArray[np.float64] = rows[rounded.index(most_common(rounded))]
    return found


def refuse_odd(path: Path, what: str, slices: Sequence[Slice], odd: Iterable[Any]) -> None:
    """Raise MIXED_SERIES if some slices are odd."""
    if differing := [one for one, differs in zip(slices, odd, strict=True) if differs]:
        detail = f"{len(differing)} of {len(slices)} slices have another {what} than most ({named(differing)})"
        raise refuse(path, "MIXED_SERIES", f"{detail}; put each series in its own folder")


def most_common(values: Sequence[Any]) -> Any:
    """Return the value that occurs most often, of several the first."""
    return Counter(values).most_common(1)[0][0]


def conflict_findings(slices: Sequence[Slice]) -> list[Finding]:
    """Return what conflicts where it is present: patient, frame of reference, series; passes that overlap.

    Values are not told, for they name patients.
    """
    found = []
    for code, tags in (
        ("MIXED_PATIENTS", ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")),
        ("MIXED_FRAMES", ("FrameOfReferenceUID",)),
        ("MIXED_SERIES", ("SeriesInstanceUID", "StudyInstanceUID")),
    ):
        for tag in tags:
            values = [one.text(tag) for one in slices]
            present = [value for value in values if value]
            if len(set(present)) > 1:
                odd = [
                    one for one, value in zip(slices, values, strict=True) if value not in ("", most_common(present))
                ]
                detail = f"{len(set(present))} values of {tag}: {named(odd)} have another than most"
                found.append(error(code, f"{detail}; put each in its own folder"))
    for tag in overlapping_tags(slices):
        values = sorted({one.text(tag) for one in slices if one.text(tag)})
        detail = f"slices of {len(values)} values of {tag} ({', '.join(values[:6])}) overlap or alternate"
        found.append(error("MIXED_PASSES", f"{detail}; keep one, or name it as series"))
    return found


def overlapping_tags(slices: Sequence[Slice]) -> list[str]:
    """Return the tags of :data:`PASS_TAGS`, or the time, whose groups of slices do not follow each other."""
    along = positions_along(slices)
    if along is None:
        return []
    order = np.argsort(along, kind="stable")
    placed = {tag: [(along[i], slices[i].text(tag)) for i in order if slices[i].text(tag)] for tag in PASS_TAGS}
    tags = [tag for tag in PASS_TAGS if _overlap(placed[tag])]
    if not tags and slices[0].modality == "CT":  # MR may take odd slices after even ones, in one acquisition
        return [
            tag for tag in ("AcquisitionTime", "AcquisitionDateTime") if _alternates(slices[i].text(tag) for i in order)
        ][:1]
    return tags


def _alternates(found: Iterable[str]) -> bool:
    """Return whether there are few times, and they alternate along the slices; rounding alone does not do that."""
    times = list(found)
    runs = sum(here != there for here, there in pairwise(times)) + 1
    return "" not in times and len(set(times)) <= len(times) / 3 and runs > len(times) / 2


def _overlap(placed: Sequence[tuple[float, str]]) -> bool:
    """Return whether groups of sorted (position in mm, value) touch or alternate."""
    changes = [(here, there) for here, there in pairwise(placed) if here[1] != there[1]]
    touching = any(there[0] - here[0] < SAME_PLACE_MM for here, there in changes)
    return touching or len(changes) >= max(1, len({value for _, value in placed}))


def positions_along(slices: Sequence[Slice]) -> npt.NDArray[np.float64] | None:
    """Return where slices lie along their normal in mm; ``None`` where places are missing or planes not parallel."""
    directions = [one.directions for one in slices]
    places = [one.position for one in slices]
    if any(one is None for one in (*directions, *places)):
        return None
    axes = np.array(directions).reshape(len(slices), 6)
    if np.abs(axes - axes[0]).max() > SAME_DIRECTION:
        return None
    normal = np.cross(axes[0, :3], axes[0, 3:])
    along: npt.NDArray[np.float64] = np.array(places, dtype=np.float64) @ (normal / np.linalg.norm(normal))
    return along


def place_findings(slices: Sequence[Slice]) -> list[Finding]:
    """Check the places of sorted slices: even along the normal, and no jump or bow away from a straight line.

    Gaps may differ from their median by 5 % (1 %: warning). A slice may lie half a pixel, or half a gap, off the line
    through most slices (a tenth: warning).
    """
    if len(slices) < 2:
        return []
    places = np.array([one.position for one in slices])
    axes, spacing = slices[0].directions, slices[0].pixel_spacing
    assert axes is not None and spacing is not None, "refuse_missing comes first"
    normal = np.cross(axes[0], axes[1])
    along = places @ normal
    findings = gap_findings(along, slices)
    if any(finding.code == "DUPLICATE_SLICE" for finding in findings):
        return findings
    off = np.column_stack([residual(places @ axis) for axis in (axes[0], axes[1], normal)])
    edges = np.array([spacing[1], spacing[0], np.median(np.diff(along))])
    worst = (np.abs(off) / edges).max(axis=1)
    if worst.max() > GRID_SAME and not any(f.code == "UNEVEN_SLICE_GAPS" and f.severity == "error" for f in findings):
        far = [one for one, shift in zip(slices, worst, strict=True) if shift > GRID_SAME]
        millimetres = np.linalg.norm(off, axis=1).max()
        detail = f"{len(far)} of {len(slices)} slices lie up to {millimetres:.3g} mm off the line of the others"
        detail += f" ({named(far)}); were they sorted from two scans, or moved?"
        findings.append((error if worst.max() > GRID_CLOSE else warning)("SLICE_SHIFT", detail))
    return findings


def residual(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far equally spaced ``values`` lie off the straight line through most of them (repeated medians)."""
    from scipy.stats import siegelslopes  # here: takes a second to import

    index = np.arange(len(values), dtype=np.float64)
    slope, start = siegelslopes(values, index)
    off: npt.NDArray[np.float64] = values - (start + slope * index)
    return off


def gap_findings(along: npt.NDArray[np.float64], slices: Sequence[Slice]) -> list[Finding]:
    """Check sorted positions in mm: no two the same, gaps within 5 % of their median (1 %: warning)."""
    gaps = np.diff(along)
    if gaps.min() < SAME_PLACE_MM:
        at = int(gaps.argmin())
        detail = f"{named(slices[at : at + 2])} both lie at {along[at]:.3f} mm"
        return [error("DUPLICATE_SLICE", f"{detail}; keep one phase or reconstruction per folder")]
    median = float(np.median(gaps))
    wide = int(np.abs(gaps - median).argmax())
    off = abs(float(gaps[wide]) - median)
    detail = f"slice gaps from {gaps.min():.3f} to {gaps.max():.3f} mm (median {median:.3f} mm), worst between"
    detail += f" {slices[wide].name} and {slices[wide + 1].name}; find the missing slices"
    if off > GAP_ERROR * median:
        return [error("UNEVEN_SLICE_GAPS", detail)]
    return [warning("UNEVEN_SLICE_GAPS", detail)] if off > max(GAP_WARNING * median, 0.01) else []
