"""What streaming must equal, without any bound on memory: for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference

from liver_pipeline.inferers.members import Network, members_of
from liver_pipeline.inferers.results import case_meta, label_grid
from liver_pipeline.inferers.upsampling import softmax, upsample_whole
from liver_pipeline.labels import LabelMap


def labels_unbounded(
    inputs: torch.Tensor,
    network: Network | Sequence[Network],
    roi_size: Sequence[int],
    sw_batch_size: int = 1,
    overlap: float | Sequence[float] = 0.5,
    *,
    mode: str = "gaussian",
    padding_mode: str = "constant",
    cval: float = 0.0,
) -> LabelMap:
    """Return what a ``StreamingInferer`` must: whole volumes, MONAI's sliding window, upsampling, argmax.

    Memory grows with the scan, many floats for each of its voxels.

    Args:
        inputs: As for StreamingInferer.
        network: As for StreamingInferer.
        roi_size: As for StreamingInferer.
        sw_batch_size: As for StreamingInferer.
        overlap: As for StreamingInferer.
        mode: As for StreamingInferer.
        padding_mode: As for StreamingInferer.
        cval: As for StreamingInferer.

    Returns:
        uint8 labels (X, Y, Z) on the scan's grid.
    """
    image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
    members = members_of(network)
    mean: torch.Tensor | None = None
    with torch.inference_mode():
        for member in members:
            logits = sliding_window_inference(
                image, roi_size, sw_batch_size, member, overlap, mode, padding_mode=padding_mode, cval=cval
            )
            assert isinstance(logits, torch.Tensor)
            probabilities = softmax(logits, dim=1)
            mean = probabilities if mean is None else mean + probabilities
    assert mean is not None
    grid = label_grid(case_meta(inputs), tuple(image.shape[2:]))
    return upsample_whole((mean / len(members) if len(members) > 1 else mean)[0], grid)
