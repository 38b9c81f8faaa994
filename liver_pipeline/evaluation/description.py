"""The clinical table of one label map: liver and tumor volumes, and every lesion measured and placed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from liver_pipeline.evaluation.confidence import calibrated, why_uncalibrated
from liver_pipeline.evaluation.intervals import interval_text
from liver_pipeline.evaluation.scoring import ACCEPTED
from liver_pipeline.evaluation.segments import (
    COUINAUD,
    after_resection,
    segment_lines,
    segment_shares,
    segment_volumes,
    segment_words,
)
from liver_pipeline.evaluation.severity import tumor_severity, tumor_spread
from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.geometry.boxes import Box, touches_border
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.probabilities import read_probabilities
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.records import reader_of, record_of
from liver_pipeline.io.volumes import Scan, on_grid, read_label_map, to_ras
from liver_pipeline.labels import LIVER_OR_TUMOR, LabelMap, LabelValues, Mask
from liver_pipeline.metrics.lesions import ComponentMap, components, find_lesions, match_lesions
from liver_pipeline.metrics.shapes import LesionShape, lesion_shapes
from liver_pipeline.metrics.surfaces import border_surface

FOUND_IOU = 0.5
NEED_LIVER = ("liver_with_tumor_ml", "liver_without_tumor_ml", "tumor_burden")
NO_SEGMENTS = "no Couinaud map was given"
AUTO = "auto"  # for a Couinaud map: estimate it
LESION_COLUMNS = (
    "id", "volume_ml", "diameter_mm", "perpendicular_mm", "slice", "size_class", "centroid_ras_mm", "centroid_lps_mm",
    "box", "distance_to_surface_mm", "mean_hu", "sd_hu", "mean_confidence", "min_confidence", "touches_border",
    "below_resolution", "match", "segments", "segments_source",
)  # fmt: skip


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
        hu=on_grid(labels, ct),
        reference=on_grid(labels, truth),
        segments=on_grid(labels, couinaud),
        no_segments=doubt,
        resect=resect,
        hu_scale=(ct.slope, ct.intercept) if ct else (1.0, 0.0),
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
        "confidence": on_grid(mask, probability),
        "confidence_scale": (probability.slope, probability.intercept),
        "calibration": {"temperature": temperature, "reason": None if better else why_uncalibrated(record)},
    }


def describe_label_map(
    label_map: LabelMap,
    affine: Affine,
    *,
    hu: npt.NDArray[Any] | None = None,
    reference: npt.NDArray[Any] | None = None,
    confidence: npt.NDArray[Any] | None = None,
    segments: npt.NDArray[Any] | None = None,
    no_segments: str = NO_SEGMENTS,
    resect: Sequence[int] = (),
    hu_scale: tuple[float, float] = (1.0, 0.0),
    confidence_scale: tuple[float, float] = (1.0, 0.0),
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
        hu_scale: Slope and intercept that make HU of ``hu``.
        confidence_scale: Slope and intercept that make probabilities of ``confidence``.
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
    n_parenchyma, n_tumor = int(np.count_nonzero(label_map == 1)), int(np.count_nonzero(label_map == 2))
    reasons: dict[str, str] = {}
    lesion_map, _ = components(label_map == 2)
    shapes = lesion_shapes(lesion_map, spacing)
    depths = _depths(label_map, lesion_map, shapes, spacing) if n_parenchyma else None
    matches, missed = _matches(label_map, reference, affine)
    rows = []
    for shape in shapes:
        inside = lesion_map[shape.box] == shape.id
        row = _row(shape, affine, label_map.shape)
        row["distance_to_surface_mm"] = None if depths is None else depths[shape.id - 1]
        row |= _moments("hu", hu, shape.box, inside, hu_scale)
        row |= _confidence(confidence, shape.box, inside, confidence_scale)
        row["match"] = None if matches is None else matches[shape.id - 1]
        row["segments"] = None if segments is None else segment_shares(segments[shape.box][inside])
        rows.append(row)
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
        "lesion_count": len(shapes),
        "truncated": touches_border(label_map >= 1),
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


def _row(shape: LesionShape, affine: Affine, grid: tuple[int, ...]) -> dict[str, Any]:
    """What follows from the lesion's own voxels."""
    ras = affine[:3, :3] @ np.array(shape.centroid) + affine[:3, 3]
    thickness = [axis.stop - axis.start for axis in shape.box]
    at_edge = [axis.start == 0 or axis.stop == size for axis, size in zip(shape.box, grid, strict=True)]
    return {
        "id": shape.id,
        "volume_ml": shape.volume_ml,
        "diameter_mm": shape.diameters.longest_mm,
        "perpendicular_mm": shape.diameters.perpendicular_mm,
        "slice": shape.diameters.slice_index,
        "size_class": shape.size_class,
        "centroid_ras_mm": [float(value) for value in ras],
        "centroid_lps_mm": [-float(ras[0]), -float(ras[1]), float(ras[2])],
        "box": [[axis.start, axis.stop - 1] for axis in shape.box],
        "touches_border": any(at_edge),
        "below_resolution": min(thickness) < 2,
    }


