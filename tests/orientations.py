"""The ways in which a scan can be stored: 48 axis orders and flips, straight and oblique."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
OBLIQUE = Rotation.from_euler("xyz", (14.0, -8.0, 11.0), degrees=True).as_matrix()

every_rotation = pytest.mark.parametrize("rotation", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
every_orientation = pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS)
