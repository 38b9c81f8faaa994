"""Evaluate a folder of predictions against a folder of references: pairs by name, cases in parallel, tables out."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from liver_pipeline.bundle.entry import refuse_empty
from liver_pipeline.evaluation.pairing import Failure, Pair, find_pairs
from liver_pipeline.evaluation.scoring import score_pair
from liver_pipeline.evaluation.trust import reliability_curves, trust_curves, with_quality
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.discovery import PROBABILITIES, voxel_count
from liver_pipeline.io.files import refuse_existing, write_json, write_text
from liver_pipeline.io.ledger import LEDGER
from liver_pipeline.io.limits import cores, total_bytes
from liver_pipeline.io.masks import mask_of
from liver_pipeline.io.tables import read_json, table_text
from liver_pipeline.labels import LABEL_VALUES_SAY, LabelValues, meanings
from liver_pipeline.metrics.lits import official_summary
from liver_pipeline.metrics.statistics import summarize
from liver_pipeline.metrics.summaries import program_detection, summarize_cases
from liver_pipeline.reports.page import report_page

PROTOCOLS = ("lits", "lits-official", "plain")
BYTES_PER_VOXEL = 10  # peak of one case over the voxels of its volume; scripts/bench_evaluation.py measures it
PROCESS_BYTES = 300_000_000  # Python with the libraries, before the first case
SMALL_JOB_VOXELS = 20_000_000  # with fewer voxels in all, starting processes costs more than it gains
OUTPUTS = ("metrics.json", "cases.csv", "lesions.csv", "report.html")
_LESION_COLUMNS = (
    "case", "kind", "id", "status", "volume_ml", "voxels", "diameter_mm", "perpendicular_mm", "size_class", "slice",
    "centroid_ras_mm", "centroid_lps_mm", "group_iou", "matched_ids", "overlap_voxels",
)  # fmt: skip


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
        label_dir: Folder of reference label maps of the same names (see :func:`case_name`).
        output_dir: Where the tables go; made if absent.
        protocol: ``lits`` (the challenge's figures as meant, and everything else), ``lits-official`` (the challenge's
            program figure for figure) or ``plain`` (everything but LiTS's own figures).
        overwrite: Replace tables that are there.
        cases: Names of the cases to score; None scores all. One without prediction is a failure NO_PREDICTION, one
            without reference NO_REFERENCE.
        probability_dir: Folder of probabilities, such as ``pred_dir`` itself after ``predict --probabilities`` (what a
            file may hold: :mod:`probabilities`); gives AUC-ROC, Brier score and calibration error near
            the liver. Not for ``lits-official``.
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
    options: dict[str, Any] = {"min_lesion_ml": min_lesion_ml, "liver_only": liver_only, "report": report}
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
    return _evaluate(
        pairs,
        failures,
        Path(pred_dir) / LEDGER,
        Path(output_dir),
        protocol=protocol,
        workers=workers,
        memory_gb=memory_gb,
        progress=progress,
        **options,
    )


def is_scored(metrics: Path, ledger: Path) -> bool:
    """Tell whether tables are of the masks that a ledger lists; times of files do not say so where a clock was set."""
    return metrics.is_file() and read_json(metrics).get("ledger_sha256") == file_sha256(ledger)


def evaluate_cases(
    cases: Iterable[Mapping[str, Any]],
    pred_dir: Path | str,
    output_dir: Path | str,
    *,
    protocol: str = "lits",
    overwrite: bool = False,
    liver_only: bool = False,
) -> dict[str, Any]:
    """Score the predictions, called as the cases are, of a data set's cases; see :func:`evaluate_folders`.

    Args:
        cases: Each with keys ``case``, ``label`` (path of the reference) and ``image`` (path of the scan), and maybe
            ``label_map``, as for :func:`evaluate`.
        pred_dir: Folder of the predictions; one that is missing is a failure NO_PREDICTION of its case. Probabilities
            beside one are scored too.
        output_dir: As for :func:`evaluate_folders`.
        protocol: As for :func:`evaluate_folders`.
        overwrite: As for :func:`evaluate_folders`.
        liver_only: As for :func:`evaluate_folders`.
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
    return _evaluate(pairs, failures, ledger, Path(output_dir), protocol=protocol, liver_only=liver_only)


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
    refuse_existing([output / name for name in OUTPUTS[: 4 if report else 3]], overwrite)


def _evaluate(
    pairs: Sequence[Pair],
    failures: dict[str, Failure],
    ledger: Path,
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
    made = {"ledger_sha256": file_sha256(ledger)} if ledger.is_file() else {}
    score = partial(score_pair, protocol=protocol, min_lesion_ml=min_lesion_ml, liver_only=liver_only, pictures=report)
    results: dict[str, dict[str, Any]] = {}
    pictures: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(pairs), unit="case", disable=None if progress else True) as bar:
        for case, outcome in _run(pairs, score, workers, memory_gb):
            if isinstance(outcome, Failure):
                failures[case] = outcome
            else:
                pictures[case] = outcome.pop("pictures", {"case": None, "lesions": []})
                results[case] = outcome
            bar.update()
    if protocol != "lits-official":
        results = with_quality(results, {pair.case: pair.pred for pair in pairs})
    metrics = _collect(protocol, dict(sorted(results.items())), dict(sorted(failures.items())), min_lesion_ml)
    metrics |= made
    write_text(output / "cases.csv", _cases_csv(metrics))
    write_text(output / "lesions.csv", _lesions_csv(metrics))
    if report:
        write_text(output / "report.html", report_page(metrics, pictures))
    write_json(output / "metrics.json", metrics)
    return metrics


