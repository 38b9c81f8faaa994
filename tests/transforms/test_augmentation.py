"""Random changes of windows equal MONAI's, draw by draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import RandAffined

from liver_pipeline.transforms import RandAffineWindowd

FLAT = {"rotate_range": [0.0, 0.0, 0.35], "scale_range": [0.2, 0.2, 0.0]}
FULL = {"rotate_range": [0.5, 0.5, 0.5], "scale_range": [0.3, 0.3, 0.3], "translate_range": [3, 2, 1]}


@pytest.mark.parametrize(("shape", "ranges"), [((40, 33, 26), FLAT), ((48, 32, 1), FLAT), ((40, 33, 26), FULL)])
def test_windows_are_turned_as_monai_turns_them(shape: tuple[int, ...], ranges: dict[str, Any]) -> None:
    axes = torch.meshgrid(*(torch.linspace(0, 3, n) for n in shape), indexing="ij")
    image = torch.stack([torch.sin(axis + 1) for axis in axes]).sum(0, keepdim=True)
    data: dict[Any, Any] = {"image": MetaTensor(image), "label": MetaTensor((image > 1.5).to(torch.uint8))}
    settings: dict[str, Any] = {"keys": ["image", "label"], "mode": ["bilinear", "nearest"], "padding_mode": "border"}
    theirs, ours = RandAffined(prob=0.5, **settings, **ranges), RandAffineWindowd(prob=0.5, **settings, **ranges)
    turned = 0
    for seed in range(8):
        results: list[Any] = [one.set_random_state(seed)(data) for one in (theirs, ours)]
        expected, found = results
        torch.testing.assert_close(found["image"].as_tensor(), expected["image"].as_tensor(), rtol=0, atol=1e-4)
        same = (found["label"] == expected["label"]).float().mean()
        assert same >= 0.999 and found["label"].dtype == torch.uint8  # a voxel between two may fall to either
        turned += not torch.equal(found["image"], data["image"])
    assert 1 <= turned <= 7
