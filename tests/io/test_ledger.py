"""Ledgers of whole runs and of shards: who may write beside whom, what a reader sees, what a dead writer leaves."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from liver_pipeline.io import lock_files
from liver_pipeline.io.ledger import LEDGER, Ledger, read_ledger
from liver_pipeline.io.lock_files import lock_file_of, read_lock_file
from liver_pipeline.io.locks import lock_file, lock_run
from liver_pipeline.io.shards import Shard

HOLD = """
import sys
from pathlib import Path
from liver_pipeline.io.ledger import Ledger
from liver_pipeline.io.shards import Shard
ledger = Ledger(Path(sys.argv[1]), Shard.of(sys.argv[2]) if sys.argv[2:] else None)
print('held', flush=True)
sys.stdin.read()
"""


def hold(ledger: Path, *shard: str) -> subprocess.Popen[str]:
    """Start another process that has a ledger open."""
    command = [sys.executable, "-c", HOLD, str(ledger), *shard]
    process = subprocess.Popen(command, env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def append(path: Path, shard: str | None, *rows: tuple[str, str]) -> None:
    ledger = Ledger(path, None if shard is None else Shard.of(shard))
    for case, event in rows:
        ledger.append({"case": case, "event": event})
    ledger.close()


def leave_lock_file(ledger: Path, **about: Any) -> Path:
    """Write the lock file of a process on another host."""
    path = lock_file_of(ledger)
    told = {"host": "node7", "pid": 4711, "kernel": "node7 other", "beat": 3, "shard": None, "seconds": 0.0}
    path.write_text(json.dumps({**told, **about}))
    return path


def test_every_scan_is_in_exactly_one_shard_and_shards_are_about_equal() -> None:
    names = [f"site_{number % 7}/{number}.nii.gz" for number in range(4000)]
    parts = [[name for name in names if Shard(index, 8).holds(name)] for index in range(8)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(400 < len(part) < 600 for part in parts)  # 500, and five times the spread of a fair draw
    assert Shard(0, 1).holds("a\udcfc.nii.gz")  # a name that is no UTF-8


@pytest.mark.parametrize("text", ["8/8", "-1/8", "1", "1/0", "a/b", "1/8/2", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected I/N with I from 0 to N-1"):
        Shard.of(text)


def test_rows_of_shards_are_read_with_those_of_whole_runs_and_are_the_newer_ones(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    append(path, None, ("a", "failed"), ("b", "done"))
    append(path, "0/2", ("a", "done"))
    append(path, "1/2", ("c", "failed"))
    assert {case: row["event"] for case, row in read_ledger(path)[0].items()} == {
        "a": "done", "b": "done", "c": "failed"
    }  # fmt: skip
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ledger.0.jsonl", "ledger.1.jsonl", LEDGER]


def test_a_whole_run_takes_the_rows_of_shards_into_its_ledger(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    append(path, None, ("a", "failed"))
    append(path, "0/2", ("a", "done"), ("b", "failed"))
    with (tmp_path / "ledger.0.jsonl").open("ab") as file:
        file.write(b'{"case":"c","ev')  # torn by a kill
    append(path, None, ("b", "done"))
    assert [entry.name for entry in tmp_path.iterdir()] == [LEDGER]
    events = [(row["case"], row["event"]) for row in map(json.loads, path.read_text().splitlines())]
    assert events == [("a", "failed"), ("a", "done"), ("b", "failed"), ("b", "done")]
    append(path, "3/5", ("d", "done"))  # another number of shards is free now


def test_another_number_of_shards_is_refused(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    append(path, "0/2", ("a", "done"))
    with pytest.raises(ValueError, match="was begun with --shard 0/2, and this is 1/3: keep the number"):
        Ledger(path, Shard(1, 3))
    assert not (tmp_path / "ledger.1.jsonl").exists()
    running = Ledger(path, Shard(1, 2))  # which has written no row yet
    (tmp_path / "ledger.0.jsonl").unlink()
    with pytest.raises(ValueError, match="begun with --shard 1/2"):
        Ledger(path, Shard(0, 3))
    running.close()


def test_who_may_write_beside_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / LEDGER
    shard = hold(path, "0/2")
    try:
        with pytest.raises(ValueError, match=rf"another run is writing to .*\(shard 0/2, pid {shard.pid} on "):
            Ledger(path)
        with pytest.raises(ValueError, match="another run is writing"):
            Ledger(path, Shard(0, 2))
        Ledger(path, Shard(1, 2)).close()
    finally:
        kill(shard)
    whole = hold(path)
    try:
        for part in (None, Shard(0, 2)):
            with pytest.raises(ValueError, match=rf"another run is writing to .*\(pid {whole.pid} on "):
                Ledger(path, part)
    finally:
        kill(whole)
    monkeypatch.setattr(time, "sleep", None)  # nothing is waited for: a dead process of this host is known to be dead
    Ledger(path).close()
    assert not lock_file_of(path).exists()


def begin(folder: Path, work: str) -> contextlib.AbstractContextManager[Any]:
    return contextlib.closing(Ledger(folder / LEDGER)) if work == "folder" else lock_run(folder)


@pytest.mark.parametrize("work", ["folder", "training"])
def test_a_process_that_was_forked_meanwhile_keeps_no_lock(tmp_path: Path, work: str) -> None:
    with begin(tmp_path, work):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600.0,))  # a loader that lives on
        child.start()
    try:
        with begin(tmp_path, work):
            pass
    finally:
        child.kill()
        child.join()


def test_a_forked_process_that_ends_gives_back_no_lock_of_ours(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((tmp_path / "lock").open("ab"))
        stack.enter_context(lock_file(file.fileno(), "taken"))
        if (child := os.fork()) == 0:
            stack.close()
            os._exit(0)
        os.waitpid(child, 0)
        with (tmp_path / "lock").open("ab") as other, pytest.raises(ValueError, match="taken"):
            stack.enter_context(lock_file(other.fileno(), "taken"))


def test_a_writer_on_another_host_is_dead_when_it_gives_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock_files, "SILENCE", 0.4)
    leave_lock_file(tmp_path / LEDGER)
    ledger = Ledger(tmp_path / LEDGER)
    assert "pid 4711 on node7 is dead" in caplog.text
    told = read_lock_file(lock_file_of(ledger.path))
    assert told is not None and told["pid"] == os.getpid()
    ledger.close()


def test_a_writer_on_another_host_that_gives_a_sign_of_life_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system whose locks hold on one host only."""
    path = leave_lock_file(tmp_path / LEDGER)
    beats = iter(range(4, 100))

    def sleep(seconds: float) -> None:
        leave_lock_file(tmp_path / LEDGER, beat=next(beats))

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(ValueError, match=r"another run is writing to .*\(pid 4711 on node7\)"):
        Ledger(tmp_path / LEDGER)
    assert json.loads(path.read_text())["pid"] == 4711


def test_a_run_that_was_taken_over_writes_no_more(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / LEDGER)
    leave_lock_file(tmp_path / LEDGER, token="other")
    ledger.report(dict)
    with pytest.raises(OSError, match="taken over"):
        ledger.append({"case": "a", "event": "done"})
    ledger.close()
    assert lock_file_of(tmp_path / LEDGER).exists()  # it is the other's


def test_a_lock_file_stays_readable_when_it_says_less_than_before(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / LEDGER)
    for running in ([{"case": "a" * 300}], []):
        ledger.report(lambda running=running: {"running": running})  # type: ignore[misc]
        told = read_lock_file(lock_file_of(ledger.path))
        assert told is not None and told["running"] == running
    ledger.close()
