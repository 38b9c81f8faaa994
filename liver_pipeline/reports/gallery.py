"""Sections of the page that are made of pictures: worst, median and best case, lesions missed or invented."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import zip_longest
from typing import Any

from liver_pipeline.reports.html import picture, plural

Metrics = Mapping[str, Any]
CasePictures = Mapping[str, Mapping[str, Any]]
OPEN_THUMBNAILS = 60  # more lie folded away
MOST_THUMBNAILS = 500  # of the missed, and of the invented; smaller lesions are told without a picture
KEY = (
    '<p class="soft"><span class="key ref">reference</span><span class="key pred">prediction</span>'
    "Thin: liver; bright: tumor. The patient's right is on the left.</p>"
)
CONTOURS = '<p class="soft">Yellow and white lines: where the probability passes 0.2 and 0.8.</p>'


class Thumbnails:
    """Pictures of lesions that went wrong, of each kind the largest: their memory does not grow with the cases."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[tuple[float, str, int], bytes]] = {}

    def add(self, case: str, drawn: Iterable[tuple[Mapping[str, Any], bytes]]) -> None:
        """Take what :func:`~liver_pipeline.visualize.pictures.lesion_pictures` has drawn of a case."""
        for lesion, png in drawn:
            kept = self._kept.setdefault(lesion["kind"], {})
            kept[_place(case, lesion)] = png
            if len(kept) > 2 * MOST_THUMBNAILS:
                self._kept[lesion["kind"]] = {key: kept[key] for key in sorted(kept)[:MOST_THUMBNAILS]}

    def of(self, case: str, lesion: Mapping[str, Any]) -> bytes | None:
        """Return the picture of a lesion; None where there is none, or it was not kept."""
        return self._kept.get(lesion["kind"], {}).get(_place(case, lesion))


def _place(case: str, lesion: Mapping[str, Any]) -> tuple[float, str, int]:
    return -lesion["volume_ml"], case, lesion["id"]


def chosen(metrics: Metrics) -> dict[str, list[str]]:
    """Return the worst, median and best case by tumor Dice and by liver Dice, each with what it is; no case twice."""
    captions: dict[str, list[str]] = {}
    for region in ("tumor", "liver"):
        ranked = sorted(
            (case[region]["dice"], name) for name, case in metrics["cases"].items() if case[region]["dice"] is not None
        )
        for title, place in places(len(ranked)):
            dice, name = ranked[place]
            captions.setdefault(name, []).append(f"{title}{region} Dice {dice:.3f}")
    return captions


def chosen_cases(metrics: Metrics, pictures: CasePictures) -> str:
    """The cases that are :func:`chosen`, of each the slice with most tumor; one that cannot be drawn is left out."""
    captions = {name: words for name, words in chosen(metrics).items() if pictures.get(name, {}).get("case")}
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


def wrong_lesions(metrics: Metrics, thumbnails: Thumbnails) -> str:
    """Every reference lesion in no group, and every predicted one, largest first."""
    blocks = []
    for kind, status in (("reference", "missed"), ("predicted", "invented")):
        rows = [
            (name, lesion)
            for name, case in metrics["cases"].items()
            for lesion in case["lesion_list"]
            if lesion["kind"] == kind and lesion["status"] == status
        ]
        rows.sort(key=lambda item: _place(*item))
        if rows:
            drawn = [thumbnails.of(name, lesion) for name, lesion in rows[:MOST_THUMBNAILS]]
            figures = "".join(_thumbnail(name, lesion, png) for (name, lesion), png in zip_longest(rows, drawn))
            opened = " open" if len(rows) <= OPEN_THUMBNAILS else ""
            title = f"{plural(len(rows), 'lesion')} {status}, largest first"
            blocks.append(f'<details{opened}><summary>{title}</summary><div class="thumbs">{figures}</div></details>')
    return KEY + "".join(blocks) if blocks else ""


def _thumbnail(name: str, lesion: Mapping[str, Any], png: bytes | None) -> str:
    """Picture, place and size of one lesion."""
    place = f"{name}, lesion {lesion['id']}, slice {lesion['slice']}"
    caption = f"{escape(place)}<br>{lesion['diameter_mm']:.1f} mm, {lesion['volume_ml']:.2f} ml"
    return f"<figure><figcaption>{caption}</figcaption></figure>" if png is None else picture(png, place, caption)
