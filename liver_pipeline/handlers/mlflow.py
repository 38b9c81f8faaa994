"""Send the log of a training to MLflow, where a server or a database collects many runs."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from filelock import FileLock
from ignite.engine import Engine, Events
from tqdm import tqdm

from liver_pipeline.handlers.epoch_log import EpochLog
from liver_pipeline.io.files import write_json
from liver_pipeline.io.tables import read_json

EXPERIMENT = "liver_pipeline"
SQLITE = "sqlite:///"


class Tracking:
    """MONAI's MLFlowHandler with the rows of ``log.csv`` as metrics; nothing goes anywhere else.

    A training that continues goes on in its own MLflow run, whose id is kept in ``mlflow_run.json``: others
    may have run folders of the same name. A copy of a run folder begins a new one, with all that its log holds;
    a folder that is moved or renamed is the same. Attach it to the trainer.

    Args:
        tracking_uri: Such as ``sqlite:////data/mlflow.db``, or the address of a server.
        run_dir: Its name is that of the MLflow run.
        log: Has the rows.

    Raises:
        ImportError: If the extra ``mlflow`` is not installed.
        ValueError: If ``tracking_uri`` is a folder, which MLflow no longer takes.
    """

    def __init__(self, tracking_uri: str, run_dir: str | Path, log: EpochLog) -> None:
        try:
            import mlflow
        except ImportError:
            raise ImportError("tracking_uri needs an extra: pip install 'liver-pipeline[mlflow]'") from None
        from monai.handlers import MLFlowHandler

        self.metric, self.log, self.sent = mlflow.entities.Metric, log, 0
        self.no_such_run = mlflow.exceptions.MlflowException
        self.id_file = Path(run_dir).resolve() / "mlflow_run.json"
        self.run_name = self.id_file.parent.name
        self.one_at_a_time = _first_contact(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri)
        with self.one_at_a_time:
            self.handler = MLFlowHandler(
                tracking_uri=tracking_uri,
                experiment_name=EXPERIMENT,
                run_name=self.run_name,
                iteration_log=False,
                epoch_log=False,
                close_on_complete=True,
            )

    def attach(self, engine: Engine) -> None:
        """Send an epoch's row once it is in the log, which is when the next epoch starts, and at the end."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self)
        engine.add_event_handler(Events.COMPLETED, self)  # before the handler's own, which ends the MLflow run
        self.handler.attach(engine)

    def _start(self, engine: Engine) -> None:
        """Choose the MLflow run before MONAI's handler does, which takes any that has the same name."""
        self.sent = engine.state.epoch
        handler: Any = self.handler
        own = self._own_run()
        if own is None:
            with self.one_at_a_time:
                handler._set_experiment()
            own = handler.client.create_run(handler.experiment.experiment_id, run_name=self.run_name)
            write_json(self.id_file, {"run_id": own.info.run_id, "folder": self._folder()})
            if self.sent:
                tqdm.write(f"MLflow has no run that this folder began; a new one gets all {self.sent} epochs so far")
                self.sent = 0
        handler.cur_run = own
        handler.client.update_run(own.info.run_id, status="RUNNING")

    def _own_run(self) -> Any:
        """Return the MLflow run that this folder began, if it is at this address and was not deleted; else None."""
        kept = read_json(self.id_file) if self.id_file.is_file() else {}
        if kept.get("folder") != self._folder():
            return None
        try:
            run = self.handler.client.get_run(kept["run_id"])
        except self.no_such_run:
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _folder(self) -> int:
        """Return what tells the run folder from copies of it, and stays when it is renamed: its inode."""
        return self.id_file.parent.stat().st_ino

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        run: Any = self.handler.cur_run
        now = int(time.time() * 1000)  # noqa: TID251 (a time of day)
        for row in self.log.rows:
            if row["epoch"] > self.sent:
                values = {key: value for key, value in row.items() if key != "epoch" and value is not None}
                metrics = [self.metric(key, value, now, row["epoch"]) for key, value in values.items()]
                self.handler.client.log_batch(run.info.run_id, metrics=metrics)
                self.sent = row["epoch"]


def _first_contact(tracking_uri: str) -> contextlib.AbstractContextManager[Any]:
    """Let one process at a time look for tables in a file of SQLite, which MLflow makes where there are none.

    Two that make them at once stop each other. A server, or a database that is one, sees to that itself.
    """
    database = Path(tracking_uri.removeprefix(SQLITE).partition("?")[0])
    if not tracking_uri.startswith(SQLITE) or database.name in ("", ":memory:"):
        return contextlib.nullcontext()
    return FileLock(database.with_name(f".{database.name}.lock"))
