"""Labels of other numbers, and data sets that outline the liver alone: through every layout, and mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.data.cases import Case
from liver_pipeline.data.mixed import mixed_cases
from liver_pipeline.data.prepare import usable_cases
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.volumes import read_label_map
from liver_pipeline.labels import LIVER_OR_TUMOR, meanings
from liver_pipeline.transforms import LoadScand, MarkUntoldTumorsd

# a spleen (3), the liver (6) and a tumor in it (7) as a multi-organ data set numbers them, and what they are here
ORGANS = np.zeros((12, 10, 9), np.uint8)
ORGANS[1:3, 1:3, 1:3] = 3
ORGANS[4:11, 2:9, 1:8] = 6
ORGANS[6:8, 4:6, 3:5] = 7
TRUTH = np.select([ORGANS == 6, ORGANS == 7], [1, 2], 0).astype(np.uint8)
WHOLE = (TRUTH > 0).astype(np.uint8)
MAP = {6: 1, 7: 2}


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([3.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def save_case(image: Path, label: Path, labels: np.ndarray = ORGANS) -> None:
    save(image, np.where(labels > 0, 100, -1000).astype(np.int16))
    save(label, labels)


def lay_out(layout: str, root: Path) -> dict[str, Any]:
    """Write one case in a layout; return the keys that name it."""
    if layout == "lits":
        save_case(root / "volume-0.nii.gz", root / "segmentation-0.nii.gz")
    if layout == "folder":
        save_case(root / "images/a.nii.gz", root / "labels/a.nii.gz")
    if layout == "msd_task03":
        save_case(root / "imagesTr/a.nii.gz", root / "labelsTr/a.nii.gz")
        item = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
        (root / "dataset.json").write_text(json.dumps({"training": [item]}))
    if layout == "ircadb":  # converted before
        (root / "1/PATIENT_DICOM").mkdir(parents=True)
        save_case(root / "nifti/volume-1.nii.gz", root / "nifti/segmentation-1.nii.gz")
        return {"dataset_dir": str(root), "converted_dir": str(root / "nifti")}
    if layout == "chaos":
        (root / "CT/1").mkdir(parents=True)
        save_case(root / "nifti/images/ct_1.nii.gz", root / "nifti/labels/ct_1.nii.gz")
        return {"dataset_dir": str(root), "converted_dir": str(root / "nifti"), "modality": "ct"}
    return {"dataset_dir": str(root)}


def cases_of(layout: str, **keys: Any) -> list[Case]:
    """Return the cases as the training's config has them."""
    cases: list[Case] = ConfigParser(merge_layers({"data": layout}, overrides=keys)["train"]).get_parsed_content(
        "cases"
    )
    return cases


def loaded(case: Case) -> dict[Hashable, Any]:
    item: dict[Hashable, Any] = dict(case.items())
    return LoadScand("label")(item)


@pytest.mark.parametrize("layout", ["lits", "folder", "msd_task03", "ircadb", "chaos"])
def test_a_label_map_gives_liver_and_tumor_in_every_layout(layout: str, tmp_path: Path) -> None:
    keys = lay_out(layout, tmp_path)
    (case,) = cases_of(layout, **keys, label_map=MAP)
    np.testing.assert_array_equal(loaded(case)["label"][0].numpy(), TRUTH)
    (plain,) = cases_of(layout, **keys)
    with pytest.raises(IntakeError, match=r"LABEL_VALUES: label map holds 3, 6, 7; expected only 0, 1, 2; label_map"):
        loaded(plain)


