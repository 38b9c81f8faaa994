"""How predicted and reference labels overlap."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform

from liver_pipeline.labels import LabelMap
from liver_pipeline.metrics.overlap import as_told, confusion_matrix


class CountOverlapd(MapTransform):
    """Add ``confusion``: voxels by reference class (rows) and predicted class (columns), int64 (K, K).

    Where the reference does not tell tumors from liver it has background and liver alone, (2, 2).

    Args:
        pred: Key of the predicted labels, (1, X, Y, Z).
        label: Key of the reference, on the same grid.
        num_classes: K, background included.
    """

    def __init__(self, pred: str = "pred", label: str = "label", *, num_classes: int) -> None:
        super().__init__([pred, label])
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the counts."""
        pred, label, tells_tumors = as_told(*(_as_labels(data[key]) for key in self.keys))
        n_classes = self.num_classes if tells_tumors else 2
        return {**data, "confusion": confusion_matrix(pred, label, n_classes=n_classes)}


def _as_labels(volume: torch.Tensor) -> LabelMap:
    return torch.as_tensor(volume)[0].cpu().numpy().astype(np.uint8)
