"""Data sets that outline the liver alone, mixed with one that has tumors: trained, evaluated, planned, described."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Hashable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from monai.transforms import Compose

import liver_pipeline as lp
from liver_pipeline.bundle.folders import WEIGHTS
from liver_pipeline.bundle.workflow import run_workflow
from liver_pipeline.cli import main
from liver_pipeline.data.cases import Case
from liver_pipeline.data.hard_cases import window_dice
from liver_pipeline.data.mixed import mixed_cases
from liver_pipeline.data.phantoms import liver_phantom, save_phantom
from liver_pipeline.evaluation.postprocessing_search import ValidationCase, choose_postprocessing
from liver_pipeline.handlers.dice import class_dice, foreground_accuracy
from liver_pipeline.labels import LIVER_OR_TUMOR
from liver_pipeline.losses import ComboLoss, MarginalLoss
from liver_pipeline.transforms import CountOverlapd, LoadScand, MarkUntoldTumorsd
from tests.small import UNET3D, make_phantoms, words_of

UNTOLD = {1: "liver_or_tumor"}


def outline_livers_alone(folder: Path) -> Path:
    for path in folder.glob("segmentation-*"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image((np.asarray(image.dataobj) > 0).astype(np.uint8), image.affine, image.header), path)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_phantoms(folder / "full", 3)
    outline_livers_alone(make_phantoms(folder / "livers", 3))
    return folder


def mix(**label_map: Any) -> list[dict[str, Any]]:
    return [{"folder": "full", "layout": "lits"}, {"folder": "livers", "layout": "lits", **label_map}]


def run_main(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def training(run: Path, data: Path, **label_map: Any) -> Result:
    """Train for an epoch by the command."""
    mixed = [f"dataset_dir={data}", f"datasets={mix(**label_map)}", f"split_file={run.parent / 'split.json'}"]
    return run_main("train", run, "--data", "mixed", *words_of(UNET3D), *mixed, "hard_case_share=0.5")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the mix; one case of each kind in each part."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    kinds = ("full", "livers")
    names = {part: [f"{kind}/volume-{n}" for kind in kinds] for n, part in enumerate(("train", "val", "test"))}
    (folder.parent / "split.json").write_text(json.dumps({"cases": names}))
    done = training(folder, data, label_map=UNTOLD)
    assert done.exit_code == 0, done.output
    return folder


def test_a_mix_is_trained_and_tumors_are_scored_where_they_were_outlined(run: Path) -> None:
    assert (run / WEIGHTS).is_file()
    with (run / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert math.isfinite(float(row["train_loss"]))
    assert 0 <= float(row["val_dice_liver"]) <= 1
    assert 0 <= float(row["val_dice_tumor"]) <= 1


def test_the_same_command_continues_the_run_and_another_label_map_is_another_configuration(
    run: Path, data: Path
) -> None:
    again = training(run, data, label_map=UNTOLD)
    assert "finished after epoch 1" in again.output, again.output
    other = training(run, data)
    assert other.exit_code == 2
    assert "has another configuration (its own -> the new one): datasets::1::label_map" in other.output


def test_the_evaluation_of_a_mix_knows_nothing_of_tumors_that_were_not_outlined(run: Path) -> None:
    _, metrics = run_workflow(run, "evaluate", {"device": "cpu"})
    full, livers = (metrics["cases"][f"{kind}/volume-2"] for kind in ("full", "livers"))
    assert not metrics["failures"]
    assert livers["tumor"]["dice"] is livers["lits"]["lesion_dice_per_case"] is livers["lesions"]["n_reference"] is None
    assert livers["liver"]["dice"] == full["liver"]["dice"]  # the same scan, and the same liver with its tumors
    assert metrics["summary"]["lesion_dice_per_case"]["n"] == metrics["agreement"]["tumor"]["n"] == 1
    assert metrics["summary"]["liver_dice"]["n"] == metrics["agreement"]["liver"]["n"] == 2
    assert metrics["tumor_free"]["n_cases"] == 1  # this phantom has none, which only the whole reference says
    report = (run / "evaluation" / "report.html").read_text()
    assert "the reference does not tell tumors from liver" in report


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A mask with a tumor, and a multi-organ reference: the same liver (6), and the tumor (7) a voxel aside."""
    liver = np.zeros((20, 20, 12), np.uint8)
    liver[3:17, 3:17, 2:10] = 1
    mask, reference = liver.copy(), 6 * liver
    mask[5:8, 5:8, 4:6], reference[6:9, 5:8, 4:6] = 2, 7
    reference[0, 0, 0] = 1  # a spleen, say
    for name, array in (("masks", mask), ("references", reference)):
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / name / "a.nii.gz")
    return tmp_path / "masks", tmp_path / "references"


