"""Sections of the page that are made of pictures: worst, median and best case, lesions missed or invented."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from liver_pipeline.reports.html import picture, plural

Metrics = Mapping[str, Any]
CasePictures = Mapping[str, Mapping[str, Any]]
OPEN_THUMBNAILS = 60  # more lie folded away
KEY = (
    '<p class="soft"><span class="key ref">reference</span><span class="key pred">prediction</span>'
    "Thin: liver; bright: tumor. The patient's right is on the left.</p>"
)
CONTOURS = '<p class="soft">Yellow and white lines: where the probability passes 0.2 and 0.8.</p>'


def chosen_cases(metrics: Metrics, pictures: CasePictures) -> str:
    """Worst, median and best case by tumor Dice and by liver Dice, the slice with most tumor; no case twice."""
    captions: dict[str, list[str]] = {}
    for region in ("tumor", "liver"):
        ranked = sorted(
            (case[region]["dice"], name)
            for name, case in metrics["cases"].items()
            if case[region]["dice"] is not None and pictures.get(name, {}).get("case")
        )
        for title, place in places(len(ranked)):
            dice, name = ranked[place]
            captions.setdefault(name, []).append(f"{title}{region} Dice {dice:.3f}")
    figures = []
    for name, words in captions.items():
        caption = f"{'; '.join(words)}: {name}, slice {pictures[name]['slice']} from the feet"
        figures.append(picture(pictures[name]["case"], caption, escape(caption)))
    key = KEY + (CONTOURS if any(pictures[name].get("contours") for name in captions) else "")
    return f'{key}<div class="pictures">{"".join(figures)}</div>' if figures else ""


def places(count: int) -> list[tuple[str, int]]:
    """Ranks that are shown of ``count``, with their titles."""
    if count < 2:
        return [("", 0)] * count
    if count == 2:
        return [("worst ", 0), ("best ", 1)]
    return [("worst ", 0), ("median ", count // 2), ("best ", count - 1)]


def wrong_lesions(metrics: Metrics, pictures: CasePictures) -> str:
    """Every reference lesion in no group, and every predicted one, largest first."""
    blocks = []
    for kind, status in (("reference", "missed"), ("predicted", "invented")):
        rows = [
            (name, lesion)
            for name, case in metrics["cases"].items()
            for lesion in case["lesion_list"]
            if lesion["kind"] == kind and lesion["status"] == status
        ]
        rows.sort(key=lambda item: (-item[1]["volume_ml"], item[0], item[1]["id"]))
        if rows:
            figures = "".join(_thumbnail(name, lesion, pictures) for name, lesion in rows)
            opened = " open" if len(rows) <= OPEN_THUMBNAILS else ""
            title = f"{plural(len(rows), 'lesion')} {status}, largest first"
            blocks.append(f'<details{opened}><summary>{title}</summary><div class="thumbs">{figures}</div></details>')
    return KEY + "".join(blocks) if blocks else ""


def _thumbnail(name: str, lesion: Mapping[str, Any], pictures: CasePictures) -> str:
    """Picture, place and size of one lesion."""
    place = f"{name}, lesion {lesion['id']}, slice {lesion['slice']}"
    caption = f"{escape(place)}<br>{lesion['diameter_mm']:.1f} mm, {lesion['volume_ml']:.2f} ml"
    for drawn in pictures.get(name, {}).get("lesions", []):
        if (drawn["kind"], drawn["id"]) == (lesion["kind"], lesion["id"]):
            return picture(drawn["png"], place, caption)
    return f"<figure><figcaption>{caption}</figcaption></figure>"
