"""Choose by a run's validation cases how far its passes must agree, and write that into the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from liver_pipeline.bundle.workflow import load_config, run_workflow
from liver_pipeline.evaluation.quality import QualityThresholds, choose_thresholds, read_thresholds, write_thresholds
from liver_pipeline.evaluation.trust import judged_cases
from liver_pipeline.io.locks import lock_run


def tune_quality(run_dir: str | Path) -> tuple[QualityThresholds, list[dict[str, Any]]]:
    """Segment and judge the validation cases, and choose the thresholds of agreement by those that went well.

    Args:
        run_dir: A trained run. ``tuning/quality/`` in it gets masks and figures; ``quality.json`` in it is written,
            whose other thresholds are kept where it is there.

    Returns:
        The thresholds, and Dice and agreement of each case.

    Raises:
        ValueError: If the run has no validation case, a case could not be segmented, ``quality.json`` cannot be used,
            or another process is at work in the run.
    """
    run_dir = Path(run_dir)
    base = read_thresholds(run_dir)
    parser = ConfigParser(load_config(run_dir, "evaluate"))
    with lock_run(run_dir):
        if not parser.get_parsed_content("split")["val"]:
            raise ValueError(f"{run_dir / 'split.json'} has no validation case; thresholds are chosen on those")
        folder = run_dir / "tuning" / "quality"
        values = {"part": "val", "output_dir": str(folder.resolve()), "quality": True, "protocol": "plain"}
        summary, metrics = run_workflow(run_dir, "evaluate", {**values, "overwrite": True})
        if summary.failed:
            raise ValueError(
                f"{summary.failed} validation cases could not be segmented; see {folder / 'masks/ledger.jsonl'}"
            )
        cases = judged_cases(metrics["cases"])
        thresholds = choose_thresholds(cases, base)
        write_thresholds(run_dir, thresholds, "validation cases of this run", cases)
    return thresholds, cases
