"""Exports: every network in every format gives the run's labels; a bundle to hand on holds nothing of a case."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from liver_pipeline.bundle.compose import compose
from liver_pipeline.bundle.folders import WEIGHTS
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.commands.export import export
from liver_pipeline.evaluation.run_quality import QualityThresholds, RunQuality, read_quality, write_quality
from liver_pipeline.networks.exporting import EXPORTERS, export_network
from tests.small import COARSE, NETWORKS

# With random weights Swin UNETR decides by so little that ONNX gives 0.013 % and OpenVINO 0.029 % of the labels
# otherwise (measured), which the command refuses; its logits are compared below.
BY_LOGITS = [("swin_unetr", "onnx"), ("swin_unetr", "openvino")]
EACH_IN_EACH = [pair for network in NETWORKS for name in EXPORTERS if (pair := (network, name)) not in BY_LOGITS]
QUICK = {("dynunet", "onnx"), ("resenc_unet", "onnx"), ("cascade", "onnx"), ("dynunet", "torchscript"),
         ("cascade", "torchscript"), ("unet2d", "openvino"), ("cascade", "openvino")}  # fmt: skip

# Their random weights see background alone in phantoms; what their files are compared by is their logits on noise.
FINDS_NOTHING = {"deeplabv3plus_resnet101", "resnet34_unet_deconv"}


def make_run(folder: Path, network: str) -> Path:
    """Compose a small run with random weights, as if it were trained."""
    small = {**COARSE, **NETWORKS[network], "encoder_weights": None}
    run = compose(folder, {"network": network}, overrides=small)
    parser = ConfigParser(load_config(run, "inference", {"device": "cpu"}))
    torch.manual_seed(0)
    for stage, key in {"": "network", "liver": "liver_network"}.items() if network == "cascade" else [("", "network")]:
        weights = {"model": parser.get_parsed_content(key).state_dict(), "epoch": 1, "metric": 0.5}
        torch.save(weights, run / stage / WEIGHTS)
    return run


@pytest.mark.parametrize(
    ("network", "name"),
    [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in EACH_IN_EACH],
)  # slow: 45 conversions take minutes; the quick ones are those that cannot be scripted, a 2D one, and the cascade
def test_each_network_gives_the_same_labels_from_its_file(tmp_path: Path, network: str, name: str) -> None:
    done = export(make_run(tmp_path / "run", network), tmp_path / "out", file_format=name)
    assert done.differing <= 0.0001 * done.voxels
    if network not in FINDS_NOTHING:
        assert done.labelled > 0.01 * done.voxels  # random weights call something liver: something was compared
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [stage["name"] for stage in manifest["stages"]] == (
        ["liver", "tumor"] if network == "cascade" else ["network"]
    )
    named = {file for stage in manifest["stages"] for file in stage["files"]}
    assert named | {"manifest.json"} == set(done.files) == {path.name for path in (tmp_path / "out").iterdir()}
    assert manifest["settings"]["spacing"] == [12.0, 12.0, 12.0]
    assert str(tmp_path) not in json.dumps(manifest)


@pytest.mark.slow  # its conversion to ONNX takes a minute
@pytest.mark.parametrize(("network", "name"), BY_LOGITS)
def test_a_network_that_decides_by_little_gives_the_same_logits_from_its_file(
    tmp_path: Path, network: str, name: str
) -> None:
    parser = ConfigParser(load_config(make_run(tmp_path / "run", network), "inference", {"device": "cpu"}))
    path = tmp_path / f"network{EXPORTERS[name].suffix}"
    roi_size = NETWORKS[network]["roi_size"]
    run, _ = export_network(parser.get_parsed_content("network").eval(), (1, *roi_size), path, EXPORTERS[name])
    assert run(torch.zeros(3, 1, *roi_size)).shape == (3, 3, *roi_size)


def test_a_clean_bundle_predicts_alike_and_holds_nothing_of_a_case(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "cascade")
    train = run / "configs" / "train.yaml"
    config = yaml.safe_load(train.read_text())
    hidden = {"dataset_dir": "/data/MUELLER_1950", "cache_dir": "/data/MUELLER/cache", "tracking_uri": "http://mueller"}
    train.write_text(yaml.safe_dump({**config, **hidden}))
    weights = torch.load(run / WEIGHTS, weights_only=True)
    torch.save({**weights, "case_losses": torch.ones(3)}, run / WEIGHTS)
    for name in ("split.json", "log.csv", "cache/MUELLER.pt", "logs/events.out.tfevents.1", "models/last.pt",
                 "liver/split.json", "liver/out_of_fold/masks/MUELLER.nii.gz", "samples/MUELLER.png"):  # fmt: skip
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("MUELLER")
    knows = RunQuality(
        QualityThresholds(max_hu=300.0), "validation", [{"case": "MUELLER", "liver_ml": 1.0}], temperature=1.5
    )
    write_quality(run, knows)
    done = export(run, tmp_path / "out", file_format="bundle")
    assert done.differing == 0
    assert read_quality(tmp_path / "out") == replace(knows, cases=[])  # masks are judged, and are as sure, as the run's
    kept = ("train", "evaluate", "inference", "multi_gpu_train")
    stage = {"LICENSE", "docs/README.md", "models/model.pt", "configs/metadata.json"}
    stage |= {f"configs/{name}.yaml" for name in kept}
    assert set(done.files) == stage | {"quality.json"} | {f"liver/{name}" for name in stage}
    for path in (tmp_path / "out").rglob("*.*"):
        content = path.read_bytes().lower()
        assert b"mueller" not in content, path
        assert str(tmp_path).encode().lower() not in content, path
    assert torch.load(tmp_path / "out" / WEIGHTS, weights_only=True).keys() == {"model"}
    assert (tmp_path / "out/liver" / WEIGHTS).read_bytes() == (run / "liver" / WEIGHTS).read_bytes()


def test_a_path_that_hides_in_a_component_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "unet3d")
    train = run / "configs" / "train.yaml"
    train.write_text(train.read_text() + "more: {_target_: Identity, file: /data/MUELLER/list.csv}\n")
    with pytest.raises(ValueError, match=r"has the path /data/MUELLER/list\.csv in 'more'"):
        export(run, tmp_path / "out", file_format="bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_export_says_what_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(make_run(tmp_path / "run", "cascade"), tmp_path / "out", file_format="torchscript")
    said = capsys.readouterr().out.splitlines()
    steps = ["writing liver.ts", "writing tumor.ts", "segmenting 3 phantoms"]
    steps += [f"phantom {number}, {stage}: " for number in (1, 2, 3) for stage in ("liver", "tumor")]
    assert [line for line, step in zip(said, steps, strict=True) if line.startswith(step)] == said


def test_what_is_there_or_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        export(tmp_path / "none", tmp_path / "out", file_format="onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        export(tmp_path / "none", tmp_path / "out", file_format="onnx")
    (tmp_path / "cv" / "fold0" / "configs").mkdir(parents=True)
    with pytest.raises(ValueError, match="export one of its folds"):
        export(tmp_path / "cv", tmp_path / "new", file_format="onnx")
    with pytest.raises(ValueError, match="there are torchscript, onnx, openvino, bundle"):
        export("default", tmp_path / "new", file_format="tflite")


class Undecided(torch.nn.Module):
    """A network whose answer depends on how many windows it gets: no conversion is a copy of it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image, image * (2.0 if image.shape[0] > 1 else 1.0)], dim=1)


def test_a_file_that_gives_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no copy of the network"):
        export_network(Undecided(), (1, 8, 8, 8), tmp_path / "network.xml", EXPORTERS["openvino"])
    assert not logging.root.manager.disable  # what was kept quiet speaks again


def test_a_format_without_its_libraries_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'liver-pipeline\[export\]'"):
        export(make_run(tmp_path / "run", "unet3d"), tmp_path / "out", file_format="onnx")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path / "run")


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes; no file grows beyond, as on a disk that is full
    try:
        with pytest.raises(OSError, match="File too large"):
            EXPORTERS["torchscript"].write(torch.nn.Conv3d(1, 8, 3), torch.zeros(1, 1, 8, 8, 8), tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
