"""What a comparison is about: contestants that can be merged, and the split that all of them share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from liver_pipeline.comparison.plan import (
    ComparisonPlan,
    make_shared_splits,
    merge_contestants,
    name_contestants,
    shared_fractions,
)
from tests.small import make_phantoms


def test_a_key_that_one_experiment_lacks_fails_that_one(tmp_path: Path) -> None:
    contestants = name_contestants(["srivastava2025_unet3d", "kurupapu_fcn"], [], {"data": "phantom"})
    keys = {"dataset_dir": str(tmp_path), "network_def::channels": [4, 8], "n_phantoms": 1, "phantom_shape": [9, 9, 9]}
    plan = ComparisonPlan(tmp_path / "out", contestants, {"data": "phantom"}, 1, None, keys)
    classes, failed = merge_contestants(plan)
    assert classes == {"srivastava2025_unet3d": 2}
    assert [(one.run, one.stage) for one in failed] == [("kurupapu_fcn", "configuration")]
    assert [case["case"] for case in plan.cases] == ["volume-0"]


@pytest.mark.parametrize(
    ("content", "message"), [("{", "split.json, line 1"), ("[]", "OUT_DIR"), ('{"cases": {}}', "OUT_DIR")]
)
def test_a_file_in_the_place_of_the_split_that_is_none_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        make_shared_splits(ComparisonPlan(tmp_path, [], {}, 1, None, {}))
    assert (tmp_path / "split.json").read_text() == content


@pytest.mark.parametrize(
    ("named", "shared"),
    [
        ([[0.7, 0.15, 0.15], [0.7, 0.15, 0.15]], [0.7, 0.15, 0.15]),  # the default: none names any
        ([[0.7, 0.15, 0.15], [0.6, 0.2, 0.2]], [0.6, 0.2, 0.2]),
        ([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]], [0.8, 0.1, 0.1]),
        ([[0.7, 0.2, 0.1], [0.7, 0.15, 0.15], [0.8, 0.1, 0.1]], None),
    ],
)
def test_the_shared_split_is_the_one_that_experiments_name(
    named: list[list[float]], shared: list[float] | None
) -> None:
    fractions = {f"e{number}": shares for number, shares in enumerate(named)}
    if shared is None:
        told = (
            r"e0: \[0.7, 0.2, 0.1\], e2: \[0.8, 0.1, 0.1\]\); give one for all, such as split_fractions=\[0.7,0.2,0.1\]"
        )
        with pytest.raises(ValueError, match=told):
            shared_fractions(fractions)
    else:
        assert shared_fractions(fractions) == shared


@pytest.mark.parametrize("said", [None, [0.4, 0.3, 0.3]])
def test_what_experiments_say_of_the_split_counts_unless_it_is_said_for_all(tmp_path: Path, said: Any) -> None:
    overrides = {"dataset_dir": str(make_phantoms(tmp_path / "data", 10))}
    overrides |= {} if said is None else {"split_fractions": said}
    (tmp_path / "own.yaml").write_text("layers: {network: unet3d}\nsplit_fractions: [0.6, 0.2, 0.2]\n")
    contestants = name_contestants([str(tmp_path / "own.yaml")], ["unet3d"], {"data": "lits"})
    plan = ComparisonPlan(tmp_path / "out", contestants, {"data": "lits"}, 1, None, overrides)
    assert merge_contestants(plan)[1] == []
    make_shared_splits(plan)
    cases = json.loads((tmp_path / "out/split.json").read_text())["cases"]
    assert [len(cases[part]) for part in ("train", "val", "test")] == ([6, 2, 2] if said is None else [4, 3, 3])
