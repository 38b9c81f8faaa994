"""Trainings that begin with another run: what is taken over, what is named, what stays, and that it helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import liver_pipeline as lp
from liver_pipeline.bundle.parent import inherited, parent_of
from liver_pipeline.bundle.shipped import shipped, shipped_runs
from liver_pipeline.bundle.stages import merge_stages
from liver_pipeline.cli import main
from liver_pipeline.commands.folds import train_folds
from liver_pipeline.commands.train import train
from liver_pipeline.data.phantoms import draw_phantom
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.tables import read_table
from tests.commands.test_train_cascade import BRIEF as BRIEF_CASCADE
from tests.small import UNET3D, make_phantoms

LEARNS: dict[str, Any] = {
    **UNET3D, "spacing": [10.0, 10.0, 10.0], "hu_window": [-50.0, 200.0], "network_def::channels": [8, 16],
    "network_def::dropout": 0.0, "learning_rate": 1e-2, "split_fractions": [0.6, 0.4, 0.0], "class_ratios": [1, 1, 2],
}  # fmt: skip
ONE: dict[str, Any] = {  # what is not the parent's
    "max_epochs": 1, "val_interval": 1, "batch_size": 1, "num_workers": 0, "network_graph": False, "device": "cpu",
    "learning_rate": 1e-3, "split_fractions": [0.6, 0.4, 0.0], "deterministic": True,
}  # fmt: skip


def weights(path: Path) -> dict[str, torch.Tensor]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    state: dict[str, torch.Tensor] = content.get("model", content)
    return state


def best(run: Path) -> float:
    return max(float(row["val_mean_dice"]) for row in read_table(run / "log.csv", ["epoch", "val_mean_dice"]))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    data = make_phantoms(folder / "data", 5)
    lp.train(folder / "run", {}, overrides={**LEARNS, "dataset_dir": str(data), "max_epochs": 40, "val_interval": 40})
    return folder / "run"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    for number in range(100, 105):  # the parent saw 0 to 4
        draw_phantom(folder, number, shape=(32, 26, 16), spacing=(12.0, 12.0, 19.0), noise_hu=5.0)
    return folder


@pytest.fixture(scope="module")
def child(parent: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("child") / "run"
    train(run, {"augmentation": "none"}, parent=parent, overrides={**ONE, "dataset_dir": str(data)})
    return run


def test_what_the_network_is_and_sees_is_the_parents(child: Path, parent: Path) -> None:
    own, theirs = (lp_config(run) for run in (child, parent))
    for key in ("network_def", "spacing", "roi_size", "hu_window", "num_classes"):
        assert own[key] == theirs[key]
    assert (own["max_epochs"], own["augmentation"]) == (1, [])
    told = json.loads((child / "parent.json").read_text())
    weights_file = parent / "models/model.pt"
    assert told["name"] == "run"
    assert told["weights"]["run"]["sha256"] == file_sha256(weights_file)
    assert told["weights"]["run"]["not_taken"] == []
    assert (child / "models/parent.pt").read_bytes() == weights_file.read_bytes()


def lp_config(run: Path) -> dict[str, Any]:
    from liver_pipeline.bundle.workflow import read_run

    return read_run(run, "train")


def test_it_is_better_than_from_scratch_after_as_many_epochs(child: Path, data: Path, tmp_path: Path) -> None:
    scratch = {**LEARNS, **ONE, "dataset_dir": str(data), "learning_rate": LEARNS["learning_rate"]}
    train(tmp_path / "run", {"augmentation": "none"}, overrides=scratch)
    assert best(child) > best(tmp_path / "run") + 0.2


def test_it_continues_without_its_parent_and_with_it(child: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    values = {**ONE, "dataset_dir": str(data), "max_epochs": 3}
    run = tmp_path / "run"
    shutil.copytree(child, run)
    assert not any(str(parent) in path.read_text() for path in (run / "configs").iterdir())
    told = (run / "parent.json").read_bytes()
    train(run, {}, overrides={"max_epochs": 2})
    train(run, {"augmentation": "none"}, parent=parent, overrides=values)
    train(run, {"augmentation": "none"}, parent=parent, overrides=values)  # finished: nothing happens
    assert [row["epoch"] for row in read_table(run / "log.csv", ["epoch"])] == ["1", "2", "3"]
    assert (run / "parent.json").read_bytes() == told


def test_each_fold_begins_with_the_parent(parent: Path, data: Path, tmp_path: Path) -> None:
    values = {key: value for key, value in ONE.items() if key != "split_fractions"} | {"dataset_dir": str(data)}
    assert train_folds(tmp_path, {}, folds=2, parent=parent, overrides=values) == 2
    told = [(tmp_path / fold / "parent.json").read_text() for fold in ("fold0", "fold1")]
    assert told[0] == told[1]


def test_another_parent_is_refused_once_it_has_begun(child: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(parent, other)
    state = weights(other / "models/model.pt")
    torch.save({key: value + 1 for key, value in state.items()}, other / "models/model.pt")
    with pytest.raises(ValueError, match="begun with other weights"):
        train(child, {"augmentation": "none"}, parent=other, overrides={**ONE, "dataset_dir": str(data)})


def test_what_does_not_fit_is_named_and_the_rest_is_taken(
    parent: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = {**ONE, "dataset_dir": str(data), "num_classes": 2}
    train(tmp_path / "run", {}, parent=parent, overrides=values)
    told = json.loads((tmp_path / "run/parent.json").read_text())["weights"]["run"]
    assert told["not_taken"] == ["head.weight", "head.bias"]
    assert told["taken"] == len(weights(parent / "models/model.pt")) - 2
    assert "head.weight, head.bias" in caplog.text


def test_a_frozen_encoder_stays_to_the_bit(parent: Path, data: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", {}, parent=parent, overrides={**ONE, "dataset_dir": str(data), "freeze": "encoder"})
    before, after = weights(parent / "models/model.pt"), weights(tmp_path / "run/models/model.pt")
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("encoder.")} <= same  # running statistics are among them
    assert "decoder.0.0.conv.weight" not in same


def test_a_cascade_hands_on_both_stages(tmp_path: Path, data: Path) -> None:
    small = {**BRIEF_CASCADE, "dataset_dir": str(data), "network_graph": False}
    train(tmp_path / "parent", {"network": "cascade"}, overrides=small)
    values = {**ONE, "dataset_dir": str(data), "split_fractions": small["split_fractions"], "learning_rate": 1e-9}
    train(tmp_path / "child", {"augmentation": "none"}, parent=tmp_path / "parent", overrides=values)
    for stage in ("", "liver"):
        old, new = (weights(tmp_path / run / stage / "models/model.pt") for run in ("parent", "child"))
        kernels = [name for name in old if name.endswith("conv.weight")]
        assert kernels
        for name in kernels:
            torch.testing.assert_close(new[name], old[name], atol=1e-6, rtol=0)
    told = json.loads((tmp_path / "child/parent.json").read_text())["weights"]
    assert {stage: one["not_taken"] for stage, one in told.items()} == {"run": [], "liver": []}


def test_the_weights_in_the_box_hand_on_their_grids_and_networks(tmp_path: Path) -> None:
    newest = list(shipped_runs())[-1]
    begun = parent_of("default", tmp_path / "run")
    assert begun.name == newest
    with inherited(begun, {"data": "folder"}) as (layers, keys):
        merged = merge_stages(layers, overrides=keys)
    for stage in ("", "liver"):
        theirs = lp_config(begun.folder / stage)
        for key in ("network_def", "spacing", "roi_size", "num_classes", "hu_window", "modality"):
            assert merged[stage]["train"][key] == theirs[key]
    assert merged["liver"]["train"]["split_file"] == "$@bundle_root + '/../split.json'"
    assert merged[""]["train"]["margin_mm"] == lp_config(begun.folder)["margin_mm"]


def test_a_run_goes_on_with_the_version_that_it_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shipped()["default@1"]
    later = tmp_path / "default-2"
    shutil.copytree(first, later)
    box = {"default@1": first, "default@2": later}
    monkeypatch.setattr("liver_pipeline.bundle.shipped.shipped", lambda: box)
    assert parent_of("default", tmp_path / "new").name == "default@2"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/parent.json").write_text('{"name": "default@1", "weights": {}}')
    assert parent_of("default", tmp_path / "run").name == "default@1"


def test_a_modality_that_is_named_wins(parent: Path) -> None:
    with inherited(parent_of(parent, Path("nowhere")), {"modality": "mr"}) as (layers, keys):
        merged = merge_stages(layers, overrides=keys)
    assert merged[""]["train"]["modality"] == "mr"
    assert merged[""]["train"]["spacing"] == LEARNS["spacing"]


def test_bad_usage_says_what_to_do(parent: Path, tmp_path: Path) -> None:
    words = ["train", str(tmp_path / "run"), "--from", str(parent), "--network", "unet3d"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "with --from the network is that of run" in result.output
    with pytest.raises(FileNotFoundError, match="no run folder"):
        train(tmp_path / "run", {}, parent=tmp_path / "nothing")
    lp.compose(tmp_path / "untrained", {}, overrides=UNET3D)
    with pytest.raises(FileNotFoundError, match="takes a run that is trained"):
        train(tmp_path / "run", {}, parent=tmp_path / "untrained")
    assert not (tmp_path / "run").exists()
