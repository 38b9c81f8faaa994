"""A contact sheet of samples: an axial and a coronal slice each, without and with outlines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.visualize.sheet import Picture, step_to_fit, tile, write_tiles

COLUMNS = 4


def write_sheet(path: str | Path, samples: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> None:
    """Write a PNG, all slices at one scale.

    Args:
        path: Of the PNG.
        samples: Image, 0 to 1, and label map, (X, Y, Z) along R, A, S, on an isotropic grid.
    """
    step = max(step_to_fit((image.shape[0], max(image.shape[1:]))) for image, _ in samples)
    tiles = [_four(image, label, step) for image, label in samples]
    write_tiles(path, [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)])


def _four(image: npt.NDArray[Any], label: npt.NDArray[Any], step: float) -> Picture:
    shown = label if label.any() else np.ones_like(label)
    target = label == 2 if (label == 2).any() else shown > 0
    z, y = (int(np.argmax(target.sum(axis))) for axis in ((0, 1), (0, 2)))
    bright = (image.astype(np.float32) - 0.15) / 0.65  # soft tissue
    pairs = [
        np.concatenate([tile(bright[part], step=step), tile(bright[part], label[part], step=step)], 1)
        for part in (np.s_[:, :, z], np.s_[:, y, :])
    ]
    return np.concatenate(pairs, 0)
