"""Weights in the box: found by name and version, whole, and honest about where they come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from liver_pipeline.bundle import shipped as box
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.networks.weights import load_weights


def test_default_is_the_newest_version_and_each_version_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("default-1", "default-2", "default-10", "segments-1"):
        (tmp_path / "weights" / name / "configs").mkdir(parents=True)
    monkeypatch.setattr(box, "share_dir", lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert list(box.shipped()) == ["default@1", "default@2", "default@10", "segments@1"]
    assert box.run_folder("default").name == "default-10"
    assert box.run_folder("default@2").name == "default-2"
    assert box.run_name(tmp_path / "weights" / "default-2") == "default@2"
    assert box.run_folder("runs/r34") == Path("runs/r34")
    with pytest.raises(FileNotFoundError, match="no weights default@3; it has default@1"):
        box.run_folder("default@3")
    assert not box.shipped_runs()
    (tmp_path / "weights" / "default-1" / "configs" / "inference.yaml").touch()
    assert list(box.shipped_runs()) == ["default@1"]
    (tmp_path / "default").mkdir()
    assert box.run_folder("default") == Path("default")  # a folder of that name wins


def test_what_is_shipped_loads_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    folder = box.run_folder("default")
    parser = ConfigParser(load_config(folder, "inference", {"device": "cpu"}))
    for stage, network in (("", "network_def"), ("liver", "liver_network_def")):
        weights = folder / stage / "models" / "model.pt"
        assert weights.stat().st_size <= 15_000_000
        load_weights(parser.get_parsed_content(network), weights)
    for name in ("model.pt", "model.pt.sha256"):
        shutil.copy(folder / "models" / name, tmp_path / name)
    with (tmp_path / "model.pt").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"is not what model\.pt\.sha256 says"):
        load_weights(parser.get_parsed_content("network_def"), tmp_path / "model.pt")


def test_the_card_and_the_sources_lie_beside_the_weights() -> None:
    folder = box.run_folder("default")
    assert "Not a medical device" in (folder / "docs" / "README.md").read_text()
    assert "No LiTS or MSD image was seen" in (folder / "ATTRIBUTION.md").read_text()
    assert not any(path.name == ".lock" for path in folder.rglob("*"))
