"""Hand a trained run on: its networks as files for other programs, or the run itself, clean; compared first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from liver_pipeline.bundle.clean_copy import write_clean_copy
from liver_pipeline.bundle.folders import WEIGHTS, fold_dirs
from liver_pipeline.bundle.keys import row_of
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.shipped import run_folder, run_name
from liver_pipeline.bundle.stages import LIVER_STAGE, PREFIX
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.causes import as_raised
from liver_pipeline.data.phantoms import liver_phantom
from liver_pipeline.evaluation.run_quality import QUALITY_FILE, read_quality, write_quality
from liver_pipeline.geometry.boxes import bounding_box, widen
from liver_pipeline.inferers.cascade import LIVER_SHARE, CascadeInferer
from liver_pipeline.inferers.members import Network
from liver_pipeline.inferers.progress import progress_part
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.files import plain, remove, remove_abandoned, telling_of, temporary_name, write_json
from liver_pipeline.io.memory import scan_in_memory
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import CLASS_NAMES, LabelMap
from liver_pipeline.networks.exporting import EXPORTERS, IMAGE, LOGITS, Exporter, export_network
from liver_pipeline.prediction.case import RunningCase, as_label_map
from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.prediction.pipeline import network_bar
from liver_pipeline.prediction.provenance import versions

BUNDLE = "bundle"
EXPORT_FORMATS = (*EXPORTERS, BUNDLE)
PHANTOMS = (300, 301, 302)  # seeds
LEAST_AGREEMENT = 0.9999  # share of labels
SPACING_MM = (2.0, 2.0, 10 / 3)  # of the phantoms, drawn for 3 x 3 x 5: small abdomens fill few windows
LIVER_MARGIN_MM = 20.0  # about their livers


@dataclass(frozen=True)
class Export:
    """What was written, and how far its labels agree with the run's.

    Attributes:
        folder: Where it lies.
        files: What it holds.
        voxels: Of the phantoms that both have segmented.
        labelled: How many of these the run calls liver or tumor.
        differing: How many have another label.
    """

    folder: Path
    files: tuple[str, ...]
    voxels: int
    labelled: int
    differing: int


@as_raised()
def export(run: str | Path, out_dir: str | Path, *, file_format: str) -> Export:
    """Write a run's networks in a format of other programs, or a clean copy of the run; compare it; then it is there.

    Args:
        run: A run folder, or the name of weights that come with the package.
        out_dir: A new folder. It appears when all of it has been compared, or not at all.
        file_format: "torchscript", "onnx" or "openvino": a file for each network (a cascade has two: ``liver`` and
            ``tumor``) and ``manifest.json``, which says what they take, give and were compared on. "bundle": a run
            folder without samples, logs, cache, split, and the cases that ``quality.json`` rests on.

    Returns:
        What was written. Three phantoms are segmented twice, as ``predict`` does it but with windows that do not
        overlap, and without mirroring and post-processing, which would hide or multiply a difference.

    Raises:
        FileExistsError: If ``out_dir`` is there.
        FileNotFoundError: If ``run`` is no run, or has no weights.
        ModuleNotFoundError: If the extra ``export`` is not installed.
        ValueError: If a network cannot be written so, or less than 99.99 % of the labels agree.
    """
    if file_format not in EXPORT_FORMATS:
        raise ValueError(f"no format '{file_format}'; there are {', '.join(EXPORT_FORMATS)}")
    folder, target = run_folder(run), Path(out_dir)
    if folds := fold_dirs(folder):
        raise ValueError(f"{run} is a cross-validation; export one of its folds, such as {folds[0]}")
    if target.exists():
        raise FileExistsError(f"{target} is there already; choose another folder")
    runner = _runner(folder)
    remove_abandoned(target.parent)
    part = target.with_name(temporary_name())
    with telling_of(target, part):
        part.mkdir(parents=True)
    try:
        if file_format == BUNDLE:
            write_clean_copy(folder, part)
            _hand_on_quality(folder, part)
            told, other = {}, _runner(part)
            counts = _compare(runner, other, _networks(other))
        else:
            stages, runs = _write_networks(folder, runner, part, EXPORTERS[file_format])
            told = _manifest(folder, file_format, stages)
            counts = _compare(runner, runner, runs)
        if told:
            agreement = {"voxels": counts[0], "liver_or_tumor": counts[1], "differing": counts[2], "phantoms": PHANTOMS}
            write_json(part / "manifest.json", plain({**told, "compared": agreement}))
        files = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
        part.rename(target)
    finally:
        remove(part, strict=False)
    return Export(target, tuple(files), *counts)


def _runner(folder: Path) -> CaseRunner:
    """Return a run's way from scan to labels in PyTorch on the CPU, with its weights; each voxel is seen once."""
    settings = load_config(folder, "inference", {"device": "cpu"})
    once = {"backend": "torch", "overlap": 0.0, "tta": []}
    settings |= {f"{stage}{key}": once[key] for key in once for stage in ("", PREFIX) if f"{stage}{key}" in settings}
    runner = ConfigParser(settings).get_parsed_content("case_runner")
    assert isinstance(runner, CaseRunner)
    runner.load()
    return runner


def _hand_on_quality(folder: Path, copy: Path) -> None:
    """Write what a run knows of its masks into its copy; the cases it knows that from go along if they are painted."""
    if (folder / QUALITY_FILE).is_file():
        quality = read_quality(folder)
        write_quality(copy, quality if quality.painted else replace(quality, cases=()))


def _networks(runner: CaseRunner) -> dict[str, Network]:
    """Return a run's networks by what an export calls them."""
    if isinstance(runner.inferer, CascadeInferer):
        return {LIVER_STAGE: runner.inferer.liver_network, "tumor": runner.network}
    return {"network": runner.network}


