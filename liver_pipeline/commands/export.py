"""Hand a trained run on: its networks as files for other programs, or the run itself, clean; compared first."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from monai.bundle import ConfigParser
from tqdm import tqdm

from liver_pipeline.bundle.clean_copy import write_clean_copy
from liver_pipeline.bundle.ensembles import fold_dirs
from liver_pipeline.bundle.keys import row_of
from liver_pipeline.bundle.roles import Role
from liver_pipeline.bundle.shipped import run_folder, run_name
from liver_pipeline.bundle.stages import PREFIX
from liver_pipeline.bundle.trained import WEIGHTS
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.data.phantoms import liver_phantom
from liver_pipeline.geometry.boxes import bounding_box, widen
from liver_pipeline.inferers import CascadeInferer
from liver_pipeline.io.files import TEMPORARY, file_sha256, plain, write_json
from liver_pipeline.io.memory import scan_in_memory
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import CLASS_NAMES, LabelMap
from liver_pipeline.networks.exporting import EXPORTERS, IMAGE, LOGITS, Windows, export_network
from liver_pipeline.prediction.case import RunningCase, as_label_map
from liver_pipeline.prediction.case_runner import CaseRunner
from liver_pipeline.prediction.provenance import versions

BUNDLE = "bundle"
FORMATS = (*EXPORTERS, BUNDLE)
PHANTOMS = (300, 301, 302)  # seeds
LEAST_AGREEMENT = 0.9999  # share of labels
SPACING_MM = (2.0, 2.0, 10 / 3)  # of the phantoms, drawn for 3 x 3 x 5: small abdomens fill few windows
MARGIN_MM = 20.0  # about their livers


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


def export(run: str | Path, out_dir: str | Path, *, file_format: str) -> Export:
    """Write a run's networks in a format of other programs, or a clean copy of the run; compare it; then it is there.

    Args:
        run: A run folder, or the name of weights that come with the package.
        out_dir: A new folder. It appears when all of it has been compared, or not at all.
        file_format: "torchscript", "onnx" or "openvino": a file for each network (a cascade has two: ``liver`` and
            ``tumor``) and ``manifest.json``, which says what they take, give and were compared on. "bundle": a run
            folder without samples, logs, cache and split.

    Returns:
        What was written. Three phantoms are segmented twice, as ``predict`` does it but with windows that do not
        overlap, and without mirroring and post-processing, which would hide or multiply a difference.

    Raises:
        FileExistsError: If ``out_dir`` is there.
        FileNotFoundError: If ``run`` is no run, or has no weights.
        ModuleNotFoundError: If the extra ``export`` is not installed.
        ValueError: If a network cannot be written so, or less than 99.99 % of the labels agree.
    """
    if file_format not in FORMATS:
        raise ValueError(f"no format '{file_format}'; there are {', '.join(FORMATS)}")
    folder, target = run_folder(run), Path(out_dir)
    if folds := fold_dirs(folder):
        raise ValueError(f"{run} is a cross-validation; export one of its folds, such as {folds[0]}")
    if target.exists():
        raise FileExistsError(f"{target} is there already; choose another folder")
    runner = _runner(folder)
    part = target.with_name(TEMPORARY.format(uuid4().hex))
    part.mkdir(parents=True)
    try:
        if file_format == BUNDLE:
            write_clean_copy(folder, part)
            told, other = {}, _runner(part)
        else:
            told, other = _write_networks(folder, runner, part, file_format)
        counts = _compare(runner, other)
        if told:
            agreement = {"voxels": counts[0], "liver_or_tumor": counts[1], "differing": counts[2], "phantoms": PHANTOMS}
            write_json(part / "manifest.json", plain({**told, "compared": agreement}))
        files = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
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


def _write_networks(folder: Path, runner: CaseRunner, part: Path, name: str) -> tuple[dict[str, Any], CaseRunner]:
    """Write each stage's network; return what the manifest says, and a runner that runs the files."""
    config, exporter = load_config(folder, "inference", {"device": "cpu"}), EXPORTERS[name]
    inferer = runner.inferer
    networks: dict[str, tuple[str, Any]] = {"network": ("", runner.network)}
    if isinstance(inferer, CascadeInferer):
        networks = {"liver": (PREFIX, inferer.liver_network), "tumor": ("", runner.network)}
    other, runs, stages = _runner(folder), dict[str, Windows](), []
    for stage, (prefix, network) in networks.items():
        shape = [int(config.get(f"{prefix}in_channels", config["in_channels"])), *config[f"{prefix}roi_size"]]
        file = part / f"{stage}{exporter.suffix}"
        runs[stage], how = export_network(network, shape, file, exporter)
        classes = int(config.get(f"{prefix}num_classes", config["num_classes"]))
        stages.append(
            {
                "name": stage,
                "files": {path.name: file_sha256(path) for path in sorted(part.glob(f"{stage}.*"))},
                "how": how,
                "input": {"name": IMAGE, "type": "float32", "shape": ["batch", *shape]},
                "output": {"name": LOGITS, "type": "float32", "shape": ["batch", classes, *shape[1:]]},
                "weights_sha256": file_sha256(folder / prefix.rstrip("_") / WEIGHTS),
            }
        )
    _swap(other, runs)
    told = {
        "format": name,
        "run": run_name(folder),
        "labels": dict(enumerate(CLASS_NAMES)),
        "stages": stages,
        "settings": _settings(config),
        "versions": versions(),
        "intended_use": "Research; not a medical device.",
    }
    return told, other