def test_phantoms_take_a_label_map_too(tmp_path: Path) -> None:
    keys = {
        "dataset_dir": str(tmp_path),
        "n_phantoms": 1,
        "phantom_shape": [32, 26, 16],
        "phantom_spacing": [12, 12, 19],
    }
    (case,), (swapped,) = cases_of("phantom", **keys), cases_of("phantom", **keys, label_map={1: 2, 2: 1})
    expected = np.array([0, 2, 1])[loaded(case)["label"].numpy()]
    np.testing.assert_array_equal(loaded(swapped)["label"].numpy(), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_values_are_translated_in_any_stored_type_and_what_is_not_named_is_told(dtype: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", ORGANS.astype(dtype))
    label = read_label_map(path, label_map=MAP)
    np.testing.assert_array_equal(label.array, TRUTH)
    assert label.array.dtype == np.uint8
    (told,) = (f for f in label.findings if f.code.startswith("LABEL"))
    assert (told.code, told.detail) == ("LABEL_UNNAMED", "label_map does not name 3, which became background")


def test_a_label_map_that_names_nothing_of_a_file_is_told(tmp_path: Path) -> None:
    label = read_label_map(save(tmp_path / "a.nii.gz", ORGANS), label_map={60: 1})
    assert not label.array.any()
    told = {f.code: f.detail for f in label.findings}
    assert told["LABEL_UNNAMED"] == "label_map does not name 3, 6, 7, which became background"
    assert "names (60) none occurs" in told["LABEL_EMPTY"]


@pytest.mark.parametrize("value", [-1, 70000, 6.5])
def test_what_is_no_label_stays_an_error(value: float, tmp_path: Path) -> None:
    odd = ORGANS.astype(np.float32)
    odd[0, 0, 0] = value
    with pytest.raises(IntakeError, match=f"LABEL_VALUES: label map holds {value:g}; a label is a whole number"):
        read_label_map(save(tmp_path / "a.nii.gz", odd), label_map=MAP)


@pytest.mark.parametrize("said", [{6: 1}, {0: 1, 65535: 2}, {6: "liver_or_tumor", 3: 0}, {"6": 1}])
def test_what_a_label_map_may_say(said: Any) -> None:
    assert meanings(said)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {6: 0},
        {6: 3},
        {6: 1.0},
        {6: True},
        {True: 1},
        {-1: 1},
        {"6.0": 1},
        {65536: 1},
        {"6": 1, 6: 2},
        {"9" * 5000: 1},
        {6: "liver"},
        {6: None},
        {6: [1]},
        6,
    ],
)
def test_what_it_may_not(said: Any, tmp_path: Path) -> None:
    assert meanings(said) is None
    with pytest.raises(ValueError, match=r"label_map is .*expected values of the files"):
        read_label_map(tmp_path / "a.nii.gz", label_map=said)


def test_liver_whose_tumors_were_not_outlined_is_marked_for_the_loss_alone(tmp_path: Path) -> None:
    case: dict[Hashable, Any] = {"label": str(save(tmp_path / "a.nii.gz", WHOLE)), "label_map": {1: "liver_or_tumor"}}
    read = LoadScand("label")(case)
    np.testing.assert_array_equal(read["label"][0].numpy(), WHOLE)  # windows are centred on liver
    marked = MarkUntoldTumorsd("label", num_classes=3)(read)
    np.testing.assert_array_equal(marked["label"][0].numpy(), LIVER_OR_TUMOR * WHOLE)
    np.testing.assert_array_equal(MarkUntoldTumorsd("label", num_classes=2)(read)["label"][0].numpy(), WHOLE)
    told = LoadScand("label")({"label": str(save(tmp_path / "b.nii.gz", TRUTH))})
    np.testing.assert_array_equal(MarkUntoldTumorsd("label", num_classes=3)(told)["label"][0].numpy(), TRUTH)


