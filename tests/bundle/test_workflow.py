"""A run folder runs as it was composed, by our commands and by stock MONAI: odd paths, strange values, old runs, MR."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import monai
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from monai.bundle import ConfigParser

import liver_pipeline as lp
from liver_pipeline.bundle.names import layer_names
from liver_pipeline.bundle.workflow import load_config, run_workflow
from liver_pipeline.cli import main
from tests.small import COARSE, NETWORKS, UNET3D, make_phantoms, words_of

TINY: dict[str, Any] = {**COARSE, **NETWORKS["unet3d"]}
ODD = "a#b %c @d ::e".replace("::", "")  # what MONAI's config language would read


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network has weights, untrained."""
    run = lp.compose(tmp_path_factory.mktemp("runs") / "run", {}, overrides=TINY)
    network = ConfigParser(load_config(run, "inference")).get_parsed_content("network_def")
    torch.save({"model": network.state_dict()}, run / "models/model.pt")
    return run


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms"))


def test_paths_with_any_characters_are_those_folders(tmp_path: Path) -> None:
    data, run, masks = (tmp_path / name / ODD for name in ("data", "run", "masks"))
    make_phantoms(data)
    cache = tmp_path / "cache" / ODD
    trained = call("train", run, f"dataset_dir={data}", f"cache_dir={cache}", *words_of(UNET3D))
    assert trained.exit_code == 0, trained.output
    assert call("train", run).exit_code == 0  # found again
    assert call("predict", run, data / "volume-1.nii.gz", masks, "backend=torch").exit_code == 0
    run_workflow(run, "evaluate", {"backend": "torch"})
    assert {path.name for path in tmp_path.iterdir()} == {"data", "run", "masks", "cache"}
    for name in ("data", "run", "masks", "cache"):
        assert [path.name for path in (tmp_path / name).iterdir()] == [ODD]
    assert (masks / "volume-1.nii.gz").is_file()
    assert (run / "evaluation/metrics.json").is_file()
    assert list(cache.glob("*.pt"))


@pytest.mark.parametrize(
    ("workflow", "key", "value", "message"),
    [
        ("inference", "overlap", "$1/0", r"overlap is '\$1/0'; it cannot be evaluated or built: division by zero"),
        ("inference", "overlap", "@overlap", "overlap is '@overlap'; it cannot be evaluated or built: .*circular"),
        ("inference", "tta", "$[1,", "tta has .* it is no expression of Python"),
        ("inference", "overlap", "$2", "overlap is 2; expected"),
        ("inference", "inferer::overlap", "x", "inferer::overlap is 'x'; expected"),
        ("inference", "network_def::_target_", "nowhere", "network_def is 'nowhere'; there is no class"),
        ("inference", "postprocessing::transforms::0::keys", 5, "postprocessing::transforms::0::keys is 5"),
        ("train", "optimizer::betas", 3, "optimizer::betas is 3; .*AdamW"),
        ("train", "lr_scheduler::warmup_steps", "x", "lr_scheduler::warmup_steps is 'x'; expected"),
    ],
)
def test_what_is_set_for_a_run_that_is_composed_is_named_where_it_cannot_be_used(
    workflow: str, key: str, value: Any, message: str, tmp_path: Path
) -> None:
    run = lp.compose(tmp_path / "run", {"recipe": "budget"}, overrides=TINY)
    with pytest.raises(ValueError, match=message):
        load_config(run, workflow, {key: value})


def test_stock_monai_refuses_a_path_that_it_has_mangled(composed: Path, phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        monai.bundle.run(
            config_file=str(composed / "configs/inference.yaml"),
            bundle_root=str(composed),
            dataset_dir=str(phantoms),
            output_dir=str(tmp_path / "out#2"),
        )
    assert re.match("output_dir is '.*; expected a path without ::", str(caught.value.__cause__))  # cut if it is long
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("workflow", "key", "value"),
    [
        ("train", "learning_rate", "abc"),
        ("train", "max_epochs", 0),
        ("train", "split_fractions", [0.5, 0.5]),
        ("train", "val_interval", 1000),
        ("inference", "tta", True),
        ("inference", "overlap", float("nan")),
        ("evaluate", "part", "nonsense"),
    ],
)
def test_stock_monai_answers_a_strange_value_by_its_key(workflow: str, key: str, value: Any, composed: Path) -> None:
    config = str(composed / "configs" / f"{workflow}.yaml")
    with pytest.raises(RuntimeError) as caught:
        monai.bundle.run(config_file=config, bundle_root=str(composed), **{key: value})
    assert str(caught.value.__cause__).startswith(f"{key} is ")


def test_a_key_of_another_workflow_is_refused_with_who_uses_it(composed: Path) -> None:
    before = {path: path.read_bytes() for path in (composed / "configs").iterdir()}
    for words, message in (
        (("train", composed, "tta=[0,1]"), "'tta', which train does not use; it is a key of evaluate and inference"),
        (("train", composed, "ckpt_path=w.pt"), "'ckpt_path', which train does not use"),
        (("train", composed.parent / "new", "ckpt_path=w.pt"), "'ckpt_path', which train does not use"),
        (("train", composed, "--network", "unet3d", "skip_air=false"), "'skip_air', which train does not use"),
        (("predict", composed, "x", "y", "max_epochs=3"), "'max_epochs', which inference does not use; it is a key of"),
        (("predict", composed, "x", "y", "bundle_root=z"), "bundle_root is the run folder"),
        (("compose", composed.parent / "new", "--experiment", "smoke", "--data", "lits"), "a key of --data phantom"),
    ):
        result = call(*words)
        assert result.exit_code == 2 and message in result.stderr, result.output
    assert before == {path: path.read_bytes() for path in (composed / "configs").iterdir()}
    assert not (composed.parent / "new").exists()


