"""Read and score one case: grids checked, axes turned, every failure a code and a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.evaluation.confidence import probability_case, shown_levels
from liver_pipeline.evaluation.lesion_description import centroid_mm
from liver_pipeline.evaluation.pairing import CaseError, Failure, Pair
from liver_pipeline.geometry.affines import GRID_CLOSE, GRID_SAME, corner_shift_mm, spacing_of
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.formats import read_stored
from liver_pipeline.io.patient_axes import to_ras
from liver_pipeline.io.probabilities import read_probabilities
from liver_pipeline.io.records import record_of
from liver_pipeline.io.volumes import Scan, read_label_map, read_scan
from liver_pipeline.labels import Scaled
from liver_pipeline.metrics.cases import case_figures
from liver_pipeline.metrics.lits import official_case, official_lesions
from liver_pipeline.metrics.overlap import TUMORS, WHOLE_LIVER, Counts, as_told, confusion_matrix, overlap_figures
from liver_pipeline.metrics.untold import without_tumors
from liver_pipeline.visualize.pictures import case_picture, lesion_pictures

ACCEPTED = ("FEW_SLICES", "THICK_SLICE")  # they hinder a network, not a figure


def score_pair(
    pair: Pair,
    *,
    protocol: str,
    min_lesion_ml: float = 0.0,
    liver_only: bool = False,
    pictures: bool = False,
    threads: int = 1,
) -> dict[str, Any] | Failure:
    """Read and score one case; whatever is wrong with it comes back as a failure.

    Returns:
        Figures (see :func:`score_as_meant`, :func:`score_officially`), with ``pictures`` also those of
        :func:`~liver_pipeline.visualize.pictures.lesion_pictures` under that key.
    """
    try:
        if protocol == "lits-official":
            return score_officially(pair)
        lits = protocol == "lits"
        return score_as_meant(
            pair, lits=lits, min_lesion_ml=min_lesion_ml, liver_only=liver_only, pictures=pictures, threads=threads
        )
    except CaseError as error:
        return Failure(error.code, error.detail)
    except IntakeError as error:
        return Failure(error.code, f"{error.path}: {' '.join(finding_of(error).detail.split())}")
    except MemoryError:
        return Failure("OUT_OF_MEMORY", f"{pair.label}: not enough memory for this case; use fewer workers")
    except Exception as error:  # a case must never stop the others; the line says what to report
        return Failure("SCORING_FAILED", f"{pair.pred}: {type(error).__name__}: {' '.join(str(error).split())}")


def score_as_meant(
    pair: Pair,
    *,
    lits: bool,
    min_lesion_ml: float = 0.0,
    liver_only: bool = False,
    pictures: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """Score one case of the protocols ``lits`` and ``plain``.

    With ``liver_only`` tumor counts as liver in both maps; so it does where the reference does not tell the two apart
    (``pair.label_map``), and figures of tumors are None then.

    With ``lits`` the lesion counts of the challenge's program stand beside ours (``lits_official``). Both maps are
    turned to the axes nearest to right, anterior, superior, so that neither axis order nor flips change a
    figure. Spacing is that of the reference's affine.

    Raises:
        IntakeError: If a file cannot be used.
        CaseError: LABEL_GRID_MISMATCH if the grids differ, NO_LIVER if the reference holds no liver.
    """
    pred, label, tells_tumors = _read_pair(pair, liver_only)
    warnings = [f"{path.name}: {f.code}: {f.detail}" for path, scan in ((pair.label, label), (pair.pred, pred))
                for f in scan.findings if f.code not in ACCEPTED]  # fmt: skip
    warnings += _grid_warnings(pair, pred, label)
    if not label.array.any():
        why = "; ".join(found.detail for found in label.findings if found.code.startswith("LABEL_"))
        raise CaseError("NO_LIVER", f"{pair.label}: {why}; nothing to score")
    turned_label, affine = to_ras(label)
    turned_pred, _ = to_ras(pred, like=label)
    figures = case_figures(
        turned_pred, turned_label, spacing_of(affine), lits=lits, min_lesion_ml=min_lesion_ml, threads=threads
    )
    classes, record = _probabilities(pair, pred)
    if classes is not None:
        figures["probabilities"] = probability_case(classes, label, record)
    for lesion in figures["lesion_list"]:
        lesion.update(centroid_mm(lesion["centroid_index"], affine))
    result = {"shape_ras": list(turned_label.shape), **figures, "warnings": warnings}
    if pair.label_map is not None:
        result["label_map"] = {str(value): meaning for value, meaning in pair.label_map.items()}
    if not tells_tumors:
        result = without_tumors(result)
    elif lits:
        zooms = [float(size) for size in label.header.get_zooms()[:3]]
        result["lits_official"] = official_lesions(pred.array, label.array, zooms)
    if pictures:
        scan = None if pair.image is None else _on_grid_of(label, pair.image)
        result["pictures"] = lesion_pictures(
            turned_pred, turned_label, figures["spacing"], figures["lesion_list"], scan
        )
    return result


def pair_picture(pair: Pair, *, liver_only: bool = False) -> dict[str, Any]:
    """Draw a case that was scored; see :func:`~liver_pipeline.visualize.pictures.case_picture`.

    Raises:
        IntakeError: If a label map, or a file of probabilities, cannot be read.
    """
    pred, label, _ = _read_pair(pair, liver_only)
    classes, record = _probabilities(pair, pred)
    levels = None if classes is None else shown_levels(label, classes, record)
    scan = None if pair.image is None else _on_grid_of(label, pair.image)
    (there, affine), (here, _) = to_ras(label), to_ras(pred, like=label)
    return case_picture(here, there, spacing_of(affine), scan, levels)


def _read_pair(pair: Pair, liver_only: bool) -> tuple[Scan, Scan, bool]:
    """Return prediction and reference as they are compared, and whether the reference tells tumors from liver.

    Raises:
        IntakeError: If one cannot be read.
    """
    label = read_label_map(pair.label, label_map=pair.label_map, accept=ACCEPTED)
    pred = read_label_map(pair.pred, accept=ACCEPTED)
    here, there, tells_tumors = as_told(pred.array, label.array)
    if liver_only:
        here, there = np.minimum(here, 1), np.minimum(there, 1)
    return replace(pred, array=here), replace(label, array=there), tells_tumors


def _probabilities(pair: Pair, pred: Scan) -> tuple[dict[str, Scan] | None, Mapping[str, Any] | None]:
    """Return the probabilities of a case, where there are any, and the record of its mask.

    Raises:
        IntakeError: If they cannot be read.
    """
    if pair.probability is None:
        return None, None
    return read_probabilities(pair.probability), record_of(pair.pred, pred.sha256)


def _on_grid_of(label: Scan, path: Path) -> Scaled | None:
    """The CT behind the pictures along RAS axes; None if it cannot be read or lies on another grid."""
    try:
        scan = read_scan(path, modality="any", accept=ACCEPTED)
    except IntakeError:
        return None
    if scan.array.shape != label.array.shape:
        return None
    return Scaled(to_ras(scan, like=label)[0], scan.slope, scan.intercept)


def _grid_warnings(pair: Pair, pred: Scan, label: Scan) -> list[str]:
    """Compare the grids: a tenth of the smallest voxel edge is silent, up to a half a warning, beyond an error."""
    code = "LABEL_GRID_MISMATCH"
    if pred.array.shape != label.array.shape:
        raise CaseError(code, f"{pair.pred}: shape {pred.array.shape}, reference {label.array.shape}; resample it")
    shift, edge = corner_shift_mm(label.array.shape, pred.affine, label.affine), min(label.spacing)
    if shift <= GRID_SAME * edge:
        return []
    detail = f"{pair.pred}: lies up to {shift:.3g} mm off its reference (smallest voxel edge {edge:.3g} mm)"
    if shift > GRID_CLOSE * edge:
        raise CaseError(code, f"{detail}; resample it to the reference's grid")
    return [f"{code}: {detail}"]


def score_officially(pair: Pair) -> dict[str, Any]:
    """Score one case as the LiTS program reads it: file axis order, truncated to 8 bits, zooms of the reference.

    Returns:
        ``official`` (the program's figures) and ``figures`` (Dice, IoU, ... of liver and tumor).

    Raises:
        IntakeError: If a file is damaged, or not three-dimensional.
        CaseError: If a file cannot be read, or the shapes differ; NO_LIVER for a reference without liver, where the
            program divides by zero.
    """
    pred, _ = _read_as_int8(pair.pred)
    label, spacing = _read_as_int8(pair.label)
    if pred.shape != label.shape:
        raise CaseError("LABEL_GRID_MISMATCH", f"{pair.pred}: shape {pred.shape}, reference {label.shape}")
    if not (label >= 1).any():
        raise CaseError("NO_LIVER", f"{pair.label}: the reference holds no liver (labels >= 1)")
    confusion = confusion_matrix(_plain_labels(pred), _plain_labels(label))
    figures = {
        region: overlap_figures(Counts.of_region(confusion, classes))
        for region, classes in (("liver", WHOLE_LIVER), ("tumor", TUMORS))
    }
    return {"official": official_case(pred, label, spacing), "figures": figures}


def _read_as_int8(path: Path) -> tuple[npt.NDArray[np.int8], tuple[float, float, float]]:
    """Read as the program does: scaled values truncated towards zero, then wrapped to signed 8 bits; and the zooms.

    Raises:
        IntakeError: If the file is damaged, or not three-dimensional.
        CaseError: READ_FAILED, or NON_FINITE.
    """
    try:
        stored = read_stored(path, labels=True)
    except OSError as error:
        raise CaseError("READ_FAILED", f"{path}: {error}") from error
    values = stored.array
    if (stored.slope, stored.intercept) != (1.0, 0.0):
        values = stored.slope * values.astype(np.float64) + stored.intercept
    if not np.isfinite(values).all():
        raise CaseError("NON_FINITE", f"{path}: voxels are nan or infinite")
    if values.dtype.kind == "f":
        values = values.astype(np.int64)
    x, y, z = spacing_of(stored.affine) if stored.header is None else stored.header.get_zooms()[:3]
    return values.astype(np.int8), (float(x), float(y), float(z))


def _plain_labels(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Labels 0, 1, 2 of a map with any values: 2 is tumor, every other value from 1 is liver."""
    return np.where(values == 2, np.uint8(2), (values >= 1).astype(np.uint8))
