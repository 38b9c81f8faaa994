"""Stop a training that no longer gets better; its patience survives a resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.handlers import EarlyStopping
from monai.handlers import EarlyStopHandler


class EarlyStop(EarlyStopHandler):
    """MONAI's EarlyStopHandler with a state that a checkpoint can hold."""

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
