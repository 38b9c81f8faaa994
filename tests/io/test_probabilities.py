"""Probabilities beside the masks: what predict writes is what evaluate and describe read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose

from liver_pipeline.commands.evaluate import evaluate, evaluate_cases
from liver_pipeline.evaluation.description import describe
from liver_pipeline.inferers.streaming import StreamingInferer
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.io.probabilities import LEVELS, read_probabilities, write_probabilities
from liver_pipeline.io.volumes import read_scan
from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.prediction.folder_run import FolderRun
from liver_pipeline.prediction.plan import find_scans
from liver_pipeline.prediction.summary import Summary
from liver_pipeline.transforms.load import LoadScand
from liver_pipeline.transforms.spatial import ToModelGridd

AFFINE = np.array([[0.0, -1.5, 0, 40], [1.2, 0, 0, -30], [0, 0, 2.5, 7], [0, 0, 0, 1]])


class Levels(torch.nn.Module):
    """Logits that rise with the stored value: liver around 60 HU, tumor around 0, background elsewhere."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes
        self.width = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        liver, tumor = -(((image - 60) / self.width) ** 2), -((image / self.width) ** 2)
        return torch.cat([torch.full_like(image, -2.0), liver, tumor][: self.classes], dim=1)


def write_case(folder: Path, name: str = "a", seed: int = 0) -> tuple[Path, npt.NDArray[np.uint8]]:
    """A scan of air, liver and tumor with noise, and its label map."""
    label = np.zeros((20, 18, 12), dtype=np.uint8)
    label[4:16, 4:15, 2:10] = 1
    label[6:11, 6:11, 4:8] = 2
    hu = np.array([-1000, 60, 0])[label] + np.random.default_rng(seed).normal(0, 15, label.shape)
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hu.round().astype(np.int16), AFFINE), folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz", label


def predict(scans: Path, masks: Path, *, probabilities: bool = True, classes: int = 3, **options: Any) -> Summary:
    inferer = StreamingInferer((8, 8, 8), backend="torch", skip_air=False, probabilities=probabilities)
    transform = Compose([LoadScand("image"), ToModelGridd("image", spacing=(2.0, 2.0, 2.0))])
    runner = CaseRunner(preprocessing=transform, inferer=inferer, network=Levels(classes))
    return FolderRun(
        dataset=Dataset(find_scans(scans)), output_dir=masks, runner=runner, progress=False, **options
    ).run()


