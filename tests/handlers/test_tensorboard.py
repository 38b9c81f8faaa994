"""TensorBoard's pictures and graph, MLflow."""

from __future__ import annotations

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import liver_pipeline as lp
from liver_pipeline.handlers.tensorboard import Overlays, overlay
from liver_pipeline.visualize.colours import PREDICTION_RGB, REFERENCE_RGB
from tests.small import UNET3D, make_phantoms


class Writer:
    """Stands for a SummaryWriter; keeps the pictures by epoch."""

    def __init__(self) -> None:
        self.pictures: dict[int, np.ndarray[Any, Any]] = {}

    def add_image(self, tag: str, picture: np.ndarray[Any, Any], step: int, dataformats: str) -> None:
        self.pictures[step] = picture

    def flush(self) -> None: ...


def case(tumor_side: int, pred_side: int = 4) -> dict[str, torch.Tensor]:
    """A liver with a cube of tumor in the middle, and a prediction with another; labels (1, X, Y, Z)."""
    maps = []
    for side in (tumor_side, pred_side):
        label = torch.zeros(32, 32, 8, dtype=torch.uint8)
        label[4:28, 4:28, 2:6] = 1
        label[16 - side // 2 : 16 + side // 2, 16 - side // 2 : 16 + side // 2, 4] = 2
        maps.append(label[None])
    image = MetaTensor(torch.rand(1, 32, 32, 8), affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))
    return {"image": image, "label": maps[0], "pred": maps[1]}


def shows(picture: np.ndarray[Any, Any], colour: tuple[int, int, int]) -> int:
    """Count the pixels of a colour."""
    return int((picture == np.array(colour, dtype=np.uint8)).all(-1).sum())


def test_a_picture_outlines_tumor_of_reference_and_prediction() -> None:
    item = case(tumor_side=10, pred_side=4)
    picture = overlay(item["image"], item["label"][0], item["pred"][0])
    assert picture is not None
    assert picture.dtype == np.uint8
    assert (
        shows(picture, REFERENCE_RGB) > shows(picture, PREDICTION_RGB) > 20
    )  # the larger square has the longer outline
    empty = torch.zeros(32, 32, 8, dtype=torch.long)
    assert overlay(item["image"], empty, empty) is None