def _run(
    pairs: Sequence[Pair], score: partial[dict[str, Any] | Failure], workers: int | None, memory_gb: float | None
) -> Iterator[tuple[str, dict[str, Any] | Failure]]:
    """Score pairs in as many processes as cores and memory allow, each result as it comes."""
    n_cores = cores()
    voxels = {pair.case: voxel_count(pair.label)[0] for pair in pairs}
    n_workers = _count_workers(list(voxels.values()), workers or n_cores, memory_gb)
    if workers is None and sum(voxels.values()) < SMALL_JOB_VOXELS:
        n_workers = 1
    if n_workers == 1:
        for pair in pairs:
            yield pair.case, score(pair, threads=n_cores)
        return
    largest_first = sorted(pairs, key=lambda pair: -voxels[pair.case])
    yield from _run_in_pool(largest_first, partial(score, threads=max(1, n_cores // n_workers)), n_workers)


def _run_in_pool(
    pairs: Sequence[Pair], score: partial[dict[str, Any] | Failure], n_workers: int
) -> Iterator[tuple[str, dict[str, Any] | Failure]]:
    """Score in processes; cases of a pool that died get one process each, so that only the guilty one fails."""
    unfinished = {pair.case: pair for pair in pairs}
    try:
        with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(score, pair): pair.case for pair in pairs}
            for future in as_completed(waiting):
                outcome = future.result()
                del unfinished[waiting[future]]
                yield waiting[future], outcome
    except BrokenProcessPool:
        if n_workers == 1 and len(pairs) == 1:
            detail = f"{pairs[0].label}: the process died, most likely for want of memory"
            yield pairs[0].case, Failure("WORKER_DIED", detail)
            return
        for pair in unfinished.values():
            yield from _run_in_pool([pair], score, 1)


def _count_workers(voxels: Sequence[int], wanted: int, memory_gb: float | None) -> int:
    """As many processes as wanted whose largest cases fit into memory at once; at least one."""
    budget = total_bytes() / 2 if memory_gb is None else memory_gb * 1e9
    n_workers, used = 0, 0.0
    for size in sorted(voxels, reverse=True)[:wanted]:
        used += size * BYTES_PER_VOXEL + PROCESS_BYTES
        if used > budget:
            break
        n_workers += 1
    return max(1, n_workers)


def _collect(
    protocol: str, results: Mapping[str, dict[str, Any]], failures: Mapping[str, Failure], min_lesion_ml: float
) -> dict[str, Any]:
    """Lay out ``metrics.json``."""
    metrics: dict[str, Any] = {"protocol": protocol, "n_cases": len(results), "n_failed": len(failures)}
    if protocol != "lits-official":
        program = {case: row.pop("lits_official") for case, row in results.items() if "lits_official" in row}
        metrics["min_lesion_ml"] = min_lesion_ml
        metrics |= summarize_cases(results, lits=protocol == "lits") if results else {"global": {}, "summary": {}}
        metrics["cases"] = dict(results)
        if curves := trust_curves(results):
            metrics["risk_coverage"] = curves
        if reliability := reliability_curves(results):
            metrics["reliability"] = reliability
        if program:
            metrics["lits_official"] = {"global": program_detection(program), "cases": program}
    else:
        official = {case: row["official"] for case, row in results.items()}
        figures = {case: row["figures"] for case, row in results.items()}
        metrics["global"] = official_summary(official) if official else {}
        metrics["summary"] = _plain_summary(list(figures.values()))
        metrics |= {"cases": official, "figures": figures}
    metrics["failures"] = {case: asdict(failure) for case, failure in failures.items()}
    names = ("liver-pipeline", "numpy", "scipy", "nibabel", "scikit-image")
    metrics["versions"] = {"python": platform.python_version(), **{name: version(name) for name in names}}
    return metrics


def _plain_summary(rows: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, Any]:
    """Means of the overlap figures that stand beside the program's own."""
    return {
        f"{region}_{key}": summarize([row[region][key] for row in rows]).as_dict()
        for region in (rows[0] if rows else {})
        for key in rows[0][region]
    }


def _cases_csv(metrics: Mapping[str, Any]) -> str:
    """One row per case: every single figure, named ``<block>_<figure>``; empty where it is undefined."""
    official = metrics["protocol"] == "lits-official"
    rows = []
    for case, figures in metrics["cases"].items():
        row: dict[str, Any] = {"case": case}
        blocks = {**metrics["figures"][case], "official": _scalars(figures)} if official else figures
        for block in ("liver", "tumor", "parenchyma", "tumor_burden", "probabilities", "quality", "lits", "official"):
            row |= {f"{block}_{key}": value for key, value in _scalars(blocks.get(block, {})).items()}
        if not official:
            row |= {f"n_{kind}_lesions": figures["lesions"][f"n_{kind}"] for kind in ("reference", "predicted")}
        rows.append(row)
    return table_text(rows, list(dict.fromkeys(key for row in rows for key in row)) or ["case"])


def _scalars(block: Mapping[str, Any]) -> dict[str, Any]:
    """The single values of a block, inner blocks flattened once."""
    flat: dict[str, Any] = {}
    for key, value in block.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}_{name}": inner for name, inner in value.items() if not isinstance(inner, list | dict)}
        elif not isinstance(value, list):
            flat[key] = value
    return flat


def _lesions_csv(metrics: Mapping[str, Any]) -> str:
    """One row per lesion, reference and predicted."""
    rows = [
        {"case": case, **row} for case, figures in metrics["cases"].items() for row in figures.get("lesion_list", [])
    ]
    return table_text(rows, _LESION_COLUMNS)
