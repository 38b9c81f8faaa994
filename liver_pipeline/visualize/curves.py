"""Pictures of numbers over time: loss and Dice of a training, loss over learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from liver_pipeline.io.files import whole_file


def draw_training(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss and learning rate beside the validation metrics, over epochs.

    Args:
        path: PNG; written whole or not at all.
        rows: As in ``log.csv``: ``epoch``, ``train_loss``, ``learning_rate``, and ``val_...``, None where an epoch was
            not validated.
    """
    from matplotlib.figure import Figure  # here: takes a second to import

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, dice_axes = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    loss_axes.plot(epochs, [row["train_loss"] for row in rows], label="training loss")
    loss_axes.set(xlabel="epoch", ylabel="loss")
    rate_axes = loss_axes.twinx()
    rate_axes.plot(epochs, [row["learning_rate"] for row in rows], color="0.7", linestyle="--")
    rate_axes.set(ylabel="learning rate (dashed)")
    for name in dict.fromkeys(key for row in rows for key in row if key.startswith("val_")):
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        marker = "." if len(points) < 50 else ""
        axes, label = (dice_axes, name.removeprefix("val_")) if name != "val_loss" else (loss_axes, "validation loss")
        axes.plot(*zip(*points, strict=True), label=label, marker=marker) if points else None
    loss_axes.legend()
    dice_axes.set(xlabel="epoch", ylabel="validation: Dice, accuracy", ylim=(0, 1))
    if dice_axes.lines:
        dice_axes.legend()
    _save(figure, Path(path))


def draw_learning_rates(path: str | Path, rates: Sequence[float], losses: Sequence[float], chosen: float) -> None:
    """Draw the loss over the learning rate, with the rate that was chosen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(rates, losses)
    axes.axvline(chosen, color="0.5", linestyle="--", label=f"{chosen:.1e}")
    axes.set(xlabel="learning rate", ylabel="smoothed loss")
    axes.legend()
    _save(figure, Path(path))


def _save(figure: Any, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