def _write_networks(
    folder: Path, runner: CaseRunner, part: Path, exporter: Exporter
) -> tuple[list[dict[str, Any]], dict[str, Network]]:
    """Write each stage's network; return what the manifest says of it, and the files as they are run."""
    config = load_config(folder, "inference", {"device": "cpu"})
    runs: dict[str, Network] = {}
    stages = []
    for stage, network in _networks(runner).items():
        assert isinstance(network, torch.nn.Module)
        prefix, place = (PREFIX, LIVER_STAGE) if stage == LIVER_STAGE else ("", "")
        shape = [int(config.get(f"{prefix}in_channels", config["in_channels"])), *config[f"{prefix}roi_size"]]
        tqdm.write(f"writing {stage}{exporter.suffix}, and comparing its logits with the network's")
        runs[stage], how = export_network(network, shape, part / f"{stage}{exporter.suffix}", exporter)
        classes = int(config.get(f"{prefix}num_classes", config["num_classes"]))
        stages.append(
            {
                "name": stage,
                "files": {path.name: file_sha256(path) for path in sorted(part.glob(f"{stage}.*"))},
                "how": how,
                "input": {"name": IMAGE, "type": "float32", "shape": ["batch", *shape]},
                "output": {"name": LOGITS, "type": "float32", "shape": ["batch", classes, *shape[1:]]},
                "weights_sha256": file_sha256(folder / place / WEIGHTS),
            }
        )
    return stages, runs


def _manifest(folder: Path, file_format: str, stages: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": file_format,
        "run": run_name(folder),
        "labels": dict(enumerate(CLASS_NAMES)),
        "stages": stages,
        "settings": _settings(load_config(folder, "inference", {"device": "cpu"})),
        "versions": versions(),
        "intended_use": "Research; not a medical device.",
    }


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the keys that decide what the networks see: no paths, nothing of the machine."""
    parser, left_out = ConfigParser(config), Role.PATH | Role.COMMAND | Role.RUNNING
    rows = {key: row for key in config if (row := row_of(key)) and not row.kind.is_built and not row.roles & left_out}
    return {key: parser.get_parsed_content(key) for key in rows}


def _compare(runner: CaseRunner, other: CaseRunner, networks: Mapping[str, Network]) -> tuple[int, int, int]:
    """Segment the phantoms twice; return voxels, those the first calls liver or tumor, and those that differ.

    Args:
        runner: The run.
        other: What the networks run in: the run again, or a copy of it.
        networks: By stage. Of a cascade each stage counts by itself, the second one in the box that the first network
            of ``other`` gives: a box that moves by a voxel would move all windows.

    Raises:
        ValueError: If less than ``LEAST_AGREEMENT`` of a stage's labels agree.
    """
    counts: dict[str, list[tuple[int, int, int]]] = {stage: [] for stage in networks}
    tqdm.write(f"segmenting {len(PHANTOMS)} phantoms with the run and with what was written")
    with network_bar():
        for number, seed in enumerate(PHANTOMS):
            scan, labels = _phantom(seed, runner), []
            for turn, (one, its) in enumerate(((runner, _networks(runner)), (other, networks)), 2 * number):
                with progress_part(turn / (2 * len(PHANTOMS)), (turn + 1) / (2 * len(PHANTOMS))):
                    labels.append(_labels(one, its, scan))
            for stage, first in labels[0].items():
                differing = int(np.count_nonzero(first != labels[1][stage]))
                counts[stage].append((first.size, int(np.count_nonzero(first)), differing))
                tqdm.write(f"phantom {number + 1}, {stage}: {differing} of {first.size} labels differ")
    for stage, rows in counts.items():
        voxels, _, differing = (sum(column) for column in zip(*rows, strict=True))
        if differing > (1 - LEAST_AGREEMENT) * voxels:
            share = 1 - differing / voxels
            raise ValueError(f"only {share:.3%} of the labels of three phantoms agree ({stage}); nothing was written")
    all_rows = [row for rows in counts.values() for row in rows]
    return sum(row[0] for row in all_rows), sum(row[1] for row in all_rows), sum(row[2] for row in all_rows)


def _phantom(seed: int, runner: CaseRunner) -> Scan:
    """Draw an abdomen and cut it to the liver and a margin: what lies there is what counts, and takes less time."""
    array, label = liver_phantom(seed=seed)
    liver = bounding_box(label)
    assert liver is not None
    box = widen(liver, LIVER_MARGIN_MM, SPACING_MM, array.shape)
    return scan_in_memory(array[box], np.diag([*SPACING_MM, 1.0]), reader=runner.reader)


def _labels(runner: CaseRunner, networks: Mapping[str, Network], scan: Scan) -> dict[str, LabelMap]:
    """Return each stage's labels before post-processing; of a cascade's first stage on its own grid."""
    case, inferer = RunningCase("phantom", scan), runner.inferer
    runner.prepare(case)
    image = case.data["image"]
    found: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        if isinstance(inferer, CascadeInferer):
            coarse = inferer.liver_preprocessing({"image": image})["image"]
            with progress_part(0.0, LIVER_SHARE):
                found[LIVER_STAGE] = inferer.liver_inferer(coarse.unsqueeze(0), networks[LIVER_STAGE])
        last = next(stage for stage in networks if stage != LIVER_STAGE)
        with progress_part(LIVER_SHARE, 1.0):
            found[last] = inferer(image.unsqueeze(0), networks[last])  # type: ignore[arg-type]  # any callable will do
    return {stage: as_label_map(labels[0]) for stage, labels in found.items()}
