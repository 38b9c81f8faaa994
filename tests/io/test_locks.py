"""One process at a time in a run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import liver_pipeline as lp
from liver_pipeline.cli import main
from liver_pipeline.io.files import temporary_name
from liver_pipeline.io.locks import lock_run
from tests.small import UNET3D, make_phantoms

HOLD = """
import sys
from liver_pipeline.io.locks import lock_run
with lock_run(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
"""


def hold(run: Path) -> subprocess.Popen[str]:
    """Start another process that holds the lock of a run folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_folder_is_for_one_process_until_that_is_gone(tmp_path: Path) -> None:
    run = lp.compose(tmp_path / "run", {}, overrides={**UNET3D, "dataset_dir": str(make_phantoms(tmp_path / "data"))})
    configs = (run / "configs/train.yaml").read_bytes()
    stock = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(run / "configs/train.yaml")]
    process = hold(run)
    try:
        for command in (
            ["train"],
            ["train", "seed=1"],
            ["train", "--restart"],
            ["find-lr"],
            ["tune-postprocessing"],
            ["compose", "--overwrite"],
        ):
            result = CliRunner().invoke(main, [command[0], str(run), *command[1:]])
            assert result.exit_code == 2
            assert f"another process is training in {run}; wait for it" in result.stderr
        by_monai = subprocess.run(
            [*stock, "--bundle_root", str(run)], env=os.environ, capture_output=True, text=True, check=False
        )
        assert by_monai.returncode != 0
        assert "another process is training in" in by_monai.stderr
        assert (run / "configs/train.yaml").read_bytes() == configs
        assert not list((run / "models").iterdir())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert CliRunner().invoke(main, ["train", str(run)]).exit_code == 0
    assert (run / "models/model.pt").is_file()


def test_the_process_that_holds_a_run_may_ask_again_and_gives_it_back_on_errors(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock_run(tmp_path), lock_run(tmp_path / "."):
        raise KeyError
    process = hold(tmp_path)
    with pytest.raises(ValueError, match="another process"), lock_run(tmp_path):
        pass
    process.kill()
    process.wait()


def test_what_a_killed_process_left_half_written_in_a_run_goes_with_the_next(tmp_path: Path) -> None:
    half = [tmp_path / folder / temporary_name() for folder in ("", "configs", "tuning/quality")]
    others = tmp_path / "masks" / temporary_name()  # of a folder run that may be at work
    for path in (*half, others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    with lock_run(tmp_path):
        assert [path.exists() for path in (*half, others)] == [False, False, False, True]
