"""Cases on disk, and patient-grouped splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liver_pipeline.data.cases import Case
from liver_pipeline.data.layouts import folder_cases, lits_cases, msd_cases
from liver_pipeline.data.splits import check_split, load_or_make_split, make_split


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def scans_of(*patients: str) -> list[Case]:
    return [
        {"case": f"c{i}", "patient": patient, "image": f"i{i}", "label": f"l{i}"} for i, patient in enumerate(patients)
    ]


def test_lits_cases_are_found_flat_and_in_batches_and_sorted_by_number(tmp_path: Path) -> None:
    touch(tmp_path, "b1/volume-10.nii", "seg/segmentation-10.nii", "b1/volume-2.nii.gz", "seg/segmentation-2.nii.gz")
    cases = lits_cases(tmp_path)
    assert [case["case"] for case in cases] == ["volume-2", "volume-10"]
    assert Path(cases[1]["label"]).name == "segmentation-10.nii"


def test_a_lits_volume_without_segmentation_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "volume-0.nii", "segmentation-0.nii", "volume-7.nii")
    with pytest.raises(FileNotFoundError, match=r"1 scans have no label map .*: 7"):
        lits_cases(tmp_path)


def test_a_lits_number_in_two_batches_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/volume-0.nii", "b/volume-0.nii.gz", "a/segmentation-0.nii")
    with pytest.raises(ValueError, match="volume 0 lies twice"):
        lits_cases(tmp_path)


def test_an_empty_folder_and_a_missing_one_say_what_dataset_dir_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dataset_dir is the LiTS folder"):
        lits_cases(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        lits_cases(tmp_path / "misspelt")


def test_msd_cases_follow_dataset_json(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/liver_0.nii.gz", "labelsTr/liver_0.nii.gz")
    item = {"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [item]}))
    assert [case["case"] for case in msd_cases(tmp_path)] == ["liver_0"]
    (tmp_path / "labelsTr/liver_0.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="1 files that do not exist"):
        msd_cases(tmp_path)


def test_folder_cases_take_patients_from_the_table_or_the_pattern(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{side}/p{n}_{phase}.nii.gz" for side in ("images", "labels") for n in (1, 2) for phase in "ab"))
    assert {c["patient"] for c in folder_cases(tmp_path)} == {"p1_a", "p1_b", "p2_a", "p2_b"}
    assert {c["patient"] for c in folder_cases(tmp_path, patient_pattern="(p[0-9])_")} == {"p1", "p2"}
    (tmp_path / "patients.csv").write_text("case,patient\np1_a,x\np1_b,x\np2_a,y\np2_b,y\n")
    assert {c["patient"] for c in folder_cases(tmp_path)} == {"x", "y"}
    (tmp_path / "patients.csv").write_text("case,patient\np1_a,x\n")
    with pytest.raises(ValueError, match="no row for case p1_b"):
        folder_cases(tmp_path)


@given(
    patients=st.lists(st.sampled_from("abcdefghij"), min_size=3, max_size=40).filter(lambda p: len(set(p)) >= 3),
    seed=st.integers(0, 1000),
    shares=st.sampled_from([(0.7, 0.15, 0.15), (0.8, 0.1, 0.1), (0.34, 0.33, 0.33)]),
)
def test_a_split_keeps_every_case_once_and_every_patient_on_one_side(
    patients: list[str], seed: int, shares: tuple[float, ...]
) -> None:
    cases = scans_of(*patients)
    split = make_split(cases, fractions=shares, seed=seed)
    check_split(split)
    assert all(split.values())
    assert sorted(case["case"] for part in split.values() for case in part) == sorted(case["case"] for case in cases)


@given(n=st.integers(2, 12), folds=st.integers(2, 12), seed=st.integers(0, 99))
def test_each_patient_is_validated_in_exactly_one_fold(n: int, folds: int, seed: int) -> None:
    cases = scans_of(*(str(i) for i in range(n)))
    if folds > n:
        with pytest.raises(ValueError, match="not possible"):
            make_split(cases, folds=folds, fold=0, seed=seed)
        return
    splits = [make_split(cases, folds=folds, fold=fold, seed=seed) for fold in range(folds)]
    validated = [case["case"] for split in splits for case in split["val"]]
    assert sorted(validated) == sorted(case["case"] for case in cases)
    assert all(len(split["train"]) + len(split["val"]) == n for split in splits)


def test_shares_of_20_patients_are_those_asked_for() -> None:
    split = make_split(scans_of(*(str(i) for i in range(20))), fractions=(0.7, 0.2, 0.1))
    assert {part: len(cases) for part, cases in split.items()} == {"train": 14, "val": 4, "test": 2}


def test_a_leaking_split_is_refused() -> None:
    one, two = scans_of("same", "same")
    with pytest.raises(ValueError, match="leaks: patient same"):
        check_split({"train": [one], "val": [two], "test": []})


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        make_split(scans_of("a", "b", "c"), fractions=(0.7, 0.7, 0.1))


def test_a_split_file_is_written_once_and_then_obeyed(tmp_path: Path) -> None:
    cases = scans_of(*"abcdefgh")
    first = load_or_make_split(cases, tmp_path / "split.json", seed=1)
    assert load_or_make_split(cases, tmp_path / "split.json", seed=2) == first
    with pytest.raises(ValueError, match="cases that the data set lacks"):
        load_or_make_split(cases[:3], tmp_path / "split.json")


def test_an_edited_split_file_that_leaks_is_refused(tmp_path: Path) -> None:
    cases = scans_of("a", "a", "b")
    (tmp_path / "split.json").write_text(json.dumps({"cases": {"train": ["c0", "c2"], "val": ["c1"], "test": []}}))
    with pytest.raises(ValueError, match="leaks"):
        load_or_make_split(cases, tmp_path / "split.json")
