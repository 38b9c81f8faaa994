"""Evaluate a folder of predictions against a folder of references: pairs by name, cases in parallel, tables out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from liver_pipeline.bundle.entry import refuse_empty
from liver_pipeline.evaluation.pairing import Failure, Pair, find_pairs
from liver_pipeline.evaluation.score_pool import score_pairs
from liver_pipeline.evaluation.score_tables import cases_csv, collect_metrics, scored_lesions_csv
from liver_pipeline.evaluation.scoring import pair_picture, score_pair
from liver_pipeline.evaluation.trust import with_quality
from liver_pipeline.io.checksums import content_sha256, file_sha256
from liver_pipeline.io.file_names import PROBABILITIES
from liver_pipeline.io.files import write_json, write_text
from liver_pipeline.io.findings import IntakeError
from liver_pipeline.io.formats import hash_input
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.io.masks import mask_of
from liver_pipeline.io.outputs import check_outputs
from liver_pipeline.io.tables import read_json
from liver_pipeline.labels import LABEL_VALUES_SAY, LabelValues, meanings
from liver_pipeline.reports.gallery import Thumbnails, chosen
from liver_pipeline.reports.page import report_page

logger = logging.getLogger(__name__)

PROTOCOLS = ("lits", "lits-official", "plain")
OUTPUTS = ("metrics.json", "cases.csv", "lesions.csv", "report.html")


def evaluate(
    pred_dir: Path | str,
    label_dir: Path | str,
    output_dir: Path | str,
    *,
    protocol: str = "lits",
    overwrite: bool = False,
    cases: Collection[str] | None = None,
    probability_dir: Path | str | None = None,
    image_dir: Path | str | None = None,
    label_map: LabelValues | None = None,
    min_lesion_ml: float = 0.0,
    liver_only: bool = False,
    report: bool = True,
    workers: int | None = None,
    memory_gb: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score every prediction and write ``metrics.json``, ``cases.csv``, ``lesions.csv`` and ``report.html``.

    Args:
        pred_dir: Folder of predicted label maps (NIfTI), searched with its sub-folders.
        label_dir: Folder of reference label maps of the same names (see
            :func:`~liver_pipeline.io.file_names.case_name`).
        output_dir: Where the tables go; made if absent.
        protocol: ``lits`` (the challenge's figures as meant, and everything else), ``lits-official`` (the challenge's
            program figure for figure) or ``plain`` (everything but LiTS's own figures).
        overwrite: Replace tables that are there.
        cases: Names of the cases to score; None scores all. One without prediction is a failure NO_PREDICTION, one
            without reference NO_REFERENCE.
        probability_dir: Folder of probabilities, such as ``pred_dir`` itself after ``predict --probabilities`` (what a
            file may hold: :mod:`liver_pipeline.io.probabilities`); gives AUC-ROC, Brier score and calibration error
            near the liver. Not for ``lits-official``.
        image_dir: Folder of the scans, of the same names, as background of the report's pictures.
        label_map: What the values of the references mean, such as ``{6: 1}``, where they are not 0, 1, 2; see
            :func:`~liver_pipeline.io.volumes.read_label_map`. Where they are ``liver_or_tumor``, figures of tumors are
            undefined. Not for ``lits-official``.
        min_lesion_ml: Smaller lesions are left out of lesion-wise figures (not of the LiTS ones).
        liver_only: Tumor counts as liver in both label maps, for models without a tumor class: figures of tumors are
            then undefined. Only for ``plain``: LiTS counts a case without tumors as a perfect one.
        report: Also write ``report.html``.
        workers: Processes; None takes one per core as far as ``memory_gb`` reaches.
        memory_gb: Memory that all processes may take together; None takes half of what this job may use.
        progress: Show a progress bar on a terminal.

    Returns:
        What ``metrics.json`` holds: ``protocol``, ``n_cases``, ``global``, ``summary``, ``cases``, ``failures`` (case
        to code and detail), ``versions``, where ``predict`` made the predictions ``ledger_sha256``, and, but for
        ``lits-official``, ``detection``, ``confusion``, ``agreement`` and ``tumor_free``; where predictions were judged
        (``predict quality=true``) ``risk_coverage``; where probabilities are there ``reliability``, also with the
        temperature of the run that made them; under ``lits`` also ``lits_official``, what the challenge's program
        would count. A case that cannot be scored is in ``failures`` and does not stop the others. Figures that an empty
        mask leaves undefined are None.

    Raises:
        FileNotFoundError: If a folder is missing or holds no label map.
        FileExistsError: If a table is there and ``overwrite`` is false.
        ValueError: If the protocol is unknown or does not go with ``liver_only`` or ``label_map``, ``label_map`` is not
            as described, or there is no pair at all.
    """
    refuse_empty(pred_dir=pred_dir, label_dir=label_dir, output_dir=output_dir)
    _refuse_bad_usage(Path(output_dir), protocol, overwrite, report=report, liver_only=liver_only, label_map=label_map)
    if min_lesion_ml and protocol == "lits-official":
        raise ValueError(
            "lits-official counts lesions as the challenge's program does; min_lesion_ml goes with the others"
        )
    pairs, failures = find_pairs(
        Path(pred_dir),
        Path(label_dir),
        cases,
        probability_dir=None if probability_dir is None else Path(probability_dir),
        image_dir=None if image_dir is None else Path(image_dir),
        label_map=label_map,
    )
    ledger = Path(pred_dir) / LEDGER
    return _evaluate(
        pairs,
        failures,
        made_of(ledger, [pair.label for pair in pairs]) if ledger.is_file() else {},
        Path(output_dir),
        protocol=protocol,
        min_lesion_ml=min_lesion_ml,
        liver_only=liver_only,
        report=report,
        workers=workers,
        memory_gb=memory_gb,
        progress=progress,
    )


