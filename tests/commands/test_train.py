"""A training that is stopped and continued is the training that was not stopped."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events

import liver_pipeline as lp
from liver_pipeline.cli import main
from liver_pipeline.commands.find_lr import find_learning_rate
from liver_pipeline.handlers.checkpoint import Checkpoint, host_copy
from liver_pipeline.handlers.epoch_log import EpochLog
from liver_pipeline.io.checkpoints import LAST, PREVIOUS
from tests.small import UNET3D, make_phantoms

pytestmark = pytest.mark.usefixtures("leave_no_global_state")

TIMES = ("seconds", "data_wait_share")
EPOCHS, STEPS = 3, 2  # three cases in batches of two
TINY: dict[str, Any] = {
    **UNET3D,
    "max_epochs": EPOCHS,
    "batch_size": 2,
    "crops_per_case": 1,
    "num_workers": 2,
    "deterministic": True,
    "split_fractions": [0.6, 0.2, 0.2],
}


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("phantoms")
    return {**TINY, "dataset_dir": str(make_phantoms(folder, 5))}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, overrides: dict[str, Any]) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    lp.train(run, {}, overrides=overrides)
    return run


def train_until(step: int, run: Path, overrides: dict[str, Any], **layers: str) -> None:
    """Train, and be interrupted in the given step, counted from the first epoch's first; past the end: not at all."""
    attach = EpochLog.attach

    def interrupt(engine: Engine) -> None:
        if engine.state.iteration == step:
            raise KeyboardInterrupt

    def attach_and_interrupt(self: EpochLog, engine: Engine) -> None:
        attach(self, engine)
        engine.add_event_handler(Events.ITERATION_COMPLETED, interrupt)

    with mock.patch.object(EpochLog, "attach", attach_and_interrupt), contextlib.suppress(KeyboardInterrupt):
        lp.train(run, layers, overrides=overrides)


