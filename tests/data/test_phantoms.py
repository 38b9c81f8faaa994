"""Phantoms: what is drawn is what the label says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from liver_pipeline.data.phantoms import TISSUE_HU, liver_phantom, make_phantom_dataset


def test_the_label_map_marks_the_organ_of_that_density() -> None:
    image, label = liver_phantom(noise_hu=0.0, seed=3)
    assert image.shape == label.shape == (128, 104, 64)
    assert abs(np.median(image[label == 1]) - TISSUE_HU["liver"]) <= 1
    assert abs(np.median(image[label == 2]) - TISSUE_HU["tumor"]) <= 10  # the scanner's blur lifts small tumors
    assert image.min() >= -1024


def test_liver_volume_does_not_depend_on_the_grid() -> None:
    volumes = []
    for spacing, shape in (((3.0, 3.0, 5.0), (128, 104, 64)), ((5.0, 4.0, 4.0), (77, 78, 80))):
        _, label = liver_phantom(shape, spacing, seed=5)
        volumes.append((label > 0).sum() * np.prod(spacing) / 1000)
    assert abs(volumes[0] - volumes[1]) < 0.02 * volumes[0]
    assert 1000 < volumes[0] < 3000  # ml, a human liver


def test_a_phantom_without_tumors_has_liver_only() -> None:
    assert set(np.unique(liver_phantom(n_tumors=0)[1])) == {0, 1}


def test_a_data_set_is_drawn_once_and_then_kept(tmp_path: Path) -> None:
    make_phantom_dataset(tmp_path, 2, shape=(32, 26, 16), spacing=(12.0, 12.0, 20.0))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(before) == {f"{kind}-{n}.nii.gz" for kind in ("volume", "segmentation") for n in (0, 1)}
    make_phantom_dataset(tmp_path, 2, shape=(32, 26, 16), spacing=(12.0, 12.0, 20.0))
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_phantom_that_was_half_drawn_is_completed_and_somebody_s_scan_is_not_replaced(tmp_path: Path) -> None:
    grid: dict[str, Any] = {"shape": (32, 26, 16), "spacing": (12.0, 12.0, 20.0)}
    make_phantom_dataset(tmp_path, 2, **grid)
    drawn = (tmp_path / "segmentation-0.nii.gz").read_bytes()
    (tmp_path / "segmentation-0.nii.gz").unlink()
    make_phantom_dataset(tmp_path, 2, **grid)
    assert (tmp_path / "segmentation-0.nii.gz").read_bytes() == drawn
    (tmp_path / "volume-2.nii.gz").write_bytes(b"mine")  # LiTS's test scans have no segmentation
    with pytest.raises(FileExistsError, match=r"volume-2\.nii\.gz is no phantom drawn here"):
        make_phantom_dataset(tmp_path, 4, **grid)
    assert (tmp_path / "volume-2.nii.gz").read_bytes() == b"mine"
