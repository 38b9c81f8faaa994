"""Config layers of a cascade: which key goes where, and what the run's two bundles hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from monai.bundle import ConfigParser, verify_net_in_out

import liver_pipeline as lp
from liver_pipeline.bundle.layers import Configs, merge_layers
from liver_pipeline.bundle.names import layer_file
from liver_pipeline.bundle.stages import embed, merge_stages
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.commands.train import _with_overrides

REPO = Path(__file__).resolve().parents[2]
CASCADE = {"network": "cascade"}


def stages(**overrides: Any) -> dict[str, Configs]:
    return merge_stages(CASCADE, overrides={key.replace("__", "::"): value for key, value in overrides.items()})


def values(merged: dict[str, Configs], key: str, workflow: str = "train") -> tuple[Any, Any]:
    return merged[""][workflow][key], merged["liver"][workflow][key]


def test_a_plain_network_has_one_stage() -> None:
    assert merge_stages({}) == {"": merge_layers({})}


def test_each_stage_has_its_own_network_grid_and_classes() -> None:
    merged = stages(stages__liver="segresnet")
    assert [c["_target_"].rpartition(".")[2] for c in values(merged, "network_def")] == ["UNet3d", "SegResNet"]
    assert values(merged, "num_classes") == (3, 2)
    assert values(merged, "spacing")[0] != values(merged, "spacing")[1] == [3.0, 3.0, 3.0]
    assert "CascadeInferer" not in json.dumps(merged["liver"])  # an ordinary bundle
    plain = merge_layers({"network": "segresnet"})
    assert set(merged["liver"]["train"]) == set(plain["train"])


def test_a_stage_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(layer_file("network", "unet2d").read_text())
    assert values(stages(stages__tumor=str(mine)), "roi_size") == ([256, 256, 1], [96, 96, 96])


@pytest.mark.parametrize(
    ("overrides", "key", "expected"),
    [
        ({"max_epochs": 7}, "max_epochs", (7, 7)),  # for both
        ({"max_epochs": 7, "liver_max_epochs": 5}, "max_epochs", (7, 5)),
        ({"liver_max_epochs": 5}, "max_epochs", (300, 5)),
        ({"hu_window": [-100, 400]}, "hu_window", ([-100, 400], [-100, 400])),
        ({"roi_size": [32, 32, 32]}, "roi_size", ([32, 32, 32], [96, 96, 96])),  # a stage's own
        ({"spacing": [1, 1, 1]}, "spacing", ([1, 1, 1], [3.0, 3.0, 3.0])),
        ({"liver_spacing": [5, 5, 5]}, "spacing", ([1.5, 1.5, 2.0], [5, 5, 5])),
        ({"split_file": "/s.json"}, "split_file", ("/s.json", "/s.json")),
        ({"liver_network_def::dropout": 0.5}, "network_def", None),
    ],
)
def test_a_key_goes_for_the_stage_that_it_belongs_to(overrides: dict[str, Any], key: str, expected: Any) -> None:
    merged = merge_stages(CASCADE, overrides=overrides)
    if expected is None:
        assert [config["dropout"] for config in values(merged, key)] == [0.2, 0.5]
    else:
        assert values(merged, key) == expected


def test_a_key_of_the_liver_stage_wins_wherever_it_is_set(tmp_path: Path) -> None:
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("layers: {network: cascade}\nliver_max_epochs: 5\nstages::liver: segresnet\n")
    merged = merge_stages({}, experiment=str(experiment), overrides={"max_epochs": 7})
    assert values(merged, "max_epochs") == (7, 5)
    assert values(merged, "network_def")[1]["_target_"] == "SegResNet"


def test_the_experiment_gives_its_first_stage_the_papers_recipe() -> None:
    merged = merge_stages({}, experiment="cascade")
    paper = merge_layers({}, experiment="srivastava2025_unet3d")["train"]
    for key in ("network_def", "loss", "optimizer", "learning_rate", "max_epochs", "hu_window", "grid_size", "roi_size",
                "spacing", "batch_size", "crops_per_case", "augmentation", "num_classes"):  # fmt: skip
        assert merged["liver"]["train"][key] == paper[key], key
    assert merged[""]["train"]["loss"]["_target_"] == "DiceCELoss"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stages::livr": "unet2d"}, "sets 'stages::livr', but 'stages' has no such item"),
        (
            {"stages": {"lever": "unet2d", "tumor": "unet3d"}},
            "a cascade has a network each for the stages liver and tumor",
        ),
        ({"stages::liver": "unet4d"}, "unknown network 'unet4d'"),
        ({"stages::tumor": "cascade"}, "is a cascade; the tumor stage needs a single network"),
        ({"liver_max_epoch": 1}, r"no key 'liver_max_epoch' .*did you mean 'liver_max_epochs'\?"),
        ({"liver_network_def::chanels": 1}, "'liver_network_def' has no such item or argument"),
        ({"margin": 1}, r"did you mean 'margin_mm'\?"),
    ],
)
def test_a_mistyped_stage_or_key_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge_stages(CASCADE, overrides=overrides)


def test_the_inference_config_holds_both_networks_and_shares_what_is_the_same() -> None:
    config = stages(stages__liver="segresnet", overlap=0.25)[""]["inference"]
    parser = ConfigParser({**config, "bundle_root": "/run", "backend": "torch"})
    inferer = parser.get_parsed_content("inferer")
    assert type(parser.get_parsed_content("network")).__name__ == "UNet3d"
    assert type(inferer.liver_network).__name__ == "SegResNet"
    assert parser.get_parsed_content("liver_ckpt_path") == "/run/liver/models/model.pt"
    assert (inferer.liver_inferer.grid, inferer.tumor_inferer.grid) == ("model", "scan")
    assert inferer.liver_inferer.overlap == inferer.tumor_inferer.overlap == (0.25,) * 3
    assert inferer.liver_inferer.engine.backend == "torch"  # one key for both
    to_grid = [
        preprocessing.transforms[1].spacing
        for preprocessing in (inferer.liver_preprocessing, inferer.tumor_preprocessing)
    ]
    assert to_grid == [[3.0, 3.0, 3.0], [1.5, 1.5, 2.0]]


def test_what_differs_is_embedded_with_all_that_depends_on_it() -> None:
    liver = {
        "size": 3, "same": 1, "network": {"_target_": "N", "n": "@size", "m": "@same"}, "preprocessing": "$[@middle]",
        "middle": "@network::part", "inferer": {"_target_": "I", "x": "@same"}, "unused": 5,
    }  # fmt: skip
    target: dict[str, Any] = {
        **liver,
        "size": 4,
        "inferer": {"_target_": "Cascade"},
        "liver_inferer": "of an earlier call",
    }
    embed(liver, target)
    embedded = {key: value for key, value in target.items() if key.startswith("liver_")}
    assert embedded == {
        "liver_size": 3,
        "liver_network": {"_target_": "N", "n": "@liver_size", "m": "@same"},
        "liver_middle": "@liver_network::part",
        "liver_preprocessing": "$[@liver_middle]",
        "liver_inferer": {"_target_": "I", "x": "@same", "grid": "model", "probabilities": False, "quality": False},
    }
    assert liver["inferer"] == {"_target_": "I", "x": "@same"}


def test_a_composed_cascade_is_two_bundles_whose_metadata_fit_their_networks(tmp_path: Path) -> None:
    small = {"network_def::channels": [4, 8], "liver_network_def::channels": [4, 8], "roi_size": [16, 16, 8]}
    run = lp.compose(tmp_path / "run", CASCADE, overrides={**small, "liver_roi_size": [16, 16, 16]})
    schema = json.loads((REPO / "tests" / "meta_schema_20240725.json").read_text())
    for folder in (run, run / "liver"):
        assert {path.name for path in folder.iterdir()} >= {"configs", "docs", "LICENSE", "models"}
        jsonschema.validate(json.loads((folder / "configs/metadata.json").read_text()), schema)
    metadata = json.loads((run / "configs/metadata.json").read_text())
    of_liver = metadata["liver_data_format"]
    assert of_liver["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "liver"}
    assert of_liver["inputs"]["image"]["spatial_shape"] == [16, 16, 16]
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 3
    config_file = str(run / "configs/inference.yaml")
    verify_net_in_out(
        "network_def", meta_file=str(run / "configs/metadata.json"), config_file=config_file, device="cpu"
    )
    meta_file = tmp_path / "liver.json"  # MONAI's check reads network_data_format only
    meta_file.write_text(json.dumps({**metadata, "network_data_format": of_liver}))
    verify_net_in_out("liver_network_def", meta_file=str(meta_file), config_file=config_file, device="cpu")
    assert "liver_data_format" not in json.loads((run / "liver/configs/metadata.json").read_text())


def test_a_key_set_on_a_composed_cascade_reaches_both_bundles(tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", CASCADE)
    changed = _with_overrides(run, {"liver_spacing": [4.0, 4.0, 4.0], "hu_window": [0.0, 200.0]})
    assert values(changed, "spacing")[1] == [4.0, 4.0, 4.0] == changed[""]["inference"]["liver_spacing"]
    assert values(changed, "hu_window") == ([0.0, 200.0], [0.0, 200.0])
    longer = _with_overrides(run, {"max_epochs": 400})  # both have 300
    assert values(longer, "max_epochs") == (400, 400)
    run = lp.compose(tmp_path / "other", CASCADE, overrides={"liver_max_epochs": 100})
    assert values(_with_overrides(run, {"max_epochs": 400}), "max_epochs") == (400, 100)
    with pytest.raises(
        ValueError, match="a key of --network cascade; choose that, or leave"
    ):  # a run's networks are settled
        _with_overrides(run, {"stages::liver": "unet2d"})


def test_the_overlays_end_as_the_workflows_that_they_lie_over() -> None:
    plain = yaml.safe_load((REPO / "configs/train.yaml").read_text())
    overlay = yaml.safe_load((REPO / "configs/cascade/train.yaml").read_text())
    assert overlay["run"][-len(plain["run"]) :] == plain["run"]
    assert overlay["run"][1] == plain["initialize"][-1]  # without the checks, which have been
    for key, added in (("cache::transforms", " + [@crop]"), ("train::preprocessing::transforms", "[@jitter] + ")):
        below = ConfigParser(plain)[key]
        assert added in overlay[key] and overlay[key].replace(added, "") == below


def test_the_modality_of_a_composed_cascade_is_one_for_both_stages(tmp_path: Path) -> None:
    small = {"network_def::channels": [4, 8], "liver_network_def::channels": [4, 8]}
    run = lp.compose(tmp_path / "run", CASCADE, overrides={**small, "liver_hu_window": [0.0, 100.0]})
    for modality, last in (("ct", "WindowHud"), ("mr", "ScaleIntensityRangePercentilesd")):
        parser = ConfigParser(load_config(run, "inference", {"modality": modality}))
        for key in ("liver_preprocessing", "tumor_preprocessing"):
            assert type(parser.get_parsed_content(key).transforms[-1]).__name__ == last
