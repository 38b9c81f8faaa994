"""What the values of a label map become, against looking each voxel up by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from liver_pipeline.io.label_values import whole_labels
from liver_pipeline.io.volumes import read_label_map

VALUES = [0, 0, 0, 1, 2, 6, 255, 300]


@given(
    array=hnp.arrays(
        st.sampled_from([np.int16, np.uint16, np.float32]),
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5),
        elements=st.sampled_from(VALUES),
    ),
    label_map=st.sampled_from([{1: 1, 2: 2}, {6: 1}, {0: 1, 300: 2}, {1: 2, 6: 0}]),
    intercept=st.sampled_from([0.0, 1.0]),
)
def test_each_voxel_becomes_what_its_value_means(
    array: npt.NDArray[Any], label_map: dict[int, int], intercept: float
) -> None:
    labels, findings = whole_labels(array, (1.0, intercept), (0, 1, 2), label_map)
    values = (array + intercept).astype(int)
    expected = [label_map.get(value, 0) for value in values.ravel().tolist()]
    np.testing.assert_array_equal(labels.ravel(), expected)
    unnamed = sorted(set(values.ravel().tolist()) - {0, *label_map})
    told = [finding.detail for finding in findings if finding.code == "LABEL_UNNAMED"]
    assert told == (
        [f"label_map does not name {', '.join(map(str, unnamed))}, which became background"] if unnamed else []
    )


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2, 1)])
def test_background_that_is_not_allowed_is_told_though_it_needs_no_table(shape: tuple[int, int, int]) -> None:
    array = np.ones(shape, dtype=np.uint8)
    array[0, 0, 0] = 0
    _, (finding,) = whole_labels(array, (1.0, 0.0), (1, 2), None)
    assert finding.detail.startswith("label map holds 0; expected only 1, 2")


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 1, 6)])
def test_values_that_are_no_labels_are_told_smallest_first_whatever_their_order(shape: tuple[int, int, int]) -> None:
    array = np.array([np.nan, 70000.0, 0.5, np.nan, -1.0, 1.0]).reshape(shape)
    _, (finding,) = whole_labels(array, (1.0, 0.0), (0, 1, 2), None)
    assert finding.detail == "label map holds -1, 0.5, 70000, nan; expected only 0, 1, 2"


@pytest.mark.parametrize("stored", ["int16", "uint8", "int32"])
def test_labels_that_a_program_stored_scaled_are_whole_again(tmp_path: Path, stored: str) -> None:
    """nibabel stores floats as integers with a slope that makes the most of them: 1 comes back as 1.0000153."""
    labels = np.zeros((6, 5, 4))
    labels[1:4], labels[2, 2] = 1.0, 2.0
    image = nib.Nifti1Image(labels, np.diag([2.0, 2.0, 2.0, 1.0]))
    image.header.set_data_dtype(stored)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.nii").array, labels)


def test_fractions_that_a_slope_makes_are_still_no_labels() -> None:
    stored = np.full((3, 3, 3), 37, dtype=np.uint8, order="F")
    _, findings = whole_labels(stored, (0.01, 0.0), (0, 1, 2), None)
    assert [finding.code for finding in findings] == ["LABEL_VALUES"]
    _, findings = whole_labels(stored, (0.027, 0.0), (0, 1, 2), None)  # 0.999
    assert [finding.code for finding in findings] == ["LABEL_VALUES"]
