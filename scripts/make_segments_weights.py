"""Train the network that estimates Couinaud's segments from a liver's shape, and measure it on livers kept back.

SHAPES holds shapes_1p5mm_0.npz and shapes_1p5mm_1.npz: label maps on 1.5 mm along R, A, S, of which those of LiTS hold
the segments 1 to 8 (MIT; see ATTRIBUTION.md of the weights). OUT gets the training's state, from which the same command
goes on, and metrics.json. BUNDLE, the weights' folder in the package, gets the weights, and in its metadata the figures
on the livers kept back; its card is written by hand from metrics.json.

The project's training engine reads scans and scores liver and tumors; here the input is a mask and there are eight
classes, so the loop stands here: 20 lines of torch with MONAI's network and loss.

Example: python scripts/make_segments_weights.py material out liver_pipeline/share/weights/default_segments-1
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.losses import DiceLoss
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from liver_pipeline.bundle.entry import read_config
from liver_pipeline.evaluation.couinaud import (
    CELLS,
    FINE,
    LiverGrid,
    grid_over,
    labels_at,
    liver_voxels,
    network_input,
    segments_by,
)
from liver_pipeline.evaluation.segments import score_segments
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.files import whole_file, write_json, write_text
from liver_pipeline.labels import FloatArray, IntArray, LabelMap
from liver_pipeline.networks.weights import load_weights, save_half

SOURCES = ("shapes_1p5mm_0.npz", "shapes_1p5mm_1.npz")
SPACING_MM = 1.5
UPRIGHT = np.eye(3) * SPACING_MM  # the shapes' own voxel steps
SEGMENTS = 8
# Kept back, chosen before the first training. Neighbours whose shapes are alike, scans of one patient (0 and 1; 6, 7, 9
# and 10; 14 and 15; 17 and 18; 26 and 27), lie on the same side.
KEPT_BACK = (5, 14, 15, 23, 51, 58, 65, 72, 79, 86, 93, 100, 107, 114, 121, 128)
BATCH, LEARNING_RATE, WEIGHT_DECAY, EMA = 4, 2e-3, 1e-3, 0.995
WARM_STEPS, STATE_EACH, SCORE_EACH = 100, 50, 250
CERTAINTY_MARGIN = 0.03  # a liver may be so much less certain than the least certain one that was learnt from


@dataclass(frozen=True)
class Shape:
    """A liver with its segments 1 to 8, axes along R, A, S, and some of its voxels."""

    labels: LabelMap
    voxels: IntArray


def make_network(bundle: Path) -> torch.nn.Module:
    """Return the untrained network of a bundle."""
    network: torch.nn.Module = ConfigParser(read_config(bundle / "configs" / "segments.yaml")).get_parsed_content(
        "network_def"
    )
    return network


def read_shapes(folder: Path) -> dict[str, Shape]:
    """Return the shapes that hold segments, by name."""
    shapes: dict[str, Shape] = {}
    for file in SOURCES:
        with np.load(folder / file) as arrays:
            labels = {name: arrays[name] for name in arrays.files if name.startswith("LiTS")}
        shapes |= {name: Shape(found, liver_voxels(found > 0)) for name, found in labels.items()}
    return dict(sorted(shapes.items(), key=lambda item: int(item[0][4:])))


def random_linear(draw: np.random.Generator) -> FloatArray:
    """Draw voxel steps to mm: turned up to 15 degrees about each axis, stretched, sheared; never mirrored."""
    x, y, z = np.radians(draw.uniform(-15, 15, 3))
    turn_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    shear = np.eye(3) + np.triu(draw.uniform(-0.12, 0.12, (3, 3)), 1)
    linear: FloatArray = turn_x @ turn_y @ turn_z @ shear @ np.diag(draw.uniform(0.85, 1.15, 3) * SPACING_MM)
    return linear


def smooth_noise(draw: np.random.Generator, channels: int, knots: int) -> Tensor:
    """Draw smooth fields of about unit size on the fine grid, shape (channels, X, Y, Z)."""
    coarse = torch.from_numpy(draw.standard_normal((1, channels, knots, knots, knots)).astype(np.float32))
    return F.interpolate(coarse, size=[n * FINE for n in CELLS], mode="trilinear", align_corners=True)[0]


def draw_sample(shapes: list[Shape], seed: int) -> tuple[Tensor, Tensor]:
    """Warp one shape; return a mask damaged as a network's could be, on the fine grid, and each cell's true shares."""
    draw = np.random.default_rng(seed)
    shape = shapes[draw.integers(len(shapes))]
    linear = random_linear(draw)
    grid = grid_over(shape.voxels, linear)
    grid = LiverGrid(linear, grid.centre + draw.normal(0, 0.04, 3) * grid.half, grid.half * draw.uniform(0.93, 1.1, 3))
    bend = smooth_noise(draw, 3, int(draw.integers(4, 7))) * float(draw.uniform(0, 8))  # mm
    labels = labels_at(shape.labels, linear, grid.points(FINE) + np.moveaxis(bend.numpy(), 0, -1))
    liver = (labels > 0).float()[None, None]
    if draw.random() < 0.7:
        liver = F.avg_pool3d(liver, 3, 1, 1) + float(draw.uniform(0, 0.3)) * smooth_noise(draw, 1, 12)[None]
        liver = (liver > 0.5).float()
    return liver[0], cell_shares(labels)


def cell_shares(labels: Tensor) -> Tensor:
    """Return what share of each cell is in which segment, (8, X, Y, Z), of labels (X, Y, Z) on the fine grid."""
    x, y, z = np.meshgrid(*[np.arange(n * FINE) // FINE for n in CELLS], indexing="ij", sparse=True)
    cells = (x * CELLS[1] + y) * CELLS[2] + z
    counts = np.bincount((cells * (SEGMENTS + 1) + labels.numpy()).ravel(), minlength=math.prod(CELLS) * (SEGMENTS + 1))
    shares = counts.reshape(*CELLS, SEGMENTS + 1)[..., 1:].astype(np.float32) / FINE**3
    return torch.from_numpy(shares).movedim(-1, 0)


def segment_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Return cross-entropy + Dice over the liver, of what share of each cell is in which segment."""
    inside = shares.sum(1, keepdim=True)
    entropy = -(shares * logits.log_softmax(1)).sum() / inside.sum()
    loss: Tensor = entropy + DiceLoss()(logits.softmax(1) * inside, shares)
    return loss


