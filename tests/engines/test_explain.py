"""Bad cases, a loss that is not a number, a full disk, too little memory."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from ignite.engine import Engine

import liver_pipeline as lp
from liver_pipeline.data.cache import CaseCache
from liver_pipeline.data.cases import Split
from liver_pipeline.data.prepare import usable_cases
from liver_pipeline.engines.explain import largest_fit
from liver_pipeline.handlers.bad_loss import LossNotFiniteError
from liver_pipeline.handlers.checkpoint import Checkpoint
from liver_pipeline.io.checkpoints import LAST, load_checkpoint
from liver_pipeline.io.files import TEMPORARY
from liver_pipeline.networks.acceleration import _Recomputed
from tests.small import UNET3D, make_phantoms

TINY: dict[str, Any] = {**UNET3D, "max_epochs": 3, "split_fractions": [0.5, 0.25, 0.25]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_phantoms(tmp_path / "data", 4)


def root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def test_a_corrupt_case_is_named_before_the_first_epoch_or_skipped_and_listed(tmp_path: Path, data: Path) -> None:
    run = tmp_path / "run"
    lp.train(run, {}, overrides={**TINY, "max_epochs": 1, "dataset_dir": str(data)})
    bad = json.loads((run / "split.json").read_text())["cases"]["train"][0]
    path = data / f"{bad}.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    lp.compose(tmp_path / "other", {}, overrides={**TINY, "max_epochs": 1, "dataset_dir": str(data)})
    (tmp_path / "other/split.json").write_bytes((run / "split.json").read_bytes())
    with pytest.raises(ValueError) as caught:
        lp.train(tmp_path / "other", {})
    assert f"1 bad cases: {bad} (" in root(caught.value)
    assert "TRUNCATED" in root(caught.value) or "GZIP_CRC" in root(caught.value)
    assert not (tmp_path / "other/models" / LAST).exists()

    lp.train(tmp_path / "other", {}, overrides={"on_bad_case": "skip"})
    (entry,) = json.loads((tmp_path / "other/skipped_cases.json").read_text())
    assert (entry["case"], entry["part"]) == (bad, "train")
    assert load_checkpoint(tmp_path / "other/models" / LAST)["epoch"] == 1


def test_skipping_all_cases_or_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    split: Split = {"train": [{"case": "a", "image": "i", "label": "l"}], "val": [], "test": []}
    skipped = tmp_path / "skipped.json"

    def read(case: Mapping[str, Any]) -> None:
        raise ValueError("i: CONSTANT: every voxel is 0")

    with pytest.raises(ValueError, match=r"no usable case is left in train.*CONSTANT"):
        usable_cases(split, read, on_bad_case="skip", skipped_file=skipped)
    with pytest.raises(ValueError, match="fail or skip"):
        usable_cases(split, read, on_bad_case="ignore", skipped_file=skipped)


@pytest.mark.parametrize("changed", ["image", "label"])
def test_a_case_that_changes_while_a_run_is_trained_is_named(
    changed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {what: tmp_path / f"{what}.nii" for what in ("image", "label")}
    for path in paths.values():
        path.write_text("one")
    split: Split = {
        "train": [{"case": "a", **{what: str(path) for what, path in paths.items()}}],
        "val": [],
        "test": [],
    }

    def prepared() -> str:
        digest = CaseCache(tmp_path / "cache", [], max_gb=1.0, window=(4, 4, 4)).content_digest
        told: Any = {"content_digest": digest, "contents_file": tmp_path / "prepared_cases.json"}
        usable_cases(split, lambda case: None, on_bad_case="fail", skipped_file=tmp_path / "skipped.json", **told)
        return "".join(capsys.readouterr())

    assert [prepared(), prepared()] == ["", ""]
    paths[changed].write_text("another")
    assert "1 cases changed, scan or label map, since this run prepared them: a;" in prepared()
    assert prepared() == ""


def test_a_loss_that_is_not_a_number_stops_with_the_cases_saved(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    lp.train(run, {}, overrides={**TINY, "max_epochs": 1, "dataset_dir": str(data)})
    before = load_checkpoint(run / "models" / LAST)
    poisoned = mock.patch("monai.losses.DiceCELoss.forward", lambda self, pred, label: pred.sum() * float("nan"))
    with poisoned, pytest.raises(LossNotFiniteError) as caught:
        lp.train(run, {}, overrides={"max_epochs": 2})
    assert caplog.text == ""  # it is told once, by the error
    record = json.loads((run / "bad_loss.json").read_text())
    assert (record["epoch"], record["loss"]) == (2, "nan")
    assert set(record["cases"]) <= set(json.loads((run / "split.json").read_text())["cases"]["train"])
    assert record["cases"][0] in root(caught.value)
    after = load_checkpoint(run / "models" / LAST)
    assert all(torch.equal(before["model"][key], after["model"][key]) for key in before["model"])


@pytest.mark.parametrize("behind", [False, True])
def test_a_full_disk_stops_cleanly_and_the_last_checkpoint_serves(behind: bool, tmp_path: Path, data: Path) -> None:
    run = tmp_path / "run"
    save = Checkpoint.__call__
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_disk_that_is_full_in_epoch_2(self: Checkpoint, engine: Engine) -> None:
        if engine.state.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        self.behind = behind
        try:
            save(self, engine)
            if self._writing is not None:
                futures.wait([self._writing])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    full = mock.patch.object(Checkpoint, "__call__", on_a_disk_that_is_full_in_epoch_2)
    with full, pytest.raises(OSError) as caught:
        lp.train(run, {}, overrides={**TINY, "dataset_dir": str(data)})
    assert "no space left" in root(caught.value)
    assert load_checkpoint(run / "models" / LAST)["epoch"] == 1
    assert list(run.rglob(TEMPORARY.format("*"))) == []
    lp.train(run, {})
    assert load_checkpoint(run / "models" / LAST)["epoch"] == 3


class Hungry(torch.nn.Module):
    """A network that runs out of memory above a number of voxels."""

    def __init__(self, voxels: int) -> None:
        super().__init__()
        self.voxels, self.scale = voxels, torch.nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.numel() > self.voxels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return image * self.scale


@pytest.mark.parametrize(
    ("voxels", "fit"),
    [(2 * 512, (2, [8, 8, 8])), (512, (1, [8, 8, 8])), (300, (1, [8, 8, 4])), (64, (1, [4, 4, 4])), (60, None)],
)
def test_what_fits_into_memory_is_found(voxels: int, fit: object) -> None:
    network = Hungry(voxels)
    trainer: Any = SimpleNamespace(
        network=network,
        loss_function=torch.nn.MSELoss(),
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        amp=False,
        amp_kwargs={},
        state=SimpleNamespace(device=torch.device("cpu")),
    )
    assert largest_fit(trainer, {"image": torch.rand(4, 1, 8, 8, 8), "label": torch.rand(4, 1, 8, 8, 8)}) == fit


@pytest.mark.parametrize(
    ("checkpointing_helps", "advice"),
    [
        (False, ("1 windows of 16x16x16 fit", "accumulate_steps=2 makes a step of two batches", "--restart")),
        (True, ("they fit with activation_checkpointing=true: the same command with it continues",)),
    ],
)
def test_too_little_memory_is_said_with_what_fits(
    checkpointing_helps: bool, advice: tuple[str, ...], tmp_path: Path, data: Path
) -> None:
    from liver_pipeline.networks.unet3d import UNet3d

    forward = UNet3d.forward

    def hungry(self: UNet3d, image: torch.Tensor) -> torch.Tensor:
        relieved = checkpointing_helps and isinstance(self.encoder[0], _Recomputed)
        if self.training and len(image) > 1 and not relieved:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, image)

    run = lp.compose(tmp_path / "run", {}, overrides={**TINY, "dataset_dir": str(data)})
    with mock.patch.object(UNet3d, "forward", hungry), pytest.raises(RuntimeError) as caught:
        lp.train(run, {})
    said = root(caught.value)
    assert "2 windows (batch_size x crops_per_case) of 16x16x16" in said
    assert all(text in said for text in advice)
