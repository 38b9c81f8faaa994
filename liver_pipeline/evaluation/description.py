"""The clinical table of one label map: liver and tumor volumes, and every lesion measured and placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.evaluation.confidence import calibrated, why_uncalibrated
from liver_pipeline.evaluation.lesion_description import describe_lesions, match_status
from liver_pipeline.evaluation.scoring import ACCEPTED
from liver_pipeline.evaluation.segments import COUINAUD, after_resection, segment_volumes
from liver_pipeline.evaluation.severity import tumor_severity, tumor_spread
from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.geometry.boxes import NOWHERE, bounding_box, touches_border
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.patient_axes import on_grid, to_ras
from liver_pipeline.io.probabilities import read_probabilities
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.records import reader_of, record_of
from liver_pipeline.io.volumes import Scan, read_label_map
from liver_pipeline.labels import LIVER_OR_TUMOR, LabelMap, LabelValues, Scaled

NEED_LIVER = ("liver_with_tumor_ml", "liver_without_tumor_ml", "tumor_burden")
NO_SEGMENTS = "no Couinaud map was given"
AUTO = "auto"  # for a Couinaud map: estimate it


def describe(
    mask: Path | str,
    scan: Path | str | None = None,
    *,
    reference: Path | str | None = None,
    label_map: LabelValues | None = None,
    confidence: Path | str | None = None,
    segments: Path | str | None = None,
    resect: Sequence[int] = (),
    reader: ScanReader | None = None,
    series: str | None = None,
) -> dict[str, Any]:
    """Describe one label map on disk.

    The record that ``predict`` wrote beside it, where it is of this mask, gives the intervals of its volumes, and the
    temperature that calibrates the confidence of its lesions.

    Args:
        mask: Label map: 0 background, 1 liver, 2 tumor.
        scan: The CT it belongs to, on the same grid; gives mean and SD of HU.
        reference: Reference label map on the same grid; gives the match of each lesion and the missed ones.
        label_map: What the values of the reference mean, such as ``{6: 1, 7: 2}``, where they are not 0, 1, 2; see
            :func:`~liver_pipeline.io.volumes.read_label_map`.
        confidence: Probabilities on the same grid, as ``predict --probabilities`` writes them, or of tumor alone; see
            :mod:`liver_pipeline.io.probabilities`.
        segments: Couinaud map (1 to 8) on the same grid; gives shares per segment. "auto" estimates it from the
            liver's shape: see :mod:`liver_pipeline.evaluation.couinaud`.
        resect: Numbers of segments; gives what is left without them.
        reader: How the run that made the mask reads scans; by default as its record says, without one as CT.
        series: Which of several DICOM series the scan is.

    Returns:
        See :func:`describe_label_map`; besides, ``files``, ``mask_sha256``, and as ``segments_source`` the ``map`` by
        its name, or of an estimate ``weights``, ``sha256`` and what these gave on livers ``kept_back``. A shape that
        allows no estimate is a reason why there are no segments.

    Raises:
        IntakeError: If a file cannot be used.
        ValueError: If a file lies on another grid than the mask, the reference does not tell tumors from liver, or
            ``resect`` is given without ``segments``.
    """
    if label_map is not None and not reference:
        raise ValueError("label_map says what the values of the reference mean, and there is none")
    if resect and segments is None:
        raise ValueError("to resect segments, these must be known: give a Couinaud map, or 'auto' to estimate them")
    labels = read_label_map(mask, accept=ACCEPTED)
    truth = read_label_map(reference, label_map=label_map, accept=ACCEPTED) if reference else None
    if truth is not None and (truth.array == LIVER_OR_TUMOR).any():
        raise ValueError(f"{reference} does not tell tumors from liver, so no lesion can be matched; leave it out")
    couinaud, source, doubt = _segments(labels, segments)
    record = record_of(Path(mask), labels.sha256)
    reader = reader or reader_of(record)
    ct = replace(reader, accept={*reader.accept, *ACCEPTED}).scan(scan, series=series) if scan else None
    sure = lesion_confidence(labels, read_probabilities(confidence), record) if confidence else {}
    if confidence and not sure:
        raise ValueError(f"{confidence} holds no probabilities of tumor: the model knows liver only")
    turned, affine = to_ras(labels)
    table = describe_label_map(
        turned,
        affine,
        hu=_scaled(labels, ct),
        reference=on_grid(labels, truth),
        segments=on_grid(labels, couinaud),
        no_segments=doubt,
        resect=resect,
        record=record,
        **sure,
    )
    given = None if segments == AUTO else segments
    names = {"mask": mask, "scan": scan, "reference": reference, "confidence": confidence, "segments": given}
    table["segments_source"] = source
    table["files"] = {key: Path(path).name for key, path in names.items() if path}
    table["mask_sha256"] = labels.sha256
    return table


def _segments(mask: Scan, segments: Path | str | None) -> tuple[Scan | None, dict[str, Any] | None, str]:
    """Return a mask's Couinaud map, where it comes from, and why there is none."""
    if segments is None:
        return None, None, NO_SEGMENTS
    if segments != AUTO:
        return read_label_map(segments, allowed=COUINAUD, accept=ACCEPTED), {"map": Path(segments).name}, ""
    from liver_pipeline.evaluation.couinaud import NOT_ESTIMATED, estimate_segments, shipped_network  # here: a network

    try:
        return estimate_segments(mask), shipped_network()[1], ""
    except IntakeError as refusal:
        if refusal.code != NOT_ESTIMATED:
            raise
        return None, None, f"{NOT_ESTIMATED}: {refusal.findings[0].detail}"


