"""Contact sheets: slices of scans in tiles of one size, with and without the outlines of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from liver_pipeline.io.files import whole_file
from liver_pipeline.labels import LabelMap
from liver_pipeline.visualize.contours import draw_outlines

Picture = npt.NDArray[np.uint8]
TILE = (240, 200)  # pixels, width and height
_TEXT, _STRIP = 12, 18  # pixels: letters, and the strip of a heading


def step_to_fit(lengths: Sequence[float]) -> float:
    """Return the length of a pixel at which a slice of these two lengths fills a tile."""
    return max(length / pixels for length, pixels in zip(lengths, TILE, strict=True))


def tile(
    image: npt.NDArray[Any],
    label: LabelMap | None = None,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
    step: float | None = None,
    caption: str = "",
) -> Picture:
    """Draw a slice as radiologists see it: the patient's right is on the left, anterior (or superior) is up.

    Args:
        image: Grey (X, Y) or colours (X, Y, 3), 0 to 1; what lies outside is clipped. Axes along R, and A or S.
        label: Labels (X, Y) to outline, liver green and tumor orange; None draws none.
        spacing: Edges of a voxel.
        step: Edge of a pixel in the same unit; None: the slice fills the tile.
        caption: A line in the lower left corner.

    Returns:
        RGB, shape (rows, columns, 3), of the size :data:`TILE`.
    """
    lengths = [n * edge for n, edge in zip(image.shape, spacing, strict=False)]
    step = step_to_fit(lengths) if step is None else step
    size = (max(1, round(lengths[0] / step)), max(1, round(lengths[1] / step)))
    grey = _upright(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    rgb = np.array(Image.fromarray(grey).convert("RGB").resize(size, Image.Resampling.BILINEAR))
    if label is not None:
        large = np.array(Image.fromarray(_upright(label.astype(np.uint8))).resize(size, Image.Resampling.NEAREST))
        draw_outlines(rgb, large)
    canvas = Image.new("RGB", TILE)
    canvas.paste(Image.fromarray(rgb), ((TILE[0] - size[0]) // 2, (TILE[1] - size[1]) // 2))
    _write(canvas, (3, TILE[1] - _STRIP), caption)
    return np.asarray(canvas)


def write_tiles(path: str | Path, rows: Sequence[Sequence[Picture]], heads: Sequence[str] = ()) -> None:
    """Write tiles as a PNG, whole or not at all; shorter rows end in black.

    Args:
        path: Of the PNG; its folder is made when it does not exist.
        rows: Pictures of one size; at least one.
        heads: A heading over each column.
    """
    blank = np.zeros_like(rows[0][0])
    columns = max(len(row) for row in rows)
    full = [np.concatenate([*row, *[blank] * (columns - len(row))], 1) for row in rows]
    sheet = np.concatenate(full, 0)
    if heads:
        strip = Image.new("RGB", (sheet.shape[1], _STRIP))
        for column, head in enumerate(heads):
            _write(strip, (column * blank.shape[1] + 3, 2), head)
        sheet = np.concatenate([np.asarray(strip), sheet], 0)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")


def _upright(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn (X, Y, ...) into rows from the top and columns from the patient's right."""
    return np.ascontiguousarray(array.swapaxes(0, 1)[::-1, ::-1])


def _write(picture: Image.Image, at: tuple[int, int], text: str) -> None:
    font = ImageFont.load_default(_TEXT)
    ImageDraw.Draw(picture).text(at, text, fill="white", font=font, stroke_width=1, stroke_fill="black")
