"""Painting labels plane by plane equals interpolating whole channels, ties and noise included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from liver_pipeline.geometry.axes import AxisMap, axis_map
from liver_pipeline.geometry.grids import model_grid_for_spacing
from liver_pipeline.geometry.resampling import interpolate
from liver_pipeline.inferers.canvas import MIXED, LabelCanvas, clear_labels
from liver_pipeline.inferers.device_canvas import DeviceCanvas
from liver_pipeline.inferers.upsampling import argmax, softmax, upsample_whole
from liver_pipeline.io.probabilities import LEVELS


def grid_between(scan_shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> AxisMap:
    scan_affine = np.array([[0, -1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 0, 0, 1]])
    affine, shape = model_grid_for_spacing(scan_affine, scan_shape, spacing)
    return axis_map(scan_affine, scan_shape, affine, shape)


def paint(probabilities: torch.Tensor, grid: AxisMap, axis: int, parts: int, how: str) -> LabelCanvas | DeviceCanvas:
    """Paint on the processor, as on a GPU, or as on a GPU that has no more room halfway."""
    canvas: LabelCanvas | DeviceCanvas
    if how == "processor":
        canvas = LabelCanvas(grid, axis, keep_probabilities=True)
    else:
        canvas = DeviceCanvas(grid, axis, "cpu", keep_probabilities=True)
    planes = probabilities.permute(1, 0, 2, 3) if axis == 0 else probabilities.movedim(axis + 1, 0)
    for start in range(0, planes.shape[0], parts):
        if how == "handed over" and start >= planes.shape[0] // 2 and isinstance(canvas, DeviceCanvas):
            canvas = canvas.on_cpu()
        canvas.add(planes[start : start + parts].contiguous())
    return canvas


# Here another order of operations shows by its rounding.
TIES: Any = {"scan_shape": (20, 18, 16), "spacing": (1.3, 1.3, 1.3), "parts": 9, "kind": "ties", "seed": 0}


@pytest.mark.parametrize("how", ["processor", "device", "handed over"])
@settings(max_examples=40)
@given(
    scan_shape=st.tuples(*[st.integers(1, 20)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 1.3, 2.0, 3.7])] * 3),
    axis=st.integers(0, 2),
    parts=st.integers(1, 9),
    kind=st.sampled_from(["noise", "blocks", "ties"]),
    sparse=st.booleans(),
    seed=st.integers(0, 99),
)
@example(**TIES, axis=0, sparse=True)
@example(**TIES, axis=2, sparse=True)
@example(**TIES, axis=2, sparse=False)
def test_painting_equals_interpolating_whole_channels(
    scan_shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    axis: int,
    parts: int,
    kind: str,
    sparse: bool,
    seed: int,
    how: str,
) -> None:
    grid = grid_between(scan_shape, spacing)
    rng = torch.Generator().manual_seed(seed)
    if kind == "noise":
        probabilities = softmax(torch.randn(3, *grid.model_shape, generator=rng), 0)
    elif kind == "blocks":  # large areas without doubt
        logits = torch.zeros(3, *grid.model_shape)
        logits[1, grid.model_shape[0] // 2 :] = 9.0
        logits[2, :, grid.model_shape[1] // 2 :] = 12.0
        probabilities = softmax(logits, 0)
    else:  # few values: many exact ties
        probabilities = torch.randint(0, 3, (3, *grid.model_shape), generator=rng) / 2
    with pytest.MonkeyPatch.context() as patch:
        if sparse:  # voxel by voxel, as in large scans, where few are undecided
            patch.setattr("liver_pipeline.inferers.canvas.SPARSE_SHARE", 1.0)
            patch.setattr("liver_pipeline.inferers.canvas.SPARSE_VOXELS", 50)
        canvas = paint(probabilities, grid, axis, parts, how)
    np.testing.assert_array_equal(canvas.labels, upsample_whole(probabilities, grid))
    for k in range(3):
        channel = probabilities[k : k + 1]
        for dim in range(3):
            channel = interpolate(channel, dim + 1, grid.taps_to_scan(dim))
        if k:
            assert canvas.levels is not None
            kept = grid.align(canvas.levels[..., k - 1]) / LEVELS
            np.testing.assert_allclose(kept, channel[0], atol=0.5 / LEVELS + 1e-6)


@pytest.mark.parametrize("how", ["processor", "device"])
def test_labels_lie_in_memory_as_nifti_stores_them(how: str) -> None:
    grid = grid_between((4, 5, 6), (2.0, 2.0, 2.0))
    canvas: LabelCanvas | DeviceCanvas = LabelCanvas(grid, 0, keep_probabilities=True)
    if how == "device":
        canvas = DeviceCanvas(grid, 0, "cpu", keep_probabilities=True)
    assert canvas.labels.flags.f_contiguous
    assert canvas.levels is not None and canvas.levels.flags.f_contiguous


def test_a_gpu_paints_a_few_planes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = grid_between((20, 18, 16), (1.3, 2.0, 3.7))
    probabilities = softmax(torch.randn(3, *grid.model_shape, generator=torch.Generator().manual_seed(0)), 0)
    monkeypatch.setattr("liver_pipeline.inferers.device_canvas.DEVICE_BYTES", 3 * 4 * 3 * 20 * 18)
    canvas = paint(probabilities, grid, 0, 100, "device")
    np.testing.assert_array_equal(canvas.labels, upsample_whole(probabilities, grid))


def test_a_probability_that_is_no_number_is_refused_by_a_gpu_too() -> None:
    grid = grid_between((4, 5, 6), (2.0, 2.0, 2.0))
    probabilities = torch.zeros(3, *grid.model_shape)
    probabilities[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        assert paint(probabilities, grid, 0, 100, "device").labels is None


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_argmax_is_that_of_torch_with_ties_to_the_lower_label(labels: int) -> None:
    scores = torch.randint(0, 3, (labels, 7, 8, 9)).float()
    np.testing.assert_array_equal(argmax(scores, 0).numpy(), scores.numpy().argmax(0))


def test_softmax_is_the_same_to_the_bit_however_the_volume_is_cut() -> None:
    logits = 4 * torch.randn(3, 23, 19, 31, generator=torch.Generator().manual_seed(0))
    whole = softmax(logits, 0)
    torch.testing.assert_close(whole, logits.softmax(0))
    for z in range(31):
        part = softmax(logits[..., z : z + 1].permute(3, 0, 1, 2).contiguous(), 1)
        assert torch.equal(part[0], whole[..., z])


def test_clear_label_needs_a_margin() -> None:
    probabilities = torch.tensor([[0.2, 0.5, 0.500001, 0.1], [0.8, 0.5, 0.499999, 0.3], [0.0, 0.0, 0.0, 0.6]])
    assert clear_labels(probabilities[None, :, None]).ravel().tolist() == [1, MIXED, MIXED, 2]
