"""Time the post-processing steps against MONAI's transforms for the same jobs, each in a fresh process.

    python scripts/bench_postprocessing.py [--slices 1000] [--noise 20000]

The label map is 512x512xN: an ellipsoid liver with holes, tumors in it, and `--noise` stray voxels all over the volume.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from monai.transforms import FillHoles, KeepLargestConnectedComponent, RemoveSmallObjects

from liver_pipeline.labels import TUMOR, LabelMap
from liver_pipeline.transforms.postprocessing import (
    drop_small_tumors,
    drop_tumors_off_liver,
    fill_liver_holes,
    keep_largest_liver,
)

SPACING = (0.75, 0.75, 1.0)  # mm


def phantom(slices: int, noise: int) -> LabelMap:
    """Return a label map of shape (512, 512, slices), in the Fortran order in which NIfTI is read."""
    x, y = np.ogrid[:512, :512]
    label_map = np.zeros((512, 512, slices), dtype=np.uint8, order="F")
    for z in range(slices):  # plane by plane: a float volume would hide the steps' peak memory
        label_map[..., z] = ((x - 190) / 130) ** 2 + ((y - 250) / 110) ** 2 + ((z / slices - 0.5) / 0.2) ** 2 < 1
    rng = np.random.default_rng(0)
    for centre in rng.uniform([120, 190, 0.4 * slices], [260, 310, 0.6 * slices], (10, 3)):
        near = tuple(slice(int(c) - 10, int(c) + 11) for c in centre)
        ball = sum(axis**2 for axis in np.ogrid[-10:11, -10:11, -10:11])
        label_map[near][ball <= 100] = 2  # the lower and upper end lie inside for 100 slices or more
        label_map[near][ball <= 4] = 0
    stray = rng.integers(0, label_map.shape, (noise, 3))
    label_map[tuple(stray.T)] = rng.integers(0, 3, noise)
    return label_map


STEPS: dict[str, Callable[[LabelMap], object]] = {
    "keep_largest_liver": keep_largest_liver,
    "MONAI KeepLargestConnectedComponent, [1, 2] as one": lambda label_map: KeepLargestConnectedComponent(
        applied_labels=[1, 2], independent=False
    )(torch.from_numpy(label_map)[None]),
    "fill_liver_holes": fill_liver_holes,
    "MONAI FillHoles of liver-or-tumor": lambda label_map: FillHoles()(torch.from_numpy(label_map > 0)[None]),
    "drop_small_tumors, 0.1 ml": partial(drop_small_tumors, spacing=SPACING, min_volume_ml=0.1),
    "MONAI RemoveSmallObjects of the tumor mask, 0.1 ml": lambda label_map: RemoveSmallObjects(
        min_size=178, connectivity=3
    )(torch.from_numpy(label_map == TUMOR)[None]),
    "drop_tumors_off_liver, 5 mm": partial(drop_tumors_off_liver, spacing=SPACING, max_distance_mm=5.0),
}


def measure(name: str, slices: int, noise: int) -> None:
    """Print the time of one step, on the clock and of the processor, and the peak memory it adds to the label map's."""
    label_map = phantom(slices, noise)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, start_cpu = time.perf_counter(), time.process_time()
    STEPS[name](label_map)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    added_gb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6  # ru_maxrss is in KiB
    print(f"| {name} | {seconds:.1f} | {cpu_seconds:.1f} | {added_gb:.2f} |", flush=True)


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--noise", type=int, default=20000, help="stray voxels, which make the bounding box the volume")
    options = parser.parse_args()
    print(f"512x512x{options.slices}, {options.noise} stray voxels\n")
    print("| step | s | CPU s | GB on top |\n| --- | --- | --- | --- |", flush=True)
    context = multiprocessing.get_context("spawn")  # a fresh process: peak memory of one step only
    for name in STEPS:
        process = context.Process(target=measure, args=(name, options.slices, options.noise))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
