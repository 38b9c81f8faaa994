"""Two grids match where the nearest voxel of one is the voxel of the same index of the other."""

from __future__ import annotations

import numpy as np
import pytest

from liver_pipeline.geometry.affines import grids_match


@pytest.mark.parametrize(("shift_mm", "match"), [(0.0, True), (0.99, True), (1.0, True), (1.01, False)])
def test_half_of_the_shortest_edge_is_the_limit(shift_mm: float, match: bool) -> None:
    affine = np.diag([-2.0, 3.0, 5.0, 1.0])
    moved = affine.copy()
    moved[2, 3] = shift_mm  # along the longest edge: the shortest one counts all the same
    assert grids_match((4, 5, 6), affine, (4, 5, 6), moved) is match


def test_a_grid_that_is_off_at_one_corner_only_or_of_another_shape_does_not_match() -> None:
    affine = np.eye(4)
    stretched = np.diag([1.0, 1.0, 1.06, 1.0])  # the tenth plane is 0.54 mm off
    assert grids_match((4, 5, 9), affine, (4, 5, 9), stretched)
    assert not grids_match((4, 5, 10), affine, (4, 5, 10), stretched)
    assert not grids_match((4, 5, 9), affine, (5, 4, 9), affine)
