"""Stop a training that no longer gets better; its patience survives a resume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine
from ignite.handlers import EarlyStopping
from monai.handlers import EarlyStopHandler


class EarlyStop(EarlyStopHandler):
    """MONAI's EarlyStopHandler with a state that a checkpoint can hold; a validation without a score does not count."""

    def __call__(self, engine: Engine) -> None:
        """Count a validation that is no better than the best one, and stop when the patience is used up."""
        if math.isfinite(self.score_function(engine)):
            super().__call__(engine)

    @property
    def _ignite(self) -> EarlyStopping:
        handler: EarlyStopping | None = self._handler
        assert handler is not None, "set_trainer comes first"
        return handler

    def state_dict(self) -> dict[str, Any]:
        """Return the validations since the best one, and its score."""
        best = self._ignite.best_score
        return {"counter": self._ignite.counter, "best_score": None if best is None else float(best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; call ``set_trainer`` first."""
        self._ignite.counter, self._ignite.best_score = state["counter"], state["best_score"]
