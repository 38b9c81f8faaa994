"""Boxes for the tumor stage as inference will give them: from liver stages that have not seen the case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from liver_pipeline.bundle.compose import write_bundle
from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.names import WORKFLOWS
from liver_pipeline.bundle.workflow import run_workflow
from liver_pipeline.commands.train import train_stage
from liver_pipeline.data.cases import Case, Split
from liver_pipeline.data.splits import load_or_make_split
from liver_pipeline.distributed import process_count
from liver_pipeline.geometry.boxes import box_text
from liver_pipeline.inferers.liver import Limits, find_liver
from liver_pipeline.io.masks import mask_of
from liver_pipeline.io.volumes import read_label_map

_CHOICES = ("reference", "out_of_fold")
FOLDER = "out_of_fold"  # in the liver stage's: one run folder a fold


def with_boxes(split: Split, *, boxes: str, liver_dir: str | Path, folds: int, seed: int, limits: Limits) -> Split:
    """Return the split whose training and validation cases know the box that a liver stage gives them.

    For training cases that is a model trained on the other folds of the training cases, in
    ``liver_dir/out_of_fold/fold<i>``: a run folder with the liver stage's configuration, trained here unless it is
    finished. For validation cases it is the liver stage itself. The masks lie in folders ``masks``, whose ledgers keep
    each as long as scan, configuration and weights are the same.

    Args:
        split: Cases by part.
        boxes: ``out_of_fold``; or ``reference``, which returns the split as it is: boxes are those of the label maps.
        liver_dir: The liver stage's run folder, trained.
        folds: Number of fold models.
        seed: Deals the training cases to folds, patient by patient.
        limits: What a plausible liver is; a case without one has the whole scan as its box, as at inference.

    Raises:
        ValueError: If ``boxes`` is unknown, there are fewer patients than folds, a case cannot be segmented, or several
            processes train together.
    """
    if boxes not in _CHOICES:
        raise ValueError(f"boxes is {boxes!r}; it can be {' or '.join(_CHOICES)}")
    if boxes == "reference":
        return split
    if process_count() > 1:
        raise ValueError("boxes: out_of_fold trains on one process; several can train with boxes: reference")
    liver_dir = Path(liver_dir)
    usable = _without_skipped(split, liver_dir)
    boxed = {case["case"]: case for case in _boxed(usable["val"], liver_dir, liver_dir / FOLDER / "masks", limits)}
    for fold in range(folds):
        folder = liver_dir / FOLDER / f"fold{fold}"
        held_out = _train_fold(usable["train"], liver_dir, folder, folds=folds, fold=fold, seed=seed)
        boxed |= {case["case"]: case for case in _boxed(held_out, folder, folder / "masks", limits)}
    return {part: [boxed.get(case["case"], case) for case in cases] for part, cases in split.items()}


def _without_skipped(split: Split, liver_dir: Path) -> Split:
    """Return the split without the cases that the liver stage could not use; the tumor stage will not either."""
    skipped_file = liver_dir / "skipped_cases.json"
    names = {entry["case"] for entry in json.loads(skipped_file.read_text())} if skipped_file.exists() else set()
    return {part: [case for case in cases if case["case"] not in names] for part, cases in split.items()}


def _train_fold(
    cases: Sequence[Case], liver_dir: Path, folder: Path, *, folds: int, fold: int, seed: int
) -> list[Case]:
    """Train a liver stage without one fold, or find it finished; return the cases of that fold."""
    configs = {name: read_config(liver_dir / "configs" / f"{name}.yaml") for name in WORKFLOWS}
    for config in (configs["train"], configs["evaluate"]):
        config["split_file"] = "$@bundle_root + '/split.json'"
    cache_dir = configs["train"]["cache_dir"]
    configs["train"]["cache_dir"] = cache_dir.replace("@bundle_root", "(@bundle_root + '/../..')")  # the liver stage's
    write_bundle(folder, configs)
    split = load_or_make_split(cases, folder / "split.json", folds=folds, fold=fold, seed=seed)
    train_stage(folder)
    return split["val"]


def _boxed(cases: Sequence[Case], run_dir: Path, masks: Path, limits: Limits) -> list[Case]:
    """Segment cases with a liver stage, as far as its ledger does not know them; return them with their boxes."""
    if not cases:
        return []
    data: list[Mapping[str, Any]] = [{"image": case["image"], "case": case["case"]} for case in cases]
    changes = {
        "dataset::data": data,
        "output_dir": str(masks),
        "postprocessing::transforms": [],
        "run": ["$@evaluator.run()"],
    }
    (summary,) = run_workflow(run_dir, "inference", changes)
    if summary.failed:
        raise ValueError(f"{summary.failed} of {len(cases)} cases got no liver mask; see {masks / 'ledger.jsonl'}")
    boxed = []
    for case in cases:
        mask = read_label_map(mask_of(masks, case["case"]))
        found = find_liver(mask.array, mask.spacing, limits)
        if found.doubt:
            tqdm.write(f"{case['case']}: {found.doubt}; its box is the whole scan")
        boxed.append({**case, "box": box_text(found.box)})
    return boxed
