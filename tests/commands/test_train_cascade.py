"""A cascade from configs to masks: trained by one command, continued, predicted; a broken stage does not hide."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

import liver_pipeline as lp
from liver_pipeline.bundle.workflow import load_config, run_workflow
from liver_pipeline.commands import train
from liver_pipeline.commands.out_of_fold import with_boxes
from liver_pipeline.data.layouts import lits_cases
from liver_pipeline.data.phantoms import make_phantom_dataset, save_phantom
from liver_pipeline.data.splits import load_split
from liver_pipeline.geometry.boxes import bounding_box, parse_box
from liver_pipeline.inferers.liver import Limits

CASCADE = {"network": "cascade"}
LEARNS: dict[str, Any] = {  # half a minute: finds the tumors with seeds 0, 1, 2; half of the epochs do so by luck
    "spacing": [6.0, 6.0, 6.0],
    "liver_spacing": [12.0, 12.0, 12.0],
    "network_def::channels": [8, 16],
    "liver_network_def::channels": [8, 16],
    "network_def::dropout": 0.0,
    "liver_network_def::dropout": 0.0,
    "roi_size": [24, 24, 24],
    "liver_roi_size": [24, 24, 24],
    "hu_window": [-50.0, 200.0],
    "class_ratios": [1, 1, 2],
    "learning_rate": 1.0e-2,
    "batch_size": 1,
    "max_epochs": 40,
    "liver_max_epochs": 10,
    "val_interval": 10,
    "num_workers": 0,
    "split_fractions": [0.625, 0.125, 0.25],
}
BRIEF: dict[str, Any] = {
    **LEARNS,
    "spacing": [12.0, 12.0, 12.0],
    "network_def::channels": [4, 8],
    "liver_network_def::channels": [4, 8],
    "roi_size": [16, 16, 16],
    "liver_roi_size": [16, 16, 16],
    "crops_per_case": 1,
    "liver_crops_per_case": 1,
    "max_epochs": 1,
    "liver_max_epochs": 1,
    "val_interval": 1,
    "deterministic": True,
    "split_fractions": [0.6, 0.2, 0.2],
}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom_dataset(
        tmp_path_factory.mktemp("few"), 5, shape=(32, 26, 16), spacing=(12.0, 12.0, 19.0), noise_hu=5.0
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade that has learned to find liver and tumors of phantoms; beside it ``data`` and an unseen ``scan``."""
    folder = tmp_path_factory.mktemp("trained")
    grid: dict[str, Any] = {"shape": (64, 52, 40), "spacing": (6.0, 6.0, 7.5)}
    data = make_phantom_dataset(folder / "data", 8, **grid)
    save_phantom(folder / "scan", 101, label_folder=folder / "label", **grid)
    lp.train(folder / "run", CASCADE, overrides={**LEARNS, "dataset_dir": str(data)})
    return folder / "run"


def predict(run: Path, masks: Path) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Return the label map and the provenance of the unseen scan."""
    paths = {"dataset_dir": str(run.parent / "scan"), "output_dir": str(masks), "backend": "torch"}
    with contextlib.suppress(SystemExit):
        run_workflow(run, "inference", paths)
    return labels_of(masks / "volume-101.nii.gz"), json.loads((masks / "volume-101.json").read_text())


def labels_of(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(nib.load(path).dataobj)


def dice(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run / "models/last.ckpt", weights_only=True)["model"]
    return weights


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_trained_cascade_finds_liver_and_tumors_inside_the_box_that_it_tells_of(
    trained: Path, tmp_path: Path
) -> None:
    pred, provenance = predict(trained, tmp_path)
    label = labels_of(trained.parent / "label/segmentation-101.nii.gz")
    assert dice(pred > 0, label > 0) > 0.85
    assert dice(pred == 2, label == 2) > 0.6
    cascade = provenance["inference"]["cascade"]
    assert cascade["fallback"] == ""
    assert cascade["box"] != [[0, n] for n in label.shape]
    liver = bounding_box(label > 0)
    assert liver is not None
    assert all(a <= side.start and side.stop <= b for (a, b), side in zip(cascade["box"], liver, strict=True))
    assert provenance["geometry"]["model_grid"]["spacing_mm"] == [6.0, 6.0, 6.0]
    hashes = {provenance["weights"]["sha256"], provenance["weights"]["liver"]["sha256"]}
    assert len(hashes) == 2


def test_the_test_cases_are_scored_and_trained_runs_are_left_as_they_are(trained: Path) -> None:
    run_workflow(trained, "evaluate", {"backend": "torch"})
    metrics = json.loads((trained / "evaluation/metrics.json").read_text())
    assert (metrics["n_cases"], metrics["failures"]) == (2, {})
    assert metrics["global"]["tumor_dice"] > 0.5
    before = contents(trained)
    lp.train(trained, CASCADE, overrides={**LEARNS, "dataset_dir": str(trained.parent / "data")})
    assert contents(trained) == before


def test_stock_monai_predicts_the_same_from_the_run_folder(trained: Path, tmp_path: Path) -> None:
    pred, provenance = predict(trained, tmp_path / "ours")
    paths = {"dataset_dir": str(trained.parent / "scan"), "output_dir": str(tmp_path / "stock"), "backend": "torch"}
    monai.bundle.run(config_file=str(trained / "configs/inference.yaml"), bundle_root=str(trained), **paths)
    np.testing.assert_array_equal(labels_of(tmp_path / "stock/volume-101.nii.gz"), pred)
    stock = json.loads((tmp_path / "stock/volume-101.json").read_text())
    assert (stock["inference"], stock["weights"]) == (provenance["inference"], provenance["weights"])


@pytest.mark.parametrize(("bias", "doubt"), [([9.0, -9.0], "no liver found"), ([-9.0, 9.0], "more than 6000")])
def test_a_broken_liver_stage_is_told_of_and_hides_no_tumor(
    trained: Path, tmp_path: Path, bias: list[float], doubt: str
) -> None:
    """The liver stage's weights are spoilt: all background, or all liver."""
    predict(trained, tmp_path / "masks")
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for name in ("scan", "label"):
        (tmp_path / name).symlink_to(trained.parent / name)
    checkpoint = torch.load(run / "liver/models/model.pt", weights_only=True)
    checkpoint["model"]["head.weight"].zero_()
    checkpoint["model"]["head.bias"].copy_(torch.tensor(bias))
    torch.save(checkpoint, run / "liver/models/model.pt")
    pred, provenance = predict(run, tmp_path / "masks")  # the ledger sees that a weight has changed
    cascade = provenance["inference"]["cascade"]
    assert doubt in cascade["fallback"]
    assert cascade["box"] == [[0, n] for n in pred.shape]
    label = labels_of(tmp_path / "label/segmentation-101.nii.gz")
    assert (pred[label == 2] == 2).mean() > 0.5


