"""What an inferer reads from its input's meta, and how labels become its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, decollate_batch
from torch.utils.data import default_collate

from liver_pipeline.geometry.axes import AxisMap, axis_map
from liver_pipeline.labels import LabelMap


def case_meta(image: torch.Tensor) -> dict[str, Any]:
    """Return the meta of a batch of one case, as it was before it was collated; empty for a plain tensor."""
    if not isinstance(image, MetaTensor):
        return {}
    if image.is_batch:
        return dict(decollate_batch(image)[0].meta)
    return dict(image.meta)


def label_grid(meta: dict[str, Any], model_shape: Sequence[int], *, on_scan: bool = True) -> AxisMap:
    """Return the map between the model grid and the grid of the labels: the scan's, where the meta knows it."""
    if not on_scan or "scan_affine" not in meta:
        return axis_map(np.eye(4), model_shape, np.eye(4), model_shape)
    scan_shape = [int(n) for n in meta["scan_shape"]]
    return axis_map(np.asarray(meta["scan_affine"]), scan_shape, np.asarray(meta["affine"]), model_shape)


def as_result(
    labels: LabelMap,
    levels: LabelMap | None,
    record: dict[str, Any],
    meta: dict[str, Any],
    inputs: torch.Tensor,
    *,
    affine: Any,
) -> MetaTensor:
    """Wrap labels as a batch of one, without copying them; collated meta where the input's was.

    Args:
        labels: uint8 (X, Y, Z) on the grid that ``affine`` describes.
        levels: Probabilities in eight bits, (X, Y, Z, K - 1), if they are kept.
        record: What happened.
        meta: Of the case.
        inputs: What the inferer was given.
        affine: Voxel index to RAS mm, (4, 4).
    """
    kept: dict[str, Any] = {"affine": torch.as_tensor(np.asarray(affine), dtype=torch.float64), "inference": record}
    if "filename_or_obj" in meta:
        kept["filename_or_obj"] = str(meta["filename_or_obj"])
    result = MetaTensor(torch.from_numpy(labels[None, None]))
    batched = isinstance(inputs, MetaTensor) and bool(inputs.is_batch)
    result.meta = default_collate([kept]) if batched else kept
    if levels is not None:
        result.meta["probabilities"] = torch.from_numpy(levels[None])
    result.is_batch = batched
    return result
