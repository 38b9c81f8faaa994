"""Cases on disk, and patient-grouped splits."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liver_pipeline.data.cache_key import case_digest
from liver_pipeline.data.cases import Case
from liver_pipeline.data.layouts import folder_cases, lits_cases
from liver_pipeline.data.msd import msd_cases
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


def test_an_msd_case_is_its_path_below_imagestr_and_one_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    pairs = [{key: f"{key}sTr/{site}/c.nii.gz" for key in ("image", "label")} for site in "ab"]
    touch(tmp_path, *(path for pair in pairs for path in pair.values()))
    (tmp_path / "dataset.json").write_text(json.dumps({"training": pairs}))
    cases = msd_cases(tmp_path)
    assert [(case["case"], case["label"]) for case in cases] == [
        (f"{site}/c", str(tmp_path / f"labelsTr/{site}/c.nii.gz")) for site in "ab"
    ]
    crossed = {"image": pairs[0]["image"], "label": pairs[1]["label"]}
    for entries, said in (
        ([*pairs, pairs[0]], "both case a/c"),
        ([crossed, pairs[1]], r"labelsTr/b/c\.nii\.gz for two scans"),
    ):
        (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
        with pytest.raises(ValueError, match=said):
            msd_cases(tmp_path)


def test_nnunet_data_sets_of_either_kind_are_read(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz")
    index = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "tumor": 2},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    cases = msd_cases(tmp_path)
    assert [(case["case"], Path(case["image"]).name) for case in cases] == [
        ("a", "a_0000.nii.gz"),
        ("b", "b_0000.nii.gz"),
    ]
    named = {"b": {"images": ["imagesTr/b_0000.nii.gz"], "label": "labelsTr/b.nii.gz"}}
    (tmp_path / "dataset.json").write_text(json.dumps({**index, "dataset": named}))
    assert [case["case"] for case in msd_cases(tmp_path)] == ["b"]
    (tmp_path / "labelsTr/a.nii.gz").unlink()
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="1 scans have no label map"):
        msd_cases(tmp_path)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"0": "background", "1": "liver", "2": "cancer"}, None),
        ({"0": "background", "1": "cancer", "2": "liver"}, {1: 2, 2: 1}),
        ({"background": 0, "tumor": 1, "liver": 2}, {1: 2, 2: 1}),
        ({"background": 0, "liver": [1, 2], "tumor": 2}, None),  # regions of nnU-Net
    ],
)
def test_names_in_dataset_json_say_what_the_values_mean(tmp_path: Path, labels: Any, expected: Any) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    training = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": training, "labels": labels}))
    assert [case.get("label_map") for case in msd_cases(tmp_path)] == [expected]


def test_vessels_in_dataset_json_are_no_liver_unless_label_map_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    training = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]
    labels = {"0": "background", "1": "Vessel", "2": "Tumour"}  # of MSD Task08
    (tmp_path / "dataset.json").write_text(json.dumps({"training": training, "labels": labels}))
    with pytest.raises(ValueError, match=r"dataset\.json: .* 1 'Vessel', 2 'Tumour'.*label_map, such as \{2: 2\}"):
        msd_cases(tmp_path)
    assert [case["label_map"] for case in msd_cases(tmp_path, {2: 2})] == [{2: 2}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"training": [', "dataset.json, line 1, column 15: not valid JSON"),
        ('{"training": [], "training": []}', "the key 'training' stands twice"),
        ("[]", "holds a list; expected an object"),
        ('{"name": "Liver"}', "no key 'training' .MSD. nor 'channel_names' .nnU-Net v2.; its keys are name"),
        ('{"training": {}}', "'training' is {}; expected a list"),
        ('{"training": ["imagesTr/a.nii.gz"]}', r"training\[0\] is 'imagesTr/a.nii.gz'; expected a path under 'image'"),
        ('{"training": [{"image": "a.nii.gz", "label": 3}]}', r"training\[0\] .* expected a path under 'label'"),
        ('{"training": [{"image": ".", "label": "a"}]}', r"training\[0\] .* expected a path under 'image'"),
        ("[" * 100000, "dataset.json: not valid JSON: nested too deep"),
        ('{"training": ' + "9" * 5000 + "}", "dataset.json: not valid JSON: a number of thousands of digits"),
        ('{"channel_names": {"0": "T1", "1": "T2"}}', "a case of one channel is what can be read"),
        ('{"channel_names": {"0": "CT"}, "dataset": {"a": []}}', r"dataset\[a\] is \[\]; expected one path"),
    ],
)
def test_a_dataset_json_that_is_not_as_described_is_refused_with_the_place(
    tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=reason):
        msd_cases(tmp_path)


def test_cases_of_two_sites_with_one_file_name_stay_two(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{side}/{site}/case1.nii.gz" for side in ("images", "labels") for site in ("siteA", "siteB")))
    cases = folder_cases(tmp_path)
    assert [case["case"] for case in cases] == ["siteA/case1", "siteB/case1"]
    assert all(case["label"] == case["image"].replace("images", "labels") for case in cases)
    assert len({case["patient"] for case in cases}) == 2
    (tmp_path / "labels/siteB/case1.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 scans have no label map .*: siteB/case1"):
        folder_cases(tmp_path)  # siteA's is not taken for it


@pytest.mark.parametrize("twin", ["case1.nii", "Case1.nii.gz"])
@pytest.mark.parametrize("side", ["images", "labels"])
def test_two_files_of_one_case_are_refused(tmp_path: Path, side: str, twin: str) -> None:
    touch(tmp_path, "images/case1.nii.gz", "labels/case1.nii.gz", f"{side}/{twin}")
    with pytest.raises(ValueError, match="are both case"):
        folder_cases(tmp_path)


def test_accents_that_are_written_in_two_ways_pair(tmp_path: Path) -> None:
    composed, decomposed = "M\u00fcller", "Mu\u0308ller"
    touch(tmp_path, f"images/{composed}.nii.gz", f"labels/{decomposed}.nii.gz")
    (tmp_path / "patients.csv").write_text(f"case,patient\n{decomposed},p\n")
    assert [(case["case"], case["patient"]) for case in folder_cases(tmp_path)] == [(composed, "p")]


PATIENTS = [("case_0", "A"), ("case_1", "A"), ("case_2", "B, C")]


@pytest.mark.parametrize(
    "table",
    [
        b'\xef\xbb\xbfcase,patient\r\ncase_0,A\r\ncase_1,A\r\ncase_2,"B, C"\r\n',
        b"case;patient\ncase_0;A\ncase_1;A \n\ncase_2;B, C\n;\n",
        b"Patient\tCase\tSex\n A\tcase_0\tf\nA\tcase_1.nii.gz\t\nB, C\tcase_2\tm\n",
        b'sep=;\n"case"; "patient"\ncase_0;"A"\ncase_1; A\ncase_2;"B, C";\n',
        'case,patient\ncase_0,A\ncase_1,A\u00a0\ncase_2,"B, C"\n'.encode(),
        'case,patient\ncase_0,A\ncase_1,A\ncase_2,"B, C"\n'.encode("utf-16"),
        'case,patient\rcase_0,A\rcase_1\u200b,A\rcase_2,"B, C"\r'.encode(),  # an old Mac's; a blank of no width
        b'"case, scan",patient,case\nx,A,case_0\ny,A,case_1\nz,"B, C",case_2\n',
    ],
)
def test_patients_csv_is_read_as_spreadsheets_write_it(tmp_path: Path, table: bytes) -> None:
    touch(tmp_path, *(f"{side}/case_{n}.nii.gz" for side in ("images", "labels") for n in range(3)))
    (tmp_path / "patients.csv").write_bytes(table)
    assert [(case["case"], case["patient"]) for case in folder_cases(tmp_path)] == PATIENTS


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"", "patients.csv is empty"),
        (b"case,person\ncase_0,A\n", "line 1: column 'patient' is missing, the line reads 'case | person'"),
        (b"case,patient,case\n", "line 1: column 'case' is twice"),
        (b"case,patient\ncase_0,A\n\ncase_0,B\n", "line 4: column 'case' is case_0 again, as in line 2"),
        (b"case,patient\ncase_0,A\ncase_0.nii.gz,B\n", "are both case case_0"),
        (b"case,patient\ncase_0,\n", "line 2: column 'patient' is empty"),
        (b"case,patient\ncase_0\n", "line 2: column 'patient' is empty"),
        (b"case,patient\ncase_0,A,B\n", "line 2: 3 cells, but line 1 has 2 columns"),
        (b'case,patient\ncase_0,"A\n', "line 2: no table: unexpected end of data; check its quotes"),
        (b"case,patient\ncase_0,A\ncase_1,M\xfcller\n", "line 3: not UTF-8 text; save it as UTF-8"),
        ("case,patient\ncase_0,A\n".encode("utf-16-le"), r"line 1, column 2: '\x00' is no text; save it as UTF-8"),
        (b"case,patient\ncase_0,A\0\n", r"line 2, column 9: '\x00' is no text"),
        (b'case,patient\n"case_0",A\n"x\ny",B\n', r"column 'case' is 'x\ny', of two lines"),
        (b"case,patient\ncase_l,A\n", "no row for case case_0; did you mean 'case_l'"),
    ],
)
def test_a_patients_csv_that_is_not_clear_is_refused_with_line_and_column(
    tmp_path: Path, table: bytes, reason: str
) -> None:
    touch(tmp_path, "images/case_0.nii.gz", "labels/case_0.nii.gz")
    (tmp_path / "patients.csv").write_bytes(table)
    with pytest.raises(ValueError, match=re.escape(reason)):
        folder_cases(tmp_path)


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
    assert all(split["test"] == [] for split in splits)


def test_shares_of_20_patients_are_those_asked_for() -> None:
    split = make_split(scans_of(*(str(i) for i in range(20))), fractions=(0.7, 0.2, 0.1))
    assert {part: len(cases) for part, cases in split.items()} == {"train": 14, "val": 4, "test": 2}


def test_a_leaking_split_is_refused() -> None:
    one, two = scans_of("same", "same")
    with pytest.raises(ValueError, match="leaks: patient same"):
        check_split({"train": [one], "val": [two], "test": []})


def test_a_split_without_training_cases_is_refused() -> None:
    (one,) = scans_of("a")
    with pytest.raises(ValueError, match="no training case"):
        check_split({"train": [], "val": [one], "test": []})


@pytest.mark.parametrize("shares", [(0.7, 0.7, 0.1), (1.2, -0.2, 0.0), (0.7, 0.3), (0.7, 0.1, 0.1)])
def test_shares_that_do_not_add_up_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        make_split(scans_of("a", "b", "c"), fractions=shares)


def test_a_split_file_is_written_once_and_then_obeyed(tmp_path: Path) -> None:
    cases = scans_of(*"abcdefgh")
    first = load_or_make_split(cases, tmp_path / "split.json", seed=1)
    assert load_or_make_split(cases, tmp_path / "split.json", seed=2) == first
    with pytest.raises(ValueError, match="cases that the data set lacks"):
        load_or_make_split(cases[:3], tmp_path / "split.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"cases": {"train": ["c0"],', "split.json, line 1, column 28: not valid JSON"),
        ("[]", "is not a split: it needs a key 'cases'"),
        (
            '{"cases": {"train": ["c0"], "validation": ["c1"]}}',
            "cases::validation is no part; the parts are train, val",
        ),
        ('{"cases": {"train": "c0"}}', "cases::train is c0; expected a list"),
        ('{"cases": {"train": [0]}}', "cases::train is [0]; expected a list"),
        ('{"cases": {"train": ["c0", "c0 "]}}', "names case c0 twice"),
        ('{"cases": {"train": ["c0"], "val": ["c0"]}}', "names case c0 twice"),
        ('{"cases": {"train": ["c00"]}}', "names 1 cases that the data set lacks, such as c00; did you mean 'c0'?"),
    ],
)
def test_a_split_file_that_is_not_as_described_is_refused_with_the_place(
    tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_or_make_split(scans_of("a", "b"), tmp_path / "split.json")


def test_cases_added_after_the_split_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = scans_of(*"abcdefgh")
    split = load_or_make_split(cases[:6], tmp_path / "split.json")
    assert capsys.readouterr() == ("", "")
    assert load_or_make_split(cases, tmp_path / "split.json") == split
    assert "2 cases of the data set are in no part of" in capsys.readouterr().out


def test_an_edited_split_file_that_leaks_is_refused(tmp_path: Path) -> None:
    cases = scans_of("a", "a", "b")
    (tmp_path / "split.json").write_text(json.dumps({"cases": {"train": ["c0", "c2"], "val": ["c1"], "test": []}}))
    with pytest.raises(ValueError, match="leaks"):
        load_or_make_split(cases, tmp_path / "split.json")


def test_label_maps_without_a_scan_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("images/a.nii.gz", "labels/a.nrrd", "labels/b.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [case["case"] for case in folder_cases(tmp_path)] == ["a"]
    told = capsys.readouterr()
    assert "1 label maps have no scan of their name" in told.out + told.err and "b.nii.gz" in told.out + told.err


def test_linked_folders_of_a_data_set_are_followed_once(tmp_path: Path) -> None:
    for name in ("elsewhere/images/b.nii.gz", "elsewhere/labels/b.nii.gz", "data/images/a.nii", "data/labels/a.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind / "site").symlink_to(tmp_path / "elsewhere" / kind)
        (tmp_path / "data" / kind / "loop").symlink_to(tmp_path / "data" / kind)
    assert [case["case"] for case in folder_cases(tmp_path / "data")] == ["a", "site/b"]


def test_a_scan_or_label_that_is_a_link_to_nowhere_is_a_case_and_its_reading_says_why(tmp_path: Path) -> None:
    for name in ("images/a.nii", "labels/b.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "images" / "b.nii").symlink_to(tmp_path / "gone")
    (tmp_path / "labels" / "a.nii").symlink_to(tmp_path / "labels" / "a.nii")
    assert [case["case"] for case in folder_cases(tmp_path)] == ["a", "b"]


def test_a_pipe_among_the_files_of_a_case_keeps_no_training_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scan.nii.gz")
    with pytest.raises(OSError, match="scan"):
        case_digest({"case": "a", "image": str(tmp_path / "scan.nii.gz")}, tmp_path)


def test_a_folder_in_place_of_a_split_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=f"split_file is {tmp_path}, a folder"):
        load_or_make_split([], tmp_path)
