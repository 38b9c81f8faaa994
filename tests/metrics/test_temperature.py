"""One temperature: found again where it is known, and the largest class stays the largest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liver_pipeline.metrics.probabilities import calibration
from liver_pipeline.metrics.temperature import calibrated_levels, fit_temperature, level_counts

LEVELS = 255


def voxels(temperature: float, classes: int, n: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Levels of a network whose logits are ``temperature`` times those that the truth is drawn with."""
    rng = np.random.default_rng(3)
    right = rng.normal(0.0, 1.0, (n, classes))
    shares = np.exp(right) / np.exp(right).sum(1, keepdims=True)
    truth = (shares.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=classes - 1).astype(np.uint8)
    said = np.exp(temperature * right)
    levels = np.rint(LEVELS * said / said.sum(1, keepdims=True)).astype(np.uint8)[:, 1:]
    return levels, truth


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_a_known_temperature_is_found(classes: int, temperature: float) -> None:
    """Eight bits cut off the surest voxels, hence 3 %."""
    levels, truth = voxels(temperature, classes)
    assert fit_temperature(level_counts(levels, truth)) == pytest.approx(temperature, rel=0.03)


def test_calibrated_probabilities_are_right_as_often_as_they_say() -> None:
    levels, truth = voxels(2.0, 3)
    table = calibrated_levels(fit_temperature(level_counts(levels, truth)), 3)
    better = table[levels[:, 0], levels[:, 1]]
    for k in (0, 1):
        before, after = (calibration(part[:, k] / LEVELS, truth == k + 1).ece for part in (levels, better))
        assert before > 0.05
        assert after < 0.01


@settings(max_examples=50)
@given(st.floats(0.05, 20.0), st.integers(0, 255), st.integers(0, 255))
def test_the_largest_class_stays_the_largest(temperature: float, liver: int, tumor: int) -> None:
    tumor = min(tumor, LEVELS - liver)
    before = np.array([LEVELS - liver - tumor, liver, tumor])
    new = calibrated_levels(temperature, 3)[liver, tumor].astype(int)
    after = np.array([LEVELS - new.sum(), *new])
    assert after[before.argmax()] >= after.max() - 2  # rounding of two levels


def test_temperature_one_changes_nothing_but_hidden_probabilities() -> None:
    """A level of 0 stands for a quarter of one, so others fall by at most one level."""
    table = calibrated_levels(1.0, 3).astype(int)
    liver, tumor = np.ogrid[:256, :256]
    occurs = liver + tumor <= LEVELS
    assert np.abs(table[..., 0] - liver)[occurs].max() <= 1
    assert np.abs(table[..., 1] - tumor)[occurs].max() <= 1


def test_a_higher_temperature_is_less_sure() -> None:
    least = (0.25 / LEVELS) ** 0.5  # what a level of 0 becomes at temperature 2, beside a background of 1
    assert calibrated_levels(2.0, 2)[0, 0, 0] == round(LEVELS * least / (1 + least))
    one, two = (calibrated_levels(temperature, 2)[:, 0, 0] for temperature in (1.0, 2.0))
    assert (two[one > 128] <= one[one > 128]).all() and (two[one < 127] >= one[one < 127]).all()


def test_nothing_counted_gives_one() -> None:
    counts = level_counts(np.zeros((0, 2), np.uint8), np.zeros(0, np.uint8))
    assert fit_temperature(counts) == 1.0


def test_counts_of_cases_add_up() -> None:
    levels, truth = voxels(1.0, 3, 1000)
    parts = level_counts(levels[:400], truth[:400]) + level_counts(levels[400:], truth[400:])
    np.testing.assert_array_equal(parts, level_counts(levels, truth))
    assert parts.sum() == 1000