def last_row(masks: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((masks / LEDGER).read_text().splitlines()[-1])
    return row


def test_largest_probability_is_the_mask_but_for_rounding_to_eight_bits(tmp_path: Path) -> None:
    scan, _ = write_case(tmp_path / "scans")
    predict(tmp_path / "scans", tmp_path / "masks")
    image = nib.load(tmp_path / "masks" / "a.probabilities.nii.gz")
    mask = np.asarray(nib.load(tmp_path / "masks" / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
    assert (image.shape, image.get_data_dtype()) == ((*mask.shape, 2), np.uint8)
    foreground = image.get_fdata()
    every = np.concatenate([1 - foreground.sum(-1, keepdims=True), foreground], axis=-1)
    top_two = np.sort(every, axis=-1)[..., -2:]
    clear = top_two[..., 1] - top_two[..., 0] > 2 / LEVELS  # background is off by twice half a level, tumor by half
    assert clear.mean() > 0.97 and {0, 1, 2} == set(np.unique(mask))
    np.testing.assert_array_equal(every.argmax(-1)[clear], mask[clear])


def test_provenance_and_ledger_know_the_file(tmp_path: Path) -> None:
    write_case(tmp_path / "scans")
    predict(tmp_path / "scans", tmp_path / "masks")
    record = json.loads((tmp_path / "masks" / "a.json").read_text())["probabilities"]
    assert (record["path"], record["classes"]) == ("a.probabilities.nii.gz", 2)
    assert record["largest_error"] == pytest.approx(1 / 510)
    assert last_row(tmp_path / "masks")["probabilities_sha256"] == record["sha256"]


def test_a_case_is_run_again_only_where_its_probabilities_are_asked_for_and_missing(tmp_path: Path) -> None:
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    write_case(scans)
    assert predict(scans, masks, probabilities=False).done == 1
    assert not (masks / "a.probabilities.nii.gz").exists()
    mask = (masks / "a.nii.gz").read_bytes()
    assert predict(scans, masks).done == 1  # asked for now
    assert (predict(scans, masks).done, predict(scans, masks, probabilities=False).done) == (0, 0)
    (masks / "a.probabilities.nii.gz").unlink()
    assert predict(scans, masks, probabilities=False).done == 0
    assert predict(scans, masks).done == 1
    assert (masks / "a.probabilities.nii.gz").exists() and (masks / "a.nii.gz").read_bytes() == mask


def test_a_new_mask_does_not_keep_the_probabilities_of_the_old_one(tmp_path: Path) -> None:
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    write_case(scans)
    predict(scans, masks)
    write_case(scans, seed=1)
    assert predict(scans, masks, probabilities=False).done == 1
    assert not (masks / "a.probabilities.nii.gz").exists()


def test_probabilities_of_somebody_else_are_not_replaced(tmp_path: Path) -> None:
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    write_case(scans)
    masks.mkdir()
    (masks / "a.probabilities.nii.gz").write_text("mine")
    assert predict(scans, masks).failed == 1
    assert last_row(masks)["code"] == "OUTPUT_EXISTS"
    assert predict(scans, masks, overwrite=True).done == 1


def test_evaluate_and_describe_read_what_predict_wrote(tmp_path: Path) -> None:
    scan, label = write_case(tmp_path / "scans")
    masks = tmp_path / "masks"
    predict(tmp_path / "scans", masks, describe=True)
    (tmp_path / "labels").mkdir()
    nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / "labels" / "a.nii.gz")
    metrics = evaluate(masks, tmp_path / "labels", tmp_path / "out", probability_dir=masks)
    assert metrics["failures"] == {} and list(metrics["cases"]) == ["a"]
    for region in ("liver", "tumor"):
        figures = metrics["cases"]["a"]["probabilities"][region]
        assert 0.9 < figures["auc_roc"] <= 1  # the network was made for this scan
        assert figures["roc"][-1] == 1 and np.all(np.diff(figures["roc"]) >= 0)
    beside = evaluate_cases(
        [{"case": "a", "label": str(tmp_path / "labels" / "a.nii.gz"), "image": str(scan)}], masks, tmp_path / "again"
    )
    assert beside["cases"]["a"]["probabilities"] == metrics["cases"]["a"]["probabilities"]
    table = json.loads((masks / "a.description.json").read_text())
    lesion = max(table["lesions"], key=lambda row: row["volume_ml"])
    assert 0.5 < lesion["mean_confidence"] < 1 and table["liver"]["lesion_count"] == len(table["lesions"])


def test_a_model_of_two_classes_gives_liver_and_no_tumor(tmp_path: Path) -> None:
    write_case(tmp_path / "scans")
    masks = tmp_path / "masks"
    assert predict(tmp_path / "scans", masks, classes=2, describe=True).done == 1
    assert nib.load(masks / "a.probabilities.nii.gz").shape == (20, 18, 12, 1)
    assert list(read_probabilities(masks / "a.probabilities.nii.gz")) == ["liver"]
    with pytest.raises(ValueError, match="liver only"):
        describe(masks / "a.nii.gz", confidence=masks / "a.probabilities.nii.gz")


def test_a_scan_of_air_alone_has_probability_0_everywhere(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((9, 9, 9), -1000, dtype=np.int16), np.diag([2.0, 2, 2, 1])), tmp_path / "a.nii.gz")
    inferer = StreamingInferer((4, 4, 4), backend="torch", probabilities=True)
    scan = read_scan(tmp_path / "a.nii.gz", accept=("CONSTANT",))
    image = Compose([LoadScand("image"), ToModelGridd("image", spacing=(2.0, 2.0, 2.0))])({"image": scan})["image"]
    pred = inferer(image[None], Levels())
    assert pred.meta["inference"]["skipped_windows"] == pred.meta["inference"]["windows"]
    assert pred.meta["probabilities"].shape == (1, 9, 9, 9, 2) and not pred.meta["probabilities"].any()


def test_eight_bits_hardly_move_the_area_under_the_curve(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.zeros((24, 24, 24), dtype=np.uint8)
    label[2:22, 2:22, 2:22] = 1
    label[8:14, 8:14, 8:14] = 2
    exact = 1 / (1 + np.exp(-rng.normal(np.where(label == 2, 0.0, -3.0), 2.0)))
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((24, 24, 24), np.int16) + label, AFFINE), scan)
    for folder in ("pred", "label"):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / folder / "a.nii.gz")
    levels = np.asfortranarray(np.stack([np.zeros_like(label), np.rint(exact * LEVELS).astype(np.uint8)], axis=-1))
    write_probabilities(tmp_path / "pred" / "a.probabilities.nii.gz", levels, read_scan(scan, accept=("HU_SCALE",)))
    (tmp_path / "exact").mkdir()
    nib.save(nib.Nifti1Image(exact.astype(np.float32), AFFINE), tmp_path / "exact" / "a.nii.gz")
    areas = [
        evaluate(
            tmp_path / "pred",
            tmp_path / "label",
            tmp_path / "out",
            probability_dir=folder,
            overwrite=True,
            report=False,
        )["cases"]["a"]["probabilities"]["tumor"]["auc_roc"]
        for folder in (tmp_path / "pred", tmp_path / "exact")
    ]
    assert areas[1] == pytest.approx(0.856, abs=0.02)  # Phi(3 / sqrt(8)) for two normals 3 apart, each of SD 2
    assert areas[0] == pytest.approx(areas[1], abs=2e-3)


def test_a_file_of_four_classes_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 4), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(IntakeError, match="1 to 3 classes"):
        read_probabilities(tmp_path / "a.nii.gz")
