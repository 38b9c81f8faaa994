"""All runs of a comparison together: what the tables, the charts and the page are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median
from typing import Any

import numpy as np

from liver_pipeline.comparison.results import RunResult
from liver_pipeline.metrics.comparisons import compare_experiments
from liver_pipeline.metrics.shapes import SIZE_CLASSES
from liver_pipeline.metrics.statistics import summarize


@dataclass(frozen=True)
class FailedRun:
    """A run, or an experiment that could not be composed; the stage that it failed in and one line why."""

    run: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Runs of several experiments on one split.

    Attributes:
        results: The finished runs.
        failed: The others.
        splits: Names of cases by part, one a fold.
        budget: Layers and keys that all experiments share.
    """

    results: Sequence[RunResult]
    failed: Sequence[FailedRun]
    splits: Sequence[Mapping[str, Sequence[str]]]
    budget: Mapping[str, Any]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One a run and test case."""
        return [row for result in self.results for row in result.rows]

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """See :func:`liver_pipeline.metrics.comparisons.compare_experiments`."""
        return compare_experiments(self.rows)

    @cached_property
    def experiments(self) -> list[str]:
        """Names of the experiments that have a run."""
        return list(dict.fromkeys(result.experiment for result in self.results))

    @property
    def n_cases(self) -> int:
        """Test cases."""
        return len({row["case"] for row in self.rows})

    @property
    def n_patients(self) -> int:
        """Patients that the test cases are of."""
        return len({row["patient"] for row in self.rows})

    @property
    def n_seeds(self) -> int:
        """Trainings of an experiment on the same split."""
        return len({result.seed for result in self.results})

    @property
    def case_failures(self) -> list[dict[str, Any]]:
        """Rows of test cases without figures."""
        return [row for row in self.rows if row["failure"]]

    def of(self, experiment: str) -> list[RunResult]:
        """The runs of an experiment."""
        return [result for result in self.results if result.experiment == experiment]

    def knows_tumor(self, experiment: str) -> bool:
        """Whether an experiment has a tumor class."""
        return self.of(experiment)[0].classes > 2

    def in_region(self, region: str) -> list[str]:
        """Experiments that can be compared on ``liver`` (all) or ``tumor``."""
        return [name for name in self.experiments if region == "liver" or self.knows_tumor(name)]

    @property
    def mixed(self) -> bool:
        """Whether some experiments know liver only and others tumors too."""
        return len({self.knows_tumor(name) for name in self.experiments}) > 1

    def cost(self, experiment: str) -> dict[str, float | None]:
        """Parameters, median seconds a volume, in the network and a slice, peak memory in GB, seconds of training."""
        rows = [row for result in self.of(experiment) for row in result.rows if row["seconds"] is not None]
        known = [row for row in rows if row["seconds_network"] is not None]
        return {
            "parameters": rows[0]["parameters"] if rows else None,
            "seconds": median(row["seconds"] for row in rows) if rows else None,
            "seconds_network": median(row["seconds_network"] for row in known) if known else None,
            "seconds_slice": median(row["seconds"] / row["slices"] for row in rows) if rows else None,
            "peak_gb": max(row["peak_mb"] for row in rows) / 1000 if rows else None,
            "training": mean(result.training_seconds for result in self.of(experiment)),
        }

    def confusion(self, experiment: str) -> list[list[int]]:
        """Voxels of all runs and cases, reference rows; without a tumor class two rows and columns."""
        total = np.sum([result.confusion for result in self.of(experiment)], axis=0)
        size = 3 if self.knows_tumor(experiment) else 2
        counts: list[list[int]] = total[:size, :size].tolist()
        return counts

    def roc(self, experiment: str, region: str) -> list[float] | None:
        """True-positive rates, mean over runs and cases; None where there is no curve."""
        curves = [curve for result in self.of(experiment) for curve in result.roc.get(region, [])]
        return [float(rate) for rate in np.mean(curves, axis=0)] if curves else None

    def tumors(self, experiment: str) -> dict[str, Any]:
        """What the clinical tables of the predicted masks say, over cases and runs.

        Returns:
            ``n_runs``, ``lesions`` (their number), ``sizes`` (by class), ``reference_sizes`` (those of the reference,
            counted again with each run), ``volume_ml`` (of a lesion, median), ``total_ml`` and ``burden`` (tumor over
            liver; :class:`~liver_pipeline.metrics.statistics.FigureSummary` over cases), ``confidence`` (median).
        """
        runs = self.of(experiment)
        lesions = [row for result in runs for row in result.tumors]
        rows = [row for result in runs for row in result.rows]
        sizes = Counter(row["size_class"] for row in lesions)
        confidences = [row["mean_confidence"] for row in lesions if row["mean_confidence"] is not None]
        patients = [row["patient"] for row in rows]
        return {
            "n_runs": len(runs),
            "lesions": len(lesions),
            "sizes": {name: sizes[name] for name in SIZE_CLASSES},
            "reference_sizes": {name: sum(result.reference_sizes[name] for result in runs) for name in SIZE_CLASSES},
            "volume_ml": median(row["volume_ml"] for row in lesions) if lesions else None,
            "total_ml": summarize([row["predicted_tumor_ml"] for row in rows], patients),
            "burden": summarize([row["predicted_tumor_burden"] for row in rows], patients),
            "confidence": median(confidences) if confidences else None,
        }

    def ranked(self, experiment: str) -> tuple[str, list[str]]:
        """Region and test cases with a Dice there, worst first: tumor where there is any, else liver."""
        cases = self.statistics["cases"][experiment]
        regions = ("tumor", "liver") if self.knows_tumor(experiment) else ("liver",)
        for region in regions:
            scored = [case for case in cases if cases[case][f"{region}_dice"] is not None]
            if scored:
                return region, sorted(
                    scored, key=lambda case: (*(cases[case][f"{name}_dice"] for name in regions), case)
                )
        return "liver", []
