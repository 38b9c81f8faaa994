"""A key that is set and to which nothing in use refers is refused: it would be without effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import liver_pipeline as lp
from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.bundle.stages import merge_stages, refuse_unused
from liver_pipeline.bundle.uses import idle_keys
from liver_pipeline.bundle.workflow import load_config
from tests.small import NETWORKS

HU, SHARES = {"hu_window": [0, 100]}, {"percentiles": [1, 99]}
MR: dict[str, Any] = {"modality": "mr"}


@pytest.mark.parametrize(
    ("layers", "values", "idle"),
    [
        ({}, {**MR, **HU}, "hu_window"),
        ({"modality": "mr"}, HU, "hu_window"),
        ({}, SHARES, "percentiles"),
        ({"modality": "ct_zscore"}, {**MR, "hu_mean": 5.0}, "hu_mean"),
        ({"modality": "mr_zscore"}, SHARES, "percentiles"),  # its chain has none
        ({"network": "cascade"}, {**MR, **HU}, "hu_window"),
        ({"network": "cascade"}, {**MR, "liver_hu_window": [0, 100]}, "liver_hu_window"),
        ({}, {"encoder_weights": "imagenet"}, "encoder_weights"),  # no network on such an encoder
        ({}, {}, ""),
        ({}, HU, ""),
        ({}, {**MR, **SHARES}, ""),
        ({}, {**MR, "air_hu": 5.0}, ""),
        ({}, {"encoder_weights": None}, ""),
        ({}, {"value_range": [0, 2]}, ""),
        ({"network": "cascade"}, {"liver_hu_window": [0, 100], **HU}, ""),
        ({"network": "resnet34_unet"}, {"encoder_weights": "imagenet"}, ""),
        ({"modality": "ct_three_windows", "network": "resnet34_unet"}, HU, ""),  # of pictures, at inference
    ],
)
def test_what_has_no_effect_in_a_run_is_refused_by_name(
    layers: dict[str, str], values: dict[str, Any], idle: str
) -> None:
    if idle:
        with pytest.raises(ValueError, match=rf"^key=value sets '{idle}', to which nothing refers .* leave it out$"):
            merge_stages(layers, overrides=values)
    else:
        merge_stages(layers, overrides=values)


def test_a_command_refuses_what_its_own_workflows_do_not_use() -> None:
    stages = merge_stages({"modality": "ct_three_windows", "network": "resnet34_unet"}, overrides=HU)
    refuse_unused(stages, HU, ["train", "inference"])
    with pytest.raises(ValueError, match="sets 'hu_window', to which nothing refers"):
        refuse_unused(stages, HU, ["train"])


def test_an_experiment_of_ct_may_be_used_for_mr(tmp_path: Path) -> None:
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("hu_window: [0, 100]\n")
    merge_layers({"modality": "mr"}, experiment=str(experiment))


def test_a_run_that_is_composed_answers_alike(tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", {}, overrides=NETWORKS["unet3d"])
    load_config(run, "inference", HU)
    load_config(run, "inference", {**MR, **SHARES})
    for values in (SHARES, {**MR, **HU}):
        with pytest.raises(ValueError, match="to which nothing refers with this network, modality"):
            load_config(run, "inference", values)


def test_a_key_of_ones_own_and_one_behind_a_macro_are_in_use() -> None:
    config = {"modality": "ct", "cases": {"_target_": "x", "y": "%fold"}, "mine": 5, "fold": 0, "folds": 3}
    assert idle_keys(config) == {"modality", "folds"}
    config["cases"]["z"] = "$1 if @modality == 'mr' else @folds"  # type: ignore[index]
    assert idle_keys(config) == set()