def _depths(
    label_map: LabelMap, lesion_map: ComponentMap, shapes: Sequence[LesionShape], spacing: tuple[float, float, float]
) -> list[float]:
    """Least distance of each lesion to the outer surface of liver and tumor, in mm; 0 for a lesion that reaches it."""
    surface = border_surface(label_map >= 1, spacing, 6).points
    tree = cKDTree(surface)
    depths = []
    for shape in shapes:
        start = np.array([axis.start for axis in shape.box])
        points = border_surface(lesion_map[shape.box] == shape.id, spacing, 6).points + start * np.array(spacing)
        depths.append(float(tree.query(points)[0].min()))
    return depths


def _moments(
    name: str, values: npt.NDArray[Any] | None, box: Box, inside: Mask, scale: tuple[float, float]
) -> dict[str, float | None]:
    """Mean and SD (n) of the values inside one lesion."""
    if values is None:
        return {f"mean_{name}": None, f"sd_{name}": None}
    chosen = values[box][inside].astype(np.float64) * scale[0] + scale[1]
    return {f"mean_{name}": float(chosen.mean()), f"sd_{name}": float(chosen.std())}


def _confidence(
    values: npt.NDArray[Any] | None, box: Box, inside: Mask, scale: tuple[float, float]
) -> dict[str, float | None]:
    if values is None:
        return {"mean_confidence": None, "min_confidence": None}
    chosen = values[box][inside].astype(np.float64) * scale[0] + scale[1]
    return {"mean_confidence": float(chosen.mean()), "min_confidence": float(chosen.min())}


def _matches(
    label_map: LabelMap, reference: npt.NDArray[Any] | None, affine: Affine
) -> tuple[list[str] | None, list[dict[str, Any]] | None]:
    """Status of each lesion (``found`` above IoU 0.5, ``partial``, ``invented``), and the missed reference lesions."""
    if reference is None:
        return None, None
    lesions = find_lesions(label_map == 2, reference == 2)
    groups = match_lesions(lesions)
    status = {i: "found" if group.iou > FOUND_IOU else "partial" for group in groups for i in group.pred_ids}
    grouped = {i for group in groups for i in group.label_ids}
    missed = [
        _row(shape, affine, label_map.shape)
        for shape in lesion_shapes(lesions.label_map, spacing_of(affine))
        if shape.id not in grouped
    ]
    return [status.get(i, "invented") for i in range(1, lesions.n_pred + 1)], missed


