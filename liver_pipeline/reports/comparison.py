"""The page that sets experiments side by side: figures, tests, curves, pictures, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version

from liver_pipeline.comparison.tables import Comparison
from liver_pipeline.reports.comparison_charts import bars, roc, sizes, training
from liver_pipeline.reports.comparison_tables import (
    comparison_cases,
    comparison_failures,
    comparison_headline,
    confusions,
    cost,
    results,
    tumors,
)
from liver_pipeline.reports.gallery import KEY
from liver_pipeline.reports.html import picture
from liver_pipeline.reports.page import document
from liver_pipeline.reports.paired_differences import paired_differences
from liver_pipeline.reports.texts import COMPARISON

_TITLE = "Liver and tumor segmentation: comparison"
_PACKAGES = ("liver-pipeline", "monai", "torch", "numpy", "scipy")
ComparisonPictures = Mapping[str, Sequence[tuple[str, bytes]]]


def comparison_page(comparison: Comparison, pictures: ComparisonPictures) -> str:
    """Return the page, a complete HTML document that loads nothing from anywhere.

    Args:
        comparison: With at least one run.
        pictures: Captions and PNGs by experiment.
    """
    parts = [
        ("failed", "What failed", comparison_failures(comparison)),
        ("results", "Results", results(comparison)),
        ("bars", "Means with intervals", bars(comparison)),
        ("tests", "Paired differences", paired_differences(comparison)),
        ("curves", "Training", training(comparison)),
        ("roc", "ROC", roc(comparison)),
        ("confusion", "Confusion matrices", confusions(comparison)),
        ("pictures", "Worst, median and best prediction", _gallery(pictures)),
        ("cost", "Cost", cost(comparison)),
        ("tumors", "Predicted tumors", tumors(comparison) + sizes(comparison)),
        ("cases", "Cases", comparison_cases(comparison)),
        ("about", "How to read this page", _about(comparison)),
    ]
    return document(_TITLE, comparison_headline(comparison), parts)


def _gallery(pictures: ComparisonPictures) -> str:
    blocks = [
        f'<h3>{escape(name)}</h3><div class="pictures">'
        + "".join(picture(png, caption, escape(caption)) for caption, png in shown)
        + "</div>"
        for name, shown in pictures.items()
    ]
    return KEY + "".join(blocks) if blocks else ""


def _about(comparison: Comparison) -> str:
    shared = ", ".join(f"<code>{escape(f'{key}={value}')}</code>" for key, value in comparison.budget.items())
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f'{COMPARISON}<p>Shared by all: {shared or "nothing"}.</p><p class="soft">{escape(versions)}</p>'
