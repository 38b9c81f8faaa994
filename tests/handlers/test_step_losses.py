"""What a training step costs besides the network: no copy of a gradient, no waiting for a number; losses come late."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines.utils import IterationEvents
from torch.profiler import ProfilerActivity, profile

from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.engines.training import run
from liver_pipeline.handlers.bad_loss import LossNotFiniteError, StopAtBadLoss
from liver_pipeline.handlers.step_losses import StepLoss, StepLosses
from liver_pipeline.networks.acceleration import settle_randomness
from tests.small import UNET3D, make_phantoms

pytestmark = pytest.mark.usefixtures("leave_no_global_state")

STEPS = 20
WAITING = ("cpu", "tolist", "numpy", "__array__")  # methods of a tensor that wait for it; item is counted below


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Count what would make the processor wait for a GPU: numbers, truth values and copies to the host."""
    count: Counter[str] = Counter()

    def counting(name: str) -> Any:
        method = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: Any, **options: Any) -> Any:
            if threading.current_thread() is threading.main_thread():  # others prepare batches
                count[name] += 1
            return method(self, *args, **options)

        return mock.patch.object(torch.Tensor, name, counted)

    class Scalars(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:  # item, float, int, bool
                count["item"] += 1
            return func(*args, **(kwargs or {}))

    patches = [counting(name) for name in WAITING]
    for patch in patches:
        patch.start()
    try:
        with Scalars():  # type: ignore[no-untyped-call]
            yield count
    finally:
        for patch in patches:
            patch.stop()


def trainer_of(folder: Path, **overrides: Any) -> tuple[Any, ...]:
    """Return trainer, log and checkpoint of a training of one epoch of STEPS steps."""
    data = make_phantoms(folder / "data", 3)
    settings = {
        **UNET3D,
        "dataset_dir": str(data),
        "num_workers": 1,
        "train::dataset::data": f"$@usable['train'] * {STEPS}",
        "train::hard_cases::cases": "$@usable['train']",
        **overrides,
    }
    parser = ConfigParser({**merge_layers({}, overrides=settings)["train"], "bundle_root": str(folder)})
    (folder / "models").mkdir()
    parts = tuple(parser.get_parsed_content(f"train::{key}") for key in ("trainer", "log", "checkpoint"))
    parser.get_parsed_content("validate::early_stop").set_trainer(parts[0])
    return parts


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_asks_for_no_number_but_its_loss(scaled: bool, tmp_path: Path) -> None:
    trainer, log, checkpoint = trainer_of(tmp_path, **{"amp": scaled, "optimizer::fused": True})  # fused as on a GPU
    count: Counter[str] = Counter()

    @contextmanager
    def of_steps() -> Iterator[None]:
        with waits() as seen:
            yield
        count.update(seen)

    context = of_steps()
    if scaled:  # as with fp16: a fused optimizer takes the scaler's verdict without asking for it
        settled = lambda: setattr(trainer, "scaler", torch.amp.GradScaler("cpu"))  # noqa: E731
        trainer.add_event_handler(Events.EPOCH_STARTED, settled)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: context.__enter__())
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda: context.__exit__(None, None, None) if trainer.state.iteration == STEPS else None,
    )
    run(trainer, log, checkpoint)
    assert trainer.state.iteration == STEPS
    assert len(log.losses.epoch) == STEPS
    assert count.pop("item") == STEPS  # on a GPU read from pinned memory, one step late
    assert count.pop("tolist") == STEPS  # MONAI's DiceLoss lists the axes it sums over, which are on the host
    assert not count


def copies(step: Any) -> int:
    """Return how many tensors of voxels or weights are copied in a training step."""
    step()  # what happens once
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        step()
    events = profiled.key_averages(group_by_input_shape=True)
    return sum(event.count for event in events if event.key == "aten::copy_" and len(event.input_shapes[0]) > 1)


def test_a_training_step_copies_as_often_as_the_network_alone(tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(tmp_path)
    batch = next(iter(trainer.data_loader))
    trainer.scaler = None
    image, label = torch.rand(batch["image"].shape), torch.zeros(batch["label"].shape)
    assert type(batch["image"]) is torch.Tensor

    def alone() -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.loss_function(trainer.network(image), label).backward()
        trainer.optimizer.step()

    def ours() -> None:
        trainer.state.batch = batch
        trainer._iteration(trainer, batch)

    trainer.network.train()
    assert copies(ours) == copies(alone)


def losses_with(readers: list[Any]) -> tuple[StepLosses, Engine]:
    """Return StepLosses on an engine whose step k has the loss that its batch holds."""

    def step(engine: Engine, batch: dict[str, Any]) -> None:
        engine.state.output = {"loss": batch["loss"]}
        engine.fire_event(IterationEvents.LOSS_COMPLETED)

    engine, losses = Engine(step), StepLosses()
    engine.register_events(*IterationEvents)
    losses.attach(engine)
    losses.readers += readers
    return losses, engine


def test_losses_come_in_order_and_an_epoch_has_its_own() -> None:
    seen: list[StepLoss] = []
    losses, engine = losses_with([seen.append])
    batches = [{"loss": torch.tensor(float(k))} for k in range(3)]
    engine.run(batches, max_epochs=2)
    assert [(step.epoch, step.iteration, step.value) for step in seen] == [
        (1 + k // 3, 1 + k, float(k % 3)) for k in range(6)
    ]
    assert losses.epoch == [0.0, 1.0, 2.0]
    assert losses.last == 2.0


class Late(torch.Tensor):
    """A number that says it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_bad_loss_that_is_read_late_names_its_own_cases_before_the_epoch_ends(
    bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronized: list[str] = []
    event = SimpleNamespace(synchronize=lambda: synchronized.append("event"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(record_event=lambda: event))
    losses, engine = losses_with([])
    StopAtBadLoss(tmp_path / "bad.json", losses).attach(engine)
    ended: list[int] = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: ended.append(1))
    batches = [
        {
            "loss": torch.tensor(float("nan") if k == bad else 1.0).as_subclass(Late),
            "case": [f"case{k}"],
            "image": torch.full((1, 1, 2, 2, 2), float(k)),
        }
        for k in range(3)
    ]
    with pytest.raises(LossNotFiniteError, match=f"the loss is nan in epoch 1, cases case{bad} "):
        engine.run(batches, max_epochs=1)
    assert engine.state.iteration == min(bad + 2, 3)  # a step late
    assert not ended
    assert f'"{float(bad)}"' in (tmp_path / "bad.json").read_text()


def test_cudnn_is_held_to_deterministic_kernels_only_where_asked_for() -> None:
    for deterministic in (False, True):
        settle_randomness(0, deterministic=deterministic)
        chosen = (torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled())
        assert chosen == (deterministic, deterministic)
        assert torch.backends.cudnn.benchmark != deterministic


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("amp_dtype", ["bf16", "fp16"])
def test_a_gpu_is_never_waited_for_in_a_step(amp_dtype: str, tmp_path: Path) -> None:
    trainer, log, checkpoint = trainer_of(tmp_path, device="$torch.device('cuda')", amp_dtype=amp_dtype)

    def mode(name: str) -> Any:
        return lambda: torch.cuda.set_sync_debug_mode(name)

    trainer.add_event_handler(Events.ITERATION_STARTED(once=3), mode("error"))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=STEPS), mode("default"))
    try:
        run(trainer, log, checkpoint)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(log.losses.epoch) == STEPS