def test_evaluate_takes_a_label_map(folders: tuple[Path, Path], tmp_path: Path) -> None:
    done = run_main("evaluate", *folders, tmp_path / "out", "--label-map", "{6: 1, 7: 2}")
    assert done.exit_code == 0, done.output
    case = json.loads((tmp_path / "out/metrics.json").read_text())["cases"]["a"]
    assert case["tumor"]["dice"] == pytest.approx(2 / 3)  # two of three voxels along an axis are common
    assert case["liver"]["dice"] == 1
    assert case["label_map"] == {"6": 1, "7": 2}
    assert "LABEL_UNNAMED" in case["warnings"][-1]
    official = run_main("evaluate", *folders, tmp_path / "o", "--label-map", "{6: 1}", "--protocol", "lits-official")
    assert "label_map goes with lits or plain" in official.output


def test_a_reference_without_tumors_outlined_leaves_figures_of_tumors_undefined(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    said = "{6: liver_or_tumor, 7: liver_or_tumor}"
    done = run_main("evaluate", *folders, tmp_path / "out", "--label-map", said, "--images", folders[0])
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    schema = json.loads(files("liver_pipeline").joinpath("schemas/metrics.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(metrics, schema)
    assert metrics["global"]["liver_dice"] == metrics["global"]["liver_dice_global"] == 1
    for key in ("tumor_dice", "tumor_dice_global", "lesion_dice_per_case", "lesion_precision", "parenchyma_dice"):
        assert metrics["global"][key] is None, key
    assert metrics["cases"]["a"]["tumor"]["reason"] == "the reference does not tell tumors from liver"


def test_describe_and_view_take_a_label_map(folders: tuple[Path, Path], tmp_path: Path) -> None:
    mask, reference = (folder / "a.nii.gz" for folder in folders)
    done = run_main("describe", mask, "--reference", reference, "--label-map", "{6: 1, 7: 2}", "--json", "-")
    assert done.exit_code == 0, done.output
    (lesion,) = json.loads(done.stdout)["lesions"]
    assert lesion["match"]
    untold = run_main("describe", mask, "--reference", reference, "--label-map", "{6: liver_or_tumor}")
    assert "does not tell tumors from liver" in untold.output
    alone = run_main("describe", mask, "--label-map", "{6: 1}")
    assert "there is none" in alone.output


def test_check_lists_what_a_label_map_does_not_name(folders: tuple[Path, Path]) -> None:
    masks, references = folders
    plain = run_main("check", masks / "a.nii.gz", "--labels", references / "a.nii.gz")
    assert "LABEL_VALUES: label map holds 6, 7" in plain.output
    mapped = run_main("check", masks / "a.nii.gz", "--labels", references / "a.nii.gz", "--label-map", "{6:1,7:2}")
    assert "LABEL_VALUES" not in mapped.output
    assert "LABEL_UNNAMED: label_map does not name 1, which became background" in mapped.output
    for text in ("{6: 3}", "{6", "six", "{6:liver_or_tumor}"):
        refused = run_main("check", masks, "--labels", references, "--label-map", text)
        assert refused.exit_code == 2
        assert "label_map is" in refused.output


def test_a_plan_counts_tumors_where_they_were_outlined_and_measures_again_for_another_map(
    data: Path, tmp_path: Path
) -> None:
    keys = {"dataset_dir": str(data), "datasets": mix(label_map=UNTOLD)}
    summary = lp.plan(tmp_path / "plan", {"data": "mixed"}, overrides=keys).summary
    assert (summary["n_usable"], summary["n_cases_tumors_unknown"], summary["n_cases_with_tumor"]) == (
        6,
        3,
        2,
    )  # the third has none
    full = lp.plan(tmp_path / "full", {"data": "lits"}, overrides={"dataset_dir": str(data / "full")}).summary
    for name in ("tumor_ml", "lesions_per_case", "n_lesions"):
        assert summary[name] == full[name]
    again = lp.plan(tmp_path / "plan", {"data": "mixed"}, overrides={**keys, "datasets": mix()}).summary
    assert again["n_cases_tumors_unknown"] == 0
    assert again["tumor_ml"]["min"] == 0


def test_a_case_without_tumors_outlined_has_a_liver_score_and_no_tumor_score() -> None:
    label = np.array([[[0, 3, 3, 3]]], np.uint8)
    pred = np.array([[[1, 1, 2, 0]]], np.uint8)
    item: dict[Hashable, Any] = {"pred": torch.as_tensor(pred)[None], "label": torch.as_tensor(label)[None]}
    untold = CountOverlapd(num_classes=3)(item)["confusion"]
    np.testing.assert_array_equal(untold, [[0, 1], [1, 2]])
    told = np.diag([5, 4, 3])
    assert class_dice([untold, told], 2) == 1  # of the second alone
    assert class_dice([untold], 2) is None
    assert class_dice([untold, told], 1) == pytest.approx((2 / 3 + 1) / 2)
    assert foreground_accuracy([untold]) == pytest.approx(2 / 3)


def test_how_hard_a_case_is_does_not_count_tumors_that_nobody_outlined() -> None:
    label = torch.tensor([0, 3, 3, 3]).view(1, 1, 4, 1, 1)
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 1]), 3).T.reshape(1, 3, 4, 1, 1).float()
    assert float(window_dice(logits, label)) == 1  # tumor in liver is no mistake


