"""The probabilities of a mask, calibrated by its run's validation cases where these know how; masks stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.evaluation.intervals import UNCALIBRATED, gap
from liver_pipeline.evaluation.pairing import CaseError
from liver_pipeline.evaluation.run_quality import RunQuality
from liver_pipeline.geometry.affines import grids_match
from liver_pipeline.geometry.boxes import Box, bounding_box
from liver_pipeline.io.patient_axes import on_grid
from liver_pipeline.io.probabilities import LEVELS, read_probabilities, region_probability
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import Mask
from liver_pipeline.metrics.probabilities import calibration, grown, probability_figures
from liver_pipeline.metrics.temperature import LevelCounts, calibrated_levels, level_counts

PROBABILITY_ROUNDING = 0.005  # liver and tumor, each in eight bits, may add up to 256/255


def confidence_record(quality: RunQuality, *, weights_sha256: str, config_sha256: str) -> dict[str, Any]:
    """Return what a mask's record says of its confidence: ``temperature``, or None and the ``reason``."""
    why = gap(quality, weights_sha256=weights_sha256, config_sha256=config_sha256)
    why = why or ("NOT_TUNED" if quality.temperature is None else "")
    reason = {"code": why, "message": UNCALIBRATED[why]} if why else None
    return {"temperature": None if why else quality.temperature, "reason": reason}


def probability_case(classes: Mapping[str, Scan], label: Scan, record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Score probabilities inside the reference liver and 10 mm around it.

    Args:
        classes: Result of :func:`~liver_pipeline.io.probabilities.read_probabilities`.
        label: The reference.
        record: What ``predict`` wrote beside the mask; where it knows a temperature, it is scored, too.

    Returns:
        By region AUC, Brier score, ECE, ROC and reliability; see
        :func:`~liver_pipeline.metrics.probabilities.probability_figures`. ``calibrated_ece`` and
        ``calibrated_reliability`` are those with the temperature.

    Raises:
        CaseError: PROBABILITY_GRID if they do not lie on the reference's grid, PROBABILITY_RANGE if a value is outside
            [0, 1].
    """
    near = near_liver(classes, label)
    figures = {}
    for name, real in (("liver", near.truth >= 1), ("tumor", near.truth == 2)):
        probability = region_probability(near.classes, name, near.box)
        if probability is None:
            continue
        low, high = float(probability.min()), float(probability.max())
        if not (low >= 0 and high <= 1 + PROBABILITY_ROUNDING):  # not a number fails both
            raise CaseError("PROBABILITY_RANGE", f"{_file(classes)}: values {low:g} to {high:g}; expected 0 to 1")
        figures[name] = probability_figures(np.minimum(probability, 1.0), real, near.region)
        if (better := calibrated(near.classes, record)) is not None:
            probability = region_probability(better, name, near.box)
            assert probability is not None
            found = calibration(np.minimum(probability, 1.0)[near.region].astype(np.float64), real[near.region])
            figures[name] |= {"calibrated_ece": found.ece, "calibrated_reliability": found.as_json()}
    return figures


@dataclass(frozen=True)
class NearLiver:
    """Probabilities of a case with its reference: ``truth`` and ``region`` are cut to ``box``, ``classes`` are not."""

    classes: Mapping[str, Scan]
    box: Box
    truth: npt.NDArray[Any]
    region: Mask


def near_liver(classes: Mapping[str, Scan], label: Scan) -> NearLiver:
    """Find where probabilities count: inside the reference liver and 10 mm around it.

    Raises:
        CaseError: PROBABILITY_GRID if they do not lie on the reference's grid, NO_LIVER without liver.
    """
    one = next(iter(classes.values()))
    if not grids_match(label.array.shape, label.affine, one.array.shape, one.affine):
        found = f"shape {one.array.shape}; expected the grid of the reference"
        raise CaseError("PROBABILITY_GRID", f"{_file(classes)}: {found}")
    region = grown(label.array >= 1, label.spacing)
    box = bounding_box(region)
    if box is None:
        raise CaseError("NO_LIVER", f"{label.path}: the reference holds no liver (labels 1 and 2)")
    return NearLiver(classes, box, label.array[box], region[box])


def count_case(path: Path, label: Scan, num_classes: int) -> LevelCounts:
    """Count levels and classes of one case inside its reference liver and 10 mm around it.

    Args:
        path: Probabilities that ``predict`` wrote.
        label: The reference.
        num_classes: With 2, tumor counts as liver.

    Raises:
        IntakeError: If the file cannot be read.
        CaseError: See :func:`near_liver`.
    """
    near = near_liver(read_probabilities(path), label)
    levels = [scan.array[near.box][near.region] for scan in near.classes.values()]
    truth = np.minimum(near.truth[near.region], num_classes - 1).astype(np.uint8)
    return level_counts(np.stack(levels, axis=-1), truth)


def calibrated(classes: Mapping[str, Scan], record: Mapping[str, Any] | None) -> dict[str, Scan] | None:
    """Return the probabilities of a file with the temperature of the mask's record.

    Args:
        classes: Result of :func:`~liver_pipeline.io.probabilities.read_probabilities`, or of
            :func:`~liver_pipeline.io.probabilities.classes_of` for what the run has just given.
        record: What ``predict`` wrote beside the mask.

    Returns:
        The same in eight bits; None where the record knows no temperature, or the file is not the one that it names.
    """
    temperature = (record or {}).get("confidence", {}).get("temperature")
    told, one = (record or {}).get("probabilities") or {}, next(iter(classes.values()))
    if temperature is None or one.sha256 not in ("", told.get("sha256")):
        return None
    table = calibrated_levels(temperature, len(classes) + 1)
    liver = classes["liver"].array
    new = table[liver, classes["tumor"].array if "tumor" in classes else 0]
    return {
        name: replace(scan, array=new[..., k], slope=1.0 / LEVELS, intercept=0.0)
        for k, (name, scan) in enumerate(classes.items())
    }


def shown_levels(
    scan: Scan, classes: Mapping[str, Scan], record: Mapping[str, Any] | None
) -> dict[str, npt.NDArray[np.uint8]] | None:
    """Return probabilities as pictures show them: calibrated where the record knows how, along RAS axes.

    Args:
        scan: On whose grid they lie.
        classes: See :func:`calibrated`.
        record: What ``predict`` wrote beside the mask.

    Returns:
        round(255 p) by class, shape (X, Y, Z); None for those of other tools, which are not in eight bits.

    Raises:
        ValueError: If they lie on another grid.
    """
    known = calibrated(classes, record) or classes
    if any(one.array.dtype != np.uint8 for one in known.values()):
        return None
    return {name: array for name, one in known.items() if (array := on_grid(scan, one)) is not None}


def _file(classes: Mapping[str, Scan]) -> Path:
    return Path(next(iter(classes.values())).path)


def why_uncalibrated(record: Mapping[str, Any] | None) -> str:
    """Return why confidence is not calibrated, in words."""
    reason = (record or {}).get("confidence", {}).get("reason")
    return reason["message"] if reason else "no record beside the mask knows how to calibrate these probabilities"
