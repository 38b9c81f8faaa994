"""Measure what evaluation costs on a 512 x 512 x 400 pair: against MedPy, for a whole case, and for masks far apart.

The pair is a phantom (a liver of about 1.4 litres with lesions) or two label maps of yours. Each figure is measured in
its own process, so that peak memory is its own; ratios come from one run.

    python scripts/bench_evaluation.py [--label LABEL.nii.gz --pred PRED.nii.gz] [--skip-medpy] [--json FILE]
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import nibabel as nib
import numpy as np
import numpy.typing as npt

SHAPE, SPACING = (512, 512, 400), (0.7, 0.7, 1.0)
Labels = npt.NDArray[np.uint8]


def phantom_pair(*, far: bool = False) -> tuple[Labels, Labels]:
    """Predicted and reference labels: an uneven liver with 25 lesions; ``far`` moves the prediction far away."""
    rng = np.random.default_rng(0)
    label = np.zeros(SHAPE, dtype=np.uint8)
    centre, radii = np.array([170.0, 200.0, 230.0]), np.array([75.0, 62.0, 70.0])
    paint(label, centre, radii, 1, wave=0.12)
    pred = np.zeros(SHAPE, dtype=np.uint8)
    moved = np.array([370.0, 400.0, 300.0]) if far else centre + np.array([3, -2, 2])
    paint(pred, moved, radii * 1.02, 1, wave=0.12)
    for _ in range(25):
        place = rng.normal(size=3) * 0.35 * radii / SPACING
        size = np.full(3, rng.uniform(2, 18))
        paint(label, centre + place, size, 2, inside=1)
        paint(pred, moved + place + rng.normal(size=3) * 3, size * rng.uniform(0.7, 1.2), 2, inside=1)
    return pred, label


def paint(
    labels: Labels, centre: npt.NDArray[Any], radii: npt.NDArray[Any], value: int, *, wave: float = 0.0, inside: int = 0
) -> None:
    """Draw an ellipsoid (centre in voxels, radii in mm) with a wavy surface, only where labels are ``inside``."""
    reach = np.ceil(radii * (1 + wave) / SPACING).astype(int) + 2
    low = np.maximum(0, centre.astype(int) - reach)
    high = np.minimum(SHAPE, centre.astype(int) + reach)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    x, y, z = (
        (np.arange(a, b, dtype=np.float32).reshape([-1 if i == axis else 1 for i in range(3)]) - c) * s
        for axis, (a, b, c, s) in enumerate(zip(low, high, centre, SPACING, strict=True))
    )
    ripple = 1 + wave * np.sin(x / 9) * np.sin(y / 11) * np.sin(z / 7)
    shape = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 < ripple**2
    labels[box][shape & (labels[box] == inside if inside else shape)] = value


def save_pair(folder: Path, pred: Labels, label: Labels) -> tuple[Path, Path]:
    """Write a pair as .nii.gz."""
    paths = []
    for name, array in (("pred", pred), ("label", label)):
        image = nib.Nifti1Image(array, np.diag([*SPACING, 1.0]))
        image.set_sform(image.affine, 1)
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(image, folder / f"{name}.nii.gz")
        paths.append(folder / f"{name}.nii.gz")
    return paths[0], paths[1]


def measured(work: Callable[[], Any]) -> dict[str, Any]:
    """Run ``work`` in a fresh process: wall and CPU seconds of the call, peak memory of the process in GB."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        result: dict[str, Any] = ours.recv()
    except EOFError:
        result = {"error": "the process died"}
    process.join()
    return result


def _measure(work: Callable[[], Any], pipe: Any) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    pipe.send({"seconds": seconds, "cpu_seconds": cpu, "peak_gb": peak, "result": result})


def read(path: Path) -> tuple[npt.NDArray[np.bool_], tuple[float, ...]]:
    """Liver mask and spacing."""
    image = nib.load(path)
    return np.asarray(image.dataobj) >= 1, tuple(float(size) for size in image.header.get_zooms()[:3])


