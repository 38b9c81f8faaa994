"""The label values, their names, and the types of arrays: masks, label maps, values with their scale."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

LIVER: Final = 1
TUMOR: Final = 2
CLASS_NAMES: Final = ("background", "liver", "tumor")
LIVER_OR_TUMOR: Final = 3  # in references alone: liver whose tumors were not outlined, so that each voxel may be either
MEANINGS: Final[Mapping[int | str, int]] = {0: 0, LIVER: LIVER, TUMOR: TUMOR, "liver_or_tumor": LIVER_OR_TUMOR}
LARGEST_VALUE: Final = 65535  # of a label map on disk

Mask: TypeAlias = npt.NDArray[np.bool_]  # one class, (X, Y, Z)
LabelMap: TypeAlias = npt.NDArray[np.uint8]  # all classes, (X, Y, Z)
IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
Spacing: TypeAlias = Sequence[float]  # mm along X, Y, Z

LabelValues: TypeAlias = Mapping[Any, int | str]  # values on disk, in JSON as text, and what each means


class Scaled(NamedTuple):
    """A volume as it is stored: HU, or probabilities, are slope * array + intercept."""

    array: npt.NDArray[Any]
    slope: float = 1.0
    intercept: float = 0.0

    def values(self, part: npt.NDArray[Any]) -> FloatArray:
        """Return what a part of the array stands for."""
        return part.astype(np.float64) * self.slope + self.intercept


def meanings(values: Any) -> dict[int, int] | None:
    """Return the class of each value on disk; None if ``values`` say no such thing, or name neither liver nor tumor.

    Args:
        values: :data:`LabelValues`: whole numbers from 0 to :data:`LARGEST_VALUE`, each with a key of :data:`MEANINGS`.
    """
    if not isinstance(values, Mapping) or not all(type(part) in (int, str) for pair in values.items() for part in pair):
        return None
    said = [(label_value(value), MEANINGS.get(meaning)) for value, meaning in values.items()]
    known = {number: meaning for number, meaning in said if 0 <= number <= LARGEST_VALUE and meaning is not None}
    return known if len(known) == len(values) and any(known.values()) else None


def label_value(value: int | str) -> int:
    """Return the value of a label map as it is written, a number or a text of few digits; -1 for any other text."""
    if isinstance(value, int):
        return value
    return int(value) if re.fullmatch("[0-9]{1,5}", value) else -1


LABEL_VALUES_SAY: Final = (
    f"values of the files, 0 to {LARGEST_VALUE}, each with 1 (liver), 2 (tumor), 0 (background) or liver_or_tumor, "
    "such as {6: 1, 7: 2}, with a blank after the colons"
)
