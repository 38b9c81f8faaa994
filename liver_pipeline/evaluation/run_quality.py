"""What a run knows of its own masks, from the cases that it was validated on: ``quality.json`` in the run.

People may edit its thresholds: a clinic for children has other volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from liver_pipeline.io.files import write_json
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.tables import read_json

QUALITY_FILE = "quality.json"
VOLUMES = ("liver_ml", "liver_reference_ml", "tumor_ml", "tumor_reference_ml")  # of a case


@dataclass(frozen=True)
class QualityThresholds:
    """What a mask must meet.

    Attributes:
        liver_agreement: Least Dice between passes, of liver with its tumors.
        tumor_agreement: Least Dice between passes, of tumor.
        min_tumor_ml: Disagreement on less tumor than this is no reason.
        min_liver_ml: Least volume of the liver; 0 for none.
        max_liver_ml: Largest volume.
        min_largest_share: Least share of the liver that its largest piece must have, before cleaning.
        max_cut_share: Largest cut by the scan's border, of the liver's largest section.
        min_right_mm: Least distance from the body's middle to the liver's, to the right.
        min_lung_ml: So much lung under the liver, and more than over it, is too much.
        min_hu: Least median HU of the liver without tumors.
        max_hu: Largest.
        max_hu_spread: Largest standard deviation of HU there.
    """

    liver_agreement: float = 0.8
    tumor_agreement: float = 0.3
    min_tumor_ml: float = 1.0
    min_liver_ml: float = 500.0
    max_liver_ml: float = 4000.0
    min_largest_share: float = 0.9
    max_cut_share: float = 0.1
    min_right_mm: float = 0.0
    min_lung_ml: float = 50.0
    min_hu: float = -20.0
    max_hu: float = 250.0
    max_hu_spread: float = 100.0


@dataclass(frozen=True)
class RunQuality:
    """The content of ``quality.json``; without the file, general thresholds and no case.

    Attributes:
        thresholds: What a mask must meet.
        source: Where the rest comes from, in words.
        cases: Dice, agreement and volumes (:data:`VOLUMES`) of each case with a reference.
        weights_sha256: The weights that segmented them, as a mask's record names them; "" where unknown.
        config_sha256: The settings that they were segmented with, likewise.
        painted: The cases are painted scans: figures of theirs are no promise for real ones.
        temperature: Of probabilities (:mod:`liver_pipeline.metrics.temperature`); None where it was not fitted.
    """

    thresholds: QualityThresholds = QualityThresholds()
    source: str = ""
    cases: Sequence[Mapping[str, Any]] = ()
    weights_sha256: str = ""
    config_sha256: str = ""
    painted: bool = False
    temperature: float | None = None


def read_quality(run_dir: Path | None) -> RunQuality:
    """Return what a run knows of its masks.

    Raises:
        IntakeError: QUALITY_FILE if the file is damaged, names a threshold that there is not, or holds a value that is
            of another kind than it should be.
    """
    path = None if run_dir is None else run_dir / QUALITY_FILE
    if path is None or not path.is_file():
        return RunQuality()
    try:
        content = read_json(path)
    except ValueError as reason:
        raise refuse(path, "QUALITY_FILE", str(reason).removeprefix(f"{path}, ")) from None
    given = content.get("thresholds") if isinstance(content, Mapping) else None
    if not isinstance(given, Mapping):
        known = ", ".join(field.name for field in fields(QualityThresholds))
        raise refuse(path, "QUALITY_FILE", f"it has no 'thresholds'; they are {known}")
    rest: dict[str, Any] = {field.name: content.get(field.name, field.default) for field in fields(RunQuality)[1:]}
    for name, value in rest.items():
        if not _KINDS[name](value):
            raise refuse(path, "QUALITY_FILE", f"{name} is {value!r}; `liver-pipeline tune-quality` writes it anew")
    for case in rest["cases"]:
        _check_case(path, case)
    return RunQuality(_thresholds(path, given), **rest)


_KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("source", "weights_sha256", "config_sha256"), lambda value: isinstance(value, str)),
    "cases": lambda value: isinstance(value, list | tuple),
    "painted": lambda value: isinstance(value, bool),
    "temperature": lambda value: value is None or (_is_number(value) and value > 0),
}


def _thresholds(path: Path, given: Mapping[str, Any]) -> QualityThresholds:
    known = [field.name for field in fields(QualityThresholds)]
    if unknown := sorted(set(given) - set(known)):
        raise refuse(path, "QUALITY_FILE", f"it knows no threshold {unknown[0]}; thresholds are {', '.join(known)}")
    for name, value in given.items():
        if not _is_number(value):
            raise refuse(path, "QUALITY_FILE", f"{name} is {value!r}; expected a number")
    return replace(QualityThresholds(), **{name: float(value) for name, value in given.items()})


def _check_case(path: Path, case: Any) -> None:
    if not isinstance(case, Mapping):
        raise refuse(path, "QUALITY_FILE", f"cases hold {case!r}; expected the figures of a case")
    for name in VOLUMES:
        if name in case and not (_is_number(case[name]) and case[name] >= 0):
            raise refuse(path, "QUALITY_FILE", f"{name} of a case is {case[name]!r}; expected millilitres")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def write_quality(run_dir: Path, quality: RunQuality) -> Path:
    """Write ``quality.json`` into a run, whole or not at all; return its path."""
    path = run_dir / QUALITY_FILE
    write_json(path, asdict(quality))
    return path
