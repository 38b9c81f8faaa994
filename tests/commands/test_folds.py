"""Folds as resumable units, and several runs as one model."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from statistics import mean, stdev
from unittest import mock

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from liver_pipeline.bundle.ensembles import FOLDS, trained_folds
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.cli import main
from liver_pipeline.commands import folds
from liver_pipeline.commands.folds import SUMMARY
from liver_pipeline.inferers.unbounded import labels_unbounded
from tests.small import NETWORKS, UNET3D, make_phantoms, words_of

PATIENTS = {"a": "0", "b": "0", "c": "1", "d": "2", "e": "3"}  # of five scans; a and b are of one patient
OPTIONS = words_of({key: value for key, value in UNET3D.items() if key != "split_fractions"})


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    phantoms, root = (tmp_path_factory.mktemp(name) for name in ("phantoms", "data"))
    make_phantoms(phantoms, len(PATIENTS))
    for number, case in enumerate(PATIENTS):
        for kind, folder in (("volume", "images"), ("segmentation", "labels")):
            (root / folder).mkdir(exist_ok=True)
            (phantoms / f"{kind}-{number}.nii.gz").rename(root / folder / f"{case}.nii.gz")
    rows = [f"{case},{patient}" for case, patient in PATIENTS.items()]
    (root / "patients.csv").write_text("\n".join(["case,patient", *rows]) + "\n")
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of three folds first, as two jobs of an array, then the command for all of them."""
    run = tmp_path_factory.mktemp("folds") / "run"
    command = ["train", run, "--data", "folder", "--folds", 3, f"dataset_dir={data}", *OPTIONS]
    for fold in (2, 0):
        assert call(*command, "--fold", fold).exit_code == 0
    kept = [(run / f"fold{fold}/models/last.ckpt").stat().st_mtime_ns for fold in (0, 2)]
    assert not (run / "fold1").exists()
    result = call(*command)
    assert "3 of 3 folds are finished" in result.output
    assert kept == [(run / f"fold{fold}/models/last.ckpt").stat().st_mtime_ns for fold in (0, 2)]
    return run


def test_each_case_is_held_out_once_and_patients_stay_together(trained: Path) -> None:
    splits = [json.loads((trained / f"fold{fold}/split.json").read_text())["cases"] for fold in range(3)]
    assert sorted(case for split in splits for case in split["val"]) == sorted(PATIENTS)
    for split in splits:
        assert sorted([*split["train"], *split["val"]]) == sorted(PATIENTS)
        assert split["test"] == []
        assert not {PATIENTS[case] for case in split["train"]} & {PATIENTS[case] for case in split["val"]}
    assert json.loads((trained / FOLDS).read_text())["folds"] == [split["val"] for split in splits]


def test_the_summary_has_mean_and_deviation_of_the_folds(trained: Path) -> None:
    with (trained / SUMMARY).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["fold"] for row in rows] == ["0", "1", "2", "mean", "sd"]
    for name in ("val_mean_dice", "val_dice_liver", "val_dice_tumor"):
        scores = []
        for fold in range(3):
            with (trained / f"fold{fold}/log.csv").open() as file:
                scores.append(float(next(csv.DictReader(file))[name]))
        assert [float(row[name]) for row in rows] == pytest.approx([*scores, mean(scores), stdev(scores)])


def test_a_fold_that_begins_anew_keeps_its_cases(trained: Path, data: Path, tmp_path: Path) -> None:
    before = (trained / "fold1/split.json").read_bytes()
    (trained / "fold1/split.json").unlink()
    result = call("train", trained, "--folds", 3, "--fold", 1, "--restart")
    assert result.exit_code == 0
    assert (trained / "fold1/split.json").read_bytes() == before


