"""Draw the cases that the network does badly on more often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from liver_pipeline.distributed import sum_over_processes
from liver_pipeline.labels import LIVER, LIVER_OR_TUMOR

MEMORY = 0.5  # weight of what was known before in the difficulty after another epoch
EASIEST = 0.01  # least difficulty, so that no case is left out for good


class HardCases:
    """Replace a share of an epoch's cases by draws in proportion to their difficulty.

    The difficulty of a case is one minus the Dice of its training windows: the mean over windows and over the
    foreground classes that a window or its prediction holds, averaged over epochs with the latest weighing one half. A
    case not seen yet has 1. It is the same in all processes that train together.
    :func:`liver_pipeline.engines.training.run` attaches it.

    Args:
        cases: Training cases in the order of the dataset.
        share: 0 (off) to 1.

    Raises:
        ValueError: If ``share`` is not a share.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]], share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"hard_case_share is {share}; it lies between 0 (off) and 1")
        self.share = share
        self.index = {case["case"]: i for i, case in enumerate(cases)}
        self.difficulty: npt.NDArray[np.float64] = np.ones(len(cases))
        self._seen: list[tuple[list[str], torch.Tensor]] = []  # of this epoch: cases of windows, their Dice

    def attach(self, engine: Engine) -> None:
        """Look at each prediction, and take stock after each epoch; nothing when switched off."""
        if self.share > 0:
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._look)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._take_stock)

    def redraw(self, order: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return an order of the same length, a share of it drawn by difficulty (with replacement)."""
        drawn = round(self.share * len(order))
        if drawn == 0:
            return order
        hard = rng.choice(len(self.difficulty), drawn, p=self.difficulty / self.difficulty.sum())
        return rng.permutation(np.concatenate([order[drawn:], hard]))

    def state_dict(self) -> dict[str, Any]:
        """Return the difficulty of each case."""
        return {"difficulty": {case: float(self.difficulty[i]) for case, i in self.index.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, for the cases that are known here."""
        for case, difficulty in state["difficulty"].items():
            if case in self.index:
                self.difficulty[self.index[case]] = difficulty

    def _look(self, engine: Engine) -> None:
        pred, label = engine.state.output["pred"], engine.state.output["label"]
        full = pred[0] if isinstance(pred, (list, tuple)) else pred  # deep supervision: full resolution first
        self._seen.append((list(engine.state.batch["case"]), window_dice(full.detach(), label)))

    def _take_stock(self, engine: Engine) -> None:
        sums = np.zeros((len(self.difficulty), 2))  # of Dice, and number of windows
        for cases, dice in self._seen:
            for case, value in zip(cases, dice.tolist(), strict=True):
                if not np.isnan(value):
                    sums[self.index[case]] += (value, 1)
        self._seen.clear()
        total, count = sum_over_processes(sums).T
        seen = count > 0
        latest = 1 - total[seen] / count[seen]
        self.difficulty[seen] = np.maximum(MEMORY * self.difficulty[seen] + (1 - MEMORY) * latest, EASIEST)


def window_dice(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the mean Dice of each window over the foreground classes that it or its prediction holds.

    Args:
        logits: (B, K, X, Y, Z).
        label: (B, 1, X, Y, Z); in a window with ``LIVER_OR_TUMOR`` tumor counts as liver.

    Returns:
        Shape (B,), float32; nan where there is neither.
    """
    found, wanted = torch.as_tensor(logits).argmax(1), torch.as_tensor(label)[:, 0]
    merged = (wanted == LIVER_OR_TUMOR).flatten(1).any(1).view(-1, 1, 1, 1)
    found, wanted = (torch.where(merged, one.clamp(max=LIVER), one) for one in (found, wanted))
    scores = []
    for value in range(1, logits.shape[1]):
        a, b = (found == value).flatten(1), (wanted == value).flatten(1)
        scores.append(2.0 * (a & b).sum(1) / (a.sum(1) + b.sum(1)))  # 0 / 0 is nan
    return torch.stack(scores).nanmean(0)
