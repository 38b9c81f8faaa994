"""The page that sets experiments side by side: figures, tests, curves, pictures, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version

from liver_pipeline.comparison import Comparison
from liver_pipeline.report import comparison_charts as charts
from liver_pipeline.report import comparison_tables as tables
from liver_pipeline.report import texts
from liver_pipeline.report.gallery import KEY
from liver_pipeline.report.html import picture
from liver_pipeline.report.page import document

TITLE = "Liver and tumor segmentation: comparison"
PACKAGES = ("liver-pipeline", "monai", "torch", "numpy", "scipy")
Pictures = Mapping[str, Sequence[tuple[str, bytes]]]


def comparison_page(comparison: Comparison, pictures: Pictures) -> str:
    """Return the page, a complete HTML document that loads nothing from anywhere.

    Args:
        comparison: With at least one run.
        pictures: Captions and PNGs by experiment.
    """
    parts = [
        ("failed", "What failed", tables.failures(comparison)),
        ("results", "Results", tables.results(comparison)),
        ("bars", "Means with intervals", charts.bars(comparison)),
        ("tests", "Paired differences", tables.tests(comparison)),
        ("curves", "Training", charts.training(comparison)),
        ("roc", "ROC", charts.roc(comparison)),
        ("confusion", "Confusion matrices", tables.confusions(comparison)),
        ("pictures", "Worst, median and best prediction", _gallery(pictures)),
        ("cost", "Cost", tables.cost(comparison)),
        ("tumors", "Predicted tumors", tables.tumors(comparison)),
        ("cases", "Cases", tables.cases(comparison)),
        ("about", "How to read this page", _about(comparison)),
    ]
    return document(TITLE, tables.headline(comparison), parts)


def _gallery(pictures: Pictures) -> str:
    blocks = [
        f'<h3>{escape(name)}</h3><div class="pictures">'
        + "".join(picture(png, caption, escape(caption)) for caption, png in shown)
        + "</div>"
        for name, shown in pictures.items()
    ]
    return KEY + "".join(blocks) if blocks else ""


def _about(comparison: Comparison) -> str:
    shared = ", ".join(f"<code>{escape(f'{key}={value}')}</code>" for key, value in comparison.budget.items())
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f'{texts.COMPARISON}<p>Shared by all: {shared or "nothing"}.</p><p class="soft">{escape(versions)}</p>'
