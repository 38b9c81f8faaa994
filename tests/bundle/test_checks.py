"""Values are checked where they enter: every answer names the key, what came, and what is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from liver_pipeline.bundle.checks import check_values, shown
from liver_pipeline.bundle.entry import parse_overrides
from liver_pipeline.bundle.keys import KEYS, ROWS
from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.bundle.stages import merge_stages

STRANGE: dict[str, Any] = {
    "text": "nonsense",
    "empty text": "",
    "null": None,
    "list": [],
    "long list": [1] * 2000,
    "list of lists": [[[]]],
    "block": {"a": 1},
    "nan": float("nan"),
    "infinity": float("inf"),
    "negative": -7,
    "negative fraction": -0.5,
    "zero": 0,
    "fraction": 0.3,
    "huge": 10**400,
    "flag": True,
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_key_answers_strange_values_by_its_name(row: Any) -> None:
    refused = 0
    for value in STRANGE.values():
        try:
            check_values(**{row.name: value})
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{row.name} is "), error
            assert "; expected " in str(error)
            assert len(str(error)) < 400
    assert refused >= len(STRANGE) - 5  # no key takes more than some numbers, or a text and null


@pytest.mark.parametrize("row", [row for row in ROWS if not row.kind.is_built], ids=lambda row: row.name)
def test_strange_words_of_the_command_line_are_answered_alike(row: Any) -> None:
    for word in ("nonsense", "null", "[]", "nan", "-7", "1e400", "9" * 5000, "{", "'"):
        try:
            check_values(**parse_overrides([f"{row.name}={word}"]))
        except ValueError as error:
            assert str(error).startswith(f"{row.name} is ")


@pytest.mark.parametrize(
    ("key", "accepted", "refused"),
    [
        ("num_classes", [2, 3], [1, 4, 2.0, True, "3"]),
        ("roi_size", [[32, 32, 1], (96, 96, 96)], [32, [32, 32], [32, 32, 0], [32.0, 32, 32], "[32,32,32]"]),
        ("spacing", [[1.5, 1.5, 2], None], [2, [1.5, 1.5], [0, 1, 1], [1, 1, 51], [1, 1, float("nan")]]),
        ("series", [None, "thinnest", "1.2.840.7", "1.2/AcquisitionNumber=2"], ["thinest", "", 5, ["1.2"]]),
        ("grid_size", [[128, 128, -1], None], [[128, 128, 0], [128, 128, -2], 128]),
        ("learning_rate", [1e-3, 1], ["abc", 0, -1, 101, float("inf")]),
        ("overlap", [0, 0.5], [1, 1.5, -0.1, "half"]),
        ("tta", [[], [0, 1, 2]], [True, [3], [0, 0], [-1], 0]),
        (
            "hu_window",
            [[-175, 250]],
            [[250, -175], [0, 0], [1, 2, 3], 5],
        ),
        ("hu_windows", [[[-1000, 0], [500, 900]]], [[[900, 500]], [-175, 250]]),
        ("split_fractions", [[0.7, 0.2, 0.1], [1, 0, 0]], [[0.7, 0.3], [0.5, 0.5, 0.5], [0, 0.5, 0.5], [1.5, -0.5, 0]]),
        ("modality", ["ct", "mr"], ["CT", "pet", None, 1]),
        ("device", ["cpu", "cuda", "cuda:1"], ["gpu", "cuda:", 0, None]),
        ("compile", [True, False, "reduce-overhead"], ["yes", 1, None]),
        ("dataset_dir", ["/data"], ["", None, 2017, ["/data"], "a\0b", "/out::2"]),
        ("accept", [[], ["HU_SCALE"]], ["HU_SCALE", [5]]),
        ("encoder_weights_sha256", [None, "0" * 64], ["0" * 63, "g" * 64]),
        ("patient_pattern", [None, "(.*)_scan"], ["(", "nogroup", "", 5]),
        ("value_range", [[], [0, 1]], [[1], [1, 0], 1]),
    ],
)
def test_what_a_key_takes(key: str, accepted: list[Any], refused: list[Any]) -> None:
    related = {"folds": None} if key == "split_fractions" else {}
    for value in accepted:
        check_values(**{key: value}, **related)
    for value in refused:
        with pytest.raises(ValueError, match=rf"^{key} is "):
            check_values(**{key: value}, **related)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"val_interval": 5, "max_epochs": 3}, "val_interval is 5 and max_epochs is 3; expected at most max_epochs"),
        ({"spacing": None}, "spacing is null and grid_size is null; expected one of the two"),
        ({"hu_window": [5000, 6000]}, "hu_window is .* expected a window that holds HU of livers"),
        ({"hu_window": [-1000, -500]}, "expected a window that holds HU of livers"),
        ({"grid_size": [8, 8, 8]}, "expected one of the two"),
        (
            {"class_ratios": [1, 1], "num_classes": 3},
            "num_classes is 3; expected one a class",
        ),
        ({"class_ratios": [0, 0, 0]}, "class_ratios is .* expected a number above 0"),
        ({"folds": 3, "fold": 3}, "fold is 3 and folds is 3; expected a fold below folds"),
        ({"fold": 1}, "fold is 1 and folds is null"),
        ({"num_classes": 2, "protocol": "lits"}, "num_classes is 2 and protocol is 'lits'; expected plain"),
        ({"encoder_weights_path": "/w.pth"}, "encoder_weights_sha256 is null; expected the file's hash"),
        ({"compile": "reduce-overhead", "accumulate_steps": 2}, "expected a step each batch"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge_layers({}, overrides=values)


def test_values_of_a_cascade_are_checked_in_the_stage_that_they_are_for() -> None:
    for values in ({"liver_spacing": "x"}, {"margin_mm": -1}, {"min_liver_ml": 7000}, {"liver_roi_size": 5}):
        (key,) = values
        with pytest.raises(ValueError, match=f"^{key.removeprefix('liver_') if key.startswith('liver_') else key} is "):
            merge_stages({"network": "cascade"}, overrides=values)


def test_values_inside_a_list_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"^roi_size is \[96, 96, 'x'\]"):
        merge_layers({}, overrides={"roi_size::2": "x"})


def test_code_is_left_to_its_evaluation() -> None:
    check_values(num_classes="$1 + 1", learning_rate="@peak", device="$torch.device('cpu')")


def test_values_are_shown_as_in_yaml_and_cut() -> None:
    assert [shown(value) for value in (None, True, "a", [1])] == ["null", "true", "'a'", "[1]"]
    assert len(shown("x" * 1000)) == 80
    assert "digits" in shown(10**5000)


def test_every_key_is_in_the_table_that_the_checks_ask() -> None:
    with pytest.raises(ValueError, match=r"^n_phantoms is 0"):
        check_values(n_phantoms=0)
    check_values(a_key_of_my_own=object())
    assert "n_phantoms" in KEYS