def test_data_sets_are_mixed_each_in_its_layout_and_named_by_its_folder(tmp_path: Path) -> None:
    lay_out("lits", tmp_path / "first")
    lay_out("folder", tmp_path / "second")
    elsewhere = tmp_path / "far" / "third"
    lay_out("lits", elsewhere)
    entries = [
        {"folder": "first", "layout": "lits", "label_map": {6: 1, 7: 2}},
        {"folder": "second", "layout": "folder", "label_map": {6: "liver_or_tumor"}},
        {"folder": str(elsewhere), "layout": "lits"},
    ]
    cases = cases_of("mixed", dataset_dir=str(tmp_path), datasets=entries)
    assert [case["case"] for case in cases] == ["first/volume-0", "second/a", "third/volume-0"]
    assert [case["patient"] for case in cases] == ["first/volume-0", "second/a", "third/volume-0"]
    assert [case.get("label_map") for case in cases] == [{"6": 1, "7": 2}, {"6": "liver_or_tumor"}, None]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"layout": "litz"}, r"datasets\[0\] has the layout 'litz'; did you mean 'lits'\?; known are lits, "),
        ({"labelmap": {6: 1}}, r"datasets\[0\] sets 'labelmap'; did you mean 'label_map'\?; lits takes label_map"),
        ({"label_map": {6: 9}}, r"datasets\[0\] has the label_map \{6: 9\}; expected values"),
        ({"folder": "gone"}, "no such folder: .*gone"),
    ],
)
def test_an_entry_of_a_mix_that_makes_no_sense_is_named(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    lay_out("lits", tmp_path / "first")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        mixed_cases(tmp_path, [{"folder": "first", "layout": "lits", **entry}])


def test_the_folder_of_a_data_set_may_be_in_ones_home_or_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    lay_out("lits", tmp_path / "home" / "mine")
    (tmp_path / "data").mkdir()
    for folder in ("~/mine", "../home/mine", "../home/mine/."):
        (case,) = mixed_cases(tmp_path / "data", [{"folder": folder, "layout": "lits"}])
        assert case["case"] == "mine/volume-0"


def test_a_mix_of_nothing_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as told:
        cases_of("mixed", dataset_dir=str(tmp_path))
    assert "datasets is empty; it names those to mix" in str(told.value.__cause__)


def test_two_folders_of_one_name_cannot_be_mixed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a/x and .*b/x are both"):
        mixed_cases(tmp_path, [{"folder": f"{name}/x", "layout": "lits"} for name in "ab"])


def test_a_training_says_what_became_background_and_what_holds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = {"train": [{"case": "a"}, {"case": "b"}], "val": [], "test": []}
    held = {"a": [True, True, True], "b": [True, False, False]}
    usable_cases(
        split, lambda case: None, on_bad_case="fail", skipped_file=tmp_path / "s.json",
        held_classes=lambda case: held[case["case"]], unnamed_labels=lambda case: "3 became background",
    )  # fmt: skip
    said = capsys.readouterr().out + capsys.readouterr().err
    assert "3 became background (in 2 of 2 cases" in said
    assert "1 of 2 training cases hold neither liver (1) nor tumor (2): b" in said


def test_a_scan_under_two_names_is_told_if_it_is_in_two_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split: Any = {"train": [{"case": "a"}, {"case": "b"}], "val": [{"case": "siteB/a"}], "test": [{"case": "gone"}]}

    def scan_digest(case: Any) -> str:
        if case["case"] == "gone":
            raise FileNotFoundError("gone")  # a part that is not prepared may lie elsewhere
        return str(case["case"][-1])

    for part, twice in (("val", True), ("train", False)):  # twice in one part leaks nothing
        moved = {**split, "val": [], part: [*split[part], *([] if part == "val" else split["val"])]}
        usable_cases(
            moved, lambda case: None, on_bad_case="fail", skipped_file=tmp_path / "s.json", scan_digest=scan_digest
        )
        said = "".join(capsys.readouterr())
        assert ("1 scans are in two parts of the split, under two names: siteB/a (val) is a (train)" in said) == twice


def test_another_label_map_is_another_cached_case(tmp_path: Path) -> None:
    keys = lay_out("lits", tmp_path / "data")
    paths = set()
    for values in (None, {6: 1}, {6: 1, 7: 2}, {6: "liver_or_tumor"}):
        config = merge_layers(
            {"data": "lits"}, overrides={**keys, "cache_dir": str(tmp_path / "c"), "label_map": values}
        )
        parser = ConfigParser(config["train"])
        (case,) = parser.get_parsed_content("cases")
        paths.add(parser.get_parsed_content("cache").path(case))
    assert len(paths) == 4
    shutil.rmtree(tmp_path / "c")
