"""What the record says of a label map, on maps small enough to count by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest

from liver_pipeline.io.findings import warning
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import LabelMap
from liver_pipeline.prediction.case import label_volumes


def scan_of(label_map: LabelMap, *findings: Any) -> Scan:
    """Return the scan of a label map, with voxels of 2 x 2 x 5 mm, 0.02 ml, the first axis from left to right."""
    affine = np.diag([-2.0, 2.0, 5.0, 1.0])
    return Scan(label_map, affine, 1.0, 0.0, nib.Nifti1Header(), Path("a.nii.gz"), "", findings)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("counted", [1, 7, 2**20])
def test_volumes_count_every_voxel_of_every_label_once(counted: int, order: Any) -> None:
    label_map = np.zeros((3, 4, 5), dtype=np.uint8, order=order)
    label_map[1, :, :3] = 1
    label_map[2, 3, 4] = 2
    with patch("liver_pipeline.prediction.case.COUNTED", counted):
        told = label_volumes(label_map, scan_of(label_map))
    assert told == {"voxels": {"0": 47, "1": 12, "2": 1}, "volume_ml": {"1": 0.24, "2": 0.02}}


def test_volumes_of_an_empty_map_name_liver_and_tumor() -> None:
    empty = np.zeros((2, 2, 2), dtype=np.uint8)
    told = label_volumes(empty, scan_of(empty))
    assert told == {"voxels": {"0": 8, "1": 0, "2": 0}, "volume_ml": {"1": 0.0, "2": 0.0}}


def test_volumes_of_a_picture_have_no_millilitres_and_labels_up_to_the_highest() -> None:
    drawn = np.array([[[0], [4]], [[4], [1]]], dtype=np.uint8)
    told = label_volumes(drawn, scan_of(drawn, warning("PICTURE", "a drawing")))
    assert told["voxels"] == {"0": 1, "1": 1, "2": 0, "3": 0, "4": 2}
    assert told["volume_ml"] == dict.fromkeys("1234")
