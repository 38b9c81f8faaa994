"""Contours of probability: where they run, and that they leave the masks alone."""

from __future__ import annotations

import base64
import gzip
import io
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.image import imread

import liver_pipeline as lp
from liver_pipeline.io.probabilities import LEVELS, read_probabilities
from liver_pipeline.visualize import contours
from liver_pipeline.visualize.colours import CONTOUR_RGB
from liver_pipeline.visualize.contours import contour_lines
from liver_pipeline.visualize.pictures import case_picture
from tests.small import BRIEF, NETWORKS, make_phantoms


def ramp(slope: float) -> npt.NDArray[np.uint8]:
    """Probability that falls from 1 in the middle with the distance in the slice, in voxels."""
    x, y, z = np.indices((41, 41, 3)) - np.array([20, 20, 1]).reshape(3, 1, 1, 1)
    share = np.clip(1 - slope * np.hypot(x, y), 0, 1) * (z < 1)  # nothing in the last slice
    levels: npt.NDArray[np.uint8] = np.rint(LEVELS * share).astype(np.uint8)
    return levels


def radii(lines: npt.NDArray[np.uint8], label: int) -> npt.NDArray[np.float64]:
    x, y, _ = np.nonzero(lines == label)
    return np.hypot(x - 20, y - 20)


def test_lines_run_where_the_probability_passes() -> None:
    """1 - r / 20 passes 0.8 at 4 voxels and 0.2 at 16; a line is the last voxels inside."""
    lines = contour_lines({"tumor": ramp(1 / 20)})
    for label, radius in ((2, 4.0), (1, 16.0)):
        assert radius - 1.5 < radii(lines, label).min() and radii(lines, label).max() <= radius + 0.05  # half a level
    assert not lines[:, :, 2].any()


def test_liver_counts_with_its_tumor() -> None:
    """A tumor of 0.5 in a liver of 0.5 is liver for sure: the one line of 0.8 is around both."""
    liver = np.zeros((20, 20, 1), np.uint8)
    liver[3:17, 3:17] = 255
    tumor = np.zeros_like(liver)
    tumor[8:12, 8:12], liver[8:12, 8:12] = 128, 127
    lines = contour_lines({"liver": liver, "tumor": tumor})
    assert set(np.unique(lines[8:12, 8:12])) == {0, 1}  # tumor passes 0.2
    assert (lines == 2).sum() == 4 * 13  # around 14 x 14
    assert (lines == 1).sum() == 4 * 3


def test_where_nothing_is_probable_there_is_no_line() -> None:
    assert not contour_lines({"liver": np.full((5, 5, 5), 50, np.uint8)}).any()


def contours_of(page: Path) -> npt.NDArray[Any] | None:
    found = re.search(r'id="volume-contours">(.*?)</script>', page.read_text(), re.DOTALL)
    if found is None:
        return None
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(found[1]))).dataobj)


@pytest.mark.parametrize("network", ["unet3d", "cascade"])
def test_a_page_has_contours_and_the_mask_is_the_same_to_the_byte(
    tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn from memory, without a file of probabilities, they are those that such a file gives.

    A network of one epoch says about a third for each class, so the lines are put where its probabilities lie.
    """
    data = make_phantoms(tmp_path / "data")
    values = {**BRIEF, **NETWORKS[network], "dataset_dir": str(data), "spacing": [12.0, 12.0, 19.0], "device": "cpu"}
    lp.train(tmp_path / "run", {"network": network}, overrides=values)
    scan = data / "volume-0.nii.gz"
    lp.predict(tmp_path / "run", scan, tmp_path / "levels.nii.gz", overrides={"probabilities": True})
    levels = read_probabilities(tmp_path / "levels.probabilities.nii.gz")["tumor"].array
    low, high = np.quantile(levels[levels > 0], [0.3, 0.7]) / LEVELS
    monkeypatch.setattr(contours, "PASSED", (float(low), float(high)))
    for name, overrides in (("plain", {}), ("seen", {"view": True}), ("kept", {"view": True, "probabilities": True})):
        lp.predict(tmp_path / "run", scan, tmp_path / f"{name}.nii.gz", overrides=overrides)
        lp.predict(tmp_path / "run", scan, tmp_path / name, overrides=overrides)
    one = {name: (tmp_path / f"{name}.nii.gz").read_bytes() for name in ("plain", "seen", "kept")}
    folder = {name: (tmp_path / name / "volume-0.nii.gz").read_bytes() for name in one}
    assert len({*one.values(), *folder.values()}) == 1
    assert {path.name for path in tmp_path.glob("seen.*")} == {"seen.nii.gz", "seen.json", "seen.html"}
    lp.view(scan, tmp_path / "kept.nii.gz", output=tmp_path / "later.html")
    pages = [tmp_path / name for name in ("seen.html", "kept.html", "later.html", "seen/volume-0.html")]
    first, *others = (contours_of(page) for page in pages)
    assert first is not None and first.any()
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_pictures_have_the_lines_and_without_probabilities_none() -> None:
    """1 - r / 10 passes 0.8 at 2 mm from the middle, in white, and 0.2 at 8 mm, in yellow."""
    middle = np.zeros((41, 41, 3), np.uint8, order="F")
    middle[20, 20, 0] = 2
    for levels in ({"tumor": ramp(1 / 10)}, None):
        found = case_picture(middle, middle, [1.0, 1.0, 5.0], levels=levels)
        drawn = np.rint(255 * imread(io.BytesIO(found["case"]))[..., :3]).astype(np.uint8)
        assert found["contours"] is (levels is not None)
        for label, radius in ((2, 2.0), (1, 8.0)):
            at = np.argwhere((drawn == CONTOUR_RGB[label]).all(axis=-1))
            away = np.hypot(*(25 * (at + 0.5) / 340 - 12.5).T)  # the picture: 12 mm round the voxel, in 340 pixels
            assert (len(at) > 0) is found["contours"]
            assert levels is None or np.abs(away - radius).max() < 0.75  # half a voxel's diagonal, and a pixel
