from __future__ import annotations

import time

import pytest
import torch
from ignite.engine import Engine, Events

from liver_pipeline.handlers import ClipGradients, CosineBudget, StopInTime


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def test_the_rate_falls_as_a_cosine_over_the_steps() -> None:
    budget = CosineBudget(optimizer(), max_steps=100, warmup_steps=0, final_share=0.0)
    for _ in range(50):
        budget.step()
    assert budget.get_last_lr() == [pytest.approx(0.5)]  # half way down
    for _ in range(50):
        budget.step()
    assert budget.get_last_lr() == [pytest.approx(0.0)]


def test_the_rate_falls_with_time_where_that_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    budget = CosineBudget(optimizer(), max_steps=1000, max_seconds=40, warmup_steps=0, final_share=0.0)
    budget.start()
    now[0] += 20
    budget.step()
    assert budget.get_last_lr() == [pytest.approx(0.5)]
    other = CosineBudget(optimizer(), max_steps=1000, max_seconds=40, warmup_steps=0, final_share=0.0)
    other.load_state_dict(budget.state_dict())
    other.start()
    now[0] += 10
    assert other.seconds == pytest.approx(30)  # 20 of the earlier run, 10 of this one


def test_the_rate_grows_over_the_first_steps() -> None:
    budget = CosineBudget(optimizer(), max_steps=10**6, warmup_steps=4)
    rates = [budget.get_last_lr()[0]]
    for _ in range(4):
        budget.step()
        rates.append(budget.get_last_lr()[0])
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], rel=1e-4)


def test_a_training_ends_with_the_last_whole_epoch_that_its_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def step(engine: Engine, batch: int) -> None:
        now[0] += 1.0

    saved: list[int] = []
    trainer = Engine(step)
    StopInTime(CosineBudget(optimizer(), max_steps=10**6, max_seconds=35)).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: saved.append(engine.state.epoch))
    trainer.run(range(10), max_epochs=100)
    assert now[0] == 30  # a fourth epoch would have ended at 40
    assert saved == [1, 2, 3]  # handlers behind it still ran in the last epoch


def test_a_budget_that_is_used_up_ends_a_training_before_its_first_step() -> None:
    budget = CosineBudget(optimizer(), max_steps=10, max_seconds=5)
    budget.load_state_dict({"last_epoch": 7, "seconds": 5.0})
    trainer = Engine(lambda engine, batch: pytest.fail("a step was taken"))
    StopInTime(budget).attach(trainer)
    trainer.run(range(10), max_epochs=2)


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"max_steps": 5, "max_seconds": 0}])
def test_a_budget_must_be_positive(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        CosineBudget(optimizer(), **wrong)


def test_long_gradients_are_scaled_and_short_ones_kept() -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    engine = Engine(lambda engine, batch: None)
    engine.scaler = None  # as MONAI's trainer has it without fp16
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    ClipGradients(network, 1.0)(engine)
    assert network.weight.grad.tolist() == [pytest.approx([0.6, 0.8])]
    ClipGradients(network, 10.0)(engine)
    assert network.weight.grad.tolist() == [pytest.approx([0.6, 0.8])]
    with pytest.raises(ValueError, match="max_gradient_norm"):
        ClipGradients(network, 0.0)
