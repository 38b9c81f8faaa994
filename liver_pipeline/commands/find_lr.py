"""Find a learning rate for a run before training it: MONAI's range test on the run's own network, loss and data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.optimizers import LearningRateFinder
from monai.utils import set_determinism

from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.io.locks import lock_run
from liver_pipeline.io.tables import write_table
from liver_pipeline.visualize.curves import draw_learning_rates

LOWEST, HIGHEST = 1e-6, 1.0


def find_learning_rate(
    run_dir: str | Path, *, steps: int = 100, overrides: Mapping[str, Any] | None = None
) -> tuple[float, float]:
    """Raise the learning rate from 1e-6 to 1 over ``steps`` steps and see where the loss falls fastest.

    Weights are not kept. ``find_lr/learning_rates.csv`` and ``find_lr/curve.png`` in the run folder get the curve.

    Args:
        run_dir: A composed run.
        steps: Training steps; it ends earlier when the loss has grown to five times its lowest value.
        overrides: Keys of its train config.

    Returns:
        The learning rate where the smoothed loss falls fastest, and the one in the run's config.

    Raises:
        ValueError: If the loss did not fall, there were fewer than 10 steps, or another process is training in the run.
    """
    if steps < 10:
        raise ValueError(f"steps is {steps}; fewer than 10 show no curve")
    config = load_config(run_dir, "train", overrides)
    with lock_run(run_dir):
        return _find(Path(run_dir), ConfigParser(config), steps)


def _find(run_dir: Path, parser: ConfigParser, steps: int) -> tuple[float, float]:
    set_determinism(seed=parser.get_parsed_content("seed"))
    optimizer = parser.get_parsed_content("optimizer")
    present = float(optimizer.param_groups[0]["lr"])
    loss, loader = (parser.get_parsed_content(f"train::{name}") for name in ("loss", "dataloader"))
    device = parser.get_parsed_content("device")
    finder = LearningRateFinder(parser.get_parsed_content("network"), optimizer, loss, device=device, verbose=False)
    finder.range_test(loader, start_lr=LOWEST, end_lr=HIGHEST, num_iter=steps, smooth_f=0.2)
    rates, losses = finder.get_lrs_and_losses()
    folder = run_dir / "find_lr"
    write_table(
        folder / "learning_rates.csv", [{"learning_rate": r, "loss": x} for r, x in zip(rates, losses, strict=True)]
    )
    steepest, _ = finder.get_steepest_gradient(skip_start=steps // 10)
    if steepest is None or min(losses) >= losses[0]:
        raise ValueError(f"the loss did not fall at any rate; see {folder / 'learning_rates.csv'}, or take more steps")
    draw_learning_rates(folder / "curve.png", rates, losses, float(steepest))
    return float(steepest), present
