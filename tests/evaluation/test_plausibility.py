"""What mask and scan say of themselves, on a box of a body with known volumes and places."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from liver_pipeline.evaluation.plausibility import coarse_scan, plausibility
from liver_pipeline.io.volumes import Scan

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
AFFINE[:3, 3] = -100.0
SHAPE = (150, 100, 60)  # 300 x 200 x 240 mm


def body() -> tuple[Any, Any]:
    """A body of 40 HU in air with lung over a liver on the right; axes R, A, S. Return scan and label map."""
    hu = np.full(SHAPE, -1000, dtype=np.int16)
    hu[15:135, 10:90] = 40
    hu[20:130, 20:80, 36:] = -800
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[80:125, 20:80, 10:36] = 1
    labels[90:100, 30:40, 20:25] = 2
    hu[labels == 1], hu[labels == 2] = 100, 60
    return hu, labels


def as_scan(hu: Any, affine: Any = AFFINE) -> Scan:
    return Scan(hu, affine, 1.0, 0.0, nib.Nifti1Header(), Path("a.nii.gz"), "", ())


def facts_of(hu: Any, labels: Any, affine: Any = AFFINE, modality: str = "ct", removed: int = 0) -> dict[str, Any]:
    scan = as_scan(hu, affine)
    coarse = coarse_scan(scan, modality)
    gone = replace(scan, array=np.broadcast_to(np.uint8(0), hu.shape))  # as it is once the network runs
    return plausibility(labels, gone, coarse, removed)


def test_figures_of_a_known_body() -> None:
    facts = facts_of(*body())
    assert facts["liver_ml"] == pytest.approx(45 * 60 * 26 * 0.016)
    assert facts["largest_share"] == 1.0
    assert facts["cut_share"] == 0.0
    assert facts["right_mm"] == pytest.approx(2 * ((80 + 124) / 2 - (15 + 134) / 2), abs=4)
    assert facts["hu"] == 100
    assert facts["hu_spread"] == 0
    # 45 x 60 voxels of 16 mm3 over the liver, 60 mm of 4 mm slices
    assert facts["lung_above_ml"] == pytest.approx(45 * 60 * 15 * 0.016, rel=0.05)
    assert facts["lung_below_ml"] == 0


def test_an_empty_mask_has_no_other_figure() -> None:
    hu, labels = body()
    assert facts_of(hu, np.zeros_like(labels)) == {"liver_ml": 0.0}


def test_a_mask_of_tumor_alone_has_no_hu_of_liver() -> None:
    hu, labels = body()
    facts = facts_of(hu, np.where(labels == 2, labels, 0).astype(np.uint8))
    assert (facts["hu"], facts["hu_spread"]) == (None, None)


def test_a_liver_without_a_body_has_no_side() -> None:
    _, labels = body()
    assert facts_of(np.full(SHAPE, -1000, dtype=np.int16), labels)["right_mm"] is None


@pytest.mark.parametrize(("axis", "sign", "key"), [(0, -1, "right_mm"), (2, -1, "lung")])
def test_a_wrong_affine_shows(axis: int, sign: int, key: str) -> None:
    """The voxels stay; the affine says that the axis runs the other way."""
    affine = AFFINE.copy()
    affine[axis, axis] *= sign
    right, wrong = facts_of(*body()), facts_of(*body(), affine=affine)
    if key == "lung":
        assert (wrong["lung_below_ml"], wrong["lung_above_ml"]) == (right["lung_above_ml"], right["lung_below_ml"])
    else:
        assert wrong[key] == pytest.approx(-right[key], abs=4)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_figures_do_not_depend_on_how_the_scan_is_stored(modality: str) -> None:
    hu, labels = body()
    expected = facts_of(hu, labels, modality=modality)
    stored = nib.Nifti1Image(hu, AFFINE).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    mask = nib.Nifti1Image(labels, AFFINE).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    found = facts_of(np.asarray(stored.dataobj), np.asarray(mask.dataobj), stored.affine, modality)
    assert found == pytest.approx(expected)
    assert ("hu" in found) == (modality == "ct")


@pytest.mark.parametrize(
    ("face", "kept"),
    [("left", np.s_[90:]), ("right", np.s_[:110]), ("back", np.s_[:, 40:]), ("front", np.s_[:, :60]),
     ("feet", np.s_[:, :, 22:]), ("head", np.s_[:, :, :30])],
)  # fmt: skip
def test_the_border_that_cuts_the_liver_is_named(face: str, kept: Any) -> None:
    hu, labels = body()
    facts = facts_of(hu[kept], labels[kept])
    assert (facts["cut_share"], facts["cut_face"]) == (1.0, face)


def test_a_tip_at_the_border_is_a_small_share() -> None:
    hu, labels = body()
    tip = labels.copy()
    tip[100:104, 40:44, :10] = 1  # 16 of 2700 voxels reach the border
    facts = facts_of(hu, tip)
    assert facts["cut_share"] == pytest.approx(16 / 2700, abs=0.01)


def test_what_cleaning_removed_counts_as_pieces() -> None:
    hu, labels = body()
    voxels = int(np.count_nonzero(labels))
    assert facts_of(hu, labels, removed=voxels)["largest_share"] == 0.5


def test_a_mask_is_judged_without_a_copy_of_it() -> None:
    hu, _ = body()
    small = coarse_scan(as_scan(hu), "ct")
    fine = np.zeros([4 * n for n in SHAPE], dtype=np.uint8, order="F")  # as it lies in a file: 58 MB
    fine[320:500, 80:320, 40:144] = 1
    x, y, z = small.steps
    coarse = replace(small, steps=(4 * x, 4 * y, 4 * z))
    grid = as_scan(np.broadcast_to(np.uint8(0), fine.shape), AFFINE @ np.diag([0.25, 0.25, 0.25, 1.0]))
    tracemalloc.start()
    facts = plausibility(fine, grid, coarse)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < fine.nbytes / 4
    assert facts["cut_share"] == 0.0
