"""What segments say of a liver: shares, volumes, what a resection leaves, scores of an estimated map."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from liver_pipeline.cli import main
from liver_pipeline.evaluation.segments import after_resection, parse_segments, score_segments, segment_volumes


def quarters() -> tuple[np.ndarray, np.ndarray]:
    """A liver of 8 x 8 x 8 voxels of 1 ml in segments 5 to 8, two planes each; a lesion in 5, one across 6 and 7."""
    segments = np.zeros((12, 12, 12), dtype=np.uint8)
    for number in range(4):
        segments[2 + 2 * number : 4 + 2 * number, 2:10, 2:10] = 5 + number
    label_map = (segments > 0).astype(np.uint8)
    label_map[2, 3, 3] = 2
    label_map[5:7, 8, 8] = 2
    return label_map, segments


def test_resection_takes_whole_segments_and_names_the_lesions_that_stay() -> None:
    label_map, segments = quarters()
    shares = [{"5": 1.0}, {"6": 0.5, "7": 0.5}]
    volumes = segment_volumes(segments, label_map, 1.0)
    left = after_resection(volumes, shares, [5, 6])
    assert left["left_ml"] == 2 * 128 - 1
    assert left["left_share"] == pytest.approx(255 / 509)
    assert (left["tumor_left_ml"], left["lesions_left"]) == (1.0, [2])
    assert after_resection(volumes, shares, [5, 6, 7])["lesions_left"] == []
    everything = after_resection(volumes, shares, range(1, 9))
    assert (everything["left_ml"], everything["left_share"]) == (0.0, 0.0)


def test_liver_outside_all_segments_stays() -> None:
    label_map, segments = quarters()
    segments[8:10] = 0
    left = after_resection(segment_volumes(segments, label_map, 1.0), [], [5, 6, 7])
    assert left["left_ml"] == 128


def test_without_a_liver_nothing_is_left_and_no_share_is_given() -> None:
    empty = np.zeros((4, 4, 4), dtype=np.uint8)
    left = after_resection(segment_volumes(empty, empty, 1.0), [], [5])
    assert (left["left_ml"], left["left_share"]) == (0.0, None)


@pytest.mark.parametrize("text", ["", "0", "9", "5;6", "5,5", "5,,6", "V", "5-8"])
def test_what_is_no_list_of_segments_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"from 1 to 8.*got"):
        parse_segments(text)


def test_scores_of_shifted_segments_are_those_of_counted_voxels() -> None:
    _, reference = quarters()
    found = np.zeros_like(reference)
    found[2:10] = reference[[2, 2, 3, 4, 5, 6, 7, 8]]  # all borders one plane to the right: 5 has 3 planes, 8 one
    scores = score_segments(found, reference, 0.5)
    assert scores["dice"] == {
        "1": None, "2": None, "3": None, "4": None, "5": pytest.approx(4 / 5), "6": pytest.approx(1 / 2),
        "7": pytest.approx(1 / 2), "8": pytest.approx(2 / 3),
    }  # fmt: skip
    assert scores["named_right"] == pytest.approx(5 / 8)
    assert (scores["found_ml"]["5"], scores["reference_ml"]["5"]) == (96.0, 64.0)
    assert scores["left_off"]["right posterior"] == 0.0  # 6 and 7 have 4 planes together in both
    assert scores["left_off"]["right anterior"] == pytest.approx(0.0)  # 5 gains what 8 loses
    empty = score_segments(np.zeros_like(found), np.zeros_like(found), 1.0)
    assert (empty["mean_dice"], empty["named_right"], empty["left_off"]["left"]) == (None, None, None)


def test_command_says_what_a_resection_leaves_by_a_given_map(tmp_path: Path) -> None:
    for name, array in zip(("mask", "map"), quarters(), strict=True):
        nib.save(nib.Nifti1Image(array, np.diag([10.0, 10.0, 10.0, 1.0])), tmp_path / f"{name}.nii.gz")
    words = ["describe", str(tmp_path / "mask.nii.gz"), "--segments", str(tmp_path / "map.nii.gz"), "--resect", "6,5"]
    run = CliRunner().invoke(main, [*words, "--csv", str(tmp_path / "lesions.csv")])
    assert run.exit_code == 0, run.output
    assert "without segments 5, 6: 255 ml of liver without tumor left (50 %)" in run.output
    assert "tumor left 1.0 ml in lesions 2" in run.output
    assert "segment 6 (50 %), 7 (50 %)" in run.output
    assert "ESTIMATED" not in run.output
    assert (tmp_path / "lesions.csv").read_text().count(",map.nii.gz") == 2
    table = json.loads(CliRunner().invoke(main, [*words, "--json", "-"]).output)
    assert table["resection"]["segments"] == [5, 6]
    assert table["segments_source"] == {"map": "map.nii.gz"}


def test_command_refuses_to_resect_without_segments(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(quarters()[0], np.eye(4)), tmp_path / "mask.nii.gz")
    run = CliRunner().invoke(main, ["describe", str(tmp_path / "mask.nii.gz"), "--resect", "5"])
    assert run.exit_code == 2
    assert "give a Couinaud map, or 'auto'" in run.output