def lesions_csv(table: Mapping[str, Any]) -> str:
    """The lesions of :func:`describe` as CSV, one row each; empty cells are figures that cannot be given."""
    source = table["segments_source"] or {}
    named = {"segments_source": f"estimated by {source['weights']}" if "weights" in source else source.get("map")}
    text = io.StringIO()
    writer = csv.DictWriter(text, LESION_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table["lesions"]:
        writer.writerow({key: _cell((row | named)[key]) for key in LESION_COLUMNS})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{key}:{share:.3f}" for key, share in value.items())
    if isinstance(value, list):
        return " ".join("-".join(map(str, item)) if isinstance(item, list) else f"{item:.2f}" for item in value)
    return value


def as_text(table: Mapping[str, Any]) -> str:
    """The table for a terminal: one block for the liver, one line per lesion, and why figures are missing."""
    liver, told = table["liver"], table["liver"]["intervals"]
    burden = "-" if liver["tumor_burden"] is None else f"{100 * liver['tumor_burden']:.2f} %"
    cut = "   (cut by the edge of the scan: more outside)" if liver["truncated"] else ""
    spans = {key: interval_text(told[key], told["level"]) for key in ("liver_ml", "tumor_ml")}
    spans = {key: f"   {span}" if span else "" for key, span in spans.items()}
    lines = [
        f"liver with tumor     {_number(liver['liver_with_tumor_ml']):>10} ml{spans['liver_ml']}{cut}",
        f"liver without tumor  {_number(liver['liver_without_tumor_ml']):>10} ml",
        f"tumor                {_number(liver['tumor_ml']):>10} ml{spans['tumor_ml']}   burden {burden}   "
        f"lesions {liver['lesion_count']}",
    ]
    if table["lesions"]:
        names = f"{'id':>4} {'ml':>9} {'mm x mm':>13} {'slice':>5} {'depth mm':>8} {'HU':>11} {'sure':>5} {'match':>8}"
        lines.append(f"{names}  centre, LPS mm")
    for row in table["lesions"]:
        size = f"{row['diameter_mm']:.1f} x {row['perpendicular_mm']:.1f}"
        depth = "-" if row["distance_to_surface_mm"] is None else f"{row['distance_to_surface_mm']:.1f}"
        sure = "-" if row["mean_confidence"] is None else f"{row['mean_confidence']:.0%}"
        hu = "-" if row["mean_hu"] is None else f"{row['mean_hu']:.0f} ({row['sd_hu']:.0f})"
        place = ", ".join(f"{value:.1f}" for value in row["centroid_lps_mm"])
        marks = "  touches the edge" if row["touches_border"] else ""
        marks += "  below resolution" if row["below_resolution"] else ""
        marks += f"  segment {segment_words(row['segments'])}" if row["segments"] else ""
        lines.append(
            f"{row['id']:4d} {row['volume_ml']:9.3f} {size:>13} {row['slice']:5d} {depth:>8} {hu:>11} {sure:>5} "
            f"{row['match'] or '-':>8}  {place}{marks}"
        )
    lines += _severity_lines(table) if table["lesions"] else []
    if liver["segments_ml"]:
        lines += segment_lines(liver, table["segments_source"] or {}, table["resection"])
    lines += [f"missed: {len(table['missed'])} reference lesions"] if table["missed"] else []
    if table["calibration"] is not None and (why := table["calibration"]["reason"]):
        lines.append(f"how sure the network is, is uncalibrated: {why}")
    whys = dict.fromkeys(table["reasons"].values())
    lines += [f"not given: {', '.join(k for k, v in table['reasons'].items() if v == why)}: {why}" for why in whys]
    return "\n".join(lines)


def _severity_lines(table: Mapping[str, Any]) -> list[str]:
    """Where the tumors lie, and the published classes; the JSON names their sources."""
    spread, severity = table["spread"], table["severity"]
    place = f"tumor in the {', '.join(spread['quadrants'])} quadrant of the liver's box"
    if spread["segments"]:
        place += f", segments {', '.join(spread['segments'])}"
    apart = "" if spread["farthest_mm"] is None else f", centres up to {spread['farthest_mm']:.1f} mm apart"
    score = f"{severity['tumor_burden_score']:.1f} ({severity['tumor_burden_class']})"
    milan = "inside" if severity["milan_by_size_and_number"] else "outside"
    measurable, load = severity["measurable_lesions"], severity["hepatic_tumor_load"] or "unknown"
    return [
        place + apart,
        f"tumor burden score {score}, {milan} Milan by size and number, {measurable} measurable lesions, load {load}",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
