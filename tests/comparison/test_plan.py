"""What a comparison is about: contestants that can be merged, and the split that all of them share."""

from __future__ import annotations

from pathlib import Path

import pytest

from liver_pipeline.comparison.plan import ComparisonPlan, make_shared_splits, merge_contestants, name_contestants


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
