"""DICOM series: found by content, sorted by position, one affine, values in HU."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset

from liver_pipeline.geometry.affines import Affine
from liver_pipeline.io.dicom_checks import (
    conflict_findings,
    place_findings,
    positions_along,
    refuse_missing,
    refuse_mixed,
)
from liver_pipeline.io.dicom_classes import quietly
from liver_pipeline.io.dicom_files import series_sha256
from liver_pipeline.io.dicom_headers import Slice
from liver_pipeline.io.dicom_kinds import field_findings, kind_findings, rescale_findings
from liver_pipeline.io.dicom_parts import parts_elsewhere, woven_findings
from liver_pipeline.io.dicom_pixels import read_planes
from liver_pipeline.io.dicom_place import DicomPlace, look_again, opened_place
from liver_pipeline.io.dicom_series import Series, choose_series, listing
from liver_pipeline.io.findings import Finding, error, refuse, settle, warning
from liver_pipeline.io.streams import StoredVolume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def find_series(path: Path | str) -> list[Series]:
    """List the volumes in a folder of DICOM files (its own files), a zip, or a file of many frames.

    Scouts, dose reports and captures are left out. Headers alone are read.

    Returns:
        In order of their ``uid``; slices of a zip name files that are gone.

    Raises:
        IntakeError: NOT_A_SCAN, DICOM_DAMAGED, ZIP_DAMAGED.
        OSError: If a file cannot be read.
    """
    with opened_place(Path(path)) as place:
        return list(place.volumes)


def files_of(path: Path, series: str | None) -> list[Path]:
    """Return the files that a volume in a folder is read from, or those of all of them where no series is named.

    Raises:
        IntakeError: As :func:`find_series`; NO_SERIES.
        OSError: If a file cannot be read.
    """
    with opened_place(path) as place:
        if series is None:
            return list(place.changed)
        return _files(choose_series(path, place.volumes, series)[0].slices)


def read_series(
    path: Path, *, accept: Collection[str] = (), series: str | None = None, labels: bool = False
) -> StoredVolume:
    """Read one DICOM series from a folder (its own files), a zip (all members), or a file of many frames.

    Slices are ordered by position along the normal, never by name; slope and intercept of each slice are applied, so a
    CT arrives as int16 HU with slope 1. Only fractional slopes are kept as slope, intercept and stored voxels (float32
    where they differ from slice to slice). The hash is over all files that can be slices, or
    those of the series that is named.

    Args:
        path: Where it is.
        accept: Codes of errors to take as warnings; MIXED_SERIES puts the slices of all series into one volume.
        series: Which one of several; see :func:`liver_pipeline.io.dicom_series.choose_series`.
        labels: Whether it is a label map, whose values need no rescale.

    Raises:
        IntakeError: NOT_A_SCAN, ZIP_DAMAGED, DICOM_DAMAGED, DICOM_MULTIFRAME, NO_SERIES, GEOMETRY_MISSING,
            RESCALE_MISSING, MIXED_SERIES, MIXED_PATIENTS, MIXED_FRAMES, MIXED_PASSES, DUPLICATE_SLICE,
            UNEVEN_SLICE_GAPS, SLICE_SHIFT.
    """
    with quietly(), opened_place(path) as place:
        place, chosen, findings = _volume(path, place, series, accept)
        settled = settle(path, findings, accept)
        kind = (
            () if labels else (*rescale_findings(chosen), *kind_findings(chosen))
        )  # raised once values are judged, too
        hashes: dict[Path, str] = {}
        array, slope, intercept = _read_voxels(path, chosen, hashes)
        sha256 = series_sha256(path, list(place.changed) if series is None else _files(chosen), hashes)
        return StoredVolume(
            array, _affine(chosen), sha256, (*settled, *kind), slope, intercept,
            modality=chosen[0].modality, slice_files=tuple(one.path.name for one in chosen), slice_axis=2,
        )  # fmt: skip


def read_plane_headers(
    path: Path | str, *, accept: Collection[str] = (), series: str | None = None
) -> tuple[list[Dataset], Affine]:
    """Read the headers of a series in the order in which :func:`read_series` stacks its planes.

    Args:
        path: As for :func:`read_series`; of a file of many frames every plane has the same header.
        accept: As there.
        series: As there.

    Returns:
        One header a plane along Z, without pixels, and voxel index to RAS mm.

    Raises:
        IntakeError: As :func:`read_series`, but for what the values can be.
    """
    path = Path(path)
    with quietly(), opened_place(path) as place:
        _, chosen, findings = _volume(path, place, series, accept)
        settle(path, findings, accept)
        headers = [pydicom.dcmread(one.path, force=True, stop_before_pixels=True) for one in chosen]
    return headers, _affine(chosen)


def _volume(
    path: Path, place: DicomPlace, series: str | None, accept: Collection[str]
) -> tuple[DicomPlace, list[Slice], list[Finding]]:
    """Return the place as it is now, the slices of the volume in order, and what was found on the way."""
    chosen, reason = _one_series(path, place, series, accept)
    if not place.still_holds(chosen):
        place = look_again(path)
        chosen, reason = _one_series(path, place, series, accept)
    findings = [*place.notes, *reason]
    refuse_missing(path, chosen)
    refuse_mixed(path, chosen)
    findings += [*conflict_findings(chosen), *woven_findings(chosen), *parts_elsewhere(path, chosen)]
    chosen = _sorted(chosen)
    findings += [*place_findings(chosen), *field_findings(chosen)]
    if len(chosen) < 2:
        findings.append(_single(path, chosen[0]))
    return place, chosen, findings


def _files(slices: Iterable[Slice]) -> list[Path]:
    return list(dict.fromkeys(one.path for one in slices))


def _one_series(
    path: Path, place: DicomPlace, which: str | None, accept: Collection[str]
) -> tuple[list[Slice], list[Finding]]:
    """Return the slices to read, and why these where there was a choice."""
    found = place.volumes
    if which is not None:
        series, reason = choose_series(path, found, which)
        return list(series.slices), [warning("SERIES_CHOSEN", reason)]
    passes = any("/" in one.uid for one in found)
    if len(found) == 1 or ("MIXED_PASSES" if passes else "MIXED_SERIES") in accept:
        return list(place.slices), []
    if passes and len({one.uid.split("/")[0] for one in found}) == 1:
        listed = "; ".join(str(one) for one in found)
        detail = f"{len(found)} passes overlap or alternate in one series: {listed}; name one of them as series"
        raise refuse(path, "MIXED_PASSES", detail)
    raise refuse(path, "MIXED_SERIES", listing(found, f"{len(found)} series in one place"))


def _single(path: Path, one: Slice) -> Finding:
    if path.is_file() and one.path == path:
        return error("DICOM_MULTIFRAME", "a single DICOM file; name the folder that holds its series")
    return error("FEW_SLICES", "one slice; a volume needs a series")


def _sorted(slices: Sequence[Slice]) -> list[Slice]:
    """Order slices along their normal."""
    along = positions_along(slices)
    assert along is not None, "refuse_missing and refuse_mixed come first"
    return [slices[i] for i in np.argsort(along, kind="stable")]


def _affine(slices: Sequence[Slice]) -> Affine:
    """Return the affine to RAS; the step between slices is measured, so a tilted gantry shows as shear."""
    first, last = slices[0], slices[-1]
    directions, spacing = first.directions, first.pixel_spacing
    assert directions is not None and spacing is not None and first.position is not None and last.position is not None
    affine = np.eye(4)
    affine[:3, 0] = directions[0] * spacing[1]  # along a row: the distance of columns
    affine[:3, 1] = directions[1] * spacing[0]
    affine[:3, 2] = (last.position - first.position) / max(1, len(slices) - 1)
    if len(slices) == 1:
        affine[:3, 2] = np.cross(directions[0], directions[1])
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def _read_voxels(path: Path, slices: Sequence[Slice], hashes: dict[Path, str]) -> tuple[npt.NDArray[Any], float, float]:
    """Return voxels (X, Y, Z) with their slope and intercept; one slice at a time beside the volume.

    ``hashes`` takes the sha256 of files; see :func:`~liver_pipeline.io.dicom_pixels.read_planes`.
    """
    scales = [one.rescale or (1.0, 0.0) for one in slices]
    whole = all(number.is_integer() for scale in scales for number in scale)
    uniform = len(set(scales)) == 1
    slope, intercept = scales[0] if uniform and not whole else (1.0, 0.0)
    dtype = np.dtype(np.int16 if whole or uniform else np.float32)
    volume = np.empty((*slices[0].size, len(slices)), dtype=dtype, order="F")
    for index, stored in read_planes(path, slices, hashes):
        values: npt.NDArray[Any] = stored
        if whole and scales[index] != (1.0, 0.0):
            values = stored.astype(np.int64) * int(scales[index][0]) + int(scales[index][1])
        elif not (whole or uniform):
            values = stored * scales[index][0] + scales[index][1]
        if volume.dtype == np.int16 and (values.min() < -32768 or values.max() > 32767):
            volume = volume.astype(np.int32, order="F")  # 16 bits unsigned and full: rare, so paid for only then
        volume[:, :, index] = values
    return volume, slope, intercept
