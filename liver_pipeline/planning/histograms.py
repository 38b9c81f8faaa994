"""Histograms of voxel values: exact percentiles of whole data sets in little memory, one pass over each volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FURTHEST = 1 << 17  # Hounsfield units beyond it, in either direction, count as it: all CT then has bins of one width
MAX_WHOLE_SPAN = 1 << 16  # whole values without a common scale that reach further get wider bins, as fractions do
FRACTION_BINS = 4096


@dataclass(frozen=True)
class Histogram:
    """How often each value occurs.

    Attributes:
        low: Value of the first bin.
        width: Distance between the values of neighbouring bins; 1 for whole values.
        counts: Voxels in each bin, int64 (n,); neither first nor last is 0, and n is 0 for a region without voxels.
    """

    low: float
    width: float
    counts: npt.NDArray[np.int64]

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """Value of each bin, shape (n,)."""
        return self.low + self.width * np.arange(len(self.counts), dtype=np.float64)

    @property
    def total(self) -> int:
        """Number of voxels."""
        return int(self.counts.sum())

    def percentile(self, percent: float) -> float:
        """Return the smallest value that at least ``percent`` % of the voxels do not exceed; there must be voxels."""
        reached = np.cumsum(self.counts)
        wanted = max(1, int(np.ceil(reached[-1] * percent / 100.0 - 1e-9)))
        return float(self.values[np.searchsorted(reached, wanted)])

    def mean(self) -> float:
        """Mean value; there must be voxels."""
        return float(np.average(self.values, weights=self.counts))

    def sd(self) -> float:
        """Standard deviation over the voxels (divided by n); there must be voxels."""
        return float(np.sqrt(np.average((self.values - self.mean()) ** 2, weights=self.counts)))

    def __add__(self, other: Histogram) -> Histogram:
        """Pool two regions.

        Raises:
            ValueError: If the bins differ in width: values without a common scale cannot be pooled.
        """
        if not (len(self.counts) and len(other.counts)):
            return self if len(self.counts) else other
        if self.width != other.width:
            raise ValueError(f"bins of {self.width} and {other.width} cannot be pooled")
        first, second = sorted((self, other), key=lambda one: one.low)
        shift = round((second.low - first.low) / self.width)
        counts = np.zeros(max(len(first.counts), shift + len(second.counts)), dtype=np.int64)
        counts[: len(first.counts)] += first.counts
        counts[shift : shift + len(second.counts)] += second.counts
        return Histogram(first.low, self.width, counts)

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {"low": self.low, "width": self.width, "counts": self.counts.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Histogram:
        """Return what :meth:`as_json` gave."""
        return cls(content["low"], content["width"], np.asarray(content["counts"], dtype=np.int64))


EMPTY_HISTOGRAM = Histogram(0.0, 1.0, np.zeros(0, dtype=np.int64))


def label_histograms(
    array: npt.NDArray[Any],
    label_map: npt.NDArray[np.uint8],
    n_labels: int,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    whole: bool = True,
) -> list[Histogram]:
    """Count the values under each label, plane by plane, so that no volume is copied.

    Args:
        array: Stored values, shape (X, Y, Z).
        label_map: Labels below ``n_labels``, same shape.
        n_labels: Number of labels.
        slope: value = slope * stored + intercept.
        intercept: See ``slope``.
        whole: Round values to whole numbers (Hounsfield units), so that those of any volumes can be pooled; otherwise
            fractions are kept to 1/4096 of their range.

    Returns:
        One histogram a label, all of the same bin width.
    """
    ends = sorted(slope * float(edge) + intercept for edge in (array.min(), array.max()))
    span = ends[1] - ends[0]
    is_whole = array.dtype.kind in "iub" and float(slope).is_integer() and float(intercept).is_integer()
    width = 1.0 if whole or (is_whole and span < MAX_WHOLE_SPAN) else (span / FRACTION_BINS or 1.0)
    low, high = (float(np.rint(np.clip(edge, -FURTHEST, FURTHEST))) for edge in ends) if whole else ends
    n_bins = int(np.rint((high - low) / width)) + 1
    counts = np.zeros(n_labels * n_bins, dtype=np.int64)
    for z in range(array.shape[-1]):
        place = np.rint(array[:, :, z] * (slope / width) + (intercept - low) / width)
        place = np.clip(place, 0, n_bins - 1).astype(np.int64)
        place += label_map[:, :, z].astype(np.int64) * n_bins
        counts += np.bincount(place.ravel(order="K"), minlength=len(counts))
    return [_trimmed(low, width, part) for part in counts.reshape(n_labels, n_bins)]


def _trimmed(low: float, width: float, counts: npt.NDArray[np.int64]) -> Histogram:
    filled = np.flatnonzero(counts)
    if not len(filled):
        return EMPTY_HISTOGRAM
    first, last = int(filled[0]), int(filled[-1])
    return Histogram(low + width * first, width, counts[first : last + 1].copy())
