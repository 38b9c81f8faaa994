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
from liver_pipeline.commands.evaluate import made_of
from liver_pipeline.data.cache_key import recipe_digest
from liver_pipeline.data.cases import Case
from liver_pipeline.evaluation.postprocessing_search import CANDIDATES, Choice, ValidationCase, choose_postprocessing
from liver_pipeline.io.checksums import content_sha256
from liver_pipeline.io.files import move_aside, write_json
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.io.locks import lock_run
from liver_pipeline.io.masks import mask_of
from liver_pipeline.io.tables import read_json, write_table
from liver_pipeline.io.volumes import read_label_map
from liver_pipeline.labels import LIVER


def tune_postprocessing(run_dir: str | Path, *, min_gain: float = 0.001) -> Choice:
    """Segment the validation cases without post-processing, choose the steps that help, and write them into the run.

    The same call again segments only what is new or changed (scan, weights, or settings other than those steps), and
    looks for steps only if a mask or a reference is another one.

    Args:
        run_dir: A trained run. ``tuning/`` in it gets the raw masks, ``postprocessing.csv``, the table of all trials,
            and ``choice.json``, with what it was made of; ``postprocessing`` in its inference and evaluate configs is
            replaced where it is another; a copy of them is kept in ``earlier/``.
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
        choice = _choose(segmented, folder, min_gain)
        write_table(folder / "postprocessing.csv", choice.table)
        _write_choice(run_dir, choice)
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


def _choose(cases: SegmentedCases, folder: Path, min_gain: float) -> Choice:
    """Choose, or take what was chosen before from the same masks and references by the same code."""
    path = folder / "choice.json"
    made = {
        **made_of(cases.masks / LEDGER, [case["label"] for case in cases.cases]),
        "label_maps": content_sha256([str(case.get("label_map")) for case in cases.cases]),
        "code_sha256": recipe_digest([Choice, CANDIDATES]),
        "min_gain": min_gain,
    }
    known = read_json(path) if path.is_file() else {}
    if known.get("made_of") != made:
        choice = choose_postprocessing(cases, min_gain=min_gain)
        known = {"made_of": made, "steps": [dict(step) for step in choice.steps], "table": choice.table}
        write_json(path, known)
    return Choice(known["steps"], known["table"])


def _write_choice(run_dir: Path, choice: Choice) -> None:
    """Write the steps into the configs that do not have them, once a copy of all configs lies in ``earlier/``."""
    paths = [run_dir / "configs" / f"{name}.yaml" for name, layers in WORKFLOWS.items() if "inference" in layers]
    configs: dict[Path, dict[str, Any]] = {path: ConfigParser.load_config_file(str(path)) for path in paths}
    changed = [path for path in paths if configs[path]["postprocessing"]["transforms"] != choice.steps]
    if changed:
        move_aside(run_dir, [], copies=["configs"])
    for path in changed:
        configs[path]["postprocessing"]["transforms"] = choice.steps
        write_config(path, configs[path])
