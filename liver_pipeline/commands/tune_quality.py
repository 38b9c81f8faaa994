"""Find out on a run's validation cases how far its masks can be trusted, and write that into the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai.bundle import ConfigParser

from liver_pipeline.bundle.workflow import load_config, run_workflow
from liver_pipeline.data.cases import Case
from liver_pipeline.evaluation.confidence import count_case
from liver_pipeline.evaluation.quality import choose_thresholds
from liver_pipeline.evaluation.run_quality import RunQuality, read_quality, write_quality
from liver_pipeline.evaluation.scoring import ACCEPTED
from liver_pipeline.evaluation.trust import judged_cases
from liver_pipeline.io.file_names import PROBABILITIES
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.ledger import LEDGER, read_ledger
from liver_pipeline.io.locks import lock_run
from liver_pipeline.io.screen import with_bar
from liver_pipeline.io.volumes import read_label_map
from liver_pipeline.labels import LIVER_OR_TUMOR, TUMOR
from liver_pipeline.metrics.temperature import fit_temperature


def tune_quality(run_dir: str | Path) -> RunQuality:
    """Segment and judge the validation cases; choose the thresholds of agreement by those that went well.

    Their volumes are kept, too: they tell how far those of other masks may be off. And one temperature is fitted to
    their probabilities, by which confidence is calibrated.

    Args:
        run_dir: A trained run. ``tuning/quality/`` in it gets masks, probabilities and figures; ``quality.json`` in it
            is written, whose other thresholds are kept where it is there.

    Returns:
        What was written.

    Raises:
        IntakeError: NO_VALIDATION if the run has no validation case, QUALITY_FILE if ``quality.json`` cannot be used.
        ValueError: If a case could not be segmented, or another process is at work in the run.
    """
    run_dir = Path(run_dir)
    before = read_quality(run_dir)
    parser = ConfigParser(load_config(run_dir, "evaluate"))
    with lock_run(run_dir):
        references = {case["case"]: case for case in parser.get_parsed_content("split")["val"]}
        if not references:
            detail = "its split has no validation case; thresholds and intervals are told by those"
            raise refuse(run_dir / "split.json", "NO_VALIDATION", detail)
        folder = run_dir / "tuning" / "quality"
        values = {"part": "val", "output_dir": str(folder.resolve()), "quality": True, "protocol": "plain"}
        values |= {"probabilities": True, "overwrite": True}
        summary, metrics = run_workflow(run_dir, "evaluate", values)
        ledger = folder / "masks" / LEDGER
        if summary.failed:
            raise ValueError(f"{summary.failed} validation cases could not be segmented; see {ledger}")
        cases = judged_cases(metrics["cases"])
        if not cases:
            raise refuse(folder / "metrics.json", "NO_VALIDATION", "no validation case could be scored; it says why")
        made = read_ledger(ledger)[0][cases[0]["case"]]  # all of them alike
        found = RunQuality(
            choose_thresholds(cases, before.thresholds),
            "validation cases of this run",
            cases,
            weights_sha256=made["weights_sha256"],
            config_sha256=made["config_sha256"],
            temperature=fitted_temperature(
                {case["case"]: references[case["case"]] for case in cases},
                folder / "masks",
                parser.get_parsed_content("num_classes"),
            ),
        )
        write_quality(run_dir, found)
    return found


def fitted_temperature(references: Mapping[str, Case], masks: Path, num_classes: int) -> float:
    """Fit one temperature to the probabilities of all cases; one case is in memory at a time.

    Args:
        references: The cases; one whose reference does not tell tumors from liver, of a network that does, is left out.
        masks: Folder with the probabilities of each.
        num_classes: Of the network.
    """
    total = None
    for name, case in with_bar(references.items(), "Counting probabilities", "case"):
        label = read_label_map(case["label"], label_map=case.get("label_map"), accept=ACCEPTED)
        if num_classes > TUMOR and (label.array == LIVER_OR_TUMOR).any():
            continue
        counts = count_case(masks / f"{name}{PROBABILITIES}", label, num_classes)
        total = counts if total is None else total + counts
    if total is None:
        return 1.0  # nothing to learn it from: probabilities stay as they are
    return round(fit_temperature(total), 4)
