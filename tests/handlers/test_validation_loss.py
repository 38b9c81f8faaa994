"""The loss on validation cases is that of one window a case, where the liver is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from liver_pipeline.handlers import ValidationLoss
from liver_pipeline.handlers.dice import foreground_accuracy
from liver_pipeline.handlers.validation_loss import cut_window, window_corner


def case(level: float) -> list[dict[str, torch.Tensor]]:
    """Return a batch of one case, taken apart as MONAI's evaluator does."""
    label = torch.zeros((1, 12, 12, 6))
    label[..., 8:10, 2:4, 2:4] = 1
    return [{"image": torch.full_like(label, level), "label": label}]


def test_it_is_the_mean_over_cases_of_one_window_each_and_nan_without_cases() -> None:
    seen = []

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(logits.shape), int(label.sum())))
        return logits.mean()

    validator = Engine(lambda engine, batch: None)
    ValidationLoss(torch.nn.Identity(), loss, (4, 4, 4), "cpu").attach(validator)
    validator.run([case(1.0), case(3.0)])
    assert validator.state.metrics["val_loss"] == pytest.approx(2.0)
    assert seen == [((1, 1, 4, 4, 4), 8)] * 2  # the window holds all of the liver
    validator.run([case(5.0)])
    assert validator.state.metrics["val_loss"] == pytest.approx(5.0)
    empty = Engine(lambda engine, batch: None)
    ValidationLoss(torch.nn.Identity(), loss, (4, 4, 4), "cpu").attach(empty)
    empty.fire_event(Events.EPOCH_COMPLETED)
    assert math.isnan(empty.state.metrics["val_loss"])


def test_the_network_is_seen_in_eval_mode_and_left_as_it_was() -> None:
    network = torch.nn.BatchNorm3d(1).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    validator = Engine(lambda engine, batch: None)
    ValidationLoss(network, lambda logits, label: logits.mean(), (4, 4, 4), "cpu").attach(validator)
    validator.run([case(7.0)])
    assert validator.state.metrics["val_loss"] == pytest.approx(7.0, abs=1e-3)  # not normalised by the batch itself
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_window_is_centred_on_the_liver_and_stays_inside_where_it_fits() -> None:
    label = np.zeros((12, 12, 6), np.uint8)
    assert window_corner(label, (4, 4, 4)) == (4, 4, 1)
    label[10:12, 5:7, 2:4] = 1
    assert window_corner(label, (4, 4, 4)) == (8, 4, 1)
    assert window_corner(label, (20, 4, 1)) == (0, 4, 3)


def test_a_window_larger_than_the_case_is_filled_up_with_zeros() -> None:
    window = cut_window(torch.ones((1, 1, 3, 5, 4)), (0, 1, 0), (4, 4, 4))
    assert window.shape == (1, 1, 4, 4, 4)
    assert window.sum() == 3 * 4 * 4


def test_the_foreground_s_accuracy_counts_liver_and_tumor_alone() -> None:
    confusion = np.array([[90, 10, 0], [2, 6, 0], [0, 1, 1]])  # 7 of 10 voxels of liver and tumor are right
    assert foreground_accuracy([confusion]) == pytest.approx(0.7)
    assert foreground_accuracy([confusion, np.array([[5, 0, 0], [0, 10, 0], [0, 0, 0]])]) == pytest.approx(17 / 20)
    assert foreground_accuracy([np.array([[5, 1], [0, 0]])]) is None
