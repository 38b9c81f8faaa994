"""The command line: help that helps, and one line for what a user can mend."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from monai.bundle import ConfigParser

from liver_pipeline.bundle.keys import KEYS
from liver_pipeline.bundle.names import layer_names
from liver_pipeline.bundle.roles import MEANING, Role
from liver_pipeline.bundle.workflow import load_config
from liver_pipeline.cli import main
from liver_pipeline.cli.group import root_cause
from tests.small import make_phantoms

COMMANDS = ("train", "compose", "predict", "evaluate", "list", "keys", "demo", "check", "plan")
TINY_NETWORK = ["network_def::channels=[4,8]", "roi_size=[16,16,16]", "spacing=[12,12,12]"]
TINY = [*TINY_NETWORK, "max_epochs=1", "num_workers=0", "split_fractions=[0.34,0.33,0.33]"]


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(*words: object) -> str:
    """Run a command that must end with exit code 2 and one line; return the line."""
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("liver-pipeline: ")
    return line


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_a_command_does(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5
    assert ("KEY=VALUE" in result.output) == ("liver-pipeline keys" in result.output)


def test_help_cuts_no_sentence() -> None:
    assert "..." not in call("--help").output.replace("[ARGS]...", "")


def test_list_shows_every_file_that_can_be_named_and_the_weights() -> None:
    output = call("list").output
    for kind in ("network", "recipe", "augmentation", "data", "modality", "experiment"):
        for name in layer_names(kind):
            assert f"  {name} " in output
    assert "  default@1 " in output
    assert call("list", "recipes").output.splitlines()[0] == "recipes:"
    assert "did you mean 'networks'?" in refused("list", "network")


def test_keys_says_default_unit_and_role() -> None:
    output = call("keys").output
    assert all(f"  {name} " in output for name in KEYS)
    about = call("keys", "spacing").output
    assert "default:  [1.5, 1.5, 2.0]" in about
    assert "unit:     mm" in about
    assert "used by:  train, evaluate, inference" in about
    assert MEANING[Role.STAGE] in about
    assert call("keys", "liver_spacing").output == about  # of a cascade's liver stage
    assert "did you mean 'learning_rate'?" in refused("keys", "lerning_rate")


def test_list_keys_and_completion_load_neither_torch_nor_monai() -> None:
    calls = "[m.main(words, standalone_mode=False) for words in (['list'], ['keys'], ['completion', 'bash'])]"
    heavy = "{'torch', 'monai'} & set(sys.modules)"
    code = f"import sys; from liver_pipeline import cli as m; {calls}; assert not {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("tra", ["train"]),
        ("train runs/a --network resnet3", ["resnet34_unet", "resnet34_unet_deconv"]),
        ("train runs/a --recipe focal", ["focal_tversky"]),
        ("compare runs/a --experiments smoke,flagsh", ["smoke,flagship", "smoke,flagship_2core"]),
        ("predict def", ["default", "default@1"]),
        ("train runs/a max_ep", ["max_epochs="]),
        ("keys learning", ["learning_rate"]),
        ("list mod", ["modalities"]),
        ("completion b", ["bash"]),
    ],
)
def test_the_shell_completes_names(words: str, found: list[str]) -> None:
    env = {"_LIVER_PIPELINE_COMPLETE": "bash_complete", "COMP_WORDS": f"liver-pipeline {words}"}
    env["COMP_CWORD"] = str(len(words.split()))
    result = CliRunner().invoke(main, [], env=env, prog_name="liver-pipeline")
    assert [line.partition(",")[2] for line in result.output.splitlines()] == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_the_shell_accepts(shell: str) -> None:
    script = call("completion", shell).stdout
    assert "_LIVER_PIPELINE_COMPLETE" in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_an_unknown_network_and_key_are_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    assert "did you mean 'segresnet'?" in refused("train", tmp_path / "r", "--network", "segresnt")
    assert "did you mean 'resnet34_unet'?" in refused("train", tmp_path / "r", "--network", "resnet35")
    assert "did you mean 'max_epochs'?" in refused("train", tmp_path / "r", "max_epoch=3")
    assert "did you mean 'channels'?" in refused("train", tmp_path / "r", "network_def::chanels=[4,8]")
    assert "did you mean 'default'?" in refused("predict", "defalt", tmp_path, tmp_path / "masks")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("words", [("--device", "cpu"), ("--device=cpu",)])
def test_a_key_that_is_written_as_an_option_is_told_how_to_write_it(words: tuple[str, ...]) -> None:
    result = call("predict", "default", "scan.nii.gz", "mask.nii.gz", *words)
    assert result.exit_code == 2
    assert result.stderr.endswith("Error: '--device' is a key; write device=VALUE, without dashes.\n")
    assert "write roi_size=VALUE" in call("train", "run", "--roi-size", "[16,16,16]").stderr
    assert "Did you mean '--network'?" in call("train", "run", "--networks", "unet3d").stderr  # options stay options
    assert "is a key" not in call("describe", "mask.nii.gz", "--device", "cpu").stderr  # it takes no keys


def test_a_missing_or_empty_data_set_is_refused(tmp_path: Path) -> None:
    line = refused("train", tmp_path / "a", f"dataset_dir={tmp_path / 'nowhere'}", *TINY)
    assert "no such folder" in line
    (tmp_path / "empty").mkdir()
    assert "no volume-N.nii" in refused("train", tmp_path / "b", f"dataset_dir={tmp_path / 'empty'}", *TINY)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = call("--debug", "train", tmp_path / "r", "max_epoch=3")
    assert isinstance(result.exception, ValueError)


def damaged_copy(phantoms: Path, folder: Path, label: np.ndarray) -> Path:
    """Copy the phantoms; every case's label map becomes ``label``, so that whichever is read first is wrong."""
    folder.mkdir()
    for path in phantoms.glob("volume-*"):
        image = nib.load(path)
        nib.save(image, folder / path.name)
        number = path.name.removeprefix("volume-")
        nib.save(nib.Nifti1Image(label, image.affine), folder / f"segmentation-{number}")
    return folder