def _scaled(mask: Scan, other: Scan | None) -> Scaled | None:
    """Return a scan on the grid of a mask, with its scale."""
    array = on_grid(mask, other)
    return None if other is None or array is None else Scaled(array, other.slope, other.intercept)


def lesion_confidence(mask: Scan, classes: Mapping[str, Scan], record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what :func:`describe_label_map` takes of probabilities, calibrated where the record knows how.

    Args:
        mask: On their grid.
        classes: See :func:`liver_pipeline.evaluation.confidence.calibrated`; without tumor nothing is returned.
        record: What ``predict`` wrote beside the mask.
    """
    better = calibrated(classes, record)
    probability = (better or classes).get("tumor")
    if probability is None:
        return {}
    temperature = None if better is None or record is None else record["confidence"]["temperature"]
    return {
        "confidence": _scaled(mask, probability),
        "calibration": {"temperature": temperature, "reason": None if better else why_uncalibrated(record)},
    }


def describe_label_map(
    label_map: LabelMap,
    affine: Affine,
    *,
    hu: Scaled | None = None,
    reference: npt.NDArray[Any] | None = None,
    confidence: Scaled | None = None,
    segments: npt.NDArray[Any] | None = None,
    no_segments: str = NO_SEGMENTS,
    resect: Sequence[int] = (),
    record: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe one label map.

    Args:
        label_map: Labels 0, 1, 2, shape (X, Y, Z), axes along right, anterior, superior.
        affine: Voxel index to RAS mm.
        hu: Scan of the same shape.
        reference: Reference labels of the same shape.
        confidence: Tumor probability of the same shape.
        segments: Couinaud segments 1 to 8 of the same shape.
        no_segments: Why there are none.
        resect: Numbers of segments to resect.
        record: What ``predict`` wrote beside the mask.
        calibration: Of ``confidence``: ``temperature``, or None and the ``reason``.

    Returns:
        ``liver`` (volumes in ml, burden, lesion count, ``truncated`` if the liver touches the edge of the field of
        view, so that volumes are lower bounds, ``segments_ml``, the ``intervals`` of ``liver_ml`` with tumor and
        ``tumor_ml``, see :mod:`liver_pipeline.evaluation.intervals`), ``lesions`` (one row each), ``spread`` and
        ``severity`` (see :mod:`liver_pipeline.evaluation.severity`), ``resection`` (see
        :func:`liver_pipeline.evaluation.segments.after_resection`), ``missed`` (reference lesions in no group),
        ``calibration`` as it was given, and ``reasons``: why a figure is None, by its name. Slices count from the feet.
        Without a liver voxel (label 1) liver volumes, burden and distances are None.
    """
    spacing = spacing_of(affine)
    voxel_ml = float(np.prod(spacing)) / 1000.0
    inside = label_map[bounding_box(label_map) or NOWHERE]
    n_parenchyma, n_tumor = int(np.count_nonzero(inside == 1)), int(np.count_nonzero(inside == 2))
    matches, missed = (None, None) if reference is None else match_status(label_map, reference, affine)
    rows = describe_lesions(
        label_map,
        affine,
        hu=hu,
        confidence=confidence,
        matches=matches,
        segments=segments,
    )
    reasons: dict[str, str] = {}
    for names, given, what in (
        (("mean_hu", "sd_hu"), hu, "no scan was given"),
        (("mean_confidence", "min_confidence"), confidence, "no probabilities were given"),
        (("match", "missed"), reference, "no reference was given"),
        (("segments", "segments_ml", *(["resection"] if resect else [])), segments, no_segments),
        ((*NEED_LIVER, "distance_to_surface_mm"), n_parenchyma or None, "the mask holds no liver (label 1)"),
    ):
        if given is None:
            reasons |= dict.fromkeys(names, what)
    liver: dict[str, Any] = {
        "liver_with_tumor_ml": (n_parenchyma + n_tumor) * voxel_ml if n_parenchyma else None,
        "liver_without_tumor_ml": n_parenchyma * voxel_ml if n_parenchyma else None,
        "tumor_ml": n_tumor * voxel_ml,
        "tumor_burden": n_tumor / (n_parenchyma + n_tumor) if n_parenchyma else None,
        "lesion_count": len(rows),
        "truncated": touches_border(label_map),
        "segments_ml": None if segments is None else segment_volumes(segments, label_map, voxel_ml),
        "intervals": _intervals(record, reasons),
    }
    volumes = liver["segments_ml"]
    touched = None if volumes is None else [name for name, volume in volumes.items() if volume["tumor_ml"]]
    return {
        "spacing_mm": list(spacing),
        "shape": list(label_map.shape),
        "liver": liver,
        "lesions": rows,
        "spread": tumor_spread(label_map, [row["centroid_ras_mm"] for row in rows], touched),
        "severity": tumor_severity([row["diameter_mm"] for row in rows], liver["tumor_burden"]),
        "resection": after_resection(volumes, [row["segments"] for row in rows], resect)
        if resect and volumes
        else None,
        "segments_source": None,
        "missed": missed,
        "calibration": calibration,
        "reasons": reasons,
    }


def _intervals(record: Mapping[str, Any] | None, reasons: dict[str, str]) -> dict[str, Any]:
    """Return ``level``, ``liver_ml`` and ``tumor_ml`` of the record; why one is None goes into ``reasons``."""
    told = (record or {}).get("intervals")
    if not told:  # no record of this mask, or one of an earlier version
        told = {"level": None, "liver_ml": None, "tumor_ml": None, "reasons": {}}
    for name in ("liver_ml", "tumor_ml"):
        if told[name] is None:
            why = told["reasons"].get(name, {"message": "no record beside the mask tells them"})
            reasons[f"interval of {name}"] = why["message"]
    return {key: value for key, value in told.items() if key != "reasons"}
