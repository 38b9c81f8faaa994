"""The label values, their names, and the array types of masks and label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

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

LabelValues: TypeAlias = Mapping[int, int | str]  # values on disk, and what each means: a key of MEANINGS


def says_labels(values: Any) -> bool:
    """Tell whether ``values`` are :data:`LabelValues` that name liver or tumor; others are background then."""
    if not isinstance(values, Mapping) or not any(values.values()):
        return False
    known = [(key, MEANINGS.get(value)) for key, value in values.items() if type(value) in (int, str)]
    return len(known) == len(values) and all(
        type(key) is int and 0 <= key <= LARGEST_VALUE and meaning is not None for key, meaning in known
    )


LABEL_VALUES_SAY: Final = (
    f"values of the files, 0 to {LARGEST_VALUE}, each with 1 (liver), 2 (tumor), 0 (background) or liver_or_tumor, "
    "such as {6: 1, 7: 2}, with a blank after the colons"
)
