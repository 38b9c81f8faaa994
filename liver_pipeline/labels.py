"""The label values, their names, and the array types of masks and label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

LIVER: Final = 1
TUMOR: Final = 2
CLASS_NAMES: Final = ("background", "liver", "tumor")

Mask: TypeAlias = npt.NDArray[np.bool_]  # one class, (X, Y, Z)
LabelMap: TypeAlias = npt.NDArray[np.uint8]  # all classes, (X, Y, Z)
IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
Spacing: TypeAlias = Sequence[float]  # mm along X, Y, Z
