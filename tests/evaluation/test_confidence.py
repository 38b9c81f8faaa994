"""Where probabilities count, and whose temperature they get: that of the record of their mask, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from liver_pipeline.evaluation.confidence import calibrated, near_liver
from liver_pipeline.evaluation.pairing import CaseError
from liver_pipeline.io.volumes import Scan
from liver_pipeline.metrics.temperature import calibrated_levels

LIVER = np.s_[20:25, 3:5, 3:5]
RECORD: dict[str, Any] = {"confidence": {"temperature": 2.0}, "probabilities": {"sha256": "p"}}


def one_class(level: int, sha256: str = "p", shape: tuple[int, int, int] = (1, 1, 1)) -> Scan:
    array = np.full(shape, level, np.uint8)
    return Scan(array, np.eye(4), 1 / 255, 0.0, nib.Nifti1Header(), Path("a.probabilities.nii.gz"), sha256, ())


@pytest.mark.parametrize("sha256", ["p", ""])  # "" of what the run has just given
def test_of_liver_alone_odds_of_4_to_1_become_2_to_1(sha256: str) -> None:
    found = calibrated({"liver": one_class(204, sha256)}, RECORD)
    assert found is not None and list(found) == ["liver"]
    assert found["liver"].array.item() == 170  # 2 of 3
    assert (found["liver"].slope, found["liver"].intercept) == (1 / 255, 0.0)


def test_of_two_classes_each_gets_its_own() -> None:
    found = calibrated({"liver": one_class(100), "tumor": one_class(50)}, RECORD)
    assert found is not None
    assert [found[name].array.item() for name in ("liver", "tumor")] == calibrated_levels(2.0, 3)[100, 50].tolist()


@pytest.mark.parametrize(
    "record", [None, {}, {**RECORD, "confidence": {}}, {**RECORD, "probabilities": {"sha256": "q"}}]
)
def test_without_a_temperature_for_this_file_there_is_none(record: dict[str, Any] | None) -> None:
    assert calibrated({"liver": one_class(204)}, record) is None


def test_probabilities_count_in_the_reference_liver_and_10_mm_around_it() -> None:
    label = one_class(0, shape=(60, 8, 8))
    label.array[LIVER] = 1
    label.array[22, 4, 4] = 2
    near = near_liver({"liver": one_class(0, shape=(60, 8, 8))}, label)
    assert near.box[0] == slice(10, 35)
    assert near.region.all()  # what lies to the sides is less than 10 mm away
    np.testing.assert_array_equal(near.truth, label.array[10:35])


def test_probabilities_on_another_grid_and_references_without_liver_are_refused() -> None:
    label = one_class(0, shape=(60, 8, 8))
    for shape, code in (((60, 8, 7), "PROBABILITY_GRID"), ((60, 8, 8), "NO_LIVER")):
        with pytest.raises(CaseError, match=code):
            near_liver({"liver": one_class(0, shape=shape)}, label)
