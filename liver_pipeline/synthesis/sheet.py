"""A contact sheet of samples: an axial and a coronal slice each, without and with outlines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Picture = npt.NDArray[np.uint8]
COLUMNS = 4
TILE = (240, 200)  # pixels of a slice
LIVER_RGB, TUMOR_RGB = (255, 60, 60), (255, 220, 0)


def write_sheet(path: str | Path, samples: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> None:
    """Write a PNG, all slices at one scale.

    Args:
        path: Of the PNG.
        samples: Image, 0 to 1, and label map, (X, Y, Z) along R, A, S, on an isotropic grid.
    """
    wide, high = (max(image.shape[axis] for image, _ in samples) for axis in (0, 1))
    zoom = min(TILE[0] / wide, TILE[1] / high)
    tiles = [_tile(image, label, zoom) for image, label in samples]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[i : i + COLUMNS], 1) for i in range(0, len(tiles), COLUMNS)]
    Image.fromarray(np.concatenate(rows, 0)).save(path)


def _tile(image: npt.NDArray[Any], label: npt.NDArray[Any], zoom: float) -> Picture:
    shown = label if label.any() else np.ones_like(label)
    target = label == 2 if (label == 2).any() else shown > 0
    z, y = (int(np.argmax(target.sum(axis))) for axis in ((0, 1), (0, 2)))
    axial, coronal = (np.s_[:, :, z], np.s_[:, y, :])
    parts = [_slice(image[axial], None, zoom), _slice(image[axial], label[axial], zoom)]
    parts += [_slice(image[coronal], None, zoom), _slice(image[coronal], label[coronal], zoom)]
    return np.concatenate([np.concatenate(parts[:2], 1), np.concatenate(parts[2:], 1)], 0)


def _slice(image: npt.NDArray[Any], label: npt.NDArray[Any] | None, zoom: float) -> Picture:
    grey = ndimage.zoom(np.asarray(image, np.float32), zoom, order=1)
    rgb = np.repeat((np.clip((grey - 0.15) / 0.65, 0, 1) * 255).astype(np.uint8)[..., None], 3, -1)
    if label is not None:
        large = ndimage.zoom(label, zoom, order=0)
        for mask, colour in ((large > 0, LIVER_RGB), (large == 2, TUMOR_RGB)):
            rgb[mask & ~ndimage.binary_erosion(mask)] = colour
    canvas: Picture = np.zeros((TILE[1], TILE[0], 3), np.uint8)
    picture = rgb.transpose(1, 0, 2)[::-1, ::-1][: canvas.shape[0], : canvas.shape[1]]
    top, left = ((a - b) // 2 for a, b in zip(canvas.shape, picture.shape[:2], strict=False))
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas
