"""LoadScand and ToModelGridd: what later transforms and the inferer rely on."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from monai.transforms import ScaleIntensityRanged

from liver_pipeline.geometry.body import BLOCK_VOXELS, decode_blocks
from liver_pipeline.io.volumes import read_scan
from liver_pipeline.transforms.intensity import WindowHud
from liver_pipeline.transforms.load import LoadScand
from liver_pipeline.transforms.spatial import ToModelGridd

AFFINE = np.array([[-0.8, 0, 0, 90], [0, 0, 0.8, -60], [0, -2.0, 0, 40], [0, 0, 0, 1]], dtype=float)


def write_case(folder: Path) -> dict[Hashable, Path]:
    rng = np.random.default_rng(5)
    scan = rng.integers(0, 400, (40, 30, 36)).astype(np.int16)
    scan[:8] = -1000
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(scan, AFFINE, header), folder / "scan.nii.gz")
    header.set_data_dtype(np.uint8)
    nib.save(nib.Nifti1Image((scan > 200).astype(np.uint8), AFFINE, header), folder / "label.nii.gz")
    return {"image": folder / "scan.nii.gz", "label": folder / "label.nii.gz"}


def test_scan_is_loaded_as_stored(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    data = LoadScand(["image", "label"])(case)
    assert data["image"].shape == (1, 40, 30, 36)
    assert data["image"].dtype == torch.int16
    assert data["label"].dtype == torch.uint8
    np.testing.assert_allclose(data["image"].affine.numpy(), AFFINE, atol=1e-6)
    assert data["image"].meta["filename_or_obj"] == str(case["image"])
    np.testing.assert_array_equal(data["image"].numpy()[0], np.asarray(nib.load(case["image"]).dataobj))


def test_scan_that_was_read_before_is_taken_without_a_copy(tmp_path: Path) -> None:
    scan = read_scan(write_case(tmp_path)["image"])
    tensor = LoadScand("image")({"image": scan})["image"]
    assert np.shares_memory(tensor.numpy(), scan.array)


def test_label_may_be_absent(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    del case["label"]
    keys = ["image", "label"]
    data = LoadScand(keys, allow_missing_keys=True)(case)
    data = ToModelGridd(keys, spacing=(1.5, 1.5, 2.0), allow_missing_keys=True)(data)
    assert set(data) == {"image"}


def test_model_grid_carries_the_scan_grid_in_its_meta_through_collate(tmp_path: Path) -> None:
    keys = ["image", "label"]
    data = ToModelGridd(keys, spacing=(1.5, 1.5, 2.0))(LoadScand(keys)(write_case(tmp_path)))
    assert data["image"].shape == data["label"].shape
    assert data["image"].dtype == torch.float32
    assert data["label"].dtype == torch.uint8
    batch = list_data_collate([data])
    for image in (data["image"], decollate_batch(batch["image"])[0]):
        np.testing.assert_allclose(np.asarray(image.meta["scan_affine"]), AFFINE, atol=1e-6)
        assert tuple(int(n) for n in image.meta["scan_shape"]) == (40, 30, 36)
        np.testing.assert_allclose(np.diag(np.asarray(image.affine)), (1.5, 1.5, 2.0, 1.0))
        assert image.meta["body"] == data["image"].meta["body"]


def test_body_map_tells_air_from_tissue() -> None:
    volume = torch.full((1, 20, 17, 9), -1000.0)
    volume[0, 17, 3, 8] = -100.0
    image = ToModelGridd("image", spacing=(1.0, 1.0, 1.0))({"image": MetaTensor(volume, affine=torch.eye(4))})["image"]
    blocks = decode_blocks(image.meta["body"])
    assert blocks.shape == (3, 3, 2)
    assert np.argwhere(blocks).tolist() == [[17 // BLOCK_VOXELS, 3 // BLOCK_VOXELS, 8 // BLOCK_VOXELS]]


def test_nothing_is_said_about_air_where_values_are_no_hu() -> None:
    grid = ToModelGridd("image", spacing=(1.0, 1.0, 1.0), air_hu=None)
    image = grid({"image": MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.eye(4))})["image"]
    assert "body" not in image.meta


@pytest.mark.parametrize("options", [{}, {"spacing": (1, 1, 1), "grid_size": (4, 4, 4)}])
def test_exactly_one_way_to_give_the_grid(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either spacing or grid_size"):
        ToModelGridd("image", **options)


@pytest.mark.parametrize(
    ("grid", "asked"), [({"spacing": [0.05] * 3}, "spacing"), ({"grid_size": [9000] * 3}, "grid_size")]
)
def test_a_grid_of_terabytes_is_refused_by_the_name_of_its_key(grid: dict[str, Any], asked: str) -> None:
    scan = MetaTensor(
        torch.zeros(1, 20, 20, 20), affine=torch.diag(torch.tensor([20.0, 20, 20, 1], dtype=torch.float64))
    )
    with pytest.raises(MemoryError, match=rf"^{asked} .* makes (7601|9000) x .* voxels of this scan, \d+ GB"):
        ToModelGridd(["image"], **grid)({"image": scan})


def test_unknown_mode_lists_the_known() -> None:
    with pytest.raises(ValueError, match="known: bilinear, nearest"):
        ToModelGridd("image", spacing=(1, 1, 1), mode="cubic")


def test_scan_with_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="one channel"):
        ToModelGridd("image", spacing=(1, 1, 1))({"image": MetaTensor(torch.zeros(2, 4, 4, 4))})


def test_hu_window_gives_the_values_of_monai_in_place() -> None:
    hu = torch.linspace(-1024.0, 1500.0, 5000).reshape(1, 10, 50, 10)
    expected = ScaleIntensityRanged("image", -175.0, 250.0, 0.0, 1.0, clip=True)({"image": MetaTensor(hu.clone())})
    image = MetaTensor(hu.clone())
    windowed = WindowHud("image", (-175.0, 250.0))({"image": image})["image"]
    np.testing.assert_array_equal(windowed.numpy(), np.asarray(expected["image"]))
    assert windowed.data_ptr() == image.data_ptr()


def test_empty_hu_window_is_refused() -> None:
    with pytest.raises(ValueError, match="lower and a higher"):
        WindowHud("image", (250.0, -175.0))