def is_scored(metrics: Path, ledger: Path, labels: Iterable[Path | str]) -> bool:
    """Tell whether tables are of the masks that a ledger lists, and of these references.

    Times of files do not say so where a clock was set.
    """
    return metrics.is_file() and made_of(ledger, labels).items() <= read_json(metrics).items()


def made_of(ledger: Path, labels: Iterable[Path | str]) -> dict[str, str]:
    """Return what figures of masks and references are told by: digests of the masks' ledger and of the references."""
    references = content_sha256(sorted(hash_input(Path(label)) or "" for label in labels))
    return {"ledger_sha256": file_sha256(ledger), "references_sha256": references}


def evaluate_cases(
    cases: Iterable[Mapping[str, Any]],
    pred_dir: Path | str,
    output_dir: Path | str,
    *,
    protocol: str = "lits",
    overwrite: bool = False,
    liver_only: bool = False,
) -> dict[str, Any]:
    """Score the predictions, called as the cases are, of a data set's cases; see :func:`evaluate`.

    Args:
        cases: Each with keys ``case``, ``label`` (path of the reference) and ``image`` (path of the scan), and maybe
            ``label_map``, as for :func:`evaluate`.
        pred_dir: Folder of the predictions; one that is missing is a failure NO_PREDICTION of its case. Probabilities
            beside one are scored too.
        output_dir: As for :func:`evaluate`.
        protocol: As for :func:`evaluate`.
        overwrite: As for :func:`evaluate`.
        liver_only: As for :func:`evaluate`.
    """
    cases = list(cases)
    mapped = next((case["label_map"] for case in cases if case.get("label_map")), None)
    _refuse_bad_usage(Path(output_dir), protocol, overwrite, liver_only=liver_only, label_map=mapped)
    pairs, failures = [], {}
    for case in cases:
        pred = mask_of(Path(pred_dir), case["case"])
        if pred.is_file():
            probability = Path(pred_dir) / f"{case['case']}{PROBABILITIES}"
            found = probability if probability.is_file() else None
            files = (pred, Path(case["label"]), found, Path(case["image"]))
            pairs.append(Pair(case["case"], *files, case.get("label_map")))
        else:
            failures[case["case"]] = Failure("NO_PREDICTION", f"{pred} does not exist; the case was not segmented")
    ledger = Path(pred_dir) / LEDGER
    made = made_of(ledger, [case["label"] for case in cases]) if ledger.is_file() else {}
    return _evaluate(pairs, failures, made, Path(output_dir), protocol=protocol, liver_only=liver_only)


def _refuse_bad_usage(
    output: Path,
    protocol: str,
    overwrite: bool,
    *,
    report: bool = True,
    liver_only: bool = False,
    label_map: LabelValues | None = None,
) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    if liver_only and protocol != "plain":
        raise ValueError(f"the protocol {protocol} scores tumors; liver_only goes with the protocol plain")
    if label_map is not None and protocol == "lits-official":
        raise ValueError("lits-official reads files as the challenge's program does; label_map goes with lits or plain")
    if label_map is not None and meanings(label_map) is None:
        raise ValueError(f"label_map is {label_map!r}; expected {LABEL_VALUES_SAY}")
    check_outputs([output / name for name in OUTPUTS[: 4 if report else 3]], overwrite)


def _evaluate(
    pairs: Sequence[Pair],
    failures: dict[str, Failure],
    made: Mapping[str, str],
    output: Path,
    *,
    protocol: str,
    min_lesion_ml: float = 0.0,
    liver_only: bool = False,
    report: bool = True,
    workers: int | None = None,
    memory_gb: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score pairs and write the tables and the report; ``metrics.json`` last, as a sign that all is there."""
    score = partial(score_pair, protocol=protocol, min_lesion_ml=min_lesion_ml, liver_only=liver_only, pictures=report)
    results: dict[str, dict[str, Any]] = {}
    thumbnails = Thumbnails()
    with tqdm(total=len(pairs), unit="case", disable=None if progress else True) as bar:
        for case, outcome in score_pairs(pairs, score, workers, memory_gb):
            if isinstance(outcome, Failure):
                failures[case] = outcome
            else:
                thumbnails.add(case, outcome.pop("pictures", ()))
                results[case] = outcome
            bar.update()
    if protocol != "lits-official":
        results = with_quality(results, {pair.case: pair.pred for pair in pairs})
    metrics = collect_metrics(protocol, dict(sorted(results.items())), dict(sorted(failures.items())), min_lesion_ml)
    metrics |= made
    write_text(output / "cases.csv", cases_csv(metrics))
    write_text(output / "lesions.csv", scored_lesions_csv(metrics))
    if report:
        shown = chosen(metrics) if protocol != "lits-official" else ()
        pictures = {pair.case: _drawn(pair, liver_only) for pair in pairs if pair.case in shown}
        write_text(output / "report.html", report_page(metrics, pictures, thumbnails))
    write_json(output / "metrics.json", metrics)
    return metrics


def _drawn(pair: Pair, liver_only: bool) -> dict[str, Any]:
    """Draw a case that the report shows; one whose files have gone since it was scored has no picture."""
    try:
        return pair_picture(pair, liver_only=liver_only)
    except (IntakeError, OSError) as reason:
        logger.warning("%s is not drawn: %s", pair.case, reason)
        return {}
