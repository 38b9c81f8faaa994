"""Runs of 2D networks segment pictures: the network sees 0 to 1, the mask is a picture of the same size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import liver_pipeline as lp
from liver_pipeline.io.discovery import find_inputs
from liver_pipeline.prediction.summary import Summary
from tests.dicom_files import ct

ROWS, COLUMNS = 24, 40
GREY = np.tile(np.linspace(0, 255, COLUMNS).astype(np.uint8), (ROWS, 1))
EXPECTED = (GREY / 255 > 0.5).astype(np.uint8) + (GREY / 255 > 0.8)  # what Bands gives


class Bands(torch.nn.Module):
    """Liver where the first channel is above 0.5, tumor where it is above 0.8."""

    def __init__(self) -> None:
        super().__init__()
        self.none = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = image[:, :1]
        return torch.cat([0 * first, 100 * (first - 0.5), 300 * (first - 0.7)], dim=1) + self.none


def run_of(folder: Path, modality: str, **overrides: Any) -> Path:
    network = folder / "bands.yaml"
    network.write_text(f"network_def: {{_target_: {__name__}.Bands}}\nroi_size: [32, 32, 1]\n")
    layers = {"network": str(network), "modality": modality}
    run = lp.compose(folder / "run", layers, overrides={"spacing": [1.5, 1.5, 2.0], **overrides})
    torch.save(Bands().state_dict(), run / "models" / "model.pt")
    return Path(run)


@pytest.mark.parametrize("modality", ["ct", "ct_three_windows"])
def test_a_folder_of_pictures_gets_masks_of_the_same_size_without_millimetres(tmp_path: Path, modality: str) -> None:
    plain = {"equalize": False} if modality == "ct_three_windows" else {}
    run = run_of(tmp_path, modality, **plain)
    (tmp_path / "in" / "b").mkdir(parents=True)
    Image.fromarray(GREY).save(tmp_path / "in" / "grey.png")
    Image.fromarray(np.stack([GREY] * 3, axis=-1)).save(tmp_path / "in" / "b" / "colour.png")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    options = {"device": "cpu", "backend": "torch", "describe": True}
    assert lp.predict(run, tmp_path / "in", tmp_path / "out", overrides=options) == Summary(2, 1, 0, 3)
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert names == ["b/colour.json", "b/colour.png", "grey.json", "grey.png", "ledger.jsonl"]
    for name in ("b/colour.png", "grey.png"):
        mask = Image.open(tmp_path / "out" / name)
        assert mask.size == (COLUMNS, ROWS) and mask.mode == "L"
        np.testing.assert_array_equal(np.asarray(mask), EXPECTED)
    record = json.loads((tmp_path / "out" / "grey.json").read_text())
    assert record["output"]["volume_ml"] == {"1": None, "2": None}
    assert record["output"]["voxels"]["2"] == int((EXPECTED == 2).sum())
    assert record["geometry"]["mask"] == {"shape": [COLUMNS, ROWS, 1], "spacing_mm": None, "affine": None}
    assert [warned["code"] for warned in record["warnings"]] == ["PICTURE"]
    assert lp.predict(run, tmp_path / "in", tmp_path / "out", overrides=options) == Summary(0, 1, 2, 3)


def test_one_picture_in_one_picture_out_also_where_the_run_resizes(tmp_path: Path) -> None:
    run = run_of(tmp_path, "ct", spacing=None, grid_size=[COLUMNS, ROWS, -1])
    Image.fromarray(GREY).save(tmp_path / "a.png")
    lp.predict(run, tmp_path / "a.png", tmp_path / "mask.png", overrides={"device": "cpu", "backend": "torch"})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), EXPECTED)
    with pytest.raises(ValueError, match=r"the mask of a picture, and of nothing else, is a \.png"):
        lp.predict(run, tmp_path / "a.png", tmp_path / "other.nii.gz")


def test_a_run_of_a_3d_network_says_what_takes_pictures(tmp_path: Path) -> None:
    run = run_of(tmp_path, "ct", roi_size=[32, 32, 8])
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"PICTURE.*2D networks"):
        lp.predict(run, tmp_path / "a.png", tmp_path / "mask.png", overrides={"device": "cpu"})


def test_a_picture_is_segmented_as_it_is_shown_however_the_camera_was_held(tmp_path: Path) -> None:
    run = run_of(tmp_path, "ct")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: what is stored is to be turned a quarter, clockwise
    Image.fromarray(np.rot90(GREY)).save(tmp_path / "turned.png", exif=exif)
    lp.predict(run, tmp_path / "turned.png", tmp_path / "mask.png", overrides={"device": "cpu", "backend": "torch"})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), EXPECTED)


def test_pictures_beside_scans_are_told_not_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"")
    Image.fromarray(GREY).save(tmp_path / "b.png")
    assert [one.case for one in find_inputs(tmp_path, pictures=True)] == ["a"]
    assert "1 pictures are left out beside scans: b.png" in caplog.text


def test_a_dicom_series_is_no_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ct(tmp_path / "patient" / "series")
    assert [one.case for one in find_inputs(tmp_path, pictures=True)] == ["patient/series"]
    assert not caplog.text
