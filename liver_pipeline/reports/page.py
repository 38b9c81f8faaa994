"""The page as a whole: sections in order, style and script inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from liver_pipeline.reports.gallery import CasePictures, Thumbnails, chosen_cases, wrong_lesions
from liver_pipeline.reports.lits_sections import lits, official_cases, official_table
from liver_pipeline.reports.sections import about, cases, charts, detection, failures, headline, summary_table
from liver_pipeline.reports.trust import reliability, trust

_TITLE = "Liver and tumor segmentation: evaluation"


def report_page(
    metrics: Mapping[str, Any], pictures: CasePictures | None = None, thumbnails: Thumbnails | None = None
) -> str:
    """Return the page for the content of ``metrics.json``.

    Args:
        metrics: Result of :func:`liver_pipeline.commands.evaluate.evaluate`.
        pictures: By case, the result of :func:`~liver_pipeline.visualize.pictures.case_picture`, of those that are
            :func:`~liver_pipeline.reports.gallery.chosen`; cases without are left out.
        thumbnails: Of lesions that went wrong.

    Returns:
        A complete HTML document that loads nothing from anywhere.
    """
    return document(_TITLE, headline(metrics), _sections(metrics, pictures or {}, thumbnails or Thumbnails()))


def document(title: str, headline: str, parts: Sequence[tuple[str, str, str]], *, refresh: int | None = None) -> str:
    """Return a page that loads nothing from anywhere.

    Args:
        title: Of the page.
        headline: HTML under it.
        parts: Anchor, title and HTML of each section; a section without HTML is left out.
        refresh: Seconds after which a browser reads the file again; None for a page that stays as it is.
    """
    filled = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in filled)
    body = "".join(f'<section id="{name}"><h2>{escape(heading)}</h2>{text}</section>' for name, heading, text in filled)
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">'
    head = (
        f'<meta charset="utf-8">{again}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>{_asset('page.css')}</style>"
    )
    main = f"<main><h1>{escape(title)}</h1>{headline}<nav>{links}</nav>{body}</main>"
    script = f"<script>{_asset('page.js')}</script>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{main}{script}</body></html>\n'


def _sections(metrics: Mapping[str, Any], pictures: CasePictures, thumbnails: Thumbnails) -> list[tuple[str, str, str]]:
    """Anchor, title and content of each section; an empty one is left out by :func:`document`."""
    parts = [("failed", "Cases that could not be scored", failures(metrics))]
    if metrics["n_cases"] and metrics["protocol"] == "lits-official":
        parts += [
            ("summary", "Summary", official_table(metrics)),
            ("cases", "Cases", official_cases(metrics)),
        ]
    elif metrics["n_cases"]:
        parts += [
            ("summary", "Summary", summary_table(metrics)),
            ("charts", "Distribution over cases", charts(metrics)),
            ("lesions", "Detection of lesions", detection(metrics)),
            ("trust", "Does it know when it does not know", trust(metrics)),
            ("reliability", "How often probabilities are right", reliability(metrics)),
            ("pictures", "Worst, median and best case", chosen_cases(metrics, pictures)),
            ("errors", "Lesions missed or invented", wrong_lesions(metrics, thumbnails)),
            ("lits", "LiTS: as meant and as its program counts", lits(metrics)),
            ("cases", "Cases", cases(metrics)),
        ]
    return [*parts, ("about", "How to read this page", about(metrics))]


def _asset(name: str) -> str:
    return files("liver_pipeline.reports").joinpath(name).read_text(encoding="utf-8")
