"""One case on its way from scan to mask, and the record of how it got there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from liver_pipeline.evaluation.plausibility import CoarseScan
from liver_pipeline.geometry.affines import geometry
from liver_pipeline.io.clocks import Beginning
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.file_names import (
    DESCRIPTION,
    FORMATS,
    PAGE,
    PICTURE_MASK,
    PICTURE_SUFFIXES,
    PROBABILITIES,
    RECORD,
    file_beside,
    fitting_name,
)
from liver_pipeline.io.findings import Finding
from liver_pipeline.io.paths import relative
from liver_pipeline.io.probabilities import probabilities_record
from liver_pipeline.io.volumes import Scan
from liver_pipeline.labels import LabelMap
from liver_pipeline.prediction.provenance import Stages

COUNTED = 2**20  # voxels compared at a time: they stay in the processor's cache


@dataclass
class RunningCase:
    """What is known of one scan while it is segmented; each step fills in its part and lets go of what it used up."""

    name: str
    source: Path | Scan
    input_path: str = ""  # as the record names it: no folders of the machine
    series: str | None = None  # which of several DICOM series at the path
    why: str = ""  # that series
    elsewhere: str = ""  # what of that series lies in another place
    stages: Stages = field(default_factory=Stages)
    started: Beginning = field(default_factory=Beginning)
    scan: Scan | None = None  # without its voxels once these have been preprocessed
    data: dict[str, Any] = field(default_factory=dict)
    pred: torch.Tensor | None = None
    levels: npt.NDArray[np.uint8] | None = None  # probabilities in eight bits, (X, Y, Z, classes), until written
    label_map: LabelMap | None = None
    effects: Mapping[str, Any] = field(default_factory=dict)  # cleaning step -> voxels it changed
    accepted: Sequence[str] = ()  # codes found in the scan that the run takes as warnings
    coarse: CoarseScan | None = None  # what judges the mask, where that is asked for
    quality: dict[str, Any] | None = None
    volumes: dict[str, Any] = field(default_factory=dict)  # of the label map: voxels and ml of each label
    intervals: dict[str, Any] = field(default_factory=dict)  # of these


@dataclass
class FolderCase(RunningCase):
    """A case whose files are written: one input, one output, and in a folder run one end."""

    output: Path = Path()
    suffix: str = FORMATS["nifti"]  # of the mask
    reserved: int = 0  # bytes of the memory budget
    input_sha256: str | None = None
    before: str = ""  # terminal state of an earlier run that still holds: "done" or "failed"
    failure: Finding | None = None
    refusal: Finding | None = None  # why the case has its mask but not all that was asked for beside it
    added: bool = False  # a mask of an earlier run got its table or page
    classes: int = 0  # of the probabilities that were written
    probabilities_sha256: str | None = None

    @classmethod
    def of(cls, one: ScanInput, root: Path, output_dir: Path, suffix: str = FORMATS["nifti"]) -> FolderCase:
        """Return the case of an input found below ``root``; its mask ends in ``suffix``, that of a picture as one."""
        suffix = PICTURE_MASK if one.path.name.lower().endswith(PICTURE_SUFFIXES) else suffix
        mask = output_dir / one.case
        return cls(
            one.case, one.path, relative(one.path, root), one.series, one.why, one.elsewhere,
            output=mask.with_name(fitting_name(mask.name, suffix)), suffix=suffix,
        )  # fmt: skip

    @property
    def path(self) -> Path:
        """Where the scan lies."""
        assert isinstance(self.source, Path)
        return self.source

    @property
    def provenance(self) -> Path:
        """The JSON file beside the mask."""
        return file_beside(self.output, RECORD)

    @property
    def description(self) -> Path:
        """The clinical table beside the mask, where it was asked for."""
        return file_beside(self.output, DESCRIPTION)

    @property
    def page(self) -> Path:
        """The viewer's page beside the mask, where it was asked for."""
        return file_beside(self.output, PAGE)

    @property
    def probabilities(self) -> Path:
        """The probabilities beside the mask, where they were asked for."""
        return file_beside(self.output, PROBABILITIES)

    def summary(self, labels: Collection[str]) -> str:
        """Say in one line what was found, and where the record is: ml, or pixels of a picture.

        ``labels`` are those that the network knows, of "1" and "2": what it cannot find is not called absent.
        """
        drawn = None in self.volumes["volume_ml"].values()
        found, unit = (self.volumes["voxels"], "pixels") if drawn else (self.volumes["volume_ml"], "ml")
        volumes = f"liver {found['1'] + found['2']:.0f} {unit}"
        if "2" in labels:
            volumes += f", of it tumors {found['2']:.{0 if drawn else 1}f} {unit}"
        return f"{self.output}: {volumes}; record: {self.provenance}"

    def output_record(self, sha256: str) -> dict[str, Any]:
        """Return what the record says of the files that were written."""
        probabilities = None
        if self.probabilities_sha256 is not None:
            path = self._told(self.probabilities)
            probabilities = probabilities_record(path, self.probabilities_sha256, self.classes)
        return {"output": {"path": self._told(self.output), "sha256": sha256}, "probabilities": probabilities}

    def _told(self, path: Path) -> str:
        """Return how the record names a file of the case: below the folder of all masks."""
        return (PurePosixPath(self.name).parent / path.name).as_posix()