@pytest.mark.parametrize("command", ["predict", "train", "train again", "find-lr", "tune-postprocessing"])
@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("loading", "[]", "the key loading"), ("evaluator", "{_target_: liver_pipeline.folder.FolderRun}", "FolderRun")],
)
def test_a_run_of_an_earlier_version_is_answered_by_one_line(
    command: str, key: str, value: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "run/configs").mkdir(parents=True)
    for workflow in ("train", "inference", "evaluate"):
        (tmp_path / "run/configs" / f"{workflow}.yaml").write_text(f"{key}: {value}\n")
    more = {"predict": ["scans", "masks"], "train again": ["--network", "unet3d"]}.get(command, [])
    result = call(command.split()[0], tmp_path / "run", *more)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "was composed by an earlier version" in result.stderr and named in result.stderr
    assert "compose a new run" in result.stderr


def preprocessed(config: dict[str, Any], scan: Path) -> tuple[np.ndarray[Any, Any], bool]:
    """Return what the network would see, and whether windows of air would be left out."""
    image = ConfigParser(config).get_parsed_content("preprocessing")({"image": str(scan)})["image"]
    return np.asarray(image), "body" in image.meta


@pytest.mark.parametrize("layer", [name for name in layer_names("modality") if name.startswith("ct")])
def test_modality_swaps_the_whole_chain_of_a_run_that_is_composed(layer: str, tmp_path: Path, phantoms: Path) -> None:
    run = lp.compose(tmp_path / "run", {"modality": layer}, overrides=TINY)
    scan = phantoms / "volume-0.nii.gz"
    seen_ct, air = preprocessed(load_config(run, "inference"), scan)
    seen_mr, air_in_mr = preprocessed(load_config(run, "inference", {"modality": "mr"}), scan)
    assert (air, air_in_mr) == (True, False)
    assert seen_ct.shape == seen_mr.shape
    assert not np.allclose(seen_ct, seen_mr)
    if layer in ("ct_zscore", "ct_equalized"):  # standardised as mr_zscore is: mean 0, SD 1 of all but zeros
        assert abs(seen_mr[seen_mr != 0].mean()) < 0.05 and abs(seen_mr[seen_mr != 0].std() - 1) < 0.05
    else:  # percentiles of the scan, in each channel alike
        assert (seen_mr.min(), seen_mr.max()) == (0, 1)
        assert all(np.array_equal(seen_mr[0], channel) for channel in seen_mr)


def test_the_modality_layer_and_the_key_are_the_same_for_mr(tmp_path: Path) -> None:
    by_layer = lp.compose(tmp_path / "layer", {"modality": "mr"})
    by_key = lp.compose(tmp_path / "key", {}, overrides={"modality": "mr"})
    for workflow in ("train", "evaluate", "inference"):
        name = f"configs/{workflow}.yaml"
        assert (by_layer / name).read_text() == (by_key / name).read_text()


def test_masks_made_with_another_modality_are_other_masks(composed: Path, phantoms: Path, tmp_path: Path) -> None:
    hashes = []
    for modality in ("ct", "mr"):
        words = [composed, phantoms / "volume-0.nii.gz", tmp_path / modality, "backend=torch", f"modality={modality}"]
        assert call("predict", *words).exit_code == 0
        record = json.loads((tmp_path / modality / "volume-0.json").read_text())
        hashes.append(record["config"]["sha256"])
        chain = json.dumps(record["config"]["settings"]["preprocessing"])
        assert ("WindowHud" in chain, "ScaleIntensityRangePercentiles" in chain) == (modality == "ct", modality == "mr")
    assert len(set(hashes)) == 2


@pytest.mark.parametrize("device", ["cpu", "cuda:77", "nonsense"])
def test_a_device_is_text_for_every_command(device: str, composed: Path, phantoms: Path, tmp_path: Path) -> None:
    words = words_of({**UNET3D, "device": device})
    trained = call("train", tmp_path / "run", f"dataset_dir={phantoms}", *words)
    predicted = call("predict", composed, phantoms / "volume-0.nii.gz", tmp_path / "masks", f"device={device}")
    for result in (trained, predicted):
        if device == "cpu":
            assert result.exit_code == 0, result.output
        else:
            assert result.exit_code == 2
            assert f"device is {device}" in result.stderr.replace("'", "")
    if device == "cpu":
        run_workflow(tmp_path / "run", "evaluate", {"device": "cpu", "backend": "torch"})


def test_a_network_file_may_build_on_layers(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text("layers: {data: folder, network: unet3d}\nroi_size: [16, 16, 16]\nnetwork_def::channels: [4, 8]\n")
    run = lp.compose(tmp_path / "run", {"network": str(file)}, overrides={"learning_rate": 1e-2})
    config = load_config(run, "train")
    assert config["network_def"]["_target_"] == "liver_pipeline.networks.UNet3d"
    assert (config["network_def"]["channels"], config["roi_size"]) == ([4, 8], [16, 16, 16])
    assert config["cases"]["_target_"] == "liver_pipeline.data.folder_cases"
    other = lp.compose(tmp_path / "other", {"network": str(file), "data": "lits"})  # what is named itself wins
    assert load_config(other, "train")["cases"]["_target_"] == "liver_pipeline.data.lits_cases"
