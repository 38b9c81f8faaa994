"""Couinaud's segments, estimated from the liver's shape alone: a small network sees the liver's mask on a coarse grid.

The grid is laid over the box of the liver, so that each liver fills it, whatever its size and the scan's grid; a mask
from CT, from MR and a reference are the same to it. No vessel and no image is looked at, where surgeons look for the
branches of the portal vein: the borders are those that livers of such a shape have on average.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from torch import Tensor

from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.shipped import run_folder, run_name
from liver_pipeline.evaluation.run_quality import QualityThresholds
from liver_pipeline.evaluation.scoring import ACCEPTED
from liver_pipeline.geometry.affines import Affine, spacing_of
from liver_pipeline.geometry.boxes import bounding_box, touches_border
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.patient_axes import to_ras
from liver_pipeline.io.volumes import Scan, read_label_map, write_label_map
from liver_pipeline.labels import FloatArray, IntArray, LabelMap, Mask
from liver_pipeline.metrics.lesions import components
from liver_pipeline.networks.weights import load_weights

SEGMENTS_WEIGHTS = "default_segments"  # in the box
CELLS = (40, 32, 32)  # along R, A, S
FINE = 2  # samples of the mask along each edge of a cell
SMOOTH = 4  # steps along each edge of a cell in which a border between segments may run
TAIL = 0.01  # of the liver's voxels on each side may lie outside the box: a thin left tip must not move it
MARGIN = 1.25  # the grid's edge, in edges of the box
ENOUGH_VOXELS = 20_000  # to take the box from
NOT_ESTIMATED = "SEGMENTS_NOT_ESTIMATED"


@dataclass(frozen=True)
class LiverGrid:
    """Cells over the box of one liver.

    Attributes:
        linear: Voxel steps to mm along R, A, S, (3, 3).
        centre: Of the grid, mm from the first voxel's centre.
        half: Half its edges, mm.
    """

    linear: FloatArray
    centre: FloatArray
    half: FloatArray

    def points(self, fine: int) -> FloatArray:
        """Return mm of ``fine`` points along each edge of each cell, shape (X, Y, Z, 3)."""
        axes = [
            centre + half * ((np.arange(n * fine) + 0.5) / (n * fine) * 2 - 1)
            for n, centre, half in zip(CELLS, self.centre, self.half, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)

    def steps_of(self, voxels: IntArray, fine: int) -> IntArray:
        """Return in which of ``fine`` steps of each cell voxels (N, 3) lie; outside the grid, the nearest."""
        steps = np.array(CELLS) * fine
        place = ((voxels @ self.linear.T - self.centre) / self.half + 1) / 2 * steps
        inside: IntArray = np.clip(np.floor(place).astype(np.int64), 0, steps - 1)
        return inside


def liver_voxels(liver: Mask) -> IntArray:
    """Return indices of every so many voxels of a liver, shape (N, 3); enough to lay the cells by."""
    voxels = np.argwhere(liver)
    return voxels[:: max(1, len(voxels) // ENOUGH_VOXELS)].copy()


def grid_over(voxels: IntArray, linear: FloatArray) -> LiverGrid:
    """Lay the cells over a liver.

    Args:
        voxels: Of the liver, at least one; see :func:`liver_voxels`.
        linear: Voxel steps to mm along R, A, S.
    """
    low, high = np.quantile(voxels @ linear.T, (TAIL, 1 - TAIL), axis=0)
    return LiverGrid(linear, (low + high) / 2, np.maximum((high - low) / 2, 1.0) * MARGIN)


def labels_at(labels: LabelMap | Mask, linear: FloatArray, points: FloatArray) -> Tensor:
    """Return the labels of the voxels nearest to points in mm, shape (X, Y, Z); 0 outside."""
    index = np.rint(points @ np.linalg.inv(linear).T).astype(np.int64)
    inside: Mask = np.asarray(((index >= 0) & (index < labels.shape)).all(axis=-1))
    found = labels[tuple(np.moveaxis(np.where(inside[..., None], index, 0), -1, 0))]
    return torch.from_numpy(np.where(inside, found, 0).astype(np.uint8))


def network_input(liver: Tensor) -> Tensor:
    """Return what the network sees.

    Args:
        liver: Whether a point is liver, shape (B, 1, FINE * X, FINE * Y, FINE * Z).

    Returns:
        The liver's share of each cell and where the cell lies along R, A, S, -1 to 1; shape (B, 4, X, Y, Z).
    """
    share = F.avg_pool3d(liver.float(), FINE)
    axes = [torch.linspace(-1, 1, n) for n in share.shape[2:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat((share, places.expand(len(share), -1, -1, -1, -1)), dim=1)


def segments_by(network: torch.nn.Module, liver: Mask, linear: FloatArray) -> tuple[LabelMap, float]:
    """Name each voxel of a liver by its segment.

    Args:
        network: Maps :func:`network_input` to logits of segments 1 to 8, shape (B, 8, X, Y, Z).
        liver: Shape (X, Y, Z), axes along right, anterior, superior.
        linear: Voxel steps to mm along R, A, S.

    Returns:
        1 to 8 where ``liver`` is true, 0 elsewhere, of an empty liver 0 everywhere; and how certain the network is:
        the mean chance, over the liver, of the segment that is named (0 of an empty liver).
    """
    segments = np.zeros(liver.shape, dtype=np.uint8)
    box = bounding_box(liver)
    if box is None:
        return segments, 0.0
    inside = liver[box]
    grid = grid_over(liver_voxels(inside), linear)
    with torch.no_grad():
        cells = network_input(labels_at(inside, linear, grid.points(FINE))[None, None])
        chances = network(cells).float().softmax(1)
        fine = F.interpolate(chances, scale_factor=SMOOTH, mode="trilinear")
    share = cells[:, 0]
    numbers = fine.argmax(1)[0].numpy().astype(np.uint8) + np.uint8(1)
    for x, plane in enumerate(inside, start=box[0].start):  # a plane at a time: indices take 24 bytes a voxel
        y, z = np.nonzero(plane)
        voxels = np.column_stack((np.full_like(y, x - box[0].start), y, z))
        segments[x, y + box[1].start, z + box[2].start] = numbers[tuple(grid.steps_of(voxels, SMOOTH).T)]
    return segments, float((chances.amax(1) * share).sum() / share.sum())


@cache
def shipped_network() -> tuple[torch.nn.Module, dict[str, Any]]:
    """Load the weights in the box.

    Returns:
        The network, and what is known of it: ``weights`` (their name), ``sha256``, ``least_certainty`` that it has of a
        whole liver, and ``kept_back``, its figures on livers that it was not trained on.
    """
    folder = run_folder(SEGMENTS_WEIGHTS)
    config = ConfigParser(read_config(folder / "configs" / "segments.yaml"))
    network = config.get_parsed_content("network_def")
    sha256 = load_weights(network, folder / "models" / "model.pt")
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    known = {name: metadata[name] for name in ("least_certainty", "kept_back")}
    return network.eval(), {"weights": run_name(folder), "sha256": sha256, **known}


def estimate_segments(mask: Scan) -> Scan:
    """Estimate the segments of a label map's liver with its tumors.

    Args:
        mask: 0 background, 1 liver, 2 tumor.

    Returns:
        1 to 8 in the liver, 0 elsewhere, on the grid of ``mask``; the same however its axes are stored.

    Raises:
        IntakeError: SEGMENTS_NOT_ESTIMATED where the mask does not show one whole liver.
    """
    turned, affine = to_ras(mask)
    if why := no_whole_liver(turned > 0, affine):
        raise refuse(mask.path, NOT_ESTIMATED, why)
    network, known = shipped_network()
    segments, certainty = segments_by(network, turned > 0, affine[:3, :3])
    if certainty < known["least_certainty"]:
        seen = f"certainty {certainty:.2f}, of whole livers at least {known['least_certainty']:.2f}"
        raise refuse(
            mask.path, NOT_ESTIMATED, f"the liver has no shape that the network knows: {seen}; is it mirrored?"
        )
    found = replace(mask, array=np.zeros_like(mask.array))
    to_ras(found)[0][...] = segments
    return found


def no_whole_liver(liver: Mask, affine: Affine) -> str | None:
    """Say why a mask's shape cannot be that of one whole liver, None if it can; axes along R, A, S."""
    limits = QualityThresholds()
    pieces = largest_piece_share(liver)
    if pieces is None:
        return "the mask holds no liver"
    if touches_border(liver):
        return "the liver touches the border of the scan, and may go on outside"
    volume_ml = float(np.count_nonzero(liver) * np.prod(spacing_of(affine))) / 1000.0
    if not limits.min_liver_ml <= volume_ml <= limits.max_liver_ml:
        return f"a liver of {volume_ml:.0f} ml; {limits.min_liver_ml:g} to {limits.max_liver_ml:g} ml are possible"
    if pieces < limits.min_largest_share:
        return f"the liver is in pieces, the largest of which has {100 * pieces:.0f} % of it"
    return None


def largest_piece_share(mask: Mask) -> float | None:
    """Return the share of a mask's voxels that its largest 6-connected piece holds, None if it is empty."""
    sizes = np.bincount(components(mask)[0][mask])
    return float(sizes.max() / sizes.sum()) if sizes.size else None


def write_segments(mask: Path | str, output: Path | str, *, overwrite: bool = False) -> None:
    """Estimate the segments of the label map ``mask`` and write them as ``output``, on its grid.

    Raises:
        IntakeError: If the mask cannot be used, or shows no whole liver.
        FileExistsError: If ``output`` is there and ``overwrite`` is false.
    """
    label_map = read_label_map(mask, accept=ACCEPTED)
    write_label_map(output, estimate_segments(label_map).array, label_map, overwrite=overwrite)
