"""What Couinaud's segments say of a liver: where each lesion lies, and what a resection would leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.boxes import NOWHERE, bounding_box
from liver_pipeline.labels import LabelMap

COUINAUD = tuple(range(9))  # 0 is outside, 1 to 8 are the segments

RESECTIONS = {  # of whole segments, named as in the Brisbane 2000 terminology
    "right": (5, 6, 7, 8),
    "left": (2, 3, 4),
    "left lateral": (2, 3),
    "right anterior": (5, 8),
    "right posterior": (6, 7),
}


def parse_segments(text: str) -> tuple[int, ...]:
    """Read a list such as ``5,6``.

    Raises:
        ValueError: If it names no segment, one twice, or one that there is not.

    Example:
        >>> parse_segments("6, 5")
        (5, 6)
    """
    words = [word.strip() for word in text.split(",")]
    known = {str(number): number for number in COUINAUD[1:]}
    if not all(word in known for word in words) or len(set(words)) < len(words):
        raise ValueError(f"segments to resect are different numbers from 1 to 8, such as 5,6; got '{text}'")
    return tuple(sorted(known[word] for word in words))


def segment_shares(values: npt.NDArray[Any]) -> dict[str, float]:
    """Return the share of a lesion's voxels in each segment that holds any; ``outside`` for none."""
    numbers, counts = np.unique(values, return_counts=True)
    return {str(int(n)) if n else "outside": float(c / len(values)) for n, c in zip(numbers, counts, strict=True)}


def segment_volumes(segments: npt.NDArray[Any], label_map: LabelMap, voxel_ml: float) -> dict[str, dict[str, float]]:
    """Return liver and tumor in each segment, in ml; ``outside`` is liver that no segment holds."""
    volumes = {}
    box = bounding_box(label_map) or NOWHERE
    segments, label_map = segments[box], label_map[box]
    for number in COUINAUD:
        place = segments == number
        liver = int(np.count_nonzero(place & (label_map >= 1))) * voxel_ml
        tumor = int(np.count_nonzero(place & (label_map == 2))) * voxel_ml
        if number or liver:
            volumes[str(number) if number else "outside"] = {"liver_with_tumor_ml": liver, "tumor_ml": tumor}
    return volumes


def after_resection(
    volumes: Mapping[str, Mapping[str, float]], lesions: Sequence[Mapping[str, float]], resected: Sequence[int]
) -> dict[str, Any]:
    """Return what is left of a liver once segments are taken out whole.

    Args:
        volumes: Of :func:`segment_volumes`. What lies ``outside`` all segments stays.
        lesions: Of each lesion, :func:`segment_shares`.
        resected: Numbers of segments.

    Returns:
        ``segments`` that are resected; ``left_ml``, liver without tumor that stays, and ``left_share`` of all liver
        without tumor, None where there is none; ``tumor_left_ml``; ``lesions_left``, ids of lesions that the
        resection does not take out whole.

    Example:
        >>> volumes = {"5": {"liver_with_tumor_ml": 300.0, "tumor_ml": 100.0},
        ...            "8": {"liver_with_tumor_ml": 610.0, "tumor_ml": 10.0}}
        >>> left = after_resection(volumes, [{"5": 1.0}, {"8": 1.0}], [5])
        >>> left["left_ml"], left["left_share"], left["tumor_left_ml"], left["lesions_left"]
        (600.0, 0.75, 10.0, [2])
    """
    gone = {str(number) for number in resected}
    healthy = {name: one["liver_with_tumor_ml"] - one["tumor_ml"] for name, one in volumes.items()}
    left, whole = sum(ml for name, ml in healthy.items() if name not in gone), sum(healthy.values())
    return {
        "segments": sorted(resected),
        "left_ml": left,
        "left_share": left / whole if whole else None,
        "tumor_left_ml": sum(one["tumor_ml"] for name, one in volumes.items() if name not in gone),
        "lesions_left": [number for number, shares in enumerate(lesions, start=1) if set(shares) - gone],
    }


