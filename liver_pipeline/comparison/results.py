"""What one trained and evaluated run left in its folder, as plain values: figures a case, cost, curves, tumors."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from liver_pipeline.io.file_names import DESCRIPTION, RECORD
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.metrics.comparisons import FIGURES, case_values
from liver_pipeline.metrics.shapes import SIZE_CLASSES

EVALUATION = Path("evaluation")
METRICS = EVALUATION / "metrics.json"
MASKS = EVALUATION / "masks"
COSTS = ("seconds", "seconds_network", "slices", "peak_mb", "parameters")


@dataclass(frozen=True)
class RunResult:
    """One run.

    Attributes:
        experiment: Its name.
        seed: Of the training.
        fold: Cross-validation fold, or None.
        folder: Of the run.
        classes: 3, or 2 for a model of liver alone.
        rows: One a test case: what it is, ``failure`` (a line, or None), the figures of
            :data:`liver_pipeline.metrics.comparisons.FIGURES` and :data:`COSTS`; None where something is undefined.
        confusion: Voxels of all cases, reference rows.
        roc: By region, one list of true-positive rates a case.
        log: Rows of ``log.csv`` as numbers; None where an epoch was not validated.
        tumors: One row a predicted lesion, as ``describe`` gives it, with the case.
        reference_sizes: Number of lesions of the reference by size class.
    """

    experiment: str
    seed: int
    fold: int | None
    folder: Path
    classes: int
    rows: list[dict[str, Any]]
    confusion: list[list[int]]
    roc: dict[str, list[list[float]]]
    log: list[dict[str, float | None]]
    tumors: list[dict[str, Any]]
    reference_sizes: dict[str, int]

    @property
    def name(self) -> str:
        """Name of the run's folder in that of the experiment."""
        return self.folder.name

    @property
    def training_seconds(self) -> float:
        """Time of all epochs, validations included."""
        return sum(row["seconds"] or 0.0 for row in self.log)

    @property
    def best_epoch(self) -> dict[str, float | None] | None:
        """The row of the epoch whose weights are kept: the first with the best mean Dice; None if none has one."""
        scored = [row for row in self.log if row.get("val_mean_dice") is not None]
        return max(scored, key=lambda row: row["val_mean_dice"] or 0.0, default=None)


def read_results(
    folder: Path, *, experiment: str, seed: int, fold: int | None, classes: int, patients: Mapping[str, str]
) -> RunResult:
    """Read the results of a run.

    Raises:
        OSError: If it was not trained or evaluated.
        ValueError: If no test case could be scored; the message has the first reason.
    """
    metrics = json.loads((folder / METRICS).read_text())
    failures = _failures(folder, metrics)
    if not metrics["cases"]:
        case, reason = next(iter(failures.items()))
        raise ValueError(f"no test case could be scored; {case}: {reason}")
    who = {"experiment": experiment, "run": folder.name, "seed": seed, "fold": fold}
    rows, tumors = [], []
    for case in sorted({*metrics["cases"], *failures}):
        figures = dict.fromkeys(FIGURES) if case in failures else case_values(metrics["cases"][case])
        row = {**who, "case": case, "patient": patients[case], "failure": failures.get(case), **figures}
        table = _read_json(folder / MASKS / f"{case}{DESCRIPTION}")
        row |= _costs(_read_json(folder / MASKS / f"{case}{RECORD}"))
        row |= {f"predicted_{key}": table.get("liver", {}).get(key) for key in ("tumor_ml", "tumor_burden")}
        rows.append(row)
        tumors += [{**who, "case": case, **lesion} for lesion in table.get("lesions", [])]
    found = metrics["detection"]["iou>0.5"]
    sizes = {name: found[name]["tp_label"] + found[name]["fn"] for name in SIZE_CLASSES}
    return RunResult(
        experiment=experiment, seed=seed, fold=fold, folder=folder, classes=classes, rows=rows, tumors=tumors,
        confusion=metrics["confusion"], roc=_roc(metrics["cases"]), log=_log(folder / "log.csv"),
        reference_sizes=sizes,
    )  # fmt: skip


def _failures(folder: Path, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Cases without figures, and why: by the ledger where there is no mask."""
    last, _ = read_ledger(folder / MASKS / LEDGER)
    reasons = {}
    for case, failure in metrics["failures"].items():
        row = last.get(case, {})
        known = row if row.get("event") == "failed" else failure
        reasons[case] = f"{known['code']}: {known['detail']}"
    return reasons


def _read_json(path: Path) -> dict[str, Any]:
    """Read a file beside a mask; a case that failed has none."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def _costs(provenance: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds from file to mask and in the network, slices, peak memory of the process and parameters."""
    if not provenance:
        return dict.fromkeys(COSTS)
    timing = provenance["timing"]
    stages = {name: stage for name, stage in timing["stages"].items() if name != "describe"}  # no part of the mask
    conversion = timing.get("seconds_conversion", 0.0)  # once a network, whatever the number of scans
    return {
        "seconds": sum(stage["seconds"] for stage in stages.values()) - conversion,
        "seconds_network": timing.get("seconds_network"),
        "slices": _axial_slices(provenance["geometry"]["scan"]),
        "peak_mb": max(stage["process_peak_mb"] for stage in stages.values()),
        "parameters": _parameters(provenance["weights"]),
    }


def _parameters(weights: Mapping[str, Any]) -> int:
    """Count those of the network, and of others that run with it, such as a cascade's liver stage."""
    networks = [weights, *(other for other in weights.values() if isinstance(other, Mapping))]
    return sum(int(network["parameters"]) for network in networks)


def _axial_slices(geometry: Mapping[str, Any]) -> int:
    """Voxels along the axis that runs closest to feet-head."""
    affine = np.asarray(geometry["affine"])[:3, :3]
    direction = np.abs(affine[2]) / np.linalg.norm(affine, axis=0)
    return int(geometry["shape"][int(direction.argmax())])


def _roc(cases: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    curves: dict[str, list[list[float]]] = {}
    for case in cases.values():
        for region, figures in case.get("probabilities", {}).items():
            if figures["roc"] is not None:
                curves.setdefault(region, []).append(figures["roc"])
    return curves


def _log(path: Path) -> list[dict[str, float | None]]:
    with path.open(newline="") as file:
        return [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)]