def our_distances(pred: Path, label: Path) -> dict[str, Any]:
    """Seconds of HD95 and ASSD as we compute them, reading left out."""
    from liver_pipeline.metrics.surface_distances import voxel_distances

    (pred_mask, spacing), (label_mask, _) = read(pred), read(label)
    start = time.perf_counter()
    distances = voxel_distances(pred_mask, label_mask, spacing, threads=os.cpu_count() or 1)
    figures = {"hd95": distances.percentile_pooled(95), "assd": distances.assd()}
    return {"seconds": time.perf_counter() - start, **figures}


def medpy_distances(pred: Path, label: Path) -> dict[str, Any]:
    """Seconds of MedPy's HD95 and ASSD on the full volume, reading left out."""
    from medpy.metric.binary import assd, hd95

    (pred_mask, spacing), (label_mask, _) = read(pred), read(label)
    start = time.perf_counter()
    figures = {"hd95": float(hd95(pred_mask, label_mask, spacing)), "assd": float(assd(pred_mask, label_mask, spacing))}
    return {"seconds": time.perf_counter() - start, **figures}


def whole_case(pred: Path, label: Path) -> dict[str, Any]:
    """Everything ``evaluate`` does for one case of protocol ``lits``, reading and pictures included."""
    from liver_pipeline.evaluation.pairing import Pair
    from liver_pipeline.evaluation.scoring import score_pair

    figures = score_pair(Pair("case", pred, label), protocol="lits", pictures=True, threads=os.cpu_count() or 1)
    assert isinstance(figures, dict), figures
    return {region: figures[region]["dice"] for region in ("liver", "tumor")}


def line(name: str, result: dict[str, Any]) -> str:
    """One row of the table."""
    if "error" in result:
        return f"{name:34} {result['error']}"
    inner = result["result"].get("seconds", result["seconds"])
    return f"{name:34} {inner:9.2f} s   {result['cpu_seconds']:8.2f} s CPU with reading   {result['peak_gb']:5.2f} GB"


@click.command()
@click.option("--pred", type=click.Path(path_type=Path, exists=True), help="A predicted label map; default a phantom.")
@click.option("--label", type=click.Path(path_type=Path, exists=True), help="Its reference.")
@click.option("--skip-medpy", is_flag=True, help="Leave out MedPy, which takes minutes and 6 GB.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here too.")
def main(pred: Path | None, label: Path | None, skip_medpy: bool, json_path: Path | None) -> None:
    """Measure and print one line per figure."""
    with tempfile.TemporaryDirectory() as folder:
        near = (pred, label) if pred and label else save_pair(Path(folder) / "near", *phantom_pair())
        far = save_pair(Path(folder) / "far", *phantom_pair(far=True))
        load = os.getloadavg()[0]
        figures = {
            "hd95 + assd, ours": measured(partial(our_distances, *near)),
            "whole case": measured(partial(whole_case, *near)),
            "whole case, masks far apart": measured(partial(whole_case, *far)),
        }
        if not skip_medpy:
            figures["hd95 + assd, MedPy"] = measured(partial(medpy_distances, *near))
    shape = nib.load(near[1]).shape if pred and label else SHAPE
    click.echo(f"{shape}, {os.cpu_count()} cores, load average {load:.1f} at the start")
    for name, result in figures.items():
        click.echo(line(name, result))
    if not skip_medpy and "error" not in figures["hd95 + assd, MedPy"]:
        ours, theirs = (figures[f"hd95 + assd, {who}"]["result"] for who in ("ours", "MedPy"))
        click.echo(f"MedPy / ours: {theirs['seconds'] / ours['seconds']:.0f}")
        for key in ("hd95", "assd"):
            click.echo(f"{key}: ours {ours[key]:.9f}, MedPy {theirs[key]:.9f}")
    if json_path is not None:
        json_path.write_text(json.dumps({"load": load, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
