"""Run a training so that it can be stopped at any moment and continued as if it had not been."""

from __future__ import annotations

import contextlib
import logging
import warnings

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from tqdm import tqdm

from liver_pipeline.bundle.folders import WEIGHTS
from liver_pipeline.bundle.trained import is_finished
from liver_pipeline.distributed import is_main_process
from liver_pipeline.engines.explain import explain
from liver_pipeline.handlers.checkpoint import Checkpoint
from liver_pipeline.handlers.contact_sheet import ContactSheet
from liver_pipeline.handlers.epoch_log import EpochLog
from liver_pipeline.io.checkpoints import LAST, OLDER, PREVIOUS
from liver_pipeline.io.files import move_aside
from liver_pipeline.io.locks import lock_run

BEHIND = ("log.csv", "curves.png", *(f"models/{name}" for name in (LAST, PREVIOUS, *OLDER)))  # of an earlier training


def run(
    trainer: Engine,
    log: EpochLog,
    checkpoint: Checkpoint,
    contact_sheet: ContactSheet | None = None,
    anew: bool = False,
) -> None:
    """Train, from the last checkpoint where there is one; a training that is finished is left as it is.

    Args:
        trainer: MONAI's SupervisedTrainer.
        log: Attached here with its losses, so that it comes after the trainer's own handlers.
        checkpoint: Attached here, after all whose state it saves; its parts ``average`` and ``hard_cases`` are as well.
        contact_sheet: Attached here.
        anew: Train all of the trainer's epochs, with the weights that its handlers load, such as MONAI Label's
            CheckpointLoader; what an earlier training left goes to ``earlier/<number>``, and its weights, validated
            first, stay until a validation gives better ones.

    Raises:
        ValueError: If another process is training in the run folder; see also :meth:`Checkpoint.resume`.
        LossNotFiniteError: The loss became nan or infinite.
        TooLittleMemoryError: With what would fit.
        OSError: If the disk is full; the last whole checkpoint is intact.
    """
    # processes that train together are one, and the first of them keeps others away
    with lock_run(checkpoint.folder.parent) if is_main_process() else contextlib.nullcontext():
        if anew and is_main_process():
            move_aside(checkpoint.folder.parent, BEHIND, copies=[WEIGHTS.as_posix()])
        if anew:
            trainer.add_event_handler(Events.STARTED, lambda: checkpoint.parts["best"].defend(log.validator))
            trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: _validate_last(trainer, log.validator))
        _run(trainer, log, checkpoint, contact_sheet)


def _run(trainer: Engine, log: EpochLog, checkpoint: Checkpoint, contact_sheet: ContactSheet | None) -> None:
    trainer.add_event_handler(Events.STARTED, _scale_only_fp16)
    parts = (checkpoint.parts.get(name) for name in ("average", "hard_cases"))
    for handler in (contact_sheet, log.losses, *parts, log, checkpoint):
        if handler is not None:
            handler.attach(trainer)
    checkpoint.resume(trainer)
    early_stop = checkpoint.parts["early_stop"]
    if is_finished(trainer.state.epoch, trainer.state.max_epochs, early_stop.state_dict(), early_stop.patience):
        tqdm.write(finished_line(trainer.state.epoch))
    else:
        _train(trainer, checkpoint)
    checkpoint.parts["best"].keep_last(trainer.state.epoch)


def _validate_last(trainer: Engine, validator: Engine) -> None:
    """Validate the last epoch also where ``val_interval`` is longer than the training."""
    assert isinstance(validator, Evaluator)
    epoch = trainer.state.epoch
    if epoch == trainer.state.max_epochs and validator.state.epoch != epoch:
        validator.run(epoch)


def _train(trainer: Engine, checkpoint: Checkpoint) -> None:
    logging.getLogger("ignite.engine").setLevel(logging.CRITICAL)  # what ends it is told once, by who catches it
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`dataloader` is empty")  # no validation cases: said at the end
            trainer.run()
        checkpoint.wait()
    except Exception as error:
        explained = explain(error, trainer, checkpoint.folder)
        if explained is None:
            raise
        raise explained from None
    finally:
        with contextlib.suppress(Exception):  # whatever ended the training is what to tell
            checkpoint.wait()


def _scale_only_fp16(engine: Engine) -> None:
    """Take the loss scaler away that MONAI's trainer makes for any mixed precision: bf16 has the range of float32."""
    if engine.scaler is not None and engine.amp_kwargs.get("dtype") is torch.bfloat16:
        engine.scaler = torch.amp.GradScaler(enabled=False)


def finished_line(epoch: int) -> str:
    """Say that a training is finished, and what can be done about it."""
    return f"finished after epoch {epoch}; raise max_epochs (or early_stop_patience) to prolong, --restart begins anew"
