"""Gradients added up over batches, schedules that move with steps, number formats: whole trainings on phantoms."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer

import liver_pipeline as lp
from liver_pipeline.handlers.schedule import LrSchedule, is_step, schedule_length, steps_done
from liver_pipeline.io.checkpoints import load_checkpoint
from tests.commands.test_train import content, differing, train_until
from tests.small import NETWORKS, UNET3D, make_phantoms

# Group normalization and cross-entropy, so that the mean over two batches is the figure of both together; plain SGD,
# which does not blow up what rounding leaves of a gradient that should be zero.
pytestmark = pytest.mark.usefixtures("leave_no_global_state")

EXACT: dict[str, Any] = {
    **{key: value for key, value in UNET3D.items() if not key.startswith("network_def")},
    **NETWORKS["segresnet"],
    "network_def::dropout_prob": None,
    "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True, "lambda_dice": 0.0},
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": "@learning_rate"},
    "learning_rate": 0.01,
    "crops_per_case": 1,
    "max_epochs": 2,
    "split_fractions": [0.8, 0.2, 0.0],
    "ema_decay": 0.9,
    "lr_step_each": "step",
    "deterministic": True,
}
CASES, STEPS = 4, 2  # in batches of two cases


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {**EXACT, "dataset_dir": str(make_phantoms(tmp_path_factory.mktemp("phantoms"), CASES + 1))}


def train(run: Path, overrides: dict[str, Any], **changes: Any) -> dict[str, Any]:
    lp.train(run, {"network": "segresnet"}, overrides={**overrides, **changes})
    return load_checkpoint(run / "models/last.ckpt")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, overrides: dict[str, Any]) -> dict[str, Any]:
    return train(tmp_path_factory.mktemp("large") / "run", overrides, batch_size=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, overrides: dict[str, Any]) -> dict[str, Any]:
    return train(tmp_path_factory.mktemp("alone") / "run", overrides, batch_size=1)


def assert_same_course(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("model", "average"):
        for key, value in one[part].items():
            torch.testing.assert_close(other[part][key], value, rtol=1e-3, atol=1e-4)
    assert other["lr_scheduler"]["last_epoch"] == one["lr_scheduler"]["last_epoch"]
    assert other["optimizer"]["param_groups"][0]["lr"] == one["optimizer"]["param_groups"][0]["lr"]


def scale_on_the_processor(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    """Let MONAI's trainer, which knows mixed precision on CUDA only, scale the loss on the processor, and autocast."""
    original = torch.autocast
    scaler = SimpleNamespace(GradScaler=lambda: torch.amp.GradScaler("cpu", init_scale=1024.0))
    monkeypatch.setattr(torch, "autocast", lambda _, **options: original("cpu", enabled=autocast, **options))
    monkeypatch.setattr(torch.cuda, "amp", scaler)


def test_small_batches_whose_gradients_are_added_up_train_like_large_ones(
    tmp_path: Path, overrides: dict[str, Any], large: dict[str, Any], alone: dict[str, Any]
) -> None:
    small = train(tmp_path / "small", overrides, batch_size=1, accumulate_steps=2)
    assert large["lr_scheduler"]["last_epoch"] == 2 * STEPS  # the rate has moved with the steps, not the batches
    assert_same_course(large, small)
    assert any(not torch.allclose(alone["model"][key], large["model"][key], atol=1e-3) for key in large["model"])


def test_added_up_gradients_are_scaled_in_mixed_precision(
    tmp_path: Path, overrides: dict[str, Any], large: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_on_the_processor(monkeypatch, autocast=False)  # float16 is slow there
    scaled = {"amp": True, "amp_dtype": "fp16"}
    small = train(tmp_path / "small", overrides, batch_size=1, accumulate_steps=2, **scaled)
    assert small["scaler"]["_growth_tracker"] == 2 * STEPS  # updated with each step
    assert_same_course(large, small)


def test_bf16_trains_without_a_scaled_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_on_the_processor(monkeypatch, autocast=True)
    forward = torch.nn.Conv3d.forward
    formats: set[torch.dtype] = set()

    def convolve(self: torch.nn.Conv3d, image: torch.Tensor) -> torch.Tensor:
        result = forward(self, image)
        formats.add(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.Conv3d, "forward", convolve)
    data = make_phantoms(tmp_path / "data")
    options = {**UNET3D, "amp": True, "amp_dtype": "bf16", "dataset_dir": str(data)}
    run = lp.compose(tmp_path / "run", {}, overrides=options)
    formats.clear()  # of the network's trial
    lp.train(run, {})
    assert load_checkpoint(tmp_path / "run/models/last.ckpt")["scaler"] == {}  # a scaler that scales has a state
    assert formats == {torch.bfloat16}


def test_a_training_with_added_up_gradients_continues_exactly(tmp_path: Path, overrides: dict[str, Any]) -> None:
    options = {**overrides, "batch_size": 1, "accumulate_steps": 3, "activation_checkpointing": True}
    whole, run = tmp_path / "whole", tmp_path / "run"
    lp.train(whole, {"network": "segresnet"}, overrides=options)
    train_until(CASES + 2, run, options, network="segresnet")  # in the second epoch, between two steps
    assert load_checkpoint(run / "models/last.ckpt")["epoch"] == 1
    lp.train(run, {"network": "segresnet"}, overrides={**options, "activation_checkpointing": False})
    assert differing(content(run), content(whole)) == []


def test_a_prolonged_schedule_that_moves_with_steps_is_that_of_the_longer_training(
    tmp_path: Path, overrides: dict[str, Any], alone: dict[str, Any]
) -> None:
    train(tmp_path / "run", overrides, max_epochs=1)
    prolonged = train(tmp_path / "run", overrides, max_epochs=2)
    rates = [group["lr"] for state in (prolonged, alone) for group in state["optimizer"]["param_groups"]]
    assert rates[0] == pytest.approx(rates[1], abs=1e-12)
    logged = [row["learning_rate"] for row in prolonged["log"]["rows"]]
    assert logged == pytest.approx([0.01, 0.005])  # cosine over 2 epochs, at its start and middle


def test_steps_are_counted_as_the_trainer_takes_them() -> None:
    engine: Any = SimpleNamespace(state=SimpleNamespace(epoch_length=5, iteration=0), accumulation_steps=2)
    taken = [iteration for iteration in range(1, 11) if is_step(engine, iteration)]
    assert taken == [2, 4, 5, 7, 9, 10]
    for count, iteration in enumerate(taken, 1):
        engine.state.iteration = iteration
        assert steps_done(engine) == count
    assert schedule_length("step", 2, [0] * 5, 2) == len(taken)
    assert schedule_length("epoch", 2, [0] * 5, 2) == 2
    with pytest.raises(ValueError, match="expected epoch or step"):
        schedule_length("batch", 2, [0] * 5)


def test_the_schedule_moves_when_the_trainer_steps() -> None:
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    rates: list[float] = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}] * 5,
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        prepare_batch=lambda batch, *_, **__: (batch["image"], batch["label"]),
        train_handlers=[LrSchedule(schedule, each="step")],
        accumulation_steps=2,
        decollate=False,
    )
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.run()
    assert rates == pytest.approx([1, 1 / 2, 1 / 2, 1 / 3, 1 / 4])
