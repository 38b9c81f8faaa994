"""Checking scans with their label maps: each is told by its own file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from liver_pipeline.commands.check import check
from tests.small import make_phantoms


def test_two_label_maps_of_one_scan_are_told(tmp_path: Path) -> None:
    data = make_phantoms(tmp_path / "data", 1)
    label = nib.load(data / "segmentation-0.nii.gz")
    for name in ("volume-0.nii.gz", "volume-0.nii"):
        (tmp_path / "labels").mkdir(exist_ok=True)
        nib.Nifti1Image(np.asarray(label.dataobj).astype(np.uint8), label.affine).to_filename(
            tmp_path / "labels" / name
        )
    _, report = check(data / "volume-0.nii.gz", labels=tmp_path / "labels")
    assert [finding.code for finding in report.findings if finding.severity == "error"] == ["DUPLICATE_NAME"]
    (tmp_path / "labels" / "volume-0.nii").unlink()
    _, report = check(data / "volume-0.nii.gz", labels=tmp_path / "labels")
    assert report.severity != "error"
    reports = check(data, labels=data)  # scans beside their references
    assert [one.path.name for one in reports] == ["volume-0.nii.gz", "segmentation-0.nii.gz"]
    assert all(one.severity != "error" for one in reports)