def test_a_label_map_of_another_shape_or_with_unknown_values_stops_the_training(tmp_path: Path, phantoms: Path) -> None:
    other_shape = damaged_copy(phantoms, tmp_path / "shape", np.ones((32, 26, 15), np.uint8))
    line = refused("train", tmp_path / "a", f"dataset_dir={other_shape}", *TINY)
    assert "LABEL_GRID_MISMATCH" in line
    assert "segmentation-" in line
    other_value = damaged_copy(phantoms, tmp_path / "value", np.full((32, 26, 16), 7, np.uint8))
    line = refused("train", tmp_path / "b", f"dataset_dir={other_value}", *TINY)
    assert "LABEL_VALUES" in line
    assert "7" in line


def test_a_run_is_trained_used_and_never_overwritten_unasked(tmp_path: Path, phantoms: Path) -> None:
    run, masks = tmp_path / "run", tmp_path / "masks"
    assert call("train", run, f"dataset_dir={phantoms}", *TINY).exit_code == 0
    assert "finished" in call("train", run, f"dataset_dir={phantoms}", *TINY).output
    assert "--restart" in refused("train", run, "--network", "segresnet")
    assert "learning_rate: 0.0003 -> 0.01" in refused("train", run, "learning_rate=0.01")

    assert call("predict", run, phantoms / "volume-1.nii.gz", masks, "--describe").exit_code == 0
    assert "liver" in (masks / "volume-1.description.json").read_text()
    image, mask = nib.load(phantoms / "volume-1.nii.gz"), nib.load(masks / "volume-1.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    assert mask.shape == image.shape
    np.testing.assert_array_equal(mask.affine, image.affine)

    reference = tmp_path / "reference"
    reference.mkdir()
    (reference / "segmentation-1.nii.gz").write_bytes((phantoms / "segmentation-1.nii.gz").read_bytes())
    assert call("evaluate", masks, reference, tmp_path / "scores").exit_code == 0
    assert (tmp_path / "scores/metrics.json").is_file()
    assert "overwrite" in refused("evaluate", masks, reference, tmp_path / "scores")


def test_compose_then_train_trains_what_was_composed(tmp_path: Path, phantoms: Path) -> None:
    run = tmp_path / "run"
    assert call("compose", run, f"dataset_dir={phantoms}", *TINY).exit_code == 0
    assert not (run / "models/model.pt").exists()
    assert call("train", run).exit_code == 0
    assert torch.load(run / "models/model.pt", weights_only=True)["epoch"] == 1


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, phantoms: Path) -> None:
    run = tmp_path / "run"
    assert call("compose", run, *TINY_NETWORK).exit_code == 0
    torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, run / "models/model.pt")
    assert "another network" in refused("predict", run, phantoms / "volume-0.nii.gz", tmp_path / "masks")


