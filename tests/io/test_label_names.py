"""What a file calls its values decides what they are, or it is refused: no two classes are swapped in silence."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from liver_pipeline.commands.check import check
from liver_pipeline.data.layouts import folder_cases
from liver_pipeline.io.findings import IntakeError, Severity
from liver_pipeline.io.label_names import named_classes
from liver_pipeline.io.volumes import read_label_map
from liver_pipeline.labels import LIVER, TUMOR
from liver_pipeline.transforms.load import LoadScand

LABELS = np.zeros((6, 5, 4), dtype=np.uint8)
LABELS[1:5, 1:4, 1:3], LABELS[2, 2, 1] = 1, 2
SWAPPED = np.array([0, 2, 1], dtype=np.uint8)[LABELS]


def slicer(path: Path, *segments: tuple[int, str]) -> Path:
    """A segmentation as 3D Slicer writes it, of LABELS."""
    image = SimpleITK.GetImageFromArray(LABELS.T)
    for number, (value, name) in enumerate(segments):
        for key, text in (("ID", f"Segment_{number + 1}"), ("Name", name), ("LabelValue", str(value)), ("Layer", "0")):
            image.SetMetaData(f"Segment{number}_{key}", text)  # type: ignore[no-untyped-call]
    SimpleITK.WriteImage(image, str(path))
    return path


def totalsegmentator(path: Path, *labels: tuple[int, str]) -> Path:
    """A NIfTI file of LABELS whose header is followed by a table of labels."""
    image = nib.Nifti1Image(LABELS, np.diag([2.0, 2.0, 2.0, 1.0]))
    table = "".join(f'<Label Key="{value}" Red="0.0" Alpha="1"><![CDATA[{name}]]></Label>' for value, name in labels)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, f"<LabelTable>{table}</LabelTable>".encode()))
    nib.save(image, path)
    return path


WRITERS = pytest.mark.parametrize(("write", "name"), [(slicer, "a.seg.nrrd"), (totalsegmentator, "a.nii.gz")])


@WRITERS
def test_names_that_contradict_the_values_decide_and_it_is_told(tmp_path: Path, write: Any, name: str) -> None:
    scan = read_label_map(write(tmp_path / name, (1, "tumor"), (2, "Liver")))
    np.testing.assert_array_equal(scan.array, SWAPPED)
    (told,) = [f for f in scan.findings if f.code == "LABEL_NAMES"]
    assert told.severity is Severity.WARNING and "1 'tumor' as tumor, 2 'Liver' as liver" in told.detail
    assert LoadScand("label")({"label": scan.path})["unnamed_labels"] == told.detail  # training says it once


@WRITERS
def test_names_that_agree_or_say_nothing_change_nothing(tmp_path: Path, write: Any, name: str) -> None:
    for segments in (
        [(1, "Hígado"), (2, "Lésion")],
        [(1, "liver"), (2, "Liver tumors")],
        [(1, "Segment_1"), (2, "Segment_2")],
        [(1, ""), (2, "HCC")],
    ):
        scan = read_label_map(write(tmp_path / name, *segments))
        np.testing.assert_array_equal(scan.array, LABELS)
        assert not any(f.code == "LABEL_NAMES" for f in scan.findings)


@WRITERS
def test_names_of_something_else_are_refused_until_label_map_says_what_is_what(
    tmp_path: Path, write: Any, name: str
) -> None:
    path = write(tmp_path / name, (1, "spleen"), (2, "liver"))
    with pytest.raises(IntakeError, match=r"LABEL_NAMES: .*1 'spleen', 2 'liver'.* such as \{2: 1\}"):
        read_label_map(path)
    np.testing.assert_array_equal(read_label_map(path, label_map={2: 1}).array, LABELS == 2)
    np.testing.assert_array_equal(read_label_map(path, accept=["LABEL_NAMES"]).array, LABELS)  # by its values


def test_of_many_organs_the_liver_is_what_the_hint_names(tmp_path: Path) -> None:
    path = totalsegmentator(tmp_path / "a.nii", (1, "spleen"), (2, "kidney_right"), (5, "liver"))
    nib.save(nib.Nifti1Image(LABELS + 3 * (LABELS == 2), None, nib.load(path).header), path)
    with pytest.raises(IntakeError) as caught:
        read_label_map(path)
    hints = [finding.detail for finding in caught.value.findings if "such as" in finding.detail]
    assert len(hints) == 1 and "such as {5: 1}" in hints[0]
    np.testing.assert_array_equal(read_label_map(path, label_map={5: 1}).array, LABELS == 2)


def test_a_file_of_tumors_alone_holds_no_liver(tmp_path: Path) -> None:
    path = slicer(tmp_path / "a.seg.nrrd", (1, "tumor 1"), (2, "tumor 2"))
    np.testing.assert_array_equal(read_label_map(path).array, 2 * (LABELS > 0))


def test_a_segment_whose_value_is_no_number_is_refused(tmp_path: Path) -> None:
    path = slicer(tmp_path / "a.seg.nrrd", (1, "liver"))
    path.write_bytes(path.read_bytes().replace(b"LabelValue:=1", b"LabelValue:=x"))
    with pytest.raises(IntakeError, match="BAD_HEADER: LabelValue"):
        read_label_map(path)


def test_an_extension_that_the_file_does_not_hold_is_no_crash(tmp_path: Path) -> None:
    path = totalsegmentator(tmp_path / "a.nii", (1, "liver"))
    data = bytearray(path.read_bytes())
    struct.pack_into("<f", data, 108, 1e7)  # vox_offset
    path.write_bytes(data)
    with pytest.raises(IntakeError, match="TRUNCATED"):
        read_label_map(path)


@pytest.mark.parametrize(
    "name", ["hepatic vessel", "kidney tumor", "no tumor", "non-liver", "liver without tumor", "liver + tumor", "Leben"]
)
def test_a_name_with_a_word_that_is_not_known_is_not_clear(name: str) -> None:
    with pytest.raises(ValueError, match="not all are clearly"):
        named_classes([(1, name)])


@pytest.mark.parametrize(
    ("name", "label"),
    [("LIVER", 1), ("Leber", 1), ("foie", 1), ("hígado", 1), ("liver_parenchyma", 1), ("liver mask 2", 1),
     ("LiverTumour", 2), ("Läsion", 2), ("liver lesions", 2), ("metastases", 2), ("HCC 3", 2), ("hepatic tumor", 2)],
)  # fmt: skip
def test_a_name_is_known_in_the_ways_that_people_write_it(name: str, label: int) -> None:
    assert named_classes([(7, name)]) == {7: label}


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["liver", "tumor", "Segment_1", "spleen"])), max_size=5))
def test_no_value_is_read_as_another_class_than_its_name_says(names: list[tuple[int, str]]) -> None:
    try:
        classes = named_classes(names)
    except ValueError:
        return
    means = {"liver": {LIVER}, "tumor": {TUMOR}, "spleen": set()}
    assert all(classes.get(value, value) in means.get(name, {value, LIVER, TUMOR}) for value, name in names)


def test_a_segmentation_as_slicer_calls_it_is_that_of_its_scan(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    nib.save(nib.Nifti1Image(LABELS.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "images/a.nii.gz")
    slicer(tmp_path / "labels" / "a.seg.nrrd", (1, "liver"), (2, "tumor"))
    (case,) = folder_cases(tmp_path)
    assert (case["case"], Path(case["label"]).name) == ("a", "a.seg.nrrd")
    label = check(tmp_path / "images", labels=tmp_path / "labels", modality="mr")[1]
    assert label.path.name == "a.seg.nrrd" and not {"LABEL_MISSING", "LABEL_GRID_MISMATCH"} & set(
        label.as_json()["codes"]
    )
