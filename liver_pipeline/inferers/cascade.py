"""Inference of a cascade: the liver on a coarse grid, its box, then liver and tumors inside it on the fine grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from liver_pipeline.geometry.affines import geometry, spacing_of
from liver_pipeline.geometry.axes import axis_map
from liver_pipeline.geometry.boxes import Box, box_corners, box_on_scan, whole_box, widen
from liver_pipeline.inferers.liver import Found, Limits, find_liver
from liver_pipeline.inferers.members import Network
from liver_pipeline.inferers.progress import progress_part
from liver_pipeline.inferers.results import as_result, case_meta
from liver_pipeline.labels import LabelMap
from liver_pipeline.transforms.liver_box import cut_out

logger = logging.getLogger(__name__)

Preprocessing = Callable[[dict[str, Any]], Mapping[Any, Any]]
StageInferer = Callable[[torch.Tensor, Network], MetaTensor]

LIVER_SHARE = 0.15  # of the work, as the first network's progress is told


class CascadeInferer(Inferer):
    """Find the liver with one network, and label what lies in its box with another; two networks, one inferer.

    The liver is the largest component of what the first network finds on its coarse grid. Where there is none, or none
    that ``limits`` allow, the second network sees the whole scan, and the record says why: a first stage that fails
    must not end as a mask without tumors. The second network alone decides on liver and tumor inside the box; outside
    is background, so a piece of liver that is not connected to the largest one, and farther from its box than the
    margin, is lost.

    Memory: the fine grid exists inside the box only; besides it one label map of the box and one of the scan.
    Probabilities, where ``tumor_inferer`` keeps them, are those of the second network, 0 outside the box.

    Args:
        liver_network: The first network; the second one is given with each call.
        liver_preprocessing: Takes ``{"image": (1, X, Y, Z)}`` as stored, gives the first network's grid and values.
        liver_inferer: Gives labels on that grid; a ``StreamingInferer`` with ``grid="model"``.
        tumor_preprocessing: The same for the second network.
        tumor_inferer: Gives labels on the grid of the part of the scan that it was given, ``grid="scan"``.
        margin_mm: Added to the liver's box on each side.
        limits: What a plausible liver is.

    The result's meta holds affine, filename_or_obj and ``inference``: the record of the second stage, that of the first
    under names that begin with ``liver_``, and ``cascade``: ``box`` (voxels along the scan's axes, the second number
    behind the last), ``fallback`` (why it is the whole scan, "" if it is the liver's), ``liver_ml`` and ``liver_share``
    of the largest component, and ``liver_grid``; ``model_grid`` is that of the second stage.
    """

    def __init__(
        self,
        *,
        liver_network: Network,
        liver_preprocessing: Preprocessing,
        liver_inferer: StageInferer,
        tumor_preprocessing: Preprocessing,
        tumor_inferer: StageInferer,
        margin_mm: float,
        limits: Limits,
    ) -> None:
        super().__init__()
        self.liver_network = liver_network
        self.liver_preprocessing, self.tumor_preprocessing = liver_preprocessing, tumor_preprocessing
        self.liver_inferer, self.tumor_inferer = liver_inferer, tumor_inferer
        self.margin_mm = margin_mm
        self.limits = limits

    @property
    def probabilities(self) -> bool:
        """Whether ``tumor_inferer`` keeps probabilities."""
        return bool(getattr(self.tumor_inferer, "probabilities", False))

    @probabilities.setter
    def probabilities(self, kept: bool) -> None:
        self.tumor_inferer.probabilities = kept  # type: ignore[attr-defined]  # those that keep any have it

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> MetaTensor:
        """Segment one case.

        Args:
            inputs: The scan as it is stored, (1, 1, X, Y, Z), with the meta of ``LoadScand``.
            network: The second network.
            args: Not used.
            kwargs: Not used.

        Returns:
            Labels, uint8, (1, 1, X, Y, Z), on the scan's grid, on the CPU.

        Raises:
            ValueError: If there is more than one case.
        """
        if inputs.ndim != 5 or tuple(inputs.shape[:2]) != (1, 1):
            raise ValueError(f"expected one scan of shape (1, 1, X, Y, Z), got {tuple(inputs.shape)}")
        meta = case_meta(inputs)
        scan = MetaTensor(inputs.as_tensor()[0] if isinstance(inputs, MetaTensor) else inputs[0], meta=meta)
        with progress_part(0.0, LIVER_SHARE):
            found, box, record = self._find_box(scan)
        with progress_part(LIVER_SHARE, 1.0):
            inside, tumor_record = _run(self.tumor_preprocessing, self.tumor_inferer, cut_out(scan, box), network)[1:]
        levels = inside.meta.pop("probabilities", None)
        shape = tuple(scan.shape[1:])
        labels = _in_place(inside.numpy()[0, 0], box, shape)
        painted = None if levels is None else _in_place(levels.numpy()[0], box, shape)
        cascade = {
            "box": box_corners(box),
            "fallback": found.doubt,
            "liver_ml": found.liver_ml,
            "liver_share": found.share,
            "liver_grid": record.pop("model_grid"),
        }
        told = {**tumor_record, **{f"liver_{key}": value for key, value in record.items()}, "cascade": cascade}
        return as_result(labels, painted, told, meta, inputs, affine=meta["affine"])

    def _find_box(self, scan: MetaTensor) -> tuple[Found, Box, dict[str, Any]]:
        """Run the first stage; return what it found, the box that the second one gets, and the record."""
        image, labels, record = _run(self.liver_preprocessing, self.liver_inferer, scan, self.liver_network)
        shape, affine = scan.shape[1:], np.asarray(scan.affine, dtype=np.float64)
        coarse = np.asarray(image.affine, dtype=np.float64)
        found = find_liver(labels.numpy()[0, 0], spacing_of(coarse), self.limits)
        if found.box is None:
            logger.warning("%s: %s; the tumor stage sees the whole scan", scan.meta["filename_or_obj"], found.doubt)
            return found, whole_box(shape), record
        on_scan = box_on_scan(found.box, axis_map(affine, shape, coarse, labels.shape[2:]))
        return found, widen(on_scan, self.margin_mm, spacing_of(affine), shape), record


def _in_place(part: LabelMap, box: Box, shape: tuple[int, ...]) -> LabelMap:
    """Return an array of the scan's shape (and further axes) that holds ``part`` in the box and 0 elsewhere."""
    if part.shape[:3] == shape:
        return part
    painted: LabelMap = np.zeros((*shape, *part.shape[3:]), dtype=part.dtype, order="F")
    painted[box] = part
    return painted


def _run(
    preprocessing: Preprocessing, inferer: StageInferer, scan: MetaTensor, network: Network
) -> tuple[MetaTensor, MetaTensor, dict[str, Any]]:
    """Run one stage on (a part of) a scan; return the image that its network saw, labels, and the record."""
    image = preprocessing({"image": scan})["image"]
    labels = inferer(image.unsqueeze(0), network)
    grid = geometry(image.shape[1:], np.asarray(image.affine))
    return image, labels, {**labels.meta["inference"], "model_grid": grid}
