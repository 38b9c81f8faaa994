"""A picture of what the network is fed, before the first epoch: what went wrong on the way shows here first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events

from liver_pipeline.data.cache import CachedCases
from liver_pipeline.data.loaders import SeededItems, seed_of
from liver_pipeline.distributed import is_main_process
from liver_pipeline.geometry.affines import spacing_of
from liver_pipeline.visualize.pictures import fullest_slice
from liver_pipeline.visualize.sheet import Picture, tile, write_tiles

CASES, WINDOWS = 3, 2  # on the sheet, and of each case
HEADS = ("as read", "", "preprocessed", "", *("augmented window", "") * WINDOWS)
Extremes = tuple[float, float]


class ContactSheet:
    """Draw training cases without and with their labels: as read, preprocessed, and windows with augmentation.

    Of each volume the axial slice with most tumor (or liver) is shown. Three channels are red, green and blue; of
    another number the first is shown. Windows have the grey scale of their case, so that changes of brightness show;
    they are seeded as an epoch's are, and draw nothing from the generators of the training.

    Attach it to the trainer. A training that continues has its sheet already.

    Args:
        path: Of the PNG.
        dataset: Of the training; cases of it are taken in equal distances. None draws no sheet.
        reading: The transforms that read a case.
        seed: Of the windows.
    """

    def __init__(
        self,
        path: str | Path,
        dataset: CachedCases | None,
        reading: Sequence[Callable[[dict[str, Any]], dict[str, Any]]],
        seed: int,
    ) -> None:
        self.path, self.dataset, self.reading, self.seed = Path(path), dataset, list(reading), seed

    def attach(self, engine: Engine) -> None:
        """Draw when the training begins, in the process that writes."""
        if is_main_process() and self.dataset is not None:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:  # noqa: D102 (attach says it)
        if engine.state.iteration == 0 and self.dataset is not None:
            cases = np.unique(np.linspace(0, len(self.dataset) - 1, CASES).round().astype(int))
            write_tiles(self.path, [self._row(self.dataset, int(case)) for case in cases], HEADS)

    def _row(self, dataset: CachedCases, case: int) -> list[Picture]:
        paths = dict(dataset.data[case])
        read = dict(paths)
        for transform in self.reading:
            read = transform(read)
        prepared = dataset.cache.load(paths)
        windows = SeededItems(dataset)[seed_of(self.seed, case), case]
        scale = extremes(prepared["image"])
        row = _pair(read, read["image"].affine, None, f"{paths['case']}: ")
        for item in (prepared, *windows[:WINDOWS]):  # all on the grid's axes, so that flips and zooms show
            row += _pair(item, prepared["image"].affine, scale)
        return row


def extremes(image: torch.Tensor) -> Extremes:
    """Return the percentiles 0.5 and 99.5 of an image (C, ...), counted on some 10^5 values or all."""
    values = torch.as_tensor(image).reshape(-1)
    values = values[:: max(1, values.numel() // 100_000)].float().cpu()
    low, high = np.percentile(values.numpy(), (0.5, 99.5))
    return float(low), float(high)


def _pair(item: Mapping[str, Any], grid: torch.Tensor, scale: Extremes | None, name: str = "") -> list[Picture]:
    """Return the fullest slice of a case without and with its labels; ``scale`` None: that of the slice."""
    affine = grid.cpu().numpy()
    volume, labels = _ras(item["image"], affine), _ras(item["label"], affine)[..., 0]
    fullest = fullest_slice(labels)
    z = labels.shape[2] // 2 if fullest is None else fullest
    spacing = spacing_of(affine)
    turned = [spacing[int(axis)] for axis in np.argsort(nib.io_orientation(affine)[:, 0])]
    flat = volume[:, :, z].astype(np.float32)
    low, high = scale or extremes(torch.as_tensor(flat))
    shown = (flat - low) / max(high - low, 1e-6)
    shown = shown if shown.shape[-1] == 3 else shown[..., 0]
    size = "x".join(map(str, labels.shape))
    edges = " x ".join(f"{edge:.3g}" for edge in turned)
    captions = (f"{name}slice {z + 1} of {labels.shape[2]}", f"{size}, {edges} mm")
    return [
        tile(shown, outlines, spacing=turned[:2], caption=caption)
        for outlines, caption in zip((None, labels[..., z]), captions, strict=True)
    ]


def _ras(volume: torch.Tensor, affine: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (C, X, Y, Z) as (R, A, S, C)."""
    array = torch.Tensor.as_subclass(torch.as_tensor(volume), torch.Tensor).cpu().numpy()
    turned: npt.NDArray[Any] = nib.apply_orientation(np.moveaxis(array, 0, -1), nib.io_orientation(affine))
    return turned
