"""Choose a run's post-processing on its validation cases, and write the choice into its configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from liver_pipeline.bundle.compose import write_config
from liver_pipeline.bundle.names import WORKFLOWS
from liver_pipeline.bundle.workflow import load_config, run_workflow
from liver_pipeline.data.cases import Case
from liver_pipeline.evaluation.postprocessing_search import Choice, ValidationCase, choose_postprocessing
from liver_pipeline.io.files import move_aside
from liver_pipeline.io.locks import lock_run
from liver_pipeline.io.masks import mask_of
from liver_pipeline.io.tables import write_table
from liver_pipeline.io.volumes import read_label_map
from liver_pipeline.labels import LIVER


def tune_postprocessing(run_dir: str | Path, *, min_gain: float = 0.001) -> Choice:
    """Segment the validation cases without post-processing, choose the steps that help, and write them into the run.

    The same call again segments only what is new or changed: scan, weights, or settings other than those steps.

    Args:
        run_dir: A trained run. ``tuning/`` in it gets the raw masks and ``postprocessing.csv``, the table of all
            trials; ``postprocessing`` in its inference and evaluate configs is replaced; a copy of them is kept in
            ``earlier/``.
        min_gain: Least gain in mean Dice for which a step is kept.

    Returns:
        The choice.

    Raises:
        ValueError: If the run has no validation case, or none holds liver, a case could not be segmented, or another
            process is at work in the run.
    """
    run_dir = Path(run_dir)
    parser = ConfigParser(load_config(run_dir, "evaluate"))
    with lock_run(run_dir):
        cases: list[Case] = parser.get_parsed_content("split")["val"]
        if not cases:
            raise ValueError(f"{run_dir / 'split.json'} has no validation case; post-processing is chosen on those")
        folder = run_dir / "tuning"
        raw = {"part": "val", "output_dir": str(folder.resolve()), "postprocessing::transforms": [], "overwrite": True}
        (summary,) = run_workflow(run_dir, "evaluate", {**raw, "run": ["$@evaluator.run()"]})
        if summary.failed:
            raise ValueError(
                f"{summary.failed} validation cases could not be segmented; see {folder / 'masks/ledger.jsonl'}"
            )
        segmented = SegmentedCases(cases, folder / "masks", parser.get_parsed_content("num_classes"))
        choice = choose_postprocessing(segmented, min_gain=min_gain)
        write_table(folder / "postprocessing.csv", choice.table)
        move_aside(run_dir, [], copies=["configs"])
        for workflow in (name for name, layers in WORKFLOWS.items() if "inference" in layers):
            _write_choice(run_dir, workflow, choice)
    return choice


class SegmentedCases(Sequence[ValidationCase]):
    """Cases with their masks, read when they are asked for: one is in memory at a time.

    Args:
        cases: Have references.
        masks: Folder of the predictions.
        num_classes: With two classes tumor counts as liver.
    """

    def __init__(self, cases: Sequence[Case], masks: Path, num_classes: int) -> None:
        self.cases, self.masks, self.num_classes = cases, masks, num_classes

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: Any) -> Any:
        case = self.cases[index]
        pred = read_label_map(mask_of(self.masks, case["case"]))
        label = read_label_map(case["label"], label_map=case.get("label_map")).array
        return ValidationCase(pred.array, label if self.num_classes > 2 else np.minimum(label, LIVER), pred.spacing)


def _write_choice(run_dir: Path, workflow: str, choice: Choice) -> None:
    path = run_dir / "configs" / f"{workflow}.yaml"
    config: dict[str, Any] = ConfigParser.load_config_file(str(path))
    config["postprocessing"]["transforms"] = [dict(step) for step in choice.steps]
    write_config(path, config)
