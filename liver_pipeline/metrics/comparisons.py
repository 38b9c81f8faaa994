"""Several experiments on the same cases: one value a case, means with intervals, paired differences with tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from liver_pipeline.metrics.cases import threshold_name
from liver_pipeline.metrics.detection import FOUND_IOU
from liver_pipeline.metrics.statistics import bootstrap_ratio, group_sums, summarize

# Figures of a case that are compared: key in the tables to block and key in ``metrics.json``.
REGION_FIGURES = {
    "dice": "dice",
    "iou": "iou",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "hd95_mm": "hd95_area",
    "assd_mm": "assd_area",
}
COMPARED_REGIONS = ("liver", "tumor")
LESION_FIGURES = ("lesion_recall", "lesion_precision")
FIGURES = (
    *(f"{region}_{key}" for region in COMPARED_REGIONS for key in (*REGION_FIGURES, "auc_roc")),
    *LESION_FIGURES,
)
DIGITS = 12  # differences that are equal but for rounding are ties

_Row = Mapping[str, Any]
CaseMeans = dict[str, dict[str, float | None]]


def case_values(case: Mapping[str, Any]) -> dict[str, float | None]:
    """Pick the figures that are compared from those of one case in ``metrics.json``; None where one is undefined."""
    values: dict[str, float | None] = {}
    for region in COMPARED_REGIONS:
        values |= {f"{region}_{key}": case[region][name] for key, name in REGION_FIGURES.items()}
        values[f"{region}_auc_roc"] = case.get("probabilities", {}).get(region, {}).get("auc_roc")
    found = case["lesions"]["detection"][threshold_name(FOUND_IOU)]["all"]
    return values | {"lesion_recall": found["recall"], "lesion_precision": found["precision"]}


@dataclass(frozen=True)
class PairedTest:
    """The difference of two experiments, first minus second, on the cases where both have a value.

    ``mean`` is over cases, its 95 % interval from resampling patients; ``p`` is two-sided, of Wilcoxon's signed-rank
    test over the patients' mean differences. The interval needs two patients; without any pair all are None.
    """

    n_cases: int
    n_patients: int
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None


def paired_test(
    first: Sequence[float | None], second: Sequence[float | None], patients: Sequence[Hashable]
) -> PairedTest:
    """Compare two experiments on the same cases.

    Args:
        first: One value a case; None where it is undefined.
        second: Of the same cases.
        patients: Patient of each case: cases of one patient are alike, so the patient is what is resampled and tested.

    Example:
        >>> paired_test([0.9, 0.8, None], [0.8, 0.9, 0.1], ["a", "b", "c"]).n_patients
        2
    """
    pairs = [(a - b, p) for a, b, p in zip(first, second, patients, strict=True) if a is not None and b is not None]
    if not pairs:
        return PairedTest(0, 0, None, None, None, None)
    differences, owners = zip(*pairs, strict=True)
    sums, counts = group_sums(differences, owners)
    low, high = bootstrap_ratio(sums, counts)
    p = wilcoxon_p([float(mean) for mean in sums / counts])
    return PairedTest(len(pairs), len(sums), float(sums.sum() / counts.sum()), low, high, p)


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test, zeros left out; 1 where all are zero.

    Exact for up to 50 differences without ties and zeros; scipy approximates otherwise.
    """
    rounded = np.round(differences, DIGITS)
    if not rounded.any():
        return 1.0
    return float(stats.wilcoxon(rounded[rounded != 0]).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct a family of p values by Holm's step-down method; None stays None and is not counted.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    corrected: list[float | None] = [None] * len(p_values)
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[place] = highest
    return corrected


def compare_experiments(rows: Sequence[_Row], figures: Sequence[str] = FIGURES) -> dict[str, Any]:
    """Sum up and compare experiments.

    Args:
        rows: One a run and case: ``experiment``, ``seed``, ``case``, ``patient`` and the figures, None where one is
            undefined.
        figures: Keys that are compared.

    Returns:
        ``summary``: by experiment and figure the fields of :class:`~liver_pipeline.metrics.statistics.FigureSummary`,
        ``n_undefined`` and ``seeds`` (mean of each seed). A case has the mean of its runs, or None if it is undefined
        in one of them. ``pairs``: the fields of :class:`PairedTest` for each figure and two experiments, with
        ``p_holm``, corrected over the pairs of a figure. ``cases``: by experiment and case the figures.
    """
    patients = {row["case"]: row["patient"] for row in rows}
    experiments = list(dict.fromkeys(row["experiment"] for row in rows))
    values = {name: _case_means([row for row in rows if row["experiment"] == name], figures) for name in experiments}
    summary = {
        name: {
            figure: _summary(values[name], figure, patients)
            | {"seeds": _seed_means([row for row in rows if row["experiment"] == name], figure)}
            for figure in figures
        }
        for name in experiments
    }
    pairs = []
    for figure in figures:
        tests = [_pair(values, figure, *two, patients) for two in combinations(experiments, 2)]
        corrected = holm([test["p"] for test in tests])
        pairs += [test | {"p_holm": p} for test, p in zip(tests, corrected, strict=True)]
    return {"summary": summary, "pairs": pairs, "cases": values}


def _case_means(rows: Sequence[_Row], figures: Sequence[str]) -> CaseMeans:
    """Mean of each figure over the runs of a case; None if it is undefined in one."""
    runs: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        runs[row["case"]].append(row)
    return {case: {figure: _mean([row[figure] for row in each]) for figure in figures} for case, each in runs.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _summary(means: CaseMeans, figure: str, patients: Mapping[str, str]) -> dict[str, Any]:
    values = [case[figure] for case in means.values()]
    figures = summarize(values, [patients[case] for case in means]).as_dict()
    return {**figures, "n_undefined": sum(value is None for value in values)}


def _seed_means(rows: Sequence[_Row], figure: str) -> dict[int, float]:
    by_seed: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row[figure] is not None:
            by_seed[row["seed"]].append(row[figure])
    return {seed: sum(values) / len(values) for seed, values in sorted(by_seed.items())}


def _pair(
    values: Mapping[str, CaseMeans], figure: str, first: str, second: str, patients: Mapping[str, str]
) -> dict[str, Any]:
    shared = [case for case in values[first] if case in values[second]]
    one, other = ([values[name][case][figure] for case in shared] for name in (first, second))
    test = paired_test(one, other, [patients[case] for case in shared])
    return {"figure": figure, "first": first, "second": second, **asdict(test)}
