"""One case of a folder run on its way from scan to mask, and the provenance that lies beside the mask."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from liver_pipeline.geometry.affines import geometry
from liver_pipeline.io.discovery import PROBABILITIES, ScanInput
from liver_pipeline.io.files import relative
from liver_pipeline.io.findings import Finding
from liver_pipeline.io.probabilities import LEVELS
from liver_pipeline.io.volumes import Scan
from liver_pipeline.prediction.provenance import Stages

COUNTED = 2**22  # voxels at a time: bincount takes eight bytes for each


@dataclass
class Case:
    """One input on its way through the run."""

    one: ScanInput
    root: Path  # the folder that was searched
    output: Path
    stages: Stages = field(default_factory=Stages)
    started: float = field(default_factory=time.time)
    reserved: int = 0  # bytes of the memory budget
    input_sha256: str | None = None
    scan: Scan | None = None
    data: dict[str, Any] = field(default_factory=dict)
    before: str = ""  # terminal state of an earlier run that still holds: "done" or "failed"
    failure: Finding | None = None
    levels: npt.NDArray[np.uint8] | None = None  # probabilities in eight bits, (X, Y, Z, classes), until written
    classes: int = 0  # of the probabilities that were written
    probabilities_sha256: str | None = None

    @property
    def provenance(self) -> Path:
        """The JSON file beside the mask."""
        return self._beside(".json")

    @property
    def description(self) -> Path:
        """The clinical table beside the mask, where it was asked for."""
        return self._beside(".description.json")

    @property
    def probabilities(self) -> Path:
        """The probabilities beside the mask, where they were asked for."""
        return self._beside(PROBABILITIES)

    def _beside(self, ending: str) -> Path:
        return self.output.with_name(self.output.name.removesuffix(".nii.gz") + ending)


def without_voxels(scan: Scan) -> Scan:
    """Return the scan with its shape but no memory: what writing a mask needs."""
    return replace(scan, array=np.broadcast_to(np.uint8(0), scan.array.shape))


def as_label_map(pred: Any) -> npt.NDArray[np.uint8]:
    """Return labels (1, X, Y, Z) of any type as uint8 (X, Y, Z) without metadata."""
    array: npt.NDArray[Any] = np.asarray(pred[0].detach().cpu() if isinstance(pred, torch.Tensor) else pred[0])
    return array if array.dtype == np.uint8 else array.astype(np.uint8)


def describe_case(
    case: Case, label_map: npt.NDArray[np.uint8], sha256: str, pred: Any, effects: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the part of the provenance that differs from case to case.

    Args:
        case: Read, preprocessed and segmented.
        label_map: uint8 (X, Y, Z), as written.
        sha256: Of the mask's file.
        pred: What the inferer gave; the dict under "inference" in its meta is kept, seconds under ``timing``. It says
            ``model_grid`` where that is not the grid of the preprocessed image.
        effects: Name of each cleaning step to the number of voxels it changed.
    """
    assert case.scan is not None
    scan, image = case.scan, case.data["image"]
    inference = dict(getattr(pred, "meta", {}).get("inference", {}))
    times = {key: inference.pop(key) for key in list(inference) if "seconds" in key}
    return {
        "case": case.one.case,
        "input": {"path": relative(case.one.path, case.root), "sha256": scan.sha256},
        "output": {"path": f"{case.one.case}.nii.gz", "sha256": sha256, **_volumes(label_map, scan)},
        "probabilities": _probabilities(case),
        "geometry": {
            "scan": geometry(scan.array.shape, scan.affine),
            "model_grid": inference.pop("model_grid", None) or _model_grid(image),
            "mask": geometry(label_map.shape, scan.affine),
        },
        "warnings": [{"code": f.code, "detail": f.detail} for f in scan.findings],
        "inference": inference,
        "effects": dict(effects),
        "timing": {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(case.started)),
            "seconds": round(time.time() - case.started, 3),
            "stages": case.stages.as_json(),
            **times,
        },
    }


def _probabilities(case: Case) -> dict[str, Any] | None:
    if case.probabilities_sha256 is None:
        return None
    path = f"{case.one.case}{PROBABILITIES}"
    return {"path": path, "sha256": case.probabilities_sha256, "classes": case.classes, "largest_error": 0.5 / LEVELS}


def _model_grid(image: Any) -> dict[str, Any] | None:
    return geometry(image.shape[1:], np.asarray(image.affine)) if hasattr(image, "affine") else None


def _volumes(label_map: npt.NDArray[np.uint8], scan: Scan) -> dict[str, dict[str, float]]:
    flat = label_map.ravel(order="K")
    parts = range(0, flat.size, COUNTED)
    counts = sum((np.bincount(flat[start : start + COUNTED], minlength=256) for start in parts), np.zeros(256, int))
    counts = counts[: max(3, int(flat.max(initial=0)) + 1)]
    voxel_ml = abs(float(np.linalg.det(scan.affine[:3, :3]))) / 1000.0  # 1 ml = 1000 mm^3
    return {
        "voxels": {str(label): int(n) for label, n in enumerate(counts)},
        "volume_ml": {str(label): round(int(n) * voxel_ml, 3) for label, n in enumerate(counts) if label},
    }