def test_a_training_whose_checkpoints_are_written_behind_it_continues_exactly(
    uninterrupted: Path, overrides: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = Checkpoint.__init__

    def behind(self: Checkpoint, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self.behind = True

    monkeypatch.setattr(Checkpoint, "__init__", behind)
    train_until(STEPS + 1, tmp_path / "run", overrides)
    train_until(EPOCHS * STEPS + 1, tmp_path / "run", overrides)
    assert differing(content(uninterrupted), content(tmp_path / "run")) == []


def test_a_copy_on_the_host_is_not_changed_by_the_training() -> None:
    rows, weight = [{"loss": 1.0}], torch.ones(3, requires_grad=True)
    copy = host_copy({"log": {"rows": rows}, "model": {"weight": weight}})
    rows.append({"loss": 2.0})
    with torch.no_grad():
        weight += 1
    assert copy["log"] == {"rows": [{"loss": 1.0}]}
    assert torch.equal(copy["model"]["weight"], torch.ones(3))
    assert not copy["model"]["weight"].requires_grad


def content(run: Path, name: str = LAST) -> dict[str, Any]:
    """Everything a run ends with, except how long it took."""
    state: dict[str, Any] = torch.load(run / "models" / name, weights_only=True)
    best: dict[str, Any] = torch.load(run / "models" / "model.pt", weights_only=True)
    for row in state["log"]["rows"]:
        del row["seconds"], row["data_wait_share"]
    with (run / "log.csv").open() as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    return {"state": state, "best": best, "csv": rows}


def differing(a: Any, b: Any, where: str = "") -> list[str]:
    """List the places at which two nested structures differ; tensors and numbers to the bit."""
    if type(a) is not type(b):
        return [where]
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [where]
        return [place for key in a for place in differing(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [where]
        return [place for i, pair in enumerate(zip(a, b, strict=True)) for place in differing(*pair, f"{where}/{i}")]
    return [] if a == b else [where]


@settings(max_examples=5)
@given(steps=st.lists(st.integers(1, EPOCHS * STEPS), min_size=1, max_size=2))
def test_training_equals_training_stopped_at_any_steps_and_continued(
    steps: list[int], uninterrupted: Path, overrides: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        for step in steps:
            train_until(step, run, overrides)
        lp.train(run, {}, overrides=overrides)
        assert differing(content(run), content(uninterrupted)) == []


def test_the_weights_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, uninterrupted: Path, overrides: dict[str, Any]
) -> None:
    lp.train(tmp_path / "run", {}, overrides={**overrides, "num_workers": 0})
    assert differing(content(tmp_path / "run"), content(uninterrupted)) == []


def test_stock_monai_continues_a_run(tmp_path: Path, uninterrupted: Path, overrides: dict[str, Any]) -> None:
    import monai

    run = tmp_path / "run"
    train_until(2 * STEPS - 1, run, overrides)
    assert torch.load(run / "models" / LAST, weights_only=True)["epoch"] == 1
    monai.bundle.run(config_file=str(run / "configs/train.yaml"), bundle_root=str(run))
    assert differing(content(run), content(uninterrupted)) == []


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut short", None])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_taken(
    damage: bytes | None,
    tmp_path: Path,
    uninterrupted: Path,
    overrides: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    train_until(2 * STEPS + 1, run, overrides)
    last = run / "models" / LAST
    whole = bytearray(last.read_bytes())
    whole[len(whole) // 2] ^= 1  # one bit of a weight
    last.write_bytes(bytes(whole) if damage is None else damage)
    lp.train(run, {}, overrides=overrides)
    shown = capsys.readouterr()
    assert "damaged checkpoint passed over" in shown.out + shown.err
    assert "continuing after epoch 1 of 3" in shown.out + shown.err
    assert differing(content(run), content(uninterrupted)) == []


def test_a_finished_run_says_so_and_stays_as_it_is(
    uninterrupted: Path, overrides: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(uninterrupted.rglob("*"))}
    lp.train(uninterrupted, {}, overrides=overrides)
    lp.train(uninterrupted, {"network": "unet3d"}, overrides=overrides)  # layers named again
    assert "finished after epoch 3" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in sorted(uninterrupted.rglob("*"))}


def test_another_configuration_is_refused_key_by_key(uninterrupted: Path, overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"learning_rate: 0\.0003 -> 0\.001; choose another folder"):
        lp.train(uninterrupted, {}, overrides={"learning_rate": 1e-3})
    with pytest.raises(ValueError, match=r"max_epochs: 3 -> 2"):
        lp.train(uninterrupted, {}, overrides={"max_epochs": 2})
    with pytest.raises(ValueError, match=r"network_def::_target_: \"liver_pipeline.networks.UNet3d\" -> \"SegResNet\""):
        lp.train(
            uninterrupted,
            {"network": "segresnet"},
            overrides={key: value for key, value in overrides.items() if key != "network_def::channels"},
        )


def test_a_prolonged_run_follows_the_longer_schedule(
    tmp_path: Path, overrides: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run, longer = tmp_path / "run", tmp_path / "longer"
    lp.train(run, {}, overrides={**overrides, "max_epochs": 1})
    lp.train(run, {}, overrides={"max_epochs": 3})
    lp.train(longer, {}, overrides=overrides)
    # The first epoch runs at the initial rate under either schedule, so that the two trainings are the same to the bit.
    assert differing(content(run), content(longer)) == []
    lp.train(run, {})  # the number is kept in the run
    assert "finished after epoch 3" in capsys.readouterr().out


def test_patience_that_is_used_up_finishes_and_more_of_it_prolongs(
    tmp_path: Path, overrides: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    constant = "$lambda engine: 0.5"  # the first validation is the best; the second uses the patience up
    still = {**overrides, "max_epochs": 4, "early_stop_patience": 1, "validate::early_stop::score_function": constant}
    for _ in range(2):
        lp.train(run, {}, overrides=still)
        assert torch.load(run / "models" / LAST, weights_only=True)["epoch"] == 2
    assert "finished after epoch 2" in capsys.readouterr().out
    lp.train(run, {}, overrides={"early_stop_patience": 50})
    assert torch.load(run / "models" / LAST, weights_only=True)["epoch"] == 4


def test_restart_begins_anew_with_the_configuration_of_the_run(
    tmp_path: Path, uninterrupted: Path, overrides: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    lp.train(run, {}, overrides={**overrides, "max_epochs": 1, "seed": 5})
    lp.train(run, {}, overrides={"max_epochs": EPOCHS, "seed": 0}, restart=True)
    assert differing(content(run), content(uninterrupted)) == []
    earlier = run / "earlier" / "1"  # a run of its own
    assert content(earlier)["state"]["epoch"] == 1
    assert yaml.safe_load((earlier / "configs/train.yaml").read_text())["seed"] == 5


USERS = ("models/mine.pt", "models/notes.txt", "logs/notes.txt", "configs/mine.yaml", "docs/README.md", "out_of_fold/x")


def everything(run: Path) -> dict[str, bytes]:
    """All files but the lock and the cache."""
    files = (path for path in run.rglob("*") if path.is_file() and "cache" not in path.relative_to(run).parts)
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != ".lock"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"dataset_dir": "/misspelt"}, "no such folder"),
        ({"sed": 1}, "did you mean 'seed'"),
        ({"split_fractions": [0.0, 0.5, 0.5]}, "split_fractions"),
        ({"initial_weights": "/misspelt.pt"}, "no weights at /misspelt.pt"),
        ({"initial_weights": "/"}, "/ is a folder; expected a file of weights"),
        ({"device": "cuda:99"}, "devices; device=cpu works"),
    ],
)
@pytest.mark.parametrize("layers", [{}, {"network": "unet3d"}], ids=["own config", "layers named again"])
def test_a_restart_that_cannot_begin_changes_nothing(
    layers: dict[str, str], words: dict[str, Any], reason: str, uninterrupted: Path, overrides: dict[str, Any]
) -> None:
    before = everything(uninterrupted)
    with pytest.raises((ValueError, OSError, RuntimeError)) as caught:
        lp.train(uninterrupted, layers, overrides={**overrides, **words}, restart=True)
    assert reason in str(caught.value.__cause__ or caught.value)
    assert everything(uninterrupted) == before


def test_a_restart_and_an_overwrite_move_only_what_training_wrote(
    tmp_path: Path, uninterrupted: Path, overrides: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run, ignore=shutil.ignore_patterns("cache"))
    for name in USERS:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    before = everything(run)
    lp.train(run, {}, overrides={"max_epochs": 1}, restart=True)
    after = everything(run)
    assert all(after[name] == b"mine" for name in USERS)
    written = {name for name in before if name not in USERS and not name.startswith(("configs/", "LICENSE"))}
    assert {name: before[name] for name in written} == {name: after[f"earlier/1/{name}"] for name in written}
    assert after["earlier/1/configs/train.yaml"] == before["configs/train.yaml"]
    lp.compose(run, {}, overrides=overrides, overwrite=True)
    last = everything(run)
    assert all(last[name] == b"mine" for name in USERS)
    assert last["earlier/2/models/model.pt"] == after["models/model.pt"]
    assert {name: data for name, data in last.items() if name.startswith("earlier/1/")} == {
        name: data for name, data in after.items() if name.startswith("earlier/1/")
    }
    assert not (run / "models/model.pt").exists()


def test_a_split_of_one_s_own_stays_when_a_training_begins_anew(
    tmp_path: Path, uninterrupted: Path, overrides: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    names = {"train": ["volume-0", "volume-1"], "val": ["volume-2"], "test": ["volume-4"]}
    run.mkdir()
    (run / "split.json").write_text(json.dumps({"cases": names}))
    for _ in range(2):
        lp.train(run, {}, overrides={**overrides, "max_epochs": 1}, restart=(run / "configs").exists())
        assert json.loads((run / "split.json").read_text())["cases"] == names


def test_a_run_that_is_not_trained_may_become_any_other(tmp_path: Path, overrides: dict[str, Any]) -> None:
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError) as caught:
        lp.train(run, {"network": "unet3d"}, overrides={**overrides, "dataset_dir": "/misspelt"})
    assert "no such folder" in str(caught.value)
    (run / "configs/train.yaml").write_text((run / "configs/train.yaml").read_text() + "# edited\n")
    others = {"learning_rate": 1e-3, "max_epochs": 1, "split_fractions": [0.4, 0.4, 0.2], "network_graph": False}
    lp.train(run, {"network": "unet3d", "recipe": "combo_loss"}, overrides={**overrides, **others})
    config = yaml.safe_load((run / "configs/train.yaml").read_text())
    assert (config["learning_rate"], config["loss"]["_target_"]) == (1e-3, "liver_pipeline.losses.ComboLoss")
    assert (run / "earlier/1/configs/train.yaml").read_text().endswith("# edited\n")


def test_cases_that_were_dealt_before_the_training_began_are_dealt_by_the_new_configuration(
    tmp_path: Path, overrides: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    lp.compose(run, {}, overrides=overrides)
    find_learning_rate(run, steps=10)  # deals the cases
    dealt = json.loads((run / "split.json").read_text())["cases"]
    assert [len(dealt[part]) for part in ("train", "val", "test")] == [3, 1, 1]
    lp.train(run, {}, overrides={"split_fractions": [0.4, 0.4, 0.2], "max_epochs": 1})
    dealt = json.loads((run / "split.json").read_text())["cases"]
    assert [len(dealt[part]) for part in ("train", "val", "test")] == [2, 2, 1]


def test_where_things_lie_may_change_in_a_training_that_has_begun(
    tmp_path: Path, uninterrupted: Path, overrides: dict[str, Any]
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(uninterrupted, run)
    shutil.copytree(overrides["dataset_dir"], moved)
    places = {"dataset_dir": str(moved), "cache_dir": str(tmp_path / "cache"), "device": "cpu"}
    lp.train(run, {}, overrides={**places, "encoder_weights": None, "max_epochs": EPOCHS + 1})
    assert content(run)["state"]["epoch"] == EPOCHS + 1
    for workflow in ("train", "evaluate"):
        assert yaml.safe_load((run / f"configs/{workflow}.yaml").read_text())["dataset_dir"] == str(moved)
    used = ("train", "evaluate")
    lp.train(run, {"network": "unet3d"}, overrides={**overrides, "max_epochs": EPOCHS + 1, "tta": [0]}, workflows=used)
    for workflow, key, value in (("train", "dataset_dir", overrides["dataset_dir"]), ("inference", "tta", [0])):
        assert yaml.safe_load((run / f"configs/{workflow}.yaml").read_text())[key] == value


def test_a_finished_training_whose_weights_are_gone_is_no_success(tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "models/model.pt").unlink()
    result = CliRunner().invoke(main, ["train", str(run)])
    assert result.exit_code == 2
    assert "the training left no" in result.stderr and "last.ckpt" in result.stderr


def test_checkpoints_of_an_earlier_version_are_not_passed_over(tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    for name, older in ((LAST, "last.pt"), (PREVIOUS, "previous.pt")):
        (run / "models" / name).rename(run / "models" / older)
    with pytest.raises(ValueError, match=r"rename last.pt to last.ckpt and previous.pt to previous.ckpt to continue"):
        lp.train(run, {})


def test_model_pt_is_the_only_file_that_is_named_like_weights(uninterrupted: Path) -> None:
    assert [path.name for path in (uninterrupted / "models").glob("*.pt*")] == ["model.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.0, 0.7])
def test_kill_9_at_any_moment_loses_at_most_one_epoch(wait_s: float, tmp_path: Path, overrides: dict[str, Any]) -> None:
    run, reference = tmp_path / "run", tmp_path / "reference"
    many = {**overrides, "max_epochs": 8}
    lp.compose(run, {}, overrides=many)
    command = [sys.executable, "-c", "from liver_pipeline.cli import main; main()", "train", str(run)]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "models" / LAST).exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(wait_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    logged = len((run / "log.csv").read_text().splitlines()) - 1
    saved = max(
        torch.load(path, weights_only=True)["epoch"]
        for path in (run / "models" / LAST, run / "models" / PREVIOUS)
        if path.exists()
    )
    assert logged - saved <= 1
    lp.train(run, {})
    lp.train(reference, {}, overrides=many)
    assert differing(content(run), content(reference)) == []
