from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from liver_pipeline.commands.evaluate import evaluate
from liver_pipeline.reports import gallery
from liver_pipeline.reports.chart_frame import axis
from liver_pipeline.reports.charts import bar_chart, bland_altman_chart, box_plot
from liver_pipeline.reports.html import shown_number
from liver_pipeline.reports.page import report_page
from liver_pipeline.visualize.colours import PREDICTION_RGB, REFERENCE_RGB
from liver_pipeline.visualize.pictures import case_picture, lesion_pictures

AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def maps() -> tuple[np.ndarray, np.ndarray]:
    label = np.zeros((30, 30, 10), dtype=np.uint8)
    label[4:26, 4:26, 2:8] = 1
    pred = label.copy()
    label[8:12, 8:12, 4] = 2  # missed
    pred[18:21, 18:21, 5] = 2  # invented
    return pred, label


def run(tmp_path: Path, protocol: str = "lits") -> tuple[dict[str, Any], str]:
    pred, label = maps()
    for name in ("a", "b<script>", "broken"):
        for side, array in (("pred", pred), ("label", label)):
            (tmp_path / side).mkdir(exist_ok=True)
            wrong = name == "broken" and side == "pred"
            image = nib.Nifti1Image(array[1:] if wrong else array, AFFINE)
            image.set_sform(AFFINE, 1)
            nib.save(image, tmp_path / side / f"{name}.nii.gz")
    metrics = evaluate(tmp_path / "pred", tmp_path / "label", tmp_path / "out", protocol=protocol)
    return metrics, (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("protocol", ["lits", "lits-official", "plain"])
def test_page_nests_and_loads_nothing(tmp_path: Path, protocol: str) -> None:
    _, text = run(tmp_path, protocol)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object"}
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#"))
    assert not re.search(r"url\(|@import|https?://", text)
    anchors = {attributes.get("id") for _, attributes in page.tags}
    assert {str(a["href"])[1:] for tag, a in page.tags if tag == "a"} <= anchors


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    _, text = run(tmp_path)
    assert "b<script>" not in text
    assert "b&lt;script&gt;" in text


def test_failed_cases_and_wrong_lesions_are_shown(tmp_path: Path) -> None:
    _, text = run(tmp_path)
    page = Page(text)
    assert "LABEL_GRID_MISMATCH" in page.words
    assert "2 lesions missed" in page.words
    assert "2 lesions invented" in page.words
    thumbnails = [a for tag, a in page.tags if tag == "img" and "lesion" in str(a["alt"])]
    assert len(thumbnails) == 4
    assert "prefers-color-scheme: dark" in text


def test_cases_are_shown_worst_median_best_and_none_twice() -> None:
    from liver_pipeline.reports.gallery import chosen_cases

    dice = {"a": (0.1, 0.9), "b": (0.5, 0.8), "c": (0.9, 0.7), "d": (None, 0.95)}
    cases = {name: {"tumor": {"dice": tumor}, "liver": {"dice": liver}} for name, (tumor, liver) in dice.items()}
    pictures = {name: {"case": b"png", "slice": 3} for name in dice}
    page = Page(chosen_cases({"cases": cases}, pictures))
    captions = [str(a["alt"]) for tag, a in page.tags if tag == "img"]
    assert captions == [
        "worst tumor Dice 0.100; median liver Dice 0.900: a, slice 3 from the feet",
        "median tumor Dice 0.500: b, slice 3 from the feet",
        "best tumor Dice 0.900; worst liver Dice 0.700: c, slice 3 from the feet",
        "best liver Dice 0.950: d, slice 3 from the feet",
    ]


def test_page_without_any_scored_case_tells_why(tmp_path: Path) -> None:
    metrics, _ = run(tmp_path)
    empty = {key: metrics[key] for key in ("protocol", "failures", "versions")}
    page = Page(report_page({**empty, "n_cases": 0, "n_failed": 1, "global": {}, "summary": {}, "cases": {}}))
    assert "0 cases scored" in page.words
    assert "LABEL_GRID_MISMATCH" in page.words


def test_pictures_show_reference_and_prediction_in_their_colours() -> None:
    from io import BytesIO

    from matplotlib.image import imread

    pred, label = maps()
    rows = [
        {"status": "missed", "kind": "reference", "id": 1, "box": [[8, 11], [8, 11], [4, 4]], "slice": 4},
        {"status": "found", "kind": "reference", "id": 2, "box": [[0, 1], [0, 1], [0, 1]], "slice": 0},
    ]
    assert [row for row, _ in lesion_pictures(pred, label, (1.0, 1.0, 3.0), rows)] == rows[:1]
    drawn = case_picture(pred, label, (1.0, 1.0, 3.0))
    assert drawn["slice"] == 4  # 16 reference voxels against 9 predicted in slice 5
    pixels = (imread(BytesIO(drawn["case"]))[..., :3] * 255).round().astype(int)
    coloured = {tuple(pixel) for pixel in pixels.reshape(-1, 3)}
    assert REFERENCE_RGB in coloured
    assert PREDICTION_RGB not in coloured  # no predicted tumor in this slice; its liver outline is mixed
    places = np.argwhere((pixels == REFERENCE_RGB).all(axis=-1)).mean(axis=0) / pixels.shape[:2]
    # voxel 8..12 of a window around 4..26 lies to the patient's left and back: right and bottom of the picture
    assert places[0] > 0.5
    assert places[1] > 0.5


def test_empty_maps_have_no_picture() -> None:
    empty = np.zeros((4, 4, 4), dtype=np.uint8)
    assert case_picture(empty, empty, (1.0, 1.0, 1.0)) == {"case": None, "slice": None, "contours": False}


@pytest.mark.parametrize("order", [1, -1])
def test_of_many_lesions_the_largest_are_drawn_whatever_came_first(monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    monkeypatch.setattr(gallery, "MOST_THUMBNAILS", 3)
    lesions = {
        f"c{n:02d}": {"kind": "reference", "status": "missed", "id": 1, "volume_ml": n, "slice": 0, "diameter_mm": 1.0}
        for n in range(20)
    }
    thumbnails = gallery.Thumbnails()
    for case in list(lesions)[::order]:
        thumbnails.add(case, [(lesions[case], case.encode())])
    cases = {case: {"lesion_list": [lesion]} for case, lesion in lesions.items()}
    page = Page(gallery.wrong_lesions({"cases": cases}, thumbnails))
    assert "20 lesions missed" in page.words
    drawn = [str(attributes["alt"]) for tag, attributes in page.tags if tag == "img"]
    assert drawn == [f"c{n}, lesion 1, slice 0" for n in (19, 18, 17)]
    assert sum(thumbnails.of(case, lesion) is not None for case, lesion in lesions.items()) <= 6


@pytest.mark.parametrize("values", [[], [0.0], [0.3, 0.3], [-5.0, 1200.0], [1e-9, 2e-9]])
def test_axis_holds_its_values_between_round_ticks(values: list[float]) -> None:
    scale = axis(values, 0.0, 100.0)
    assert len(scale.ticks) >= 2
    for value in values:
        assert scale.low <= value <= scale.high
        assert 0.0 <= scale.at(value) <= 100.0


def test_charts_of_nothing_are_drawn_without_marks() -> None:
    assert "circle" not in box_plot([("Liver", []), ("Tumor", [None])], name="Dice")
    assert "rect" not in bar_chart([("all", [("recall", None, "0 of 0")])], name="share")
    assert "circle" not in bland_altman_chart([], [], (None, None, None), x_name="ml", name="ml")


def test_box_plot_marks_every_case_and_counts_them() -> None:
    chart = box_plot([("Liver", [0.9, None, 0.8, 0.95])], name="Dice", unit_range=True)
    assert chart.count("<circle") == 3
    assert "n = 3" in chart


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.98765, "0.988"), (-12.345, "−12.35"), (12345.6, "12,346"), (7, "7")]
)
def test_numbers_are_rounded_for_reading(value: float | None, text: str) -> None:
    assert shown_number(value) == text


@pytest.mark.browser
def test_a_page_that_is_printed_unseen_has_its_pictures(tmp_path: Path) -> None:
    from tests.browser import browser_page

    run(tmp_path)
    with browser_page(webgl=False) as page:
        page.goto((tmp_path / "out" / "report.html").as_uri())
        assert b"/Subtype /Image" in page.pdf()
