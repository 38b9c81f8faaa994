"""The one ledger of a run on many machines, in a process of its own, and how workers reach it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from liver_pipeline.io.files import remove_temporary
from liver_pipeline.io.ledger import Ledger
from liver_pipeline.prediction.case import FolderCase
from liver_pipeline.prediction.folder_run import open_ledger
from liver_pipeline.prediction.resume import set_aside

PATIENCE = 30.0  # seconds to wait for the ledger of a run whose driver has just died: its processes end by themselves


def answer(reference: Any) -> Any:
    """Wait for what a call to an actor gives; an error that was raised there is raised here as it was.

    Raises:
        OSError: If the actor, or its node, is gone.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise OSError(f"a process of the cluster is gone: {type(error).__name__}") from None


class LedgerKeeper:
    """Holds the ledger of an output folder for all workers; an actor of Ray without a core.

    A row is on disk when :meth:`append` returns, and a worker renames its mask only then.
    """

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._told: dict[str, Any] = {}

    @property
    def ledger(self) -> Ledger:
        """The ledger, once it is open."""
        assert self._ledger is not None
        return self._ledger

    def open(self, output_dir: Path, patience: float = PATIENCE) -> None:
        """Make the folder and open its ledger; wait a while for one that is still in use.

        Raises:
            IntakeError: See :func:`liver_pipeline.prediction.folder_run.open_ledger`.
            ValueError: If another run is at it.
        """
        end = time.monotonic() + patience
        while self._ledger is None:
            try:
                self._ledger = open_ledger(output_dir)
            except ValueError as refusal:
                if time.monotonic() > end or "another run" not in str(refusal):
                    raise
                time.sleep(0.5)
        self._ledger.report(lambda: self._told)

    def known(self, case: str) -> tuple[dict[str, Any] | None, set[str]]:
        """Return the last row of a case and the hashes of what was written for it."""
        return self.ledger.last.get(case), self.ledger.written.get(case, set())

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on disk when this returns.

        Raises:
            OSError: If it cannot be written.
        """
        self.ledger.append(row)

    def fail(self, case: FolderCase, row: dict[str, Any]) -> bool:
        """Record the failure of a case that its workers did not survive; return whether a mask was set aside."""
        self.ledger.append(row)
        return set_aside(case, self.ledger.written.get(case.name, set()))

    def tell(self, progress: Mapping[str, Any]) -> None:
        """Say how far the run is, for ``liver-pipeline status``."""
        self._told = dict(progress)

    def close(self) -> None:
        """Remove what dead workers left half written, and give the lock back; for when no worker is left."""
        if self._ledger is not None:
            remove_temporary(self._ledger.path.parent)
            self._ledger.close()
            self._ledger = None


class RemoteLedger:
    """What a worker sees of the ledger: the rows of the cases it has, and a way to add some.

    Args:
        keeper: Handle of the actor.
    """

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper
        self._lock = threading.Lock()
        self.last: dict[str, dict[str, Any]] = {}
        self.written: dict[str, set[str]] = {}

    def look_up(self, case: str) -> None:
        """Fetch what is known of a case."""
        row, written = answer(self._keeper.known.remote(case))
        with self._lock:
            self.written[case] = written
            if row is not None:
                self.last[case] = row

    def forget(self, cases: Iterable[str]) -> None:
        """Let go of what is known of cases that have come to their end."""
        with self._lock:
            for case in cases:
                self.last.pop(case, None)
                self.written.pop(case, None)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row to the ledger; it is on disk when this returns.

        Raises:
            OSError: If it cannot be written, or the ledger's process is gone.
        """
        answer(self._keeper.append.remote(row))
        with self._lock:
            self.last[row["case"]] = row
            for key in ("output_sha256", "probabilities_sha256"):
                if row.get(key):
                    self.written.setdefault(row["case"], set()).add(row[key])
