"""Write all that the next epoch depends on, whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._pytree import tree_map
from tqdm import tqdm

from liver_pipeline.distributed import is_main_process
from liver_pipeline.handlers.budget import CosineBudget
from liver_pipeline.io.checkpoints import LAST, PREVIOUS, load_latest, save_checkpoint
from liver_pipeline.io.files import remove_temporary


class Checkpoint:
    """Keep what the next epoch depends on after each epoch, in ``last.ckpt``; the one before it is ``previous.ckpt``.

    The state of random number generators is not among it: see :mod:`liver_pipeline.data.loaders`. Attach it to the
    trainer after all handlers whose state it saves, as :func:`liver_pipeline.engines.training.run` does.

    A GPU that has finished an epoch is not kept waiting for the disk: the file is written from a copy on the host while
    the next epoch is computed. What goes wrong then is raised when that epoch ends, or by :meth:`wait`.

    Args:
        folder: Of the two files.
        parts: Name to object with ``state_dict`` and ``load_state_dict``. The name ``lr_scheduler`` is known here.

    Attributes:
        behind: Whether files are written while the training goes on; None: where it runs on a GPU.
    """

    def __init__(self, folder: str | Path, parts: Mapping[str, Any]) -> None:
        self.folder, self.parts = Path(folder), dict(parts)
        self.behind: bool | None = None
        self._writing: Future[None] | None = None
        self._scaler_state: dict[str, Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Save after each epoch."""
        engine.add_event_handler(Events.STARTED, self._restore_scaler)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        if not is_main_process():
            return
        states = {name: part.state_dict() for name, part in self.parts.items()}
        counts = {"epoch": engine.state.epoch, "max_epochs": engine.state.max_epochs}
        scaler = None if engine.scaler is None else engine.scaler.state_dict()
        contents = {**states, **counts, "scaler": scaler}
        on_gpu = engine.state.device is not None and engine.state.device.type == "cuda"
        if not (on_gpu if self.behind is None else self.behind):
            save_checkpoint(self.folder / LAST, contents, keep_as=PREVIOUS)
            return
        self.wait()
        pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing = pool.submit(save_checkpoint, self.folder / LAST, host_copy(contents), keep_as=PREVIOUS)
        pool.shutdown(wait=False)

    def wait(self) -> None:
        """Wait until what is being written is there.

        Raises:
            OSError: If it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _restore_scaler(self, engine: Engine) -> None:  # MONAI's trainer makes it when it starts to run
        if engine.scaler is not None and self._scaler_state:
            engine.scaler.load_state_dict(self._scaler_state)

    def resume(self, engine: Engine) -> None:
        """Bring all parts and the trainer to the end of the last saved epoch; without a checkpoint do nothing.

        A learning-rate schedule whose length is ``max_epochs`` is another one when that number has changed: then the
        schedule is moved through the finished epochs, so that the rest of the training has the rates of one that was
        meant to be that long from the start. ReduceLROnPlateau, which has no length, goes on as it was.

        Raises:
            DamagedCheckpointError: If there are checkpoints and none is whole.
            ValueError: If the checkpoint is of another configuration.
        """
        remove_temporary(self.folder)
        state, problems = load_latest(self.folder)
        for problem in problems:
            tqdm.write(problem)
        if state is None:
            return
        if missing := sorted(({*self.parts} | {"epoch", "max_epochs", "scaler"}) - set(state)):
            raise ValueError(f"the checkpoint in {self.folder} lacks {missing[0]}; --restart begins the training anew")
        rates = None
        if state["max_epochs"] != engine.state.max_epochs:
            rates = self._replayed_rates(state["lr_scheduler"].get("last_epoch", state["epoch"]))
        for name, part in self.parts.items():
            if name == "lr_scheduler" and rates is not None:
                continue
            try:
                part.load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError) as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(f"the checkpoint in {self.folder} is of another configuration ({reason})") from None
        for group, rate in zip(self.parts["optimizer"].param_groups, rates, strict=True) if rates is not None else ():
            group["lr"] = rate
        self._scaler_state = state["scaler"]
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        tqdm.write(f"continuing after epoch {state['epoch']} of {engine.state.max_epochs}")

    def _replayed_rates(self, moves: int) -> list[float] | None:
        """Move the new scheduler on as often as the old one was; return the rates it ends with."""
        scheduler = self.parts.get("lr_scheduler")
        if scheduler is None or isinstance(scheduler, ReduceLROnPlateau | CosineBudget):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer step came before: here that is meant
            for _ in range(moves):
                scheduler.step()
        rates: list[float] = scheduler.get_last_lr()
        return rates


def host_copy(contents: Any) -> Any:
    """Return nested dicts and lists with all tensors copied to the host, so that nothing changes them any more."""
    waits = set()

    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if not value.is_cuda:
            return value.detach().clone()
        waits.add(value.device)
        return value.detach().to("cpu", non_blocking=True)  # into pinned memory, all at once

    copy = tree_map(copied, contents)
    for device in waits:
        torch.cuda.current_stream(device).synchronize()
    return copy
