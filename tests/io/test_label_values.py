"""What the values of a label map become, against looking each voxel up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from liver_pipeline.io.label_values import whole_labels

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