def test_postprocessing_is_not_chosen_for_removing_tumors_that_nobody_outlined() -> None:
    label = np.zeros((12, 12, 12), np.uint8)
    label[2:10, 2:10, 2:10] = LIVER_OR_TUMOR
    pred = np.minimum(label, 1)
    pred[4, 4, 4] = 2  # a tumor so small that steps would drop it
    assert choose_postprocessing([ValidationCase(pred, label, (1.0, 1.0, 1.0))]).steps == []


def voxel_network(data: Path, *, told: bool) -> torch.nn.Module:
    """Train a network that sees one voxel at a time on two phantoms with tumors, and on six as livers alone."""
    cases: list[Case] = mixed_cases(data, mix(**({"label_map": UNTOLD} if told else {})))
    read = Compose([LoadScand(["image", "label"]), MarkUntoldTumorsd("label", num_classes=3)])
    items = [read(case) for case in cases]
    image, label = (
        torch.stack([item[key].as_tensor() for item in items])[..., ::2, ::2, ::2].float() for key in ("image", "label")
    )
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 32, 1), torch.nn.ReLU(), torch.nn.Conv3d(32, 3, 1))
    loss = MarginalLoss(ComboLoss({"cross_entropy": 1.0}, to_onehot_y=True, softmax=True))
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss(network(seen(image)), label).backward()
        optimizer.step()
    return network


def seen(image: torch.Tensor) -> torch.Tensor:
    return (image.clamp(-100, 200) - 50) / 20


def test_tumors_are_learned_beside_cases_that_outline_the_liver_alone(tmp_path: Path) -> None:
    """Tumors of phantoms have values of their own; cross-entropy learns how often such a voxel is labelled tumor.

    That is always, of the cases that tell; of all of them it is a quarter, and liver wins.
    """
    size: dict[str, Any] = {"shape": (32, 26, 16), "spacing": (12.0, 12.0, 19.0), "noise_hu": 5.0}
    for name, numbers in {"full": (0, 1), "livers": (3, 4, 6, 7, 9, 10)}.items():
        for number in numbers:
            save_phantom(tmp_path / name, number, **size)
    outline_livers_alone(tmp_path / "livers")
    image, label = liver_phantom(**size, seed=12)
    tumor, dice = label == 2, {}
    for told in (True, False):
        network = voxel_network(tmp_path, told=told)
        with torch.no_grad():
            found = network(seen(torch.from_numpy(image.astype(np.float32))[None, None])).argmax(1)[0].numpy() == 2
        dice[told] = 2 * int((found & tumor).sum()) / (int(found.sum()) + int(tumor.sum()))
    assert dice[True] > 0.8
    assert dice[False] < 0.3
