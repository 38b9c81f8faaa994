"""Show how a training goes: bar with loss, Dice, time left and share of time spent waiting for data; curves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from liver_pipeline.distributed import is_main_process
from liver_pipeline.handlers.epoch_log import EpochLog
from liver_pipeline.handlers.step_losses import StepLosses
from liver_pipeline.visualize.curves import draw_training

WAIT_WARNING = 0.2  # share of an epoch's steps; above it the loader is worth a look


class Progress:
    """A bar over the steps of each epoch; a warning when the loader, not the network, sets the pace.

    ``engine.state.data_wait_share`` is the share of the time of an epoch's steps that went by waiting for batches; the
    log has it as a column. The bar is silent where there is no terminal. Attach it to the trainer.

    Args:
        validator: Its key metric is shown.
        losses: The latest one is shown.
        clock: Seconds; for tests.
    """

    def __init__(self, validator: Engine, losses: StepLosses, clock: Callable[[], float] = time.monotonic) -> None:
        self.validator, self.losses, self.clock = validator, losses, clock
        self.bar: tqdm[Any] | None = None
        self.warned = False
        self.first_iteration = 0
        self.run_started = self.epoch_started = self.asked = self.waited = 0.0

    def attach(self, engine: Engine) -> None:
        """Follow the trainer's events, in the process that writes."""
        if not is_main_process():
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._receive)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)

    def _start(self, engine: Engine) -> None:
        self.run_started, self.first_iteration = self.clock(), engine.state.iteration

    def _start_epoch(self, engine: Engine) -> None:
        self.epoch_started, self.waited = self.clock(), 0.0
        total, title = engine.state.epoch_length, f"epoch {engine.state.epoch}/{engine.state.max_epochs}"
        self.bar = tqdm(total=total, desc=title, unit="step", disable=None, leave=False)

    def _ask(self, engine: Engine) -> None:
        self.asked = self.clock()

    def _receive(self, engine: Engine) -> None:
        self.waited += self.clock() - self.asked

    def _step(self, engine: Engine) -> None:
        share = self.waited / max(self.clock() - self.epoch_started, 1e-9)
        engine.state.data_wait_share = share
        if self.bar is None or self.bar.disable:
            return
        shown = {"loss": f"{self.losses.last:.3f}"}
        metric = self.validator.state.metrics.get(self.validator.state.key_metric_name)
        if metric is not None and math.isfinite(metric):
            shown["dice"] = f"{float(metric):.3f}"
        self.bar.set_postfix({**shown, "left": duration(self.seconds_left(engine)), "wait": f"{share:.0%}"})
        self.bar.update()

    def seconds_left(self, engine: Engine) -> float:
        """Return the time to the last epoch's end at the pace since the start, validations included."""
        done = engine.state.iteration - self.first_iteration
        to_do = engine.state.max_epochs * engine.state.epoch_length - engine.state.iteration
        return float((self.clock() - self.run_started) / max(done, 1) * to_do)

    def _end_epoch(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
        share = engine.state.data_wait_share
        if share > WAIT_WARNING and not self.warned and engine.state.epoch > 1:  # the first one also warms up
            self.warned = True
            tqdm.write(
                f"{share:.0%} of the time went by waiting for data: the loader is the limit, not the network; raise "
                f"num_workers, put cache_dir on a faster disk, or lighten the augmentation"
            )


class SayFallbacks:
    """Say once what a validation had to do for want of memory, such as smaller batches. Attach it to the evaluator."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def attach(self, engine: Engine) -> None:
        """Look at each case."""
        if is_main_process():
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        for item in engine.state.output:
            record = getattr(item["pred"], "meta", {}).get("inference")  # MONAI takes that of a plain tensor apart
            happened = record.get("fallbacks", "") if isinstance(record, Mapping) else ""
            if happened and happened not in self.said:
                self.said.add(happened)
                tqdm.write(f"validation: {happened}; scores are the same, and it takes longer")


class Curves:
    """Keep ``curves.png`` up to date: after an epoch, when drawing costs less than 2 % of the time, and at the end.

    Attach it to the trainer.

    Args:
        path: The picture.
        log: Has the rows.
        clock: Seconds; for tests.
    """

    def __init__(self, path: str | Path, log: EpochLog, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.log, self.clock = Path(path), log, clock
        self.not_before = -float("inf")

    def attach(self, engine: Engine) -> None:
        """Draw after the epoch's row is in the log, which is when the next epoch starts, and at the end."""
        if not is_main_process():
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        if self.clock() >= self.not_before:
            self._draw(engine)

    def _draw(self, engine: Engine) -> None:
        if self.log.rows:
            started = self.clock()
            draw_training(self.path, self.log.rows)
            self.not_before = self.clock() + 50 * (self.clock() - started)


def duration(seconds: float) -> str:
    """Return a time span as people say it: 45s, 12m, 3h20m, 2d4h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f}s"
    if minutes < 90:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 48 else f"{hours // 24}d{hours % 24}h"
