"""Send the log of a training to MLflow, where a server or a database collects many runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from liver_pipeline.handlers.epoch_log import EpochLog

EXPERIMENT = "liver_pipeline"


class Tracking:
    """MONAI's MLFlowHandler with the rows of ``log.csv`` as metrics; nothing goes anywhere else.

    A training that continues goes on in its own MLflow run, which has the name of the run folder. Attach it to the
    trainer.

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
        self.run_name = Path(run_dir).resolve().name
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
        self.sent = engine.state.epoch
        if self.sent:
            self._reopen()

    def _reopen(self) -> None:
        """Go on in the newest MLflow run of this name, also if it had ended; MONAI's handler would begin another."""
        client = self.handler.client
        experiment = client.get_experiment_by_name(EXPERIMENT)
        known = client.search_runs([experiment.experiment_id]) if experiment else []  # newest first
        for run in known:
            if run.info.run_name == self.run_name:
                client.update_run(run.info.run_id, status="RUNNING")
                self.handler.cur_run = client.get_run(run.info.run_id)
                return

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        run: Any = self.handler.cur_run
        now = int(time.time() * 1000)
        for row in self.log.rows:
            if row["epoch"] > self.sent:
                values = {key: value for key, value in row.items() if key != "epoch" and value is not None}
                metrics = [self.metric(key, value, now, row["epoch"]) for key, value in values.items()]
                self.handler.client.log_batch(run.info.run_id, metrics=metrics)
                self.sent = row["epoch"]
