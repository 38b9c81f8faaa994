"""What TensorBoard shows besides curves: the network's graph, and a validation case as it is seen epoch after epoch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.image import imread
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from liver_pipeline.handlers.step_losses import StepLoss, StepLosses
from liver_pipeline.labels import LIVER, LIVER_OR_TUMOR, Scaled
from liver_pipeline.visualize.pictures import case_picture


class Overlays:
    """Draw the validation case with the largest tumor: its slice with most tumor, reference and prediction outlined.

    Attach it to the evaluator; its output are ``image`` (C, X, Y, Z), and labels ``label`` and ``pred`` (1, X, Y, Z).

    Args:
        writer: Takes the pictures; None, as in processes that do not write, draws none.
        interval: Validations from one picture to the next; None draws none.
        num_classes: Background included; the last one is the tumor's, or the liver's where there are two.
    """

    def __init__(self, writer: SummaryWriter | None, interval: int | None, num_classes: int = 3) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f"overlay_interval is {interval}; expected at least 1, or null for no pictures")
        self.writer, self.interval, self.last_class = writer, interval, num_classes - 1
        self.validations, self.largest = 0, -1
        self.case: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def attach(self, engine: Engine) -> None:
        """Look at each case, draw one at the end."""
        if self.writer is not None and self.interval is not None:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)
            engine.add_event_handler(Events.COMPLETED, self._draw)

    def _start(self, engine: Engine) -> None:
        self.largest, self.case = -1, None

    def _look(self, engine: Engine) -> None:
        if self.validations % (self.interval or 1):
            return
        for item in engine.state.output:
            size = int((item["label"] == self.last_class).sum())
            if size > self.largest:
                self.largest, self.case = size, (item["image"], item["label"][0], item["pred"][0])

    def _draw(self, engine: Engine) -> None:
        self.validations += 1
        if self.case is None or self.writer is None:
            return
        picture = overlay(*self.case)
        if picture is not None:
            self.writer.add_image("validation/largest tumor", picture, engine.state.epoch, dataformats="HWC")
            self.writer.flush()


def overlay(image: torch.Tensor, label: torch.Tensor, pred: torch.Tensor) -> np.ndarray[Any, Any] | None:
    """Draw one case.

    Args:
        image: Shape (C, X, Y, Z); its first channel is shown from its smallest to its largest value.
        label: Reference labels, shape (X, Y, Z).
        pred: Predicted labels of the same shape.

    Returns:
        RGB, uint8, shape (rows, columns, 3); None where both label maps are empty.
    """
    spacing = np.asarray(image.pixdim) if hasattr(image, "pixdim") else np.ones(3)
    shown = torch.Tensor.as_subclass(image[0], torch.Tensor).float().cpu().numpy()
    low, high = float(shown.min()), float(shown.max())
    scale = 300.0 / max(high - low, 1e-6)  # the pictures' window is 300 HU wide, from -100
    found, reference = (torch.as_tensor(x).cpu().numpy().astype(np.uint8) for x in (pred, label))
    reference[reference == LIVER_OR_TUMOR] = LIVER
    drawn = case_picture(found, reference, tuple(spacing), Scaled(shown, scale, -100.0 - low * scale))
    if drawn["case"] is None:
        return None
    picture: np.ndarray[Any, Any] = (imread(io.BytesIO(drawn["case"]))[..., :3] * 255).round().astype(np.uint8)
    return picture


class Board:
    """Write the network's graph when a training begins, the loss of each step, and have all on disk after each epoch.

    A network that cannot be traced has no graph, which a line says. Attach it to the trainer.

    Args:
        writer: Shared with the other handlers; None does nothing.
        network: Traced as in evaluation.
        window: Shape of one window, (C, X, Y, Z).
        graph: Whether to write the graph; large networks take a minute.
        losses: Tell of each loss.
    """

    def __init__(
        self, writer: SummaryWriter | None, network: nn.Module, window: Sequence[int], graph: bool, losses: StepLosses
    ) -> None:
        self.writer, self.network, self.window, self.graph = writer, network, tuple(window), graph
        self.losses = losses

    def attach(self, engine: Engine) -> None:
        """Write once; a training that continues has its graph already."""
        if self.writer is None:
            return
        self.losses.readers.append(self._write_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.writer.flush())
        if self.graph:
            engine.add_event_handler(Events.STARTED, self)

    def _write_loss(self, step: StepLoss) -> None:
        if self.writer is not None:
            self.writer.add_scalar("train_loss", step.value, step.iteration)

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        if engine.state.iteration or self.writer is None:
            return
        device, training = next(self.network.parameters()).device, self.network.training
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the tracer, about shapes that are constant here
                self.network.eval()
                self.writer.add_graph(self.network, torch.zeros(1, *self.window, device=device))
        except Exception as error:  # tracing fails in as many ways as there are networks
            tqdm.write(f"no graph in TensorBoard: {' '.join(str(error).split()[:20])}")
        finally:
            self.network.train(training)
