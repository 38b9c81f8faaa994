"""CHAOS folders: DICOM series and PNG slices of a phantom without any symmetry, so that no flip goes unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.data import chaos
from liver_pipeline.data.splits import check_split, make_split
from liver_pipeline.io.volumes import label_findings, read_label_map, read_scan

SHAPE = (20, 16, 10)  # columns, rows, slices
STEP = 3.0  # mm between slices


def phantom() -> np.ndarray:
    """A liver that is a corner-heavy heap of voxels, shape (X, Y, Z), DICOM's axes: left, posterior, up."""
    liver = np.zeros(SHAPE, dtype=bool)
    liver[2:9, 3:7, 1:8] = True
    liver[9:14, 3:5, 1:4] = True
    liver[2:4, 7:12, 6:8] = True
    for axis in range(3):
        assert not np.array_equal(liver, np.flip(liver, axis))
    return liver


def write_slice(path: Path, pixels: np.ndarray, z_mm: float, *, ct: bool, series: str) -> None:
    """Write one slice; ``pixels`` is (rows, columns)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage if ct else MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    one.Modality, one.SeriesInstanceUID = "CT" if ct else "MR", series
    one.ImagePositionPatient, one.ImageOrientationPatient = [-40.0, -30.0, z_mm], [1, 0, 0, 0, 1, 0]
    one.PixelSpacing, one.SliceThickness = [1.5, 1.5], STEP
    one.Rows, one.Columns = pixels.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
    if ct:
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.PixelData = pixels.astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path, enforce_file_format=True)


def write_series(folder: Path, names: list[str], *, ct: bool, from_head: bool = False, uids: int = 1) -> None:
    """Write the phantom, the n-th name being the n-th slice from the feet (or from the head)."""
    liver = phantom()
    values = np.where(liver, 1124, 24 if ct else 100)  # 100 HU in air
    values[0, 0, :] = 500 + np.arange(SHAPE[2])  # each slice tells its number
    series = [generate_uid() for _ in range(uids)]
    for n, name in enumerate(names):
        z = SHAPE[2] - 1 - n if from_head else n
        write_slice(folder / name, values[:, :, z].T, 100 + STEP * z, ct=ct, series=series[n % uids])


def write_ground(folder: Path, names: list[str], greys: dict[str, int], *, from_head: bool = False) -> None:
    """Write PNGs of the liver, and of a kidney beside it where it has a grey value."""
    folder.mkdir(parents=True)
    liver = phantom()
    for n, name in enumerate(names):
        z = SHAPE[2] - 1 - n if from_head else n
        grey = np.where(liver[:, :, z], greys["liver"], 0).astype(np.uint8)
        grey[16:18, 12:14] = greys.get("kidney", 0)
        Image.fromarray(grey.T).save(folder / name)


def mr_patient(root: Path, number: int) -> None:
    """Write a patient's three series, named as CHAOS's: in-phase has even numbers, out-phase odd ones."""
    greys = {"liver": 63, "kidney": 126}
    for sequence, folder, first, step in (
        ("T1DUAL", "DICOM_anon/InPhase", 2, 2), ("T1DUAL", "DICOM_anon/OutPhase", 1, 2), ("T2SPIR", "DICOM_anon", 1, 1)
    ):  # fmt: skip
        series = root / "MR" / str(number) / sequence
        stems = [f"IMG-0004-{first + step * n:05d}" for n in range(SHAPE[2])]
        write_series(series / folder, [f"{stem}.dcm" for stem in stems], ct=False, uids=2)
        if "OutPhase" not in folder:
            write_ground(series / "Ground", [f"{stem}.png" for stem in stems], greys)


def ct_patient(root: Path, number: int) -> None:
    """Write a CT whose names run from head to feet, as CHAOS's do."""
    folder = root / "CT" / str(number)
    write_series(folder / "DICOM_anon", [f"i{n:04d},0000b.dcm" for n in range(SHAPE[2])], ct=True, from_head=True)
    names = [f"liver_GT_{n:03d}.png" for n in range(SHAPE[2])]
    write_ground(folder / "Ground", names, {"liver": 255}, from_head=True)


def expected_ras() -> np.ndarray:
    """The phantom with axes along right, anterior, superior: DICOM's X and Y run to the left and to the back."""
    return phantom()[::-1, ::-1]


def in_ras(path: str) -> np.ndarray:
    array: np.ndarray = np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj)
    return array


def cases_by_config(dataset_dir: Path, modality: str) -> list[dict[str, str]]:
    overrides: dict[str, Any] = {"dataset_dir": str(dataset_dir)}
    config = merge_layers({"data": "chaos", "modality": modality}, overrides=overrides)["train"]
    cases: list[dict[str, str]] = ConfigParser(config).get_parsed_content("cases")
    return cases


