"""Layers, run folders, and what MONAI's own checks say of the bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import monai
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out

import liver_pipeline as lp
from liver_pipeline.bundle.entry import parse_overrides
from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.bundle.names import DEFAULT_LAYERS, layer_file, layer_names, layer_summary
from liver_pipeline.bundle.workflow import load_config, run_workflow
from tests.small import BRIEF, COARSE, make_phantoms
from tests.small import NETWORKS as SMALL

REPO = Path(__file__).resolve().parents[1]
NETWORKS = [name for name in layer_names("network") if name != "cascade"]  # two of them: see test_stages
TINY = {**BRIEF, **COARSE}


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms"))


def network_of(run_dir: Path) -> torch.nn.Module:
    parser = ConfigParser(load_config(run_dir, "inference"))
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    return network.eval()


def test_every_key_wins_over_the_layers_below(tmp_path: Path) -> None:
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("layers: {network: segresnet}\nlearning_rate: 1.0\nmax_epochs: 7\n")
    merged = merge_layers({}, experiment=str(experiment), overrides={"learning_rate": 2.0})
    assert merged["train"]["network_def"]["_target_"] == "SegResNet"
    assert (merged["train"]["max_epochs"], merged["train"]["learning_rate"]) == (7, 2.0)
    chosen = merge_layers({"network": "unet3d"}, experiment=str(experiment))
    assert chosen["train"]["network_def"]["_target_"].endswith("UNet3d")  # the command line wins over the experiment


def test_inference_carries_no_key_of_the_training() -> None:
    merged = merge_layers({})
    assert not {"optimizer", "loss", "max_epochs", "cases", "train"} & set(merged["inference"])
    assert merged["inference"]["encoder_weights"] is None
    assert merged["train"]["encoder_weights"] == "imagenet"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_epoch": 3}, r"no key 'max_epoch' .*did you mean 'max_epochs'\?"),
        ({"network_def::chanels": [1]}, "sets 'network_def::chanels', but 'network_def' has no such item or argument"),
        ({"train::trainr": 1}, "'train' has no such item"),
        ({"split_fractions::5": 1}, "'split_fractions' has no such item"),
    ],
)
def test_a_mistyped_key_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge_layers({}, overrides=overrides)


def test_a_new_argument_that_the_component_knows_is_accepted() -> None:
    merged = merge_layers({"network": "segresnet"}, overrides={"network_def::act": "LEAKYRELU"})
    assert merged["inference"]["network_def"]["act"] == "LEAKYRELU"


@pytest.mark.parametrize("kind", ["network", "data", "modality", "augmentation", "recipe", "experiment"])
def test_an_unknown_layer_lists_the_known_ones(kind: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {kind} 'nonesuch'.*known are {layer_names(kind)[0]}"):
        layer_file(kind, "nonesuch")


def test_invalid_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [1, 2\n")
    with pytest.raises(ValueError, match=r"broken\.yaml is not valid YAML"):
        merge_layers({"network": str(tmp_path / "broken.yaml")})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("3e-4", 3e-4),
        ("null", None),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ("imagenet", "imagenet"),
        ("1:2", "1:2"),
        ("@num_classes", "@num_classes"),
    ],
)
def test_values_are_read_as_a_person_means_them(word: str, value: object) -> None:
    assert parse_overrides([f"key={word}"])["key"] == value


def test_a_word_without_equals_sign_is_refused() -> None:
    with pytest.raises(ValueError, match="expected key=value, got 'lr'"):
        parse_overrides(["lr"])


def test_all_network_files_set_the_same_keys_so_that_one_can_replace_another() -> None:
    keys = {name: set(yaml.safe_load(layer_file("network", name).read_text())) for name in NETWORKS}
    assert len({frozenset(k) for k in keys.values()}) == 1, keys


def test_every_layer_file_says_in_its_first_line_what_it_is() -> None:
    for kind in (*DEFAULT_LAYERS, "experiment"):
        for name in layer_names(kind):
            assert len(layer_summary(kind, name)) > 20, (kind, name)


def test_a_run_is_not_overwritten_and_other_files_survive_overwriting(tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", {})
    (run / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        lp.compose(run, {})
    lp.compose(run, {"network": "segresnet"}, overwrite=True)
    assert (run / "notes.txt").read_text() == "mine"
    assert "SegResNet" in (run / "configs/train.yaml").read_text()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_maps_its_window_to_one_channel_per_label(name: str, tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", {"network": name}, overrides=SMALL[name])
    config = load_config(run, "inference")
    with torch.no_grad():
        logits = network_of(run)(torch.rand(1, 1, *config["roi_size"]))
    assert logits.shape == (1, 3, *config["roi_size"])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_metadata_of_a_run_fits_the_schema_and_its_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lp.compose(tmp_path / "run", {"network": name}, overrides=SMALL[name])
    metadata = run / "configs" / "metadata.json"
    schema_file = REPO / "tests" / "meta_schema_20240725.json"
    jsonschema.validate(json.loads(metadata.read_text()), json.loads(schema_file.read_text()))
    monkeypatch.chdir(tmp_path)  # from any working directory
    verify_net_in_out(
        net_id="network_def", meta_file=str(metadata), config_file=str(run / "configs/inference.yaml"), device="cpu"
    )


def test_monais_own_metadata_check_passes(tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", {})
    local_schema = tmp_path / "schema.json"  # the check downloads unless the file is there
    local_schema.write_bytes((REPO / "tests" / "meta_schema_20240725.json").read_bytes())
    monai.bundle.verify_metadata(meta_file=str(run / "configs/metadata.json"), filepath=str(local_schema))


def test_the_released_bundle_is_what_the_layers_make_today(tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", {})
    for path in sorted((run / "configs").glob("*.yaml")):
        assert path.read_text() == (REPO / "bundle/configs" / path.name).read_text(), "run `make bundle`"
    ours, released = (json.loads((root / "configs/metadata.json").read_text()) for root in (run, REPO / "bundle"))
    versions = ("monai_version", "pytorch_version", "numpy_version", "required_packages_version")
    assert {k: v for k, v in ours.items() if k not in versions} == {
        k: v for k, v in released.items() if k not in versions
    }
    for name in ("LICENSE", "docs/README.md"):
        assert (run / name).read_bytes() == (REPO / "bundle" / name).read_bytes()


@pytest.mark.parametrize("name", ["unet3d", "resnet34_unet"])
def test_a_checkpoint_exports_to_torchscript_that_computes_the_same(name: str, tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", {"network": name}, overrides=SMALL[name])
    network = network_of(run)
    torch.save({"model": network.state_dict()}, run / "models/model.pt")
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(run / "models/model.pt"),
        meta_file=str(run / "configs/metadata.json"),
        config_file=str(run / "configs/inference.yaml"),
        key_in_ckpt="model",
    )
    image = torch.rand(1, 1, *load_config(run, "inference")["roi_size"])
    torch.testing.assert_close(torch.jit.load(str(exported))(image), network(image))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("workflow", ["train", "inference", "evaluate"])
def test_the_bundle_has_the_properties_that_monai_looks_for(
    workflow: str, tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {**TINY, **SMALL["unet3d"], "dataset_dir": str(phantoms)}
    run = lp.compose(tmp_path / "run", {}, overrides=overrides)
    monkeypatch.chdir(tmp_path)
    if workflow == "evaluate":
        names = {"train": ["volume-0"], "val": ["volume-1"], "test": ["volume-2"]}
        (run / "split.json").write_text(json.dumps({"cases": names}))
    config = ConfigWorkflow(
        config_file=str(run / "configs" / f"{workflow}.yaml"),
        workflow_type="train" if workflow == "train" else "infer",
        logging_file=False,
        bundle_root=str(run),
    )
    config.initialize()
    torch.save({"model": config.network_def.state_dict()}, run / "models/model.pt")
    assert config.check_properties() == []


def train_by_command(run: Path, name: str, phantoms: Path) -> None:
    overrides = {**TINY, **SMALL[name], "dataset_dir": str(phantoms)}
    lp.train(run, {"network": name}, overrides=overrides)


def train_by_stock_monai(run: Path, name: str, phantoms: Path) -> None:
    """Swap the network as any MONAI user would: one more YAML file on the command line of ``monai.bundle run``."""
    configs = [str(REPO / "bundle/configs/train.yaml"), str(layer_file("network", name))]
    overrides = {**TINY, **SMALL[name], "dataset_dir": str(phantoms)}
    overrides["encoder_weights"] = "$None"  # monai.bundle.run drops None
    monai.bundle.run(config_file=configs, bundle_root=str(run), meta_file=None, **overrides)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", [train_by_command, train_by_stock_monai])
def test_every_network_trains_an_epoch_and_predicts_by_both_ways_of_swapping(
    way: Any, name: str, tmp_path: Path, phantoms: Path
) -> None:
    run = tmp_path / "run"
    way(run, name, phantoms)
    checkpoint = torch.load(run / "models/model.pt", weights_only=True)
    assert checkpoint["epoch"] == 1
    paths = {"dataset_dir": str(phantoms / "volume-0.nii.gz"), "output_dir": str(tmp_path / "masks")}
    paths["backend"] = "torch"  # converting Swin UNETR takes a minute; test_inferers covers OpenVINO
    if way is train_by_command:
        run_workflow(run, "inference", paths)
    else:
        configs = [str(REPO / "bundle/configs/inference.yaml"), str(layer_file("network", name))]
        shrunk = {"spacing": TINY["spacing"], **SMALL[name]}
        monai.bundle.run(config_file=configs, bundle_root=str(run), **shrunk, **paths)
    assert (tmp_path / "masks/volume-0.nii.gz").is_file()


def test_the_command_line_of_stock_monai_runs_a_run_folder(tmp_path: Path, phantoms: Path) -> None:
    run = lp.compose(tmp_path / "run", {}, overrides={**TINY, **SMALL["unet3d"], "dataset_dir": str(phantoms)})
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(run / "configs/train.yaml")]
    finished = subprocess.run(
        [*command, "--bundle_root", str(run)], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert (run / "models/model.pt").is_file()
    assert (run / "split.json").is_file()


def test_a_trained_run_is_not_trained_over(tmp_path: Path, phantoms: Path) -> None:
    train_by_command(tmp_path / "run", "unet3d", phantoms)
    before = (tmp_path / "run/models/model.pt").read_bytes()
    lp.train(tmp_path / "run", {})  # finished
    with pytest.raises(ValueError, match="network_def::_target_"):
        lp.train(tmp_path / "run", {"network": "segresnet"})
    (tmp_path / "run/models/last.ckpt").unlink()
    with pytest.raises(FileExistsError, match="no checkpoint to continue from"):
        lp.train(tmp_path / "run", {})
    assert (tmp_path / "run/models/model.pt").read_bytes() == before


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, phantoms: Path) -> None:
    weights = []
    for name in ("a", "b"):
        train_by_command(tmp_path / name, "unet3d", phantoms)
        weights.append(torch.load(tmp_path / name / "models/last.ckpt", weights_only=True)["model"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