def everything(run: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_folds_that_cannot_begin_anew_stay(trained: Path) -> None:
    before = everything(trained)
    for layers in ([], ["--data", "folder"]):
        result = call("train", trained, *layers, "--folds", 3, "--restart", "dataset_dir=/misspelt")
        assert result.exit_code == 2 and "no such folder" in result.stderr
    assert everything(trained) == before


def test_all_folds_begin_anew_together_so_that_none_is_left_on_the_earlier_cases(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = json.loads((run / FOLDS).read_text())
    with mock.patch.object(folds, "train", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        folds.train_folds(run, {}, folds=3, overrides={"seed": 4}, restart=True)
    assert json.loads((run / "earlier/1" / FOLDS).read_text()) == before
    for fold in range(3):
        assert not (run / f"fold{fold}/models/model.pt").exists() and not (run / f"fold{fold}/split.json").exists()
        assert (run / f"fold{fold}/earlier/1/models/model.pt").exists()


def test_a_cross_validation_that_is_not_finished_predicts_only_when_told_so(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    run, scan = tmp_path / "run", data / "images" / "a.nii.gz"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("fold1"))
    result = call("predict", run, scan, tmp_path / "masks", "backend=torch")
    assert result.exit_code == 2
    assert "fold1 of its 3 folds are not trained to their end; train them first, or take the others with --partial" in (
        result.stderr
    )
    assert not (tmp_path / "masks").exists()
    assert call("predict", run, scan, tmp_path / "masks", "--partial", "backend=torch").exit_code == 0
    assert json.loads((tmp_path / "masks/a.json").read_text())["inference"]["members"] == 2
    config = run / "fold2/configs/train.yaml"  # a training that was stopped on its way
    config.write_text(config.read_text().replace("max_epochs: 1", "max_epochs: 9"))
    assert [path.name for path in trained_folds(run, partial=True)] == ["fold0"]
    (run / "fold2/models/last.ckpt").unlink()  # handed on without its checkpoints
    assert [path.name for path in trained_folds(run, partial=True)] == ["fold0", "fold2"]
    (run / FOLDS).write_text('{"folds": [["a"], ["b"]')
    with pytest.raises(ValueError, match=r"folds.json, line 1, column .*: not valid JSON"):
        trained_folds(run, partial=True)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--folds", 4], "has 3 folds, not 4"),
        (["--folds", 3, "--fold", 3], "counted from 0"),
        (["--fold", 1], "--fold needs --folds"),
    ],
)
def test_other_folds_than_those_of_the_folder_are_refused(trained: Path, words: list[object], reason: str) -> None:
    result = call("train", trained, *words)
    assert result.exit_code == 2
    assert reason in result.stderr


def test_more_folds_than_patients_and_folds_in_a_run_are_refused(trained: Path, data: Path, tmp_path: Path) -> None:
    result = call("train", tmp_path / "run", "--data", "folder", "--folds", 5, f"dataset_dir={data}", *OPTIONS)
    assert result.exit_code == 2
    assert "not possible with 4 patients" in result.stderr
    assert "is a run itself" in call("train", trained / "fold0", "--folds", 3).stderr
    for command in ("train", "compose"):  # a run among the folds would hide them
        assert "holds the folds of a cross-validation" in call(command, trained).stderr
    assert not (trained / "configs").exists()


def test_folds_predict_the_mean_of_their_probabilities(trained: Path, data: Path, tmp_path: Path) -> None:
    scan = data / "images" / "a.nii.gz"
    assert (
        call(
            "predict",
            trained,
            scan,
            tmp_path / "masks",
            "backend=torch",
            "skip_air=false",
            "postprocessing::transforms=[]",
        ).exit_code
        == 0
    )
    record = json.loads((tmp_path / "masks/a.json").read_text())
    assert record["inference"]["members"] == 3
    assert len({member["sha256"] for member in record["weights"]["members"]}) == 3

    networks = []
    for fold in range(3):
        parser = ConfigParser(load_config(trained / f"fold{fold}", "inference"))
        networks.append(parser.get_parsed_content("network").eval())
        state = torch.load(trained / f"fold{fold}/models/model.pt", weights_only=True)["model"]
        networks[-1].load_state_dict(state)
    image: MetaTensor = parser.get_parsed_content("preprocessing")({"image": str(scan)})["image"]
    expected = labels_unbounded(image[None], networks, UNET3D["roi_size"], overlap=0.5)
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "masks/a.nii.gz").dataobj), expected)


def test_an_ensemble_by_name_and_by_stock_monai_is_that_of_the_folds(trained: Path, data: Path, tmp_path: Path) -> None:
    import monai

    scan = data / "images" / "b.nii.gz"
    assert call("predict", trained, scan, tmp_path / "a").exit_code == 0
    named = ["--ensemble", trained / "fold1", "--ensemble", trained / "fold2"]
    assert call("predict", trained / "fold0", scan, tmp_path / "b", *named).exit_code == 0
    monai.bundle.run(
        config_file=str(trained / "fold0/configs/inference.yaml"),
        bundle_root=str(trained / "fold0"),
        dataset_dir=str(scan),
        output_dir=str(tmp_path / "c"),
        ensemble=[str(trained / "fold1"), str(trained / "fold2")],
    )
    masks = [(tmp_path / name / "b.nii.gz").read_bytes() for name in "abc"]
    assert masks[0] == masks[1] == masks[2]


def test_cascades_as_an_ensemble_average_both_of_their_networks(data: Path, tmp_path: Path) -> None:
    small = words_of({**UNET3D, **NETWORKS["cascade"]})
    for seed, name in enumerate("ab"):
        assert call("compose", tmp_path / name, "--network", "cascade", *small).exit_code == 0
        torch.manual_seed(seed)
        parser = ConfigParser(load_config(tmp_path / name, "inference"))
        for key, folder in (("network", "models"), ("liver_network", "liver/models")):
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            state = {"model": parser.get_parsed_content(key).state_dict()}
            torch.save(state, tmp_path / name / folder / "model.pt")
    words = [data / "images" / "a.nii.gz", tmp_path / "masks", "--ensemble", tmp_path / "b"]
    result = call("predict", tmp_path / "a", *words, "backend=torch")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "masks/a.json").read_text())
    assert (record["inference"]["members"], record["inference"]["liver_members"]) == (2, 2)
    for weights in (record["weights"], record["weights"]["liver"]):
        assert len({member["sha256"] for member in weights["members"]}) == 2


def test_runs_on_another_grid_or_without_weights_are_no_members(trained: Path, data: Path, tmp_path: Path) -> None:
    scan, other = data / "images" / "a.nii.gz", tmp_path / "other"
    assert call("compose", other, *(o for o in OPTIONS if "spacing" not in o), "spacing=[6,6,6]").exit_code == 0
    result = call("predict", trained / "fold0", scan, tmp_path / "masks", "--ensemble", other)
    assert result.exit_code == 2
    assert "they differ in spacing; its members share all but the network" in result.stderr
    for twice in (trained / "fold0", trained):  # a fold counts once
        result = call("predict", trained / "fold0", scan, tmp_path / "masks", "--ensemble", twice)
        assert result.exit_code == 2 and "is named twice" in result.stderr
    untrained = tmp_path / "untrained"
    assert (
        call("compose", untrained, "--network", "segresnet", *(o for o in OPTIONS if "network_def" not in o)).exit_code
        == 0
    )
    result = call("predict", trained / "fold0", scan, tmp_path / "masks", "--ensemble", untrained)
    assert result.exit_code == 2
    assert f"no weights at {untrained / 'models/model.pt'}" in result.stderr
