"""Voxels that have nothing to do with those beside them are told, in any modality; an image is not, however noisy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from liver_pipeline.data.phantoms import liver_phantom
from liver_pipeline.io.findings import Severity
from liver_pipeline.io.noise import noise_findings


def severity(array: Any, slope: float = 1.0, *, in_hu: bool = True) -> str:
    """Return "" or the severity of NOISE."""
    found = noise_findings(np.asfortranarray(array), slope, in_hu=in_hu)
    assert all(finding.code == "NOISE" for finding in found)
    return str(found[0].severity) if found else ""


@pytest.mark.parametrize("in_hu", [True, False])
@pytest.mark.parametrize("shape", [(128, 104, 64), (512, 512, 3), (12, 11, 10)])
def test_noise_is_told_and_its_running_sum_is_an_image(shape: tuple[int, ...], in_hu: bool) -> None:
    rng = np.random.default_rng(0)
    for noise in (rng.normal(0, 100, shape), rng.uniform(-1000, 400, shape), rng.integers(0, 3, shape)):
        assert severity(noise, in_hu=in_hu) == Severity.WARNING
        image = np.cumsum(noise - noise.mean(), axis=0).cumsum(axis=1)
        assert severity(100 * image / image.std(), in_hu=in_hu) == ""


@pytest.mark.parametrize("noise_hu", [0.0, 12.0, 60.0])
def test_a_noisy_phantom_is_an_image(noise_hu: float) -> None:
    assert severity(liver_phantom(noise_hu=noise_hu)[0]) == ""
    assert severity(liver_phantom(noise_hu=noise_hu)[0] + 1024, in_hu=False) == ""


@pytest.mark.parametrize(("share", "told"), [(0.01, "warning"), (0.001, "warning"), (0.0002, ""), (0.0, "")])
@pytest.mark.parametrize("slope", [1.0, 0.5, -1.0])
def test_one_voxel_in_a_thousand_that_stands_alone_is_a_warning(share: float, told: str, slope: float) -> None:
    hu = liver_phantom()[0].astype(np.float64)
    rng = np.random.default_rng(0)
    hu[rng.random(hu.shape) < share] = 3071
    assert severity(hu / slope, slope) == told
    assert severity(hu / slope, slope, in_hu=False) == told


def test_a_small_or_flat_or_constant_volume_says_nothing() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (9, 9, 9))
    assert severity(noise) == "" and severity(np.zeros((40, 40, 40))) == ""
    assert severity(np.random.default_rng(0).normal(0, 1, (2, 40, 40))) == ""


def test_thin_lines_of_a_coarse_grid_are_no_noise_and_one_voxel_is_none() -> None:
    hu = liver_phantom()[0].astype(np.float64)
    hu[::16, ::16] = 1500  # a table's wires: alone in each slice, whole along Z
    assert severity(hu) == ""
    few = liver_phantom((16, 13, 8), (24.0, 24.0, 38.0))[0]
    few[8, 6, 4] = 3071
    assert severity(few) == ""