def without_voxels(scan: Scan) -> Scan:
    """Return the scan with its shape but no memory: what writing a mask needs."""
    return replace(scan, array=np.broadcast_to(np.uint8(0), scan.array.shape[:3]))  # of a picture one channel


def as_label_map(pred: Any) -> LabelMap:
    """Return labels (1, X, Y, Z) of any type as uint8 (X, Y, Z) without metadata."""
    array: npt.NDArray[Any] = np.asarray(pred[0].detach().cpu() if isinstance(pred, torch.Tensor) else pred[0])
    return array if array.dtype == np.uint8 else array.astype(np.uint8)


def inference_record(case: RunningCase) -> Mapping[str, Any]:
    """Return what the inferer says of a case."""
    record: Mapping[str, Any] = getattr(case.pred, "meta", {}).get("inference", {})
    return record


def case_record(case: RunningCase) -> dict[str, Any]:
    """Return the part of the provenance that differs from case to case, but for the files that were written.

    The dict under "inference" in the meta of what the inferer gave is kept, seconds go under ``timing``; it says
    ``model_grid`` where that is not the grid of the preprocessed image.
    """
    scan, label_map, image = case.scan, case.label_map, case.data["image"]
    assert scan is not None and label_map is not None
    inference = dict(inference_record(case))
    times = {key: inference.pop(key) for key in list(inference) if "seconds" in key}
    return {
        "case": case.name,
        "input": {"path": case.input_path or scan.path.name, "sha256": scan.sha256}
        | ({} if case.series is None else {"series": case.series}),
        "output": case.volumes,
        "intervals": case.intervals,
        "geometry": {
            "scan": _grid(scan),
            "model_grid": inference.pop("model_grid", None) or _model_grid(image),
            "mask": _grid(replace(scan, array=label_map)),
        },
        "warnings": [{"code": f.code, "detail": f.detail} for f in scan.findings],
        "accepted": list(case.accepted),
        "inference": inference,
        "effects": dict(case.effects),
        "quality": case.quality,
        "timing": {
            "started": case.started.time,
            "seconds": round(case.started.seconds, 3),
            "stages": case.stages.as_json(),
            **times,
        },
    }


def is_drawn(scan: Scan) -> bool:
    """Tell whether a scan is a picture, which has no millimetres."""
    return any(finding.code == "PICTURE" for finding in scan.findings)


def _grid(scan: Scan) -> dict[str, Any]:
    grid = geometry(scan.array.shape, scan.affine)
    return grid if not is_drawn(scan) else {**grid, "spacing_mm": None, "affine": None}


def _model_grid(image: Any) -> dict[str, Any] | None:
    return geometry(image.shape[1:], np.asarray(image.affine)) if hasattr(image, "affine") else None


def label_volumes(label_map: LabelMap, scan: Scan) -> dict[str, dict[str, Any]]:
    """Return ``voxels`` and ``volume_ml`` of each label; ml are None of a picture.

    Each label is counted by itself: ``bincount`` takes longer than that for a few, and keeps other threads waiting.
    """
    flat = label_map.ravel(order="K")
    parts = [flat[start : start + COUNTED] for start in range(0, flat.size, COUNTED)]
    foreground = range(1, max(2, int(flat.max(initial=0))) + 1)
    voxels = {label: sum(int(np.count_nonzero(part == label)) for part in parts) for label in foreground}
    counts = {"0": flat.size - sum(voxels.values())} | {str(label): count for label, count in voxels.items()}
    if is_drawn(scan):
        return {"voxels": counts, "volume_ml": dict.fromkeys(map(str, foreground))}
    voxel_ml = abs(float(np.linalg.det(scan.affine[:3, :3]))) / 1000.0  # 1 ml = 1000 mm^3
    volume_ml: dict[str, Any] = {str(label): round(count * voxel_ml, 3) for label, count in voxels.items()}
    return {"voxels": counts, "volume_ml": volume_ml}