def test_a_training_stopped_after_the_liver_stage_goes_on_with_the_tumor_stage(few: Path, tmp_path: Path) -> None:
    overrides = {**BRIEF, "dataset_dir": str(few)}
    lp.train(tmp_path / "whole", CASCADE, overrides=overrides)
    stage = train.train_stage

    def stopped(run_dir: str) -> None:
        stage(run_dir)
        raise KeyboardInterrupt

    with mock.patch.object(train, "train_stage", stopped), contextlib.suppress(KeyboardInterrupt):
        lp.train(tmp_path / "parts", CASCADE, overrides=overrides)
    assert not (tmp_path / "parts/models/last.ckpt").exists()
    before = contents(tmp_path / "parts/liver")
    assert "models/last.ckpt" in before
    lp.train(tmp_path / "parts", CASCADE, overrides=overrides)
    assert contents(tmp_path / "parts/liver") == before
    for folder in (".", "liver"):
        assert same(weights_of(tmp_path / "whole" / folder), weights_of(tmp_path / "parts" / folder))
    split = json.loads((tmp_path / "parts/split.json").read_text())
    assert not (tmp_path / "parts/liver/split.json").exists()  # one split for both stages
    assert sorted(name for part in split["cases"].values() for name in part) == [f"volume-{n}" for n in range(5)]


def test_a_changed_liver_stage_is_refused_and_restart_trains_both_anew(few: Path, tmp_path: Path) -> None:
    overrides = {**BRIEF, "dataset_dir": str(few)}
    lp.train(tmp_path / "run", CASCADE, overrides=overrides)
    with pytest.raises(ValueError, match=r"run/liver has another configuration.*spacing::0: 12\.0 -> 14\.0"):
        lp.train(tmp_path / "run", {}, overrides={"liver_spacing": [14.0, 12.0, 12.0]})
    before = weights_of(tmp_path / "run/liver")
    changed = {**overrides, "liver_learning_rate": 0.02}
    lp.train(tmp_path / "run", CASCADE, overrides=changed, restart=True)
    assert not same(before, weights_of(tmp_path / "run/liver"))
    for epochs, lengths in (({"liver_max_epochs": 2}, (1, 2)), ({"max_epochs": 3}, (3, 2))):
        lp.train(tmp_path / "run", {}, overrides=epochs)  # once they differ, each has its own
        logs = [(tmp_path / "run" / folder / "log.csv").read_text() for folder in (".", "liver")]
        assert tuple(log.count("\n") - 1 for log in logs) == lengths


