"""How far tumors are spread over the liver, and published classes of their size, number and burden.

The classes are made for patients of one disease and say nothing of vessels, nodes or other organs: what stands here
follows from the mask alone. Diameters are longest diameters within a slice, as radiologists measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist, squareform

from liver_pipeline.geometry.boxes import bounding_box
from liver_pipeline.labels import LabelMap

SOURCES = {
    "tumor_burden_score": "Sasaki et al., Ann Surg 2018;267:132: root of (largest diameter in cm)^2 + number^2; "
    "low below 3, high from 9 on (colorectal metastases)",
    "milan_by_size_and_number": "Mazzaferro et al., N Engl J Med 1996;334:693: one tumor of at most 5 cm, or two or "
    "three of at most 3 cm (hepatocellular carcinoma; vessels and other organs are not looked at)",
    "measurable_lesions": "RECIST 1.1, Eisenhauer et al., Eur J Cancer 2009;45:228: longest diameter of at least 10 mm",
    "hepatic_tumor_load": "CLARINET, Caplin et al., N Engl J Med 2014;371:224: tumor as a share of the liver in steps "
    "of 10, 25 and 50 % (neuroendocrine tumors)",
}
SCORE_LOW, SCORE_HIGH = 3.0, 9.0
MILAN_ONE_MM, MILAN_MORE_MM, MILAN_COUNT = 50.0, 30.0, 3
MEASURABLE_MM = 10.0
LOADS = ((0.0, "0 %"), (0.10, "up to 10 %"), (0.25, "10-25 %"), (0.50, "25-50 %"), (1.0, "above 50 %"))
QUADRANTS = ("right lower", "left lower", "right upper", "left upper")  # by half along feet-head, then right-left


def tumor_severity(diameters_mm: Sequence[float], burden: float | None) -> dict[str, Any]:
    """Return the published classes for the lesions of one liver, with their sources.

    Args:
        diameters_mm: Longest diameter of each lesion.
        burden: Tumor as a share of liver with tumor; None where there is no liver.

    Returns:
        ``tumor_burden_score`` and its ``tumor_burden_class`` ("low", "medium", "high"), ``milan_by_size_and_number``
        (true or false), ``measurable_lesions``, ``hepatic_tumor_load``, and ``sources``. Without a lesion score and
        Milan are None; without a liver the load is.

    Example:
        >>> found = tumor_severity([40.0, 12.0, 8.0], 0.03)
        >>> round(found["tumor_burden_score"], 6), found["tumor_burden_class"], found["milan_by_size_and_number"]
        (5.0, 'medium', False)
    """
    count, largest = len(diameters_mm), max(diameters_mm, default=0.0)
    score = math.hypot(largest / 10.0, count) if count else None
    limit = MILAN_ONE_MM if count == 1 else MILAN_MORE_MM
    return {
        "tumor_burden_score": score,
        "tumor_burden_class": None if score is None else _score_class(score),
        "milan_by_size_and_number": count <= MILAN_COUNT and largest <= limit if count else None,
        "measurable_lesions": sum(diameter >= MEASURABLE_MM for diameter in diameters_mm),
        "hepatic_tumor_load": None if burden is None else next(name for most, name in LOADS if burden <= most),
        "sources": dict(SOURCES),
    }


def _score_class(score: float) -> str:
    return "low" if score < SCORE_LOW else "medium" if score < SCORE_HIGH else "high"


def tumor_spread(
    label_map: LabelMap, centroids_mm: Sequence[Sequence[float]], segments: Sequence[str] | None
) -> dict[str, Any]:
    """Return how tumor is spread over the liver.

    Args:
        label_map: Labels 0, 1, 2, shape (X, Y, Z), axes along right, anterior, superior.
        centroids_mm: Centre of each lesion in mm.
        segments: Couinaud segments that hold tumor; None where they are not known.

    Returns:
        ``quadrants`` of the liver's box (halved from right to left and from the feet to the head) that hold tumor, by
        name; ``segments`` as given; ``nearest_mm``: distance of each lesion's centre to the nearest other one, None for
        a single one; ``farthest_mm``: of the two centres farthest apart, None for fewer than two.

    Example:
        >>> label_map = np.ones((4, 2, 4), dtype=np.uint8)
        >>> label_map[0, 0, 0] = 2  # RAS: low indices are on the patient's left
        >>> tumor_spread(label_map, [[0.0, 0.0, 0.0]], None)["quadrants"]
        ['left lower']
    """
    box = bounding_box(label_map)
    touched: set[str] = set()
    if box is not None and len(centroids_mm):
        inside = label_map[box] == 2
        right = np.arange(inside.shape[0]) >= inside.shape[0] / 2
        upper = np.arange(inside.shape[2]) >= inside.shape[2] / 2
        columns = inside.any(axis=1)  # (right-left, feet-head)
        for name, place in (
            ("right lower", np.ix_(right, ~upper)), ("left lower", np.ix_(~right, ~upper)),
            ("right upper", np.ix_(right, upper)), ("left upper", np.ix_(~right, upper)),
        ):  # fmt: skip
            if columns[place].any():
                touched.add(name)
    several = len(centroids_mm) > 1
    apart = squareform(pdist(np.asarray(centroids_mm, dtype=np.float64))) if several else None
    nearest = [None] * len(centroids_mm) if apart is None else (apart + np.diag([np.inf] * len(apart))).min(axis=1)
    return {
        "quadrants": [name for name in QUADRANTS if name in touched],
        "segments": None if segments is None else list(segments),
        "nearest_mm": [None if value is None else float(value) for value in nearest],
        "farthest_mm": None if apart is None else float(apart.max()),
    }
