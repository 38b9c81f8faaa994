"""Who stops listening undoes no job."""

from __future__ import annotations

import errno
import os
import select
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from liver_pipeline.io.screen import say


def test_lines_for_nobody_raise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    say("closed")
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    say("nobody reads this")
    say("nor this")
    stream.close()  # what was buffered went to nowhere


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    """What libraries print to numbers 1 and 2 would go into a mask."""
    code = (
        "import sys; from liver_pipeline.io.screen import open_streams; open_streams(); "
        "print('x'); print('x', file=sys.stderr); sys.exit(open('/dev/null').fileno())"
    )
    for closed in (">&-", ">&- 2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["bash", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}"], check=False
        )
        assert done.returncode > 2


def bash(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True)


def test_a_full_disk_under_a_log_stops_no_job_and_is_told() -> None:
    code = (
        "import sys; from liver_pipeline.io.screen import *; open_streams(); [say('x' * 9000) for _ in range(9)]; "
        "print('y', file=sys.stderr); print('z'); sys.stdout.flush(); sys.exit(unwritten().errno)"
    )
    for full in (">/dev/full", ">/dev/full 2>&1"):
        assert bash(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {full}").returncode == errno.ENOSPC
    cli = f"{shlex.quote(sys.executable)} -m liver_pipeline"
    for words in ("list", "--help", "list --help"):
        done = bash(f"{cli} {words} >/dev/full")
        assert done.returncode == 2
        assert done.stderr == (
            "liver-pipeline: what was printed is lost (No space left on device); files are as the command leaves them\n"
        )
    assert bash(f"{cli} list").stdout.count("\n") > 20


def test_who_reads_no_further_stops_no_job_and_lines_arrive_as_they_are_said(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from liver_pipeline.io.screen import open_streams; open_streams(); print('first'); "
        "sys.stdin.readline(); [print('x' * 9000) for _ in range(99)]; "
        f"pathlib.Path({str(tmp_path / 'done')!r}).touch()"
    )
    job = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-1)
    assert job.stdin is not None and job.stdout is not None and job.stderr is not None
    arrived = select.select([job.stdout], [], [], 50)[0]  # while the job waits for an answer
    first = job.stdout.readline() if arrived else b""
    job.stdout.close()  # as `| head -1` does
    job.stdin.close()
    assert (first, job.wait(50), job.stderr.read()) == (b"first\n", 0, b"")
    assert (tmp_path / "done").exists()
    job.stderr.close()
    done = bash(f"set -o pipefail; {shlex.quote(sys.executable)} -m liver_pipeline keys | head -1")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


def test_a_working_directory_that_is_gone_is_told() -> None:
    home = shlex.quote(str(Path(__file__).parents[2]))
    cli = f"PYTHONPATH={home} {shlex.quote(sys.executable)} -m liver_pipeline"
    done = bash(f"cd $(mktemp -d) && rmdir $PWD && {cli} list")
    assert (done.returncode, done.stderr) == (
        2,
        "liver-pipeline: the working directory is gone; cd to one that is there\n",
    )