def test_predict_without_weights_or_scans_or_run_is_refused(tmp_path: Path, phantoms: Path) -> None:
    run = tmp_path / "run"
    assert "no run folder" in refused("predict", tmp_path, phantoms, tmp_path / "masks")
    assert call("compose", run, *TINY_NETWORK).exit_code == 0
    assert "model.pt" in refused("predict", run, phantoms / "volume-0.nii.gz", tmp_path / "masks")
    (tmp_path / "empty").mkdir()
    assert "NO_SCANS" in refused("predict", run, tmp_path / "empty", tmp_path / "masks")
    assert "NOT_FOUND" in refused("predict", run, tmp_path / "misspelt", tmp_path / "masks")


def test_a_user_without_a_name_is_served() -> None:
    nameless = """
import os, pwd
for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
import liver_pipeline
import monai
"""
    subprocess.run([sys.executable, "-c", nameless], check=True)


@pytest.mark.parametrize("is_read_only", [False, True])
def test_a_user_without_a_home_has_one_for_what_is_kept(is_read_only: bool) -> None:
    homeless = f"""
import os, pwd, tempfile
def refuse():
    raise FileNotFoundError("No usable temporary directory found")
if {is_read_only}:
    tempfile.gettempdir = refuse
os.environ.pop("HOME", None)
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {{uid}}")
pwd.getpwuid = getpwuid
import liver_pipeline
from liver_pipeline.bundle.entry import absolute
print(absolute("openvino_dir", "~/.cache/x"))
"""
    done = subprocess.run([sys.executable, "-c", homeless], check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()).is_absolute() and done.stdout.strip().endswith("/.cache/x")


def test_output_that_nobody_reads_any_more_undoes_no_mask(tmp_path: Path, phantoms: Path) -> None:
    run = tmp_path / "run"
    assert call("compose", run, *TINY_NETWORK).exit_code == 0
    network = ConfigParser(load_config(run, "inference")).get_parsed_content("network_def")
    torch.save(network.state_dict(), run / "models" / "model.pt")
    words = [sys.executable, "-m", "liver_pipeline", "predict", str(run), str(phantoms), str(tmp_path / "masks")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 0 and "Broken pipe" not in done.stderr, done.stderr
    closed = [*words[:-1], str(tmp_path / "closed")]
    assert subprocess.run(["bash", "-c", f"{shlex.join(closed)} >&-"], check=False).returncode == 0
    for folder in ("masks", "closed"):
        assert len(list((tmp_path / folder).glob("*.nii.gz"))) == 3


HEAVY = ("torch", "monai", "numpy", "nibabel", "scipy", "openvino", "itk")
UNNEEDED = ("segmentation_models_pytorch", "timm", "pandas", "mlflow", "highdicom")
COMMAND = "from click.testing import CliRunner; from liver_pipeline.cli import main; CliRunner().invoke(main, {})"


def imported_by(words: list[str], names: tuple[str, ...]) -> list[str]:
    """Return which modules are there after a command in a fresh process."""
    shown = f"import sys; {COMMAND.format(words)}; print(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1].split()


def test_help_imports_nothing_heavy() -> None:
    assert imported_by(["--help"], HEAVY) == []


def test_predict_imports_no_library_that_the_run_does_not_use(tmp_path: Path) -> None:
    assert call("compose", tmp_path / "run").exit_code == 0
    make_phantoms(tmp_path / "scans", 1)
    words = ["predict", str(tmp_path / "run"), str(tmp_path / "scans"), str(tmp_path / "masks"), "--dry-run"]
    assert imported_by(words, UNNEEDED) == []
    assert imported_by(words, ("monai",)) == ["monai"]  # the command was run


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "", "", ""),
        ("train", ""),
        ("synthesize", " "),
        ("evaluate", "masks", "labels", "\t"),
        ("predict", "RUN", "scans", "masks", "--series= "),
        ("predict", "run", ""),
        ("check", ""),
        ("compose", "run", "--network", ""),
        ("check", "scans", "--labels="),
    ],
)
def test_an_empty_word_is_refused(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is empty" in refused(*words)
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_is_not_found_is_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call("compose", run, *TINY_NETWORK).exit_code == 0
    config = run / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("liver_pipeline.networks.UNet3d", "mynets.MyNet"))
    assert "mynets.MyNet" in config.read_text()
    make_phantoms(tmp_path / "data", 1)
    line = refused("predict", run, tmp_path / "data", tmp_path / "masks")
    assert "mynets.MyNet" in line and "own classes lie in the working directory" in line