@pytest.mark.parametrize(("interval", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [1, 3, 5]), (None, [])])
def test_every_nth_validation_shows_the_case_with_the_largest_tumor(interval: int | None, epochs: list[int]) -> None:
    writer: Any = Writer()
    cases = [case(4), case(12), case(8)]
    evaluator = Engine(lambda _, item: [item])
    Overlays(writer, interval).attach(evaluator)
    for epoch in range(1, 6):
        evaluator.state.epoch = epoch - 1
        evaluator.state.max_epochs = epoch
        evaluator.run(cases, max_epochs=epoch)
    assert list(writer.pictures) == epochs
    largest = overlay(cases[1]["image"], cases[1]["label"][0], cases[1]["pred"][0])
    assert largest is not None
    assert all(np.array_equal(picture, largest) for picture in writer.pictures.values())
    with pytest.raises(ValueError, match="overlay_interval is 0"):
        Overlays(writer, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms"))


def test_a_training_shows_curves_pictures_and_graph_in_one_file(tmp_path: Path, data: Path) -> None:
    options = {**UNET3D, "dataset_dir": str(data), "network_graph": True, "overlay_interval": 1, "max_epochs": 2}
    lp.train(tmp_path / "run", {}, overrides=options)
    (events,) = (tmp_path / "run/logs").glob("events*")  # TensorBoard follows one file of a folder at a time
    board = EventAccumulator(str(events)).Reload()
    assert board.Tags()["images"] == ["validation/largest tumor"]
    assert [picture.step for picture in board.Images("validation/largest tumor")] == [1, 2]
    assert {"train_loss", "val_mean_dice"} <= set(board.Tags()["scalars"])
    assert board.Tags()["graph"]


def test_a_training_is_tracked_in_mlflow_and_continues_in_its_run(tmp_path: Path, data: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    options = {**UNET3D, "dataset_dir": str(data), "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    lp.train(tmp_path / "trial", {}, overrides=options)
    lp.train(tmp_path / "trial", {}, overrides={"max_epochs": 2})
    client = mlflow.MlflowClient(tracking_uri=options["tracking_uri"])
    experiment = client.get_experiment_by_name("liver_pipeline")
    (run,) = client.search_runs(experiment.experiment_id)
    assert run.info.run_name == "trial"
    assert run.info.status == "FINISHED"
    assert mlflow.environment_variables.MLFLOW_DISABLE_TELEMETRY.get()  # nothing goes to its makers
    assert [dice.step for dice in client.get_metric_history(run.info.run_id, "val_mean_dice")] == [1, 2]
    assert {"train_loss", "learning_rate", "val_dice_tumor"} <= set(run.data.metrics)
    for number in range(2):  # others whose folders have the same name: one of them, and then both, have ended
        lp.train(tmp_path / f"other{number}/trial", {}, overrides=options)
    lp.train(tmp_path / "trial", {}, overrides={"max_epochs": 3})
    runs = client.search_runs(experiment.experiment_id)
    steps = {one.info.run_id: len(client.get_metric_history(one.info.run_id, "train_loss")) for one in runs}
    assert steps.pop(run.info.run_id) == 3
    assert list(steps.values()) == [1, 1]


def test_a_copied_run_folder_tracks_all_its_epochs_in_a_run_of_its_own(tmp_path: Path, data: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    options = {**UNET3D, "dataset_dir": str(data), "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    lp.train(tmp_path / "trial", {}, overrides=options)
    shutil.copytree(tmp_path / "trial", tmp_path / "copies/trial")
    lp.train(tmp_path / "copies/trial", {}, overrides={"max_epochs": 3})
    (tmp_path / "trial").rename(tmp_path / "renamed")
    lp.train(tmp_path / "renamed", {}, overrides={"max_epochs": 2})
    client = mlflow.MlflowClient(tracking_uri=options["tracking_uri"])
    runs = client.search_runs(client.get_experiment_by_name("liver_pipeline").experiment_id)
    steps = [[loss.step for loss in client.get_metric_history(one.info.run_id, "train_loss")] for one in runs]
    assert sorted(steps) == [[1, 2], [1, 2, 3]]


def test_trainings_make_a_new_database_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from liver_pipeline.handlers.mlflow import Tracking

    at_it: list[str] = []

    class Handler:
        """As MLflow does it: looks for tables, and makes those that are not there."""

        def __init__(self, **options: Any) -> None:
            at_it.append(options["run_name"])
            time.sleep(0.2)
            assert at_it.pop() == options["run_name"], "two at once"

    stand_in = SimpleNamespace(
        entities=SimpleNamespace(Metric=None), exceptions=SimpleNamespace(MlflowException=RuntimeError)
    )
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    monkeypatch.setattr("monai.handlers.MLFlowHandler", Handler)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log = cast(Any, None)
    with ThreadPoolExecutor(3) as pool:
        began = [pool.submit(Tracking, f"sqlite:///{tmp_path}/m.db", tmp_path / f"run{i}", log) for i in range(3)]
    assert [one.exception() for one in began] == [None] * 3
    Tracking("http://127.0.0.1:5000", tmp_path / "run3", log)  # a server needs no lock
    assert [path.name for path in tmp_path.iterdir()] == [".m.db.lock"]


def test_tracking_without_mlflow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from liver_pipeline.handlers.mlflow import Tracking

    monkeypatch.setitem(sys.modules, "mlflow", None)
    log: Any = None
    with pytest.raises(ImportError, match=r"pip install 'liver-pipeline\[mlflow\]'"):
        Tracking("sqlite:///x.db", tmp_path, log)