def score_segments(found: LabelMap, reference: LabelMap, voxel_ml: float) -> dict[str, Any]:
    """Score an estimated Couinaud map.

    Args:
        found: 1 to 8, 0 outside.
        reference: The same, of the same shape.
        voxel_ml: Volume of a voxel.

    Returns:
        By segment ``dice`` (None where neither map has it), ``found_ml`` and ``reference_ml``; ``mean_dice``;
        ``named_right``: of the voxels that lie in a segment in both, the share that lies in the same one (None without
        any); ``left_off``: by how much the share of the liver that is left after each of ``RESECTIONS`` is off (None
        where a map is empty).
    """
    both = (found > 0) & (reference > 0)
    sizes = [np.bincount(labels.ravel(), minlength=len(COUINAUD))[1:] for labels in (found, reference)]
    right = np.bincount(found[found == reference], minlength=len(COUINAUD))[1:]
    dice = {
        str(i): 2 * int(common) / int(a + b) if a + b else None
        for i, common, a, b in zip(COUINAUD[1:], right, *sizes, strict=True)
    }
    shares = [size / size.sum() if size.sum() else None for size in sizes]
    known = [value for value in dice.values() if value is not None]
    return {
        "dice": dice,
        "mean_dice": float(np.mean(known)) if known else None,
        "named_right": float((found[both] == reference[both]).mean()) if both.any() else None,
        "found_ml": {str(i): float(n) * voxel_ml for i, n in zip(COUINAUD[1:], sizes[0], strict=True)},
        "reference_ml": {str(i): float(n) * voxel_ml for i, n in zip(COUINAUD[1:], sizes[1], strict=True)},
        "left_off": {name: _left_off(shares, numbers) for name, numbers in RESECTIONS.items()},
    }


def _left_off(shares: Sequence[npt.NDArray[np.float64] | None], resected: Sequence[int]) -> float | None:
    found, reference = (None if one is None else one[[i - 1 for i in resected]].sum() for one in shares)
    return None if found is None or reference is None else float(abs(found - reference))


def segment_words(shares: Mapping[str, float] | None) -> str:
    """Return where a lesion lies, largest share first.

    Example:
        >>> segment_words({"6": 0.25, "7": 0.75})
        '7 (75 %), 6 (25 %)'
        >>> segment_words({"4": 1.0})
        '4'
    """
    if not shares:
        return ""
    if len(shares) == 1:
        return next(iter(shares))
    order = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} ({100 * share:.0f} %)" for name, share in order)


def segment_lines(liver: Mapping[str, Any], source: Mapping[str, Any], left: Mapping[str, Any] | None) -> list[str]:
    """Return what a terminal shows of the segments: volumes, where the map comes from, what a resection leaves.

    Args:
        liver: With ``segments_ml``.
        source: See ``segments_source`` of :func:`liver_pipeline.evaluation.description.describe`.
        left: Of :func:`after_resection`, if one was asked for.
    """
    volumes = ", ".join(f"{name}: {one['liver_with_tumor_ml']:.0f}" for name, one in liver["segments_ml"].items())
    lines = [f"segments, ml with tumor  {volumes}"]
    if kept := source.get("kept_back"):
        lines.append(
            f"  ESTIMATED from the liver's shape by {source['weights']}, not from its vessels: mean Dice "
            f"{kept['mean_dice']:.2f} on {kept['livers']} livers kept back; look at the map before you use it"
        )
    if left is not None:
        numbers, lesions = (", ".join(map(str, left[key])) for key in ("segments", "lesions_left"))
        share = "-" if left["left_share"] is None else f"{100 * left['left_share']:.0f} %"
        lines.append(
            f"without segments {numbers}: {left['left_ml']:.0f} ml of liver without tumor left ({share}), "
            f"tumor left {left['tumor_left_ml']:.1f} ml" + (f" in lesions {lesions}" if lesions else "")
        )
    return lines