class Atlas(torch.nn.Module):
    """What the network has to beat: each cell's mean shares over the livers learnt from, whatever the liver."""

    def __init__(self, shapes: list[Shape]) -> None:
        super().__init__()
        total = torch.stack([cell_shares(_upright(shape)) for shape in shapes]).sum(0)
        nearest = distance_transform_edt(total.sum(0) == 0, return_distances=False, return_indices=True)
        self.logits = (total[:, *nearest] + 1e-3).log()[None]

    def forward(self, image: Tensor) -> Tensor:
        """Return the same for all."""
        return self.logits.expand(len(image), -1, -1, -1, -1)


def _upright(shape: Shape) -> Tensor:
    return labels_at(shape.labels, UPRIGHT, grid_over(shape.voxels, UPRIGHT).points(FINE))


def score(network: torch.nn.Module, shapes: Mapping[str, Shape]) -> dict[str, dict[str, Any]]:
    """Score each liver on its own grid, and say how certain the network is."""
    scores = {}
    for name, shape in shapes.items():
        found, certainty = segments_by(network, shape.labels > 0, UPRIGHT)
        scores[name] = {"certainty": certainty, **score_segments(found, shape.labels, SPACING_MM**3 / 1000)}
    return scores


def train(network: torch.nn.Module, learnt: list[Shape], kept: Mapping[str, Shape], out: Path, steps: int) -> Any:
    """Train, or go on; return the averaged weights and the log."""
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(EMA)  # type: ignore[no-untyped-call]
    mean = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=average)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    parts: dict[str, Any] = {"network": network, "mean": mean, "optimizer": optimizer}
    start, log = 0, []
    if (out / "state.pt").is_file():
        state: dict[str, Any] = torch.load(out / "state.pt", weights_only=True)
        start, log = state["step"], state["log"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for step in range(start, steps):
        warm = min(1.0, (step + 1) / WARM_STEPS)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        samples = [draw_sample(learnt, step * BATCH + i) for i in range(BATCH)]
        livers, shares = (torch.stack(volumes) for volumes in zip(*samples, strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(network_input(livers).to(memory_format=torch.channels_last_3d))
        loss = segment_loss(logits.float(), shares)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        mean.update_parameters(network)
        if (step + 1) % SCORE_EACH == 0:
            dice = np.mean([list(one["dice"].values()) for one in score(mean.module, kept).values()], axis=0)
            log.append({"step": step + 1, "loss": loss.item(), "kept_back_dice": dice.tolist()})
            click.echo(f"{step + 1}: loss {loss.item():.3f}, kept back {dice.mean():.3f} {dice.round(2)}")
        if (step + 1) % STATE_EACH == 0 or step + 1 == steps:
            with whole_file(out / "state.pt") as temporary:
                content = {name: part.state_dict() for name, part in parts.items()}
                torch.save(content | {"step": step + 1, "log": log}, temporary)
    return mean.module.state_dict(), log


def summary(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the metadata says of the livers kept back."""
    ones = list(scores.values())
    return {
        "livers": len(ones),
        "mean_dice": float(np.mean([one["mean_dice"] for one in ones])),
        "dice": {name: float(np.mean([one["dice"][name] for one in ones])) for name in ones[0]["dice"]},
        "named_right": float(np.mean([one["named_right"] for one in ones])),
    }


@click.command(help=__doc__)
@click.argument("shapes", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--steps", default=2400, show_default=True, help="Of training, four livers each.")
def main(shapes: Path, out: Path, bundle: Path, steps: int) -> None:
    """Train, or go on, then export, score and pack."""
    out.mkdir(parents=True, exist_ok=True)
    known = read_shapes(shapes)
    kept = {name: shape for name, shape in known.items() if int(name[4:]) in KEPT_BACK}
    learnt = {name: shape for name, shape in known.items() if name not in kept}
    torch.manual_seed(0)
    network = make_network(bundle).to(memory_format=torch.channels_last_3d)  # twice as fast on a CPU
    weights, log = train(network, list(learnt.values()), kept, out, steps)
    sha256 = save_half(bundle / "models" / "model.pt", weights)
    write_text(bundle / "models" / "model.pt.sha256", f"{sha256}  model.pt\n")
    rounded = make_network(bundle)
    load_weights(rounded.eval(), bundle / "models" / "model.pt")
    told: dict[str, Any] = {"steps": steps, "torch": torch.__version__, "log": log}
    told["sources"] = {name: file_sha256(shapes / name) for name in SOURCES}
    told["kept_back"] = score(rounded, kept)
    told["kept_back_by_atlas"] = score(Atlas(list(learnt.values())), kept)
    told["learnt_certainty"] = sorted(one["certainty"] for one in score(rounded, learnt).values())
    write_json(out / "metrics.json", told)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata["least_certainty"] = round(told["learnt_certainty"][0] - CERTAINTY_MARGIN, 3)
    write_json(bundle / "configs" / "metadata.json", metadata | {"kept_back": summary(told["kept_back"])})


if __name__ == "__main__":
    main()