def test_classes_of_the_working_directory_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text("from monai.networks.nets import UNet\n\nclass MyNet(UNet): ...\n")
    arguments = "spatial_dims: 3, in_channels: 1, out_channels: '@num_classes', channels: [4, 8], strides: [2]"
    (tmp_path / "mine.yaml").write_text(f"network_def: {{_target_: mynets.MyNet, {arguments}}}\n")
    command = [sys.executable, "-P", "-c", "from liver_pipeline.cli import main; main()"]  # -P: as the script is
    words = ["compose", "run", "--network", "mine.yaml"]
    composed = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert composed.returncode == 0, composed.stderr
    assert "mynets.MyNet" in (tmp_path / "run/configs/train.yaml").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "a", "b", "c", "--min-lesion-ml", "nan"],
        ["evaluate", "a", "b", "c", "--memory-gb", "nan"],
        ["plan", "p", "--gpu-memory-gb", "inf"],
        ["synthesize", "s", "--seed", "-1"],
        ["predict", "r", "s", "o", "--max-failures", "0"],
    ],
)
def test_an_option_without_sense_is_refused_by_its_name_before_anything_is_read(words: list[str]) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert f"Invalid value for '{words[-2]}'" in done.output


def test_a_component_of_others_is_named_before_its_own_words() -> None:
    def chain(target: str) -> BaseException:
        error = RuntimeError(f"Failed to instantiate component '{target}' with keywords: params,lr")
        error.__cause__ = ValueError("Invalid learning rate: -1")
        return error

    assert root_cause(chain("torch.optim.AdamW")) == "torch.optim.AdamW: Invalid learning rate: -1"
    assert root_cause(chain("liver_pipeline.engines.run")) == "Invalid learning rate: -1"


def test_what_names_the_file_is_what_is_said_and_not_what_caused_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call("compose", run, "--data", "phantom", *TINY).exit_code == 0
    for name, content, said in (
        ("train.yaml", ": : :", "is not valid YAML"),
        ("inference.yaml", "", "is empty"),
        ("train.yaml", "seed: 1\nseed: 2\n", "sets 'seed' twice"),
    ):
        (run / "configs" / name).write_text(content)
        words = ("train", run) if name == "train.yaml" else ("predict", run, tmp_path, tmp_path / "masks")
        told = refused(*words)
        assert said in told and str(run / "configs" / name) in told


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["predict", "run", "scans", "masks", "--seg-type", "labelmap"], "--dicom"),
        (["predict", "run", "scans", "masks", "--seg-deflate"], "--dicom"),
        (["predict", "run", "scans", "masks", "--worker-cores", "2"], "--ray"),
        (["predict", "run", "scans", "masks", "output_dir=elsewhere"], "output_dir is masks"),
        (["predict", "run", "scans", "masks", "dataset_dir=elsewhere"], "dataset_dir is scans"),
        (["check", "scans", "--label-map", "{6: 1}"], "--labels"),
        (["view", "scan.nii.gz", "--label-map", "{6: 1}"], "reference"),
        (["evaluate", "a", "b", "c", "--protocol", "lits-official", "--min-lesion-ml", "5"], "lits-official"),
    ],
)
def test_an_option_that_would_be_dropped_is_refused(words: list[str], reason: str) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and reason in done.output


def test_a_full_disk_is_called_so_without_words_of_others() -> None:
    plain = OSError(errno.ENOSPC, "No space left on device", "/source/that/was/read")
    quoted = OSError(
        f"With tag (7FE0,0010) got exception: {OSError(errno.ENOSPC, 'x')}\nTraceback (most recent call ..."
    )
    assert root_cause(plain) == root_cause(quoted)
    assert root_cause(plain).startswith("no space is left on the disk that is written to")
    assert root_cause(OSError("no space left for r/models; make room")) == "no space left for r/models; make room"


def test_a_compose_that_fails_leaves_no_half_of_the_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("liver_pipeline.bundle.compose.write_config", full)
    assert "no space is left" in refused("compose", tmp_path / "r", *TINY_NETWORK)
    assert {path.name for path in (tmp_path / "r").iterdir()} <= {"LICENSE", "docs", "models", ".lock"}
    monkeypatch.undo()
    assert call("compose", tmp_path / "r", *TINY_NETWORK).exit_code == 0
