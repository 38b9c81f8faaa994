"""JPG and PNG slices: pixels as they are stored, coded errors for all else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from liver_pipeline.io.discovery import find_inputs, is_label_map
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.pictures import Pictures, read_picture
from liver_pipeline.io.volumes import read_scan, write_label_map

GREY = np.arange(6 * 4, dtype=np.uint8).reshape(4, 6) * 10  # 4 rows, 6 columns
RUN = Pictures([32, 32, 1], [1.5, 1.5, 2.0], [-175.0, 250.0])


def png(path: Path, pixels: Any, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def code_of(path: Path, pictures: Pictures = RUN) -> str:
    with pytest.raises(IntakeError) as caught:
        pictures.read(path)
    return caught.value.code


def test_black_and_white_are_the_ends_of_the_window_and_the_patients_left_is_on_the_right(tmp_path: Path) -> None:
    scan = RUN.read(png(tmp_path / "a.png", GREY))
    assert scan is not None
    assert scan.array.shape == (6, 4, 1)
    np.testing.assert_array_equal(scan.array[:, :, 0].T, GREY)
    assert scan.intercept == -175.0 and scan.slope * 255 + scan.intercept == pytest.approx(250.0)
    np.testing.assert_array_equal(np.diag(scan.affine), [-1.5, -1.5, 2.0, 1.0])  # columns to the left, rows to the back
    assert [finding.code for finding in scan.findings] == ["PICTURE"]
    mr = Pictures([32, 32, 1]).read(tmp_path / "a.png")
    assert mr is not None and (mr.slope, mr.intercept) == (1.0, 0.0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_pictures_become_grey_or_channels_as_the_run_has_them(tmp_path: Path, mode: str) -> None:
    path = png(tmp_path / "a.png", GREY, mode)
    grey, colours = RUN.read(path), replace(RUN, channels=3).read(path)
    assert grey is not None and colours is not None
    np.testing.assert_array_equal(grey.array[:, :, 0].T, GREY)
    assert colours.array.shape == (6, 4, 1, 3) and (colours.slope, colours.intercept) == (1 / 255, 0.0)
    for channel in range(3):
        np.testing.assert_array_equal(colours.array[:, :, 0, channel].T, GREY)


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.stack([GREY, GREY // 2, 255 - GREY], axis=-1))
    array = read_picture(path, channels=3, window=(0, 1)).array
    for channel, expected in enumerate((GREY, GREY // 2, 255 - GREY)):
        np.testing.assert_array_equal(array[:, :, 0, channel].T, expected)


def test_what_is_no_picture_of_eight_bits_has_a_code(tmp_path: Path) -> None:
    assert code_of(png(tmp_path / "deep.png", GREY.astype(np.uint16) * 200)) == "UNSUPPORTED_DTYPE"
    assert code_of(png(tmp_path / "flat.png", GREY * 0)) == "CONSTANT"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        data = png(tmp_path / name, noise).read_bytes()
        for cut in (9, 40, len(data) // 2):
            (tmp_path / name).write_bytes(data[:cut])
            assert code_of(tmp_path / name) in ("TRUNCATED", "BAD_HEADER")
    (tmp_path / "text.png").write_text("no picture")
    assert RUN.read(tmp_path / "text.png") is None


def test_runs_of_3d_networks_take_no_picture(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", GREY)
    for pictures in (Pictures([32, 32, 32]), Pictures([32, 32, 1], channels=2)):
        assert code_of(path, pictures) == "PICTURE"
    with pytest.raises(IntakeError, match=r"PICTURE.*roi_size \[X, Y, 1\]"):
        read_scan(path)


def test_pictures_are_taken_where_there_is_no_scan_and_their_masks_are_known(tmp_path: Path) -> None:
    for name in ("b/a.png", "c.JPG", "b/d.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        png(tmp_path / name, GREY)
    scan = RUN.read(tmp_path / "b" / "a.png")
    assert scan is not None
    write_label_map(tmp_path / "mask.png", (scan.array > 90).astype(np.uint8), scan)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), GREY > 90)
    assert is_label_map(tmp_path / "mask.png")
    assert [one.case for one in find_inputs(tmp_path, pictures=True)] == ["b/a", "b/d", "c"]
    with pytest.raises(IntakeError, match=r"NO_SCANS: 4 pictures, which only runs of 2D networks"):
        find_inputs(tmp_path)
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    assert [one.case for one in find_inputs(tmp_path, pictures=True)] == ["scan"]