def test_stock_monai_trains_both_stages(few: Path, tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", CASCADE, overrides={**BRIEF, "dataset_dir": str(few)})
    monai.bundle.run(config_file=str(run / "configs/train.yaml"), bundle_root=str(run))
    for folder in (run, run / "liver"):
        for name in ("models/model.pt", "models/last.ckpt", "log.csv", "curves.png"):
            assert (folder / name).is_file()


def test_out_of_fold_boxes_come_from_models_that_have_not_seen_the_case_and_are_kept(few: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = {**BRIEF, "dataset_dir": str(few), "boxes": "out_of_fold", "box_folds": 2, "liver_max_epochs": 2}
    lp.train(run, CASCADE, overrides=overrides)
    split = load_split(lits_cases(few), run / "split.json")
    folds = [json.loads((run / f"liver/out_of_fold/fold{i}/split.json").read_text())["cases"] for i in range(2)]
    train = [case["case"] for case in split["train"]]
    assert sorted(folds[0]["val"] + folds[1]["val"]) == train
    for i, fold in enumerate(folds):
        assert sorted(fold["train"] + fold["val"]) == train and not fold["test"]
        masks = (run / f"liver/out_of_fold/fold{i}/masks").glob("*.nii.gz")
        assert sorted(path.name.removesuffix(".nii.gz") for path in masks) == fold["val"]
    before = contents(run / "liver")
    lp.train(run, {}, overrides={"max_epochs": 2})  # trains the tumor stage, and nothing else
    assert {key for key, time in contents(run / "liver").items() if before.get(key) != time} <= {
        key for key in before if "/configs/" in f"/{key}" or "/docs/" in f"/{key}" or key.endswith("LICENSE")
    }
    limits = Limits(min_ml=0.0)
    boxed = with_boxes(split, boxes="out_of_fold", liver_dir=run / "liver", folds=2, seed=0, limits=limits)
    for case in boxed["train"] + boxed["val"]:
        (mask,) = (run / "liver/out_of_fold").glob(f"**/{case['case']}.nii.gz")
        inner = parse_box(case["box"])
        outer = bounding_box(labels_of(mask) > 0)
        assert (inner is None) == (outer is None)
        if inner is not None and outer is not None:
            sides = zip(outer, inner, strict=True)
            assert all(a.start <= b.start < b.stop <= a.stop for a, b in sides)
    assert boxed["test"] == split["test"]
    with pytest.raises(ValueError, match="boxes is 'oof'"):
        with_boxes(split, boxes="oof", liver_dir=run / "liver", folds=2, seed=0, limits=limits)


def test_training_sees_the_box_and_a_jittered_one_and_validation_what_inference_would_see(
    few: Path, tmp_path: Path
) -> None:
    grid = {"spacing": [12.0, 12.0, 19.0], "margin_mm": 24.0, "jitter_mm": 30.0}  # the phantoms' own grid
    run = lp.compose(tmp_path / "run", CASCADE, overrides={**BRIEF, **grid, "dataset_dir": str(few)})
    parser = ConfigParser(load_config(run, "train"))
    case = {"case": "volume-0"} | {
        name: str(few / f"{kind}-0.nii.gz") for name, kind in (("image", "volume"), ("label", "segmentation"))
    }
    seen = parser.get_parsed_content("cache").load(case)  # validation sees it as it is in the cache
    label = labels_of(Path(case["label"]))
    liver = bounding_box(label > 0)
    assert liver is not None
    margins = (2, 2, 2)  # voxels of 12, 12 and 19 mm that reach 24 mm
    box = [slice(max(side.start - m, 0), side.stop + m) for side, m in zip(liver, margins, strict=True)]
    np.testing.assert_array_equal(seen["label"][0].numpy(), label[tuple(box)])
    jitter, *sampling = parser.get_parsed_content("train::preprocessing").transforms
    assert type(sampling[0]).__name__ == "RandCropByLabelClassesd"
    shapes = set()
    for seed in range(8):
        jitter.set_random_state(seed=seed)
        narrow = jitter(seen)
        shapes.add(tuple(narrow["image"].shape))
        windows = sampling[0](narrow)
        assert all(window["image"].shape == window["label"].shape for window in windows)
    assert len(shapes) > 1 and all(n <= m for shape in shapes for n, m in zip(shape, seen["image"].shape, strict=True))


def test_stages_may_be_2d_with_any_recipe_and_augmentation(few: Path, tmp_path: Path) -> None:
    features = [4, 4, 8, 8, 8, 4]
    small = {key: value for key, value in BRIEF.items() if "network_def" not in key and "roi_size" not in key}
    overrides = {
        **small,
        "stages": {"liver": "unet2d", "tumor": "unet2d"},
        "network_def::network::features": features,
        "liver_network_def::network::features": features,
        "roi_size": [32, 32, 1],
        "liver_roi_size": [32, 32, 1],
        "dataset_dir": str(few),
    }
    layers = {**CASCADE, "augmentation": "geometric", "recipe": "cross_entropy"}
    lp.train(tmp_path / "run", layers, overrides=overrides)
    run_workflow(tmp_path / "run", "evaluate", {"backend": "torch"})
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    assert (metrics["n_cases"], metrics["failures"]) == (1, {})
