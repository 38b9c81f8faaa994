"""JPG and PNG slices: pixels as they are stored, coded errors for all else."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from liver_pipeline.io.discovery import find_inputs
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.formats import voxel_count
from liver_pipeline.io.masks import is_label_map
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


@pytest.mark.parametrize(
    ("said", "turn"), [(2, np.fliplr), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1))]
)
def test_a_picture_is_taken_as_programs_show_it(tmp_path: Path, said: int, turn: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = said  # orientation: 2 mirrored, 3 upside down, 6 to be turned to the right
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    scan = RUN.read(tmp_path / "a.png")
    assert scan is not None
    np.testing.assert_array_equal(scan.array[:, :, 0].T, turn(GREY))


def test_what_eight_bits_a_channel_do_not_show_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deep = np.stack([GREY.astype(">u2") * 16] * 3, axis=-1).astype(
        ">u2"
    )  # twelve bits in sixteen: nearly black in eight
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    png(tmp_path / "through.png", np.dstack([GREY] * 3 + [np.where(GREY > 90, 255, 0).astype(np.uint8)]))
    Image.fromarray(GREY).save(tmp_path / "one_grey.png", transparency=10)
    Image.fromarray(GREY).save(tmp_path / "film.png", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    png(tmp_path / "ink.jpg", GREY, "CMYK")
    for name in ("deep.png", "through.png", "one_grey.png", "film.png", "ink.jpg"):
        assert code_of(tmp_path / name) == "UNSUPPORTED_DTYPE", name


@pytest.mark.parametrize("most", [20, 10])  # Pillow warns of more than the limit, and refuses twice as many
def test_more_pixels_than_a_slice_has_are_no_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, most: int
) -> None:
    path = png(tmp_path / "a.png", GREY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with pytest.raises(IntakeError, match=r"BAD_HEADER: more than 0 million pixels; crop or shrink"):
        RUN.read(path)
    assert voxel_count(path) == (0, 0)
    assert not recwarn.list


def test_the_name_tells_a_picture_as_its_content_does(tmp_path: Path) -> None:
    for name, content, code in (
        ("text.png", b"no picture", "NOT_A_SCAN"), ("tiff.jpg", b"II*\0 and more", "NOT_A_SCAN"),
        ("none.png", b"", "EMPTY_FILE"),
        ("scan.nii.gz", png(tmp_path / "a.png", GREY).read_bytes(), "PICTURE"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        assert code_of(tmp_path / name) == code
    assert RUN.read(tmp_path / "gone.nii.gz") is None


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
