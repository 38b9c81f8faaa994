"""3D-IRCADb as a data layout: converted once, one patient a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser

from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.data import ircadb
from liver_pipeline.data.phantoms import save_phantom
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.volumes import Scan, read_scan
from tests.dicom_files import body, one_slice, series


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("3Dircadb1.2", "3Dircadb1.10", "3Dircadb1.1"):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "PATIENT_DICOM.zip").touch()
    (tmp_path / "source" / "notes").mkdir()
    return tmp_path / "source"


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the conversion by phantoms; the list tells which cases were converted."""
    numbers: list[int] = []

    def draw(case_dir: Path, output_dir: Path, number: int, *, overwrite: bool) -> None:
        numbers.append(number)
        save_phantom(output_dir, number, shape=(8, 8, 8), spacing=(40.0, 40.0, 40.0))

    monkeypatch.setattr(ircadb, "convert_case", draw)
    return numbers


def cases_by_config(dataset_dir: Path, **overrides: Any) -> list[dict[str, str]]:
    config = merge_layers({"data": "ircadb"}, overrides={"dataset_dir": str(dataset_dir), **overrides})["train"]
    cases: list[dict[str, str]] = ConfigParser(config).get_parsed_content("cases")
    return cases


def test_cases_are_converted_once_beside_the_data_set_and_each_folder_is_a_patient(
    source: Path, converted: list[int]
) -> None:
    cases = cases_by_config(source)
    assert converted == [1, 2, 10]
    assert [case["patient"] for case in cases] == ["volume-1", "volume-2", "volume-10"]
    assert {Path(case["image"]).parent.name for case in cases} == {"source_converted"}
    assert cases_by_config(source) == cases
    assert converted == [1, 2, 10]


def test_a_half_converted_case_is_converted_again_and_strangers_are_left_out(
    source: Path, converted: list[int], tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere"
    ircadb.ircadb_cases(source, target)
    (target / "segmentation-2.nii.gz").unlink()
    save_phantom(target, 77, shape=(8, 8, 8))
    cases = cases_by_config(source, converted_dir=str(target))
    assert converted == [1, 2, 10, 2]
    assert [case["case"] for case in cases] == ["volume-1", "volume-2", "volume-10"]


def test_two_folders_of_one_number_are_refused(source: Path, converted: list[int]) -> None:
    (source / "copy1.2").mkdir()
    (source / "copy1.2" / "PATIENT_DICOM").mkdir()
    with pytest.raises(ValueError, match="are both case 2; rename one"):
        ircadb.ircadb_cases(source)
    assert converted == []


def test_a_folder_without_cases_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder with PATIENT_DICOM"):
        ircadb.ircadb_cases(tmp_path / "nonesuch")


def test_masks_in_a_zip_keep_their_folders_and_none_climbs_out(tmp_path: Path) -> None:
    hu = body()
    series(tmp_path / "scan", [one_slice(k, hu) for k in range(12)])
    scan = read_scan(tmp_path / "scan")
    half = np.zeros_like(hu)
    half[:10] = 255
    files = [one_slice(k, part, RescaleIntercept=0) for part in (half, half[::-1]) for k in range(12)]
    for file, part in zip(files, [half] * 12 + [half[::-1]] * 12, strict=True):
        file.PixelData = part[:, :, file.InstanceNumber - 1].T.astype(np.int16).tobytes()
    series(tmp_path / "masks", files)
    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as archive:
        for number, file in enumerate(sorted((tmp_path / "masks").iterdir())):
            place = "MASKS_DICOM/liver" if number < 12 else "../../MASKS_DICOM/livertumor01"
            archive.write(file, f"{place}/{file.name}")
        archive.writestr("../../out", b"climbed")
    label_map = ircadb.read_masks(tmp_path / "masks.zip", scan)
    np.testing.assert_array_equal(label_map, np.where(half[::-1] > 0, 2, np.where(half > 0, 1, 0)))
    assert not list(tmp_path.parent.glob("out"))


def test_a_damaged_zip_of_masks_is_told_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "masks.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(IntakeError, match=r"masks\.zip: ZIP_DAMAGED"):
        ircadb.read_masks(tmp_path / "masks.zip", Scan(*[None] * 8))  # type: ignore[arg-type]


@pytest.mark.real_data
def test_a_real_case_is_converted(real_data: Path, tmp_path: Path) -> None:
    (case,) = ircadb.ircadb_cases(real_data / "3dircadb1_01", tmp_path)
    assert (case["case"], case["image"]) == ("volume-1", str(tmp_path / "volume-1.nii.gz"))