@pytest.fixture(scope="module")
def train_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chaos") / "Train_Sets"
    for number in (1, 10, 2):
        mr_patient(root, number)
    ct_patient(root, 1)
    return root


def test_mr_liver_lies_on_the_liver_in_every_sequence(train_sets: Path) -> None:
    cases = cases_by_config(train_sets, "mr")
    assert [case["case"] for case in cases[:3]] == ["mr_1_t1in", "mr_1_t1out", "mr_1_t2"]
    for case in cases[:3]:
        image, label = read_scan(case["image"], modality="mr"), read_label_map(case["label"], allowed=(0, 1))
        assert label_findings(image, label) == []
        np.testing.assert_array_equal(in_ras(case["label"]) == 1, expected_ras())
        np.testing.assert_array_equal(in_ras(case["image"]) == 1124, expected_ras())
        assert image.spacing == pytest.approx((1.5, 1.5, STEP))


def test_ct_whose_names_run_from_the_head_lies_on_the_liver(train_sets: Path) -> None:
    (case,) = cases_by_config(train_sets, "ct")
    assert (case["case"], case["patient"]) == ("ct_1", "ct_1")
    np.testing.assert_array_equal(in_ras(case["label"]) == 1, expected_ras())
    np.testing.assert_array_equal(in_ras(case["image"]) == 100, expected_ras())


def test_one_bit_masks_are_read_as_any_others(tmp_path: Path) -> None:
    ct_patient(tmp_path, 3)
    for png in (tmp_path / "CT" / "3" / "Ground").glob("*.png"):
        Image.open(png).convert("1").save(png)
    (case,) = chaos.chaos_cases(tmp_path, "ct")
    np.testing.assert_array_equal(in_ras(case["label"]) == 1, expected_ras())


def test_a_patients_sequences_are_never_parted_and_ct_and_mr_are_other_patients(train_sets: Path) -> None:
    cases = cases_by_config(train_sets, "mr")
    assert [case["patient"] for case in cases] == ["mr_1"] * 3 + ["mr_2"] * 3 + ["mr_10"] * 3
    for seed in range(5):
        split = make_split(cases, fractions=(0.34, 0.33, 0.33), seed=seed)
        check_split(split)
        assert [len(part) for part in split.values()] == [3, 3, 3]
    with pytest.raises(ValueError, match="patient mr_1 is in two"):
        check_split({"train": cases[:2], "val": cases[2:3], "test": cases[3:]})
    assert {case["patient"] for case in cases_by_config(train_sets, "ct")}.isdisjoint(c["patient"] for c in cases)


def test_cases_are_converted_once(train_sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = chaos.chaos_cases(train_sets, "mr")
    monkeypatch.setattr(chaos, "convert_series", lambda *_: pytest.fail("converted again"))
    assert chaos.chaos_cases(train_sets, "mr") == first


def test_a_missing_png_is_refused_and_nothing_guessed(tmp_path: Path) -> None:
    ct_patient(tmp_path, 1)
    (tmp_path / "CT" / "1" / "Ground" / "liver_GT_004.png").unlink()
    with pytest.raises(ValueError, match=r"has 9 PNGs, .* has 10 slices"):
        chaos.chaos_cases(tmp_path, "ct")
    assert not list(tmp_path.with_name(f"{tmp_path.name}_converted").rglob("*.nii.gz"))


def test_a_png_of_another_size_and_one_without_liver_are_refused(tmp_path: Path) -> None:
    ct_patient(tmp_path, 1)
    ground = tmp_path / "CT" / "1" / "Ground"
    for png in ground.glob("*.png"):
        Image.fromarray(np.zeros((SHAPE[1], SHAPE[0]), np.uint8)).save(png)
    with pytest.raises(ValueError, match="shows liver, grey value 1 to 255"):
        chaos.chaos_cases(tmp_path, "ct")
    Image.fromarray(np.zeros(SHAPE[:2], np.uint8)).save(ground / "liver_GT_000.png")  # lies on its side
    with pytest.raises(ValueError, match=r"has \(16, 20\) pixels"):
        chaos.chaos_cases(tmp_path, "ct")


def test_a_wrong_folder_and_the_test_set_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dataset_dir is CHAOS's Train_Sets"):
        chaos.chaos_cases(tmp_path, "mr")
    write_series(tmp_path / "CT" / "21" / "DICOM_anon", [f"i{n:04d}.dcm" for n in range(SHAPE[2])], ct=True)
    with pytest.raises(FileNotFoundError, match="Test_Sets have no reference"):
        chaos.chaos_cases(tmp_path, "ct")
