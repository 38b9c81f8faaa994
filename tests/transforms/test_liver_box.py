"""Training crops of a cascade's tumor stage."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ClassesToIndicesd

from liver_pipeline.geometry.boxes import Box, box_text
from liver_pipeline.transforms.liver_box import CropToLiverd, RandNarrowBoxd, cut_out

SPACING = (2.0, 2.0, 5.0)


def case(label_box: Box | None, **more: str) -> dict[Hashable, Any]:
    label = torch.zeros((1, 20, 16, 10), dtype=torch.uint8)
    if label_box is not None:
        label[0][label_box] = 1
        label[(0, *(side.start for side in label_box))] = 2
    image = torch.arange(label.numel(), dtype=torch.int16).reshape(label.shape)
    affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64))
    made: dict[Hashable, Any] = {"image": MetaTensor(image, affine=affine), "label": MetaTensor(label, affine=affine)}
    made.update(more)
    return made


def test_scan_and_label_are_cut_to_the_box_of_liver_and_tumor_and_a_margin() -> None:
    whole = case((slice(5, 9), slice(0, 4), slice(3, 6)))
    cut = CropToLiverd(["image", "label"], margin_mm=4.0)(whole)
    # 4 mm are two voxels along X and Y, and one (5 mm) along Z; Y begins at the border
    torch.testing.assert_close(cut["image"].as_tensor(), whole["image"].as_tensor()[:, 3:11, 0:6, 2:7])
    torch.testing.assert_close(cut["label"].as_tensor(), whole["label"].as_tensor()[:, 3:11, 0:6, 2:7])
    np.testing.assert_allclose(cut["image"].affine[:3, 3], [6.0, 0.0, 10.0])
    assert cut["label"].sum() == whole["label"].sum()


def test_a_box_that_the_case_brings_wins_over_its_label_and_is_taken_out() -> None:
    box: Box = (slice(0, 3), slice(0, 3), slice(0, 3))
    cut = CropToLiverd(["image", "label"], margin_mm=0.0)(
        case((slice(5, 9), slice(0, 4), slice(3, 6)), box=box_text(box))
    )
    assert cut["image"].shape == cut["label"].shape == (1, 3, 3, 3)
    assert "box" not in cut


@pytest.mark.parametrize("boxless", [case(None), case((slice(5, 9), slice(0, 4), slice(3, 6)), box=box_text(None))])
def test_without_a_box_the_scan_stays_whole(boxless: dict[Hashable, Any]) -> None:
    assert CropToLiverd(["image", "label"], margin_mm=4.0)(boxless)["image"].shape == (1, 20, 16, 10)


def test_jitter_moves_each_face_inwards_by_up_to_so_much_and_all_volumes_alike() -> None:
    narrow = RandNarrowBoxd(["image", "label"], jitter_mm=6.0)
    shapes = set()
    for seed in range(200):
        narrow.set_random_state(seed=seed)
        cut = narrow(case((slice(5, 9), slice(0, 4), slice(3, 6))))
        assert cut["image"].shape == cut["label"].shape
        start = cut["image"].affine[:3, 3].numpy() / SPACING
        stop = start + cut["image"].shape[1:]
        assert (start <= np.array([3, 3, 1])).all() and (start >= 0).all()  # below 6 mm: at most 2, 2 and 1 voxels
        assert (stop >= np.array([17, 13, 9])).all() and (stop <= np.array([20, 16, 10])).all()
        index = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        torch.testing.assert_close(cut["image"].as_tensor()[0], case(None)["image"].as_tensor()[0][index])
        shapes.add(cut["image"].shape)
    assert {shape[1] for shape in shapes} == {16, 17, 18, 19, 20}


def test_listed_voxels_are_listed_by_their_new_places_or_left_out() -> None:
    whole = case((slice(0, 9), slice(0, 4), slice(3, 10)))
    listed = ClassesToIndicesd("label", num_classes=3)(whole)
    narrow = RandNarrowBoxd(["image", "label"], jitter_mm=8.0, indices_key="label_cls_indices")
    lost = []
    for seed in range(20):
        narrow.set_random_state(seed=seed)
        cut = narrow(listed)
        expected = ClassesToIndicesd("label", num_classes=3)({"label": cut["label"]})["label_cls_indices"]
        for new, right in zip(cut["label_cls_indices"], expected, strict=True):
            np.testing.assert_array_equal(np.sort(new), np.sort(np.asarray(right)))
        lost.append(len(listed["label_cls_indices"][1]) - len(cut["label_cls_indices"][1]))
    assert max(lost) > 0  # the liver reaches two faces


def test_the_same_seed_gives_the_same_crop() -> None:
    crops = []
    for _ in range(2):
        narrow = RandNarrowBoxd("image", jitter_mm=10.0)
        narrow.set_random_state(seed=3)
        crops.append([narrow(case(None))["image"].shape for _ in range(5)])
    assert crops[0] == crops[1] and len(set(crops[0])) > 1


def test_jitter_leaves_at_least_a_voxel_and_is_not_negative() -> None:
    narrow = RandNarrowBoxd("image", jitter_mm=500.0)
    for seed in range(20):
        narrow.set_random_state(seed=seed)
        assert min(narrow(case(None))["image"].shape) >= 1
    with pytest.raises(ValueError, match="jitter_mm must be 0 or more"):
        RandNarrowBoxd("image", jitter_mm=-1.0)


def test_a_part_of_a_volume_shares_its_memory_and_knows_where_it_is() -> None:
    affine = torch.tensor([[0.0, 2.0, 0.0, 5.0], [1.0, 0.0, 0.0, -3.0], [0.0, 0.0, 4.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    volume = MetaTensor(torch.arange(24.0).reshape(1, 2, 3, 4), affine=affine, meta={"slope": 2.0})
    part = cut_out(volume, (slice(1, 2), slice(1, 3), slice(2, 4)))
    torch.testing.assert_close(part.as_tensor(), volume.as_tensor()[:, 1:2, 1:3, 2:4])
    corner = affine.double() @ torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(part.affine[:, 3], corner)
    assert part.meta["slope"] == 2.0
    part[...] = -1.0
    assert volume[0, 1, 2, 3] == -1.0