def _swap(runner: CaseRunner, runs: dict[str, Windows]) -> None:
    """Let a runner run files where its networks were."""
    *first, last = runs.values()
    runner.network = last  # type: ignore[assignment]  # any callable will do once the weights are loaded
    if first:
        assert isinstance(runner.inferer, CascadeInferer)
        runner.inferer.liver_network = first[0]


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the keys that decide what the networks see: no paths, nothing of the machine."""
    parser, left_out = ConfigParser(config), Role.PATH | Role.COMMAND | Role.RUNNING
    rows = {key: row for key in config if (row := row_of(key)) and not row.kind.is_built and not row.roles & left_out}
    return {key: parser.get_parsed_content(key) for key in rows}


def _compare(runner: CaseRunner, other: CaseRunner) -> tuple[int, int, int]:
    """Segment the phantoms twice; return voxels, those the first calls liver or tumor, and those that differ.

    Raises:
        ValueError: If less than ``LEAST_AGREEMENT`` of the labels agree.
    """
    voxels = labelled = differing = 0
    for seed in tqdm(PHANTOMS, unit="phantom", disable=None, leave=False):
        scan = _phantom(seed, runner)
        first, second = (_labels(one, scan) for one in (runner, other))
        voxels, labelled = voxels + first.size, labelled + int(np.count_nonzero(first))
        differing += int(np.count_nonzero(first != second))
    if differing > (1 - LEAST_AGREEMENT) * voxels:
        share = 1 - differing / voxels
        raise ValueError(f"only {share:.3%} of the labels of three phantoms agree with the run's; nothing was written")
    return voxels, labelled, differing


def _phantom(seed: int, runner: CaseRunner) -> Scan:
    """Draw an abdomen and cut it to the liver and a margin: what lies there is what counts, and takes less time."""
    array, label = liver_phantom(seed=seed)
    liver = bounding_box(label)
    assert liver is not None
    box = widen(liver, MARGIN_MM, SPACING_MM, array.shape)
    return scan_in_memory(array[box], np.diag([*SPACING_MM, 1.0]), reader=runner.reader)


def _labels(runner: CaseRunner, scan: Scan) -> LabelMap:
    """Return the labels before post-processing."""
    case = RunningCase("phantom", scan)
    runner.prepare(case)
    runner.infer(case)
    assert case.pred is not None
    return as_label_map(case.pred[0])
