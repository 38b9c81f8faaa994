from __future__ import annotations

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import liver_pipeline.metrics
from liver_pipeline.metrics.probabilities import auc_roc, calibration, grown, probability_figures

MODULES = [f"liver_pipeline.metrics.{module.name}" for module in pkgutil.iter_modules(liver_pipeline.metrics.__path__)]


def test_auc_is_the_share_of_ordered_pairs_with_ties_counting_half() -> None:
    rng = np.random.default_rng(0)
    score, truth = rng.integers(0, 6, size=60) / 5, rng.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in score[truth] for b in score[~truth]]
    assert auc_roc(score, truth) == pytest.approx(np.mean(pairs))
    assert auc_roc(truth.astype(float), truth) == 1.0
    assert auc_roc(np.full(60, 0.5), truth) == 0.5


def test_auc_of_one_class_is_undefined() -> None:
    assert auc_roc(np.array([0.1, 0.9]), np.array([True, True])) is None


def test_frequencies_that_equal_the_probabilities_are_calibrated() -> None:
    probability = np.repeat([0.25, 0.75], 400)
    truth = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0])
    assert calibration(probability, truth).ece == pytest.approx(0.0)
    assert calibration(probability, ~truth).ece == pytest.approx(0.5)


def test_certainty_of_one_falls_into_the_last_bin() -> None:
    result = calibration(np.array([1.0, 1.0]), np.array([True, False]), bins=4)
    assert result.voxels.tolist() == [0, 0, 0, 2]
    assert result.ece == 0.5


def test_figures_count_only_the_region() -> None:
    truth = np.zeros((4, 4, 4), dtype=bool)
    truth[1, 1, 1] = True
    probability = np.full(truth.shape, 0.5)
    region = np.zeros_like(truth)
    region[1, 1, :2] = True
    probability[1, 1, :2] = 0.2, 0.8
    figures = probability_figures(probability, truth, region)
    assert (figures["n_voxels"], figures["auc_roc"]) == (2, 1.0)
    assert figures["brier"] == pytest.approx(0.04)
    assert probability_figures(probability, truth, np.zeros_like(truth))["brier"] is None


def test_mask_grows_by_the_margin_along_each_axis() -> None:
    mask = np.zeros((21, 21, 9), dtype=bool)
    mask[10, 10, 4] = True
    wide = grown(mask, (2.0, 4.0, 5.0), margin_mm=8.0)
    assert wide.sum() == 9 * 5 * 5  # 4, 2 and (rounded up) 2 voxels each way
    assert not grown(np.zeros_like(mask), (1.0, 1.0, 1.0)).any()


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs={"np": np})
    assert results.failed == 0
