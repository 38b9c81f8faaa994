"""Choose a run's post-processing on its validation cases, and write the choice into its configs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from liver_pipeline.bundle.compose import write_config
from liver_pipeline.bundle.layers import WORKFLOWS
from liver_pipeline.bundle.workflow import load_config, run_workflow
from liver_pipeline.data.cases import Case
from liver_pipeline.evaluation.postprocessing_search import Choice, ValidationCase, choose_postprocessing
from liver_pipeline.io.tables import write_table
from liver_pipeline.io.volumes import read_label_map


def tune_postprocessing(run_dir: str | Path, *, min_gain: float = 0.001) -> Choice:
    """Segment the validation cases without post-processing, choose the steps that help, and write them into the run.

    Args:
        run_dir: A trained run. ``tuning/`` in it gets the raw masks and ``postprocessing.csv``, the table of all
            trials; ``postprocessing`` in its inference and evaluate configs is replaced.
        min_gain: Least gain in mean Dice for which a step is kept.

    Returns:
        The choice.

    Raises:
        ValueError: If the run has no validation case, or a case could not be segmented.
    """
    run_dir = Path(run_dir)
    parser = ConfigParser(load_config(run_dir, "evaluate"))
    cases: list[Case] = parser.get_parsed_content("split")["val"]
    if not cases:
        raise ValueError(f"{run_dir / 'split.json'} has no validation case; post-processing is chosen on those")
    folder = run_dir / "tuning"
    shutil.rmtree(folder, ignore_errors=True)
    raw = {"part": "val", "output_dir": str(folder.resolve()), "postprocessing::transforms": [], "protocol": "plain"}
    summary = run_workflow(run_dir, "evaluate", raw)[0]
    if summary.failed:
        raise ValueError(
            f"{summary.failed} validation cases could not be segmented; see {folder / 'masks/ledger.jsonl'}"
        )
    choice = choose_postprocessing(
        [_load(case, folder / "masks", parser.get_parsed_content("num_classes")) for case in cases], min_gain=min_gain
    )
    write_table(folder / "postprocessing.csv", choice.table)
    for workflow in (name for name, layers in WORKFLOWS.items() if "inference" in layers):
        _write_choice(run_dir, workflow, choice)
    return choice


def _load(case: Case, masks: Path, num_classes: int) -> ValidationCase:
    pred = read_label_map(masks / f"{case['case']}.nii.gz")
    label = np.minimum(read_label_map(case["label"]).array, num_classes - 1)  # two classes: tumor counts as liver
    return ValidationCase(pred.array, label, pred.spacing)


def _write_choice(run_dir: Path, workflow: str, choice: Choice) -> None:
    path = run_dir / "configs" / f"{workflow}.yaml"
    config: dict[str, Any] = ConfigParser.load_config_file(str(path))
    config["postprocessing"]["transforms"] = [dict(step) for step in choice.steps]
    write_config(path, config)
