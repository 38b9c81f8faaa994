from __future__ import annotations

import numpy as np
import pytest

from liver_pipeline.evaluation.description import describe_label_map
from liver_pipeline.evaluation.description_text import as_text
from liver_pipeline.evaluation.severity import SOURCES, tumor_severity, tumor_spread


def test_the_score_is_the_root_of_diameter_and_number_squared_with_its_published_limits() -> None:
    found = tumor_severity([60.0] + [5.0] * 7, 0.2)
    assert found["tumor_burden_score"] == pytest.approx(10.0)  # 6 cm, 8 tumors
    classes = {mm: tumor_severity([mm], 0.1)["tumor_burden_class"] for mm in (28.0, 28.3, 89.0, 90.0)}
    # one tumor: below 3 up to a diameter of root 8 cm, below 9 up to root 80 cm
    assert classes == {28.0: "low", 28.3: "medium", 89.0: "medium", 90.0: "high"}


@pytest.mark.parametrize(
    ("diameters", "inside"),
    [([50.0], True), ([50.1], False), ([30.0, 30.0, 30.0], True), ([30.1, 10.0], False), ([5.0] * 4, False)],
)
def test_milan_by_size_and_number(diameters: list[float], inside: bool) -> None:
    assert tumor_severity(diameters, 0.1)["milan_by_size_and_number"] is inside


def test_tumor_load_is_classed_in_the_steps_of_its_source() -> None:
    loads = {share: tumor_severity([10.0], share)["hepatic_tumor_load"] for share in (0.0, 0.1, 0.101, 0.5, 1.0)}
    assert list(loads.values()) == ["0 %", "up to 10 %", "10-25 %", "25-50 %", "above 50 %"]


def test_without_lesions_or_liver_what_cannot_be_said_is_none_and_each_class_has_its_source() -> None:
    found = tumor_severity([], None)
    assert [found[name] for name in SOURCES] == [None, None, 0, None]
    assert set(SOURCES) < set(found) and found["sources"] == SOURCES


def liver() -> np.ndarray:
    label_map = np.zeros((14, 10, 10), dtype=np.uint8)
    label_map[2:12, 2:8, 2:8] = 1
    return label_map


def test_tumors_are_placed_in_the_quadrants_of_the_livers_box_and_their_centres_measured() -> None:
    label_map = liver()
    label_map[3, 4, 3] = label_map[3, 4, 6] = label_map[11, 4, 6] = 2
    table = describe_label_map(label_map, np.diag([2.0, 2.0, 5.0, 1.0]))
    spread = table["spread"]
    assert spread["quadrants"] == ["left lower", "right upper", "left upper"]
    assert spread["farthest_mm"] == pytest.approx(np.hypot(8 * 2, 3 * 5))
    assert sorted(spread["nearest_mm"]) == pytest.approx([15.0, 15.0, 16.0])
    assert spread["segments"] is None
    assert "left lower, right upper, left upper" in as_text(table) and "Milan" in as_text(table)


def test_a_single_tumor_has_no_neighbour_and_an_empty_liver_no_spread() -> None:
    label_map = liver()
    assert tumor_spread(label_map, [], None) == {
        "quadrants": [], "segments": None, "nearest_mm": [], "farthest_mm": None
    }  # fmt: skip
    label_map[6, 4, 4] = 2
    assert tumor_spread(label_map, [[0.0, 0.0, 0.0]], ["4"])["nearest_mm"] == [None]
    assert tumor_spread(np.zeros_like(label_map), [], [])["quadrants"] == []
