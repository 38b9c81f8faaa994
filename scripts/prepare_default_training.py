"""Bring the openly licensed scans that the default weights learn from onto one grid, with liver and tissue codes.

Reads the shapes and scans that SOURCES names, in DATA and POC, checks each file's sha256, and writes OUTPUT:
training_scans_3mm.npz and training_scans_1p5mm.npz for `scans` of the synthesis configs, and the shape files.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from liver_pipeline.geometry.axes import axis_map
from liver_pipeline.geometry.grids import model_grid_for_spacing
from liver_pipeline.geometry.resampling import resample_linear
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.files import write_json
from liver_pipeline.io.volumes import read_scan
from liver_pipeline.synthesis.tissues import CAVITY_BIT, Tissue

Volume = npt.NDArray[Any]
SCANS = {  # name in the arrays: the scan as published
    "tsct": "totalsegmentator_examples/example_ct.nii.gz",
    "tsslab": "totalsegmentator_examples/example_ct_dicom",
    "cb001": "tcia_pancreas_ct_cb_001/dicom.zip",
}
SHAPES = ("shapes_3mm_0.npz", "shapes_3mm_1.npz", "shapes_1p5mm_0.npz", "shapes_1p5mm_1.npz")
MARGIN_MM = 75.0  # kept round the liver on the fine grid
UNNAMED = ("cb001",)  # whose organs have no codes: soft tissue in the cavity is told apart by its HU
BANDS = (
    (-20.0, Tissue.FLUID),
    (22.0, Tissue.BOWEL),
    (75.0, Tissue.PANCREAS),
    (112.0, Tissue.HEART),
    (165.0, Tissue.AORTA),
)


def upsampled(labels: Volume, shape: tuple[int, int, int]) -> Volume:
    """Double the grid of a label map smoothly: each label's mask is interpolated, the greatest wins."""
    best = torch.full(shape, -1.0)
    winner = torch.zeros(shape, dtype=torch.uint8)
    for label in np.unique(labels):
        mask = torch.from_numpy((labels == label).astype(np.float32))[None, None]
        mask = F.avg_pool3d(F.pad(mask, (1,) * 6, mode="replicate"), 3, 1) * 0.5 + mask * 0.5
        large = F.interpolate(mask, size=[2 * n - 1 for n in labels.shape], mode="trilinear", align_corners=True)[0, 0]
        large = F.pad(
            large, [p for n, m in zip(shape[::-1], large.shape[::-1], strict=True) for p in (0, max(0, n - m))]
        )
        large = large[: shape[0], : shape[1], : shape[2]]
        better = large > best
        best = torch.where(better, large, best)
        winner[better] = int(label)
    return winner.numpy()


def named_by_hu(image: Volume, codes: Volume) -> Volume:
    """Tell soft tissue in the cavity apart by smoothed HU: a second template of organs, whose names do not matter."""
    smooth = F.avg_pool3d(torch.from_numpy(image.astype(np.float32))[None, None], 3, 1, 1)[0, 0].numpy()
    tissue, cavity = codes & (CAVITY_BIT - 1), codes >= CAVITY_BIT
    soft = cavity & np.isin(tissue, (Tissue.MUSCLE, Tissue.BONE))
    named = tissue.copy()
    for least, code in BANDS:
        named[soft & (smooth >= least)] = code
    return named + np.uint8(CAVITY_BIT) * cavity


def fine(scan: Path, coarse: dict[str, Volume]) -> dict[str, Volume]:
    """Read a scan at 1.5 mm round its liver; liver and codes come from 3 mm."""
    stored = read_scan(scan)
    grid = axis_map(
        stored.affine, stored.array.shape, *model_grid_for_spacing(stored.affine, stored.array.shape, (1.5,) * 3)
    )
    image = resample_linear(stored.array, grid, slope=stored.slope, intercept=stored.intercept).numpy()
    shape = (image.shape[0], image.shape[1], image.shape[2])
    liver, codes = upsampled(coarse["lab"], shape), upsampled(coarse["codes"], shape)
    box = []
    for axis in range(3):
        rows = np.flatnonzero((liver > 0).any(tuple(i for i in range(3) if i != axis)))
        margin = round(MARGIN_MM / 1.5)
        box.append(slice(max(0, rows[0] - margin), rows[-1] + 1 + margin))
    part = tuple(box)
    rounded = (np.clip(image[part], -1024, 1200) / 2).round() * 2  # steps of 2 HU, far below the noise, pack better
    return {
        "img": rounded.astype(np.int16),
        "lab": liver[part],
        "codes": codes[part],
        "spacing": np.array(1.5, np.float32),
    }


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("poc", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
def main(data: Path, poc: Path, output: Path) -> None:
    """Write the arrays and ``sources.json``."""
    output.mkdir(parents=True, exist_ok=True)
    sources: dict[str, str] = {}
    arrays: dict[str, dict[str, Volume]] = {"3mm": {}, "1p5mm": {}}
    with np.load(poc / "training_scans_3mm.npz") as known:
        for name, place in SCANS.items():
            coarse = {part: known[f"{name}.{part}"] for part in ("img", "lab", "codes")}
            if name in UNNAMED:
                coarse["codes"] = named_by_hu(coarse["img"], coarse["codes"])
            arrays["3mm"] |= {f"{name}.{part}": volume for part, volume in coarse.items()}
            arrays["1p5mm"] |= {f"{name}.{part}": volume for part, volume in fine(data / place, coarse).items()}
            files = [data / place] if (data / place).is_file() else sorted((data / place).iterdir())
            sources |= {file.relative_to(data).as_posix(): file_sha256(file) for file in files}
    for name, volumes in arrays.items():
        np.savez_compressed(output / f"training_scans_{name}.npz", allow_pickle=False, **volumes)
    for name in (*SHAPES, "training_scans_3mm.npz"):
        sources[name] = file_sha256(poc / name)
        if name in SHAPES:
            shutil.copyfile(poc / name, output / name)
    write_json(output / "sources.json", sources)


if __name__ == "__main__":
    main()
