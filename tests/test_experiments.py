"""Every experiment trains, predicts and is evaluated; what two classes, windows and grids mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.data import MetaTensor

import liver_pipeline as lp
from liver_pipeline.bundle import layers
from liver_pipeline.bundle.metadata import metadata
from liver_pipeline.bundle.names import layer_file, layer_names
from liver_pipeline.bundle.stages import merge_stages
from liver_pipeline.bundle.workflow import load_config, run_workflow
from liver_pipeline.commands.evaluate import evaluate
from liver_pipeline.transforms.intensity import HuWindowsd
from tests.small import BRIEF, NETWORKS, make_phantoms

EXPERIMENTS = layer_names("experiment")
PAINTED = "default"  # trains on scans that it paints, and has no cases of a data set to be evaluated on


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms"))


def brief(experiment: str, dataset_dir: Path) -> dict[str, Any]:
    """Overrides that shrink an experiment to one epoch on a grid of some thousand voxels."""
    changes = yaml.safe_load(layer_file("experiment", experiment).read_text())
    small = NETWORKS[changes["layers"]["network"]]
    roi: list[int] = small["roi_size"]
    if changes.get("grid_size"):
        grid = {"grid_size": [min(n, size) for n, size in zip(roi, changes["grid_size"], strict=True)]}
    else:
        grid = {"spacing": [12.0, 12.0, 19.0]}
    phantom = {"n_phantoms": 3} if "n_phantoms" in changes else {}
    return {**BRIEF, **small, **grid, **phantom, "dataset_dir": str(dataset_dir)}


def train_and_evaluate(run: Path, experiment: str, dataset_dir: Path, **layers: str) -> dict[str, Any]:
    """Train one epoch, predict and score the test case; return its figures."""
    lp.train(run, layers, experiment=experiment, overrides=brief(experiment, dataset_dir))
    # OpenVINO takes longer to convert a large network than PyTorch to run it on these grids
    run_workflow(run, "evaluate", {"backend": "torch"})
    metrics: dict[str, Any] = json.loads((run / "evaluation/metrics.json").read_text())
    assert (metrics["n_cases"], metrics["failures"]) == (1, {})
    return metrics


def highest_label(run: Path) -> int:
    (mask,) = (run / "evaluation/masks").glob("*.nii.gz")
    return int(np.asanyarray(nib.load(mask).dataobj).max())


@pytest.mark.parametrize("experiment", sorted(set(EXPERIMENTS) - {PAINTED}))
def test_every_experiment_trains_predicts_and_is_evaluated(experiment: str, tmp_path: Path, phantoms: Path) -> None:
    metrics = train_and_evaluate(tmp_path / "run", experiment, phantoms)
    checkpoint = torch.load(tmp_path / "run/models/model.pt", weights_only=True)
    assert checkpoint["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in checkpoint["model"].values())
    config = load_config(tmp_path / "run", "inference")
    assert highest_label(tmp_path / "run") < config["num_classes"]
    assert 0 <= metrics["global"]["liver_dice"] <= 1
    if config["num_classes"] == 2:  # no tumor class: undefined, not missed
        assert metrics["global"]["tumor_dice"] is None
        assert "lesion_dice_per_case" not in metrics["global"]


def test_the_default_experiment_trains_on_painted_scans_in_time_and_predicts(tmp_path: Path, phantoms: Path) -> None:
    run = tmp_path / "run"
    small = {
        "network_def::features_per_stage": [4, 4, 8, 8, 8],
        "roi_size": [32, 32, 16],
        "spacing": [12.0, 12.0, 12.0],
    }
    brief = {"batch_size": 1, "val_interval": 1, "batches_an_epoch": 2, "validation_samples": 2, "generator_threads": 0}
    both = small | {f"liver_{key}": value for key, value in small.items()}
    time = {"max_epochs": 2, "liver_max_seconds": 0.001}  # over after the first epoch
    painted = {"shapes_pattern": "shapes*.npz", "liver_shapes_pattern": "shapes*.npz"}
    lp.train(run, {}, experiment=PAINTED, overrides=both | brief | time | painted)
    liver = torch.load(run / "liver/models/last.ckpt", weights_only=True)
    tumor = torch.load(run / "models/last.ckpt", weights_only=True)
    assert (liver["epoch"], tumor["epoch"]) == (1, 2)
    lp.train(run, {}, overrides={"max_epochs": 3})  # continues
    assert torch.load(run / "models/last.ckpt", weights_only=True)["epoch"] == 3
    assert torch.load(run / "liver/models/last.ckpt", weights_only=True)["epoch"] == 1  # its time was up
    paths = {"dataset_dir": str(next(phantoms.glob("volume-*"))), "output_dir": str(tmp_path / "masks")}
    run_workflow(run, "inference", {**paths, "backend": "torch"})
    (mask,) = (tmp_path / "masks").glob("*.nii.gz")
    assert int(np.asanyarray(nib.load(mask).dataobj).max()) <= 2


@pytest.mark.parametrize(
    ("experiment", "modality"), [("morales2023_unet", "mr"), ("morales2023_unet_preprocessed", "mr_zscore")]
)
def test_experiments_on_both_modalities_run_on_mr_in_two_folders(
    experiment: str, modality: str, tmp_path: Path, phantoms: Path
) -> None:
    dataset_dir = tmp_path / "chaos"
    for name, folder in (("volume", "images"), ("segmentation", "labels")):
        (dataset_dir / folder).mkdir(parents=True)
        for path in phantoms.glob(f"{name}-*.nii.gz"):
            scan = nib.load(path)
            values = np.asanyarray(scan.dataobj)
            values = values if name == "segmentation" else (values + 1024).clip(0)  # magnitudes have no sign
            nib.save(nib.Nifti1Image(values, scan.affine), dataset_dir / folder / path.name.replace(name, "case"))
    metrics = train_and_evaluate(tmp_path / "run", experiment, dataset_dir, modality=modality, data="folder")
    assert 0 <= metrics["global"]["liver_dice"] <= 1


def test_an_experiment_names_its_layers_and_changes_only_what_differs() -> None:
    for experiment in EXPERIMENTS:
        changes = yaml.safe_load(layer_file("experiment", experiment).read_text())
        chosen = changes.pop("layers")
        below = merge_stages(chosen)
        for key, value in changes.items():
            if "::" not in key:
                stage, name = ("liver", key.removeprefix("liver_")) if key.startswith("liver_") else ("", key)
                known = [config[name] for config in below[stage].values() if name in config]
                assert known and value != known[0], f"{experiment} repeats {key}"


def test_one_cycle_is_stepped_by_batches() -> None:
    config = layers.merge_layers({}, experiment="chigurupati_resnet34_unet")["train"]
    config["train"]["dataloader"] = [0] * 5
    config["accumulate_steps"] = 2
    assert ConfigParser(config).get_parsed_content("schedule_length") == 8 * 3  # epochs, steps of 2, 2 and 1 batches


def test_the_flagship_is_built_at_full_size_with_deep_supervision() -> None:
    parser = ConfigParser(layers.merge_layers({}, experiment="flagship")["train"])
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(102.4e6, rel=0.01)
    assert parser.get_parsed_content("roi_size") == [128, 128, 128]


@pytest.mark.parametrize(("num_classes", "expected"), [(2, [0, 1, 1]), (3, [0, 1, 2])])
def test_with_two_classes_tumor_counts_as_liver(num_classes: int, expected: list[int]) -> None:
    parser = ConfigParser(layers.merge_layers({}, overrides={"num_classes": num_classes})["inference"])
    merge = parser.get_parsed_content("gridding")[-1]
    label = MetaTensor(torch.tensor([0, 1, 2], dtype=torch.uint8).reshape(1, 3, 1, 1))
    merged = merge({"label": label})["label"]
    assert merged.dtype == torch.uint8
    assert merged.flatten().tolist() == expected
    assert merge({"image": 1}) == {"image": 1}  # no label at inference


def test_the_metadata_of_a_two_class_run_names_no_tumor() -> None:
    described = metadata(layers.merge_layers({}, overrides={"num_classes": 2})["inference"])
    assert "tumor" not in described["task"] + described["description"]
    assert described["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "liver"}


def test_liver_only_scoring_takes_the_tumor_for_liver_on_both_sides(tmp_path: Path) -> None:
    truth = np.zeros((8, 8, 8), dtype=np.uint8)
    truth[2:6, 2:6, 2:6] = 1
    truth[3:5, 3:5, 3:5] = 2
    for folder, label_map in (("labels", truth), ("preds", np.minimum(truth, 1))):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(label_map, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / folder / "a.nii.gz")
    preds, labels = tmp_path / "preds", tmp_path / "labels"
    metrics = evaluate(preds, labels, tmp_path / "out", protocol="plain", liver_only=True, report=False)
    assert (metrics["global"]["liver_dice"], metrics["global"]["tumor_dice"]) == (1.0, None)
    missed = evaluate(preds, labels, tmp_path / "three", report=False)
    assert missed["global"]["tumor_dice"] == 0.0
    with pytest.raises(ValueError, match="lits scores tumors"):
        evaluate(preds, labels, tmp_path / "lits", liver_only=True)


def test_each_window_of_hounsfield_units_is_a_channel_from_0_to_1() -> None:
    image = MetaTensor(torch.tensor([-100.0, 0.0, 50.0, 400.0]).reshape(1, 4, 1, 1), meta={"body": "kept"})
    shown = HuWindowsd("image", [[0, 100], [-100, 400], [50, 60]])({"image": image})["image"]
    assert shown.shape == (3, 4, 1, 1)
    assert shown.meta["body"] == "kept"
    expected = [[0, 0, 0.5, 1], [0, 0.2, 0.3, 1], [0, 0, 0, 1]]
    torch.testing.assert_close(shown.as_tensor().flatten(1), torch.tensor(expected))
    assert image.flatten().tolist() == [-100, 0, 50, 400]  # the input is not changed


@pytest.mark.parametrize("windows", [[], [[100, 0]], [[0, 100], [5, 5]]])
def test_an_empty_window_is_refused(windows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="lower and a higher"):
        HuWindowsd("image", windows)


@pytest.mark.parametrize("equalize", [True, False])
def test_histogram_equalisation_can_be_left_out(equalize: bool) -> None:
    config = layers.merge_layers({"modality": "ct_three_windows"}, overrides={"equalize": equalize})["inference"]
    intensity = ConfigParser(config).get_parsed_content("intensity")
    assert [type(transform).__name__ for transform in intensity] == ["HuWindowsd", "HistogramNormalized"][
        : 1 + equalize
    ]


def test_the_zscore_layer_maps_the_mean_to_0_and_clips() -> None:
    config = layers.merge_layers({"modality": "ct_zscore"})["inference"]
    (standardise,) = ConfigParser(config).get_parsed_content("intensity")
    image = torch.tensor([99.4, 99.4 + 39.4, 5000.0, -5000.0]).reshape(1, 4, 1, 1)
    values = standardise({"image": image})["image"].flatten()
    ends = [(201.0 - 99.4) / 39.4, (-17.0 - 99.4) / 39.4]
    torch.testing.assert_close(torch.as_tensor(values), torch.tensor([0.0, 1.0, *ends]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recipe", layer_names("recipe"))
def test_every_recipe_and_augmentation_has_what_the_training_asks_for(recipe: str) -> None:
    keys = {"max_epochs", "learning_rate", "loss", "optimizer", "lr_scheduler"}
    assert keys <= set(yaml.safe_load(layer_file("recipe", recipe).read_text()))
