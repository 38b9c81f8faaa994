"""`status`: what ledgers and lock files say, as lines and as a page."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from liver_pipeline.cli import main
from liver_pipeline.io import lock_files
from liver_pipeline.io.ledger import LEDGER, Ledger
from liver_pipeline.io.lock_files import lock_file_of
from liver_pipeline.io.shards import Shard
from liver_pipeline.reports.status import read_status, status_lines


def run_status(masks: Path) -> str:
    result = CliRunner().invoke(main, ["status", str(masks)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_folder_without_a_ledger_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert result.exit_code == 2 and "holds no ledger.jsonl; name the output folder" in result.output
    assert not list(tmp_path.iterdir())


def test_living_shards_say_what_is_running_where_and_how_long_still(tmp_path: Path) -> None:
    ledgers = [Ledger(tmp_path / LEDGER, Shard(index, 2)) for index in range(2)]
    for index, ledger in enumerate(ledgers):
        for number in range(10):
            ledger.append({"case": f"{index}_{number}", "event": "done"})
        ledger.append({"case": f"<b>{index}</b>", "event": "failed", "code": "TRUNCATED", "detail": "ends"})
        running = [{"case": f"now_{index}", "host": f"node{index}", "seconds": 7.0}]
        told = {"total": 42 - 11 * index, "done": 10, "failed": 1, "before": 1, "running": running, "seconds": 3600.0}
        ledger.report(lambda told=told: told)  # type: ignore[misc]
    found = read_status(tmp_path)
    assert found["done"] == 20 and found["failed"] == {"TRUNCATED": 2}
    assert found["to_do"] == (42 - 12) + (31 - 12)
    assert found["per_hour"] == pytest.approx(22, rel=0.01)
    assert found["seconds_left"] == pytest.approx(30 / 11 * 3600, rel=0.01)  # the longer of the two shards
    text = run_status(tmp_path)
    assert "20 done, 2 failed (2 TRUNCATED), 2 running" in text and "running: now_1 on node1, for 7 s" in text
    assert "49 cases to do, 22 an hour, 2 h 44 min still" in text
    page = (tmp_path / "status.html").read_text()
    assert '<meta http-equiv="refresh" content="10">' in page and "<b>0</b>" not in page
    for ledger in ledgers:
        ledger.close()
    text = run_status(tmp_path)
    assert text == "20 done, 2 failed (2 TRUNCATED), 0 running\n"
    assert "http-equiv" not in (tmp_path / "status.html").read_text()


def test_a_run_that_died_is_told_from_one_that_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_files, "BEAT", 0.1)
    (tmp_path / LEDGER).write_text('{"case":"a","event":"done"}\n')
    told = {"host": "node7", "pid": 3, "kernel": "other", "beat": 4, "seconds": 60.0, "total": 5, "done": 1}
    lock_file_of(tmp_path / LEDGER).write_text(json.dumps(told))
    found = read_status(tmp_path)
    assert found["runs"][0]["alive"] and found["to_do"] == 4  # heard of just now

    os.utime(lock_file_of(tmp_path / LEDGER), (time.time() - 600, time.time() - 600))
    lines = status_lines(read_status(tmp_path))
    assert lines[1].startswith("pid 3 on node7: ended without a word, last heard 60")
    assert lines[-1] == "no run is alive: the same command goes on"


@pytest.mark.parametrize("jump", [-5 * 3600.0, 5 * 3600.0])
def test_a_clock_that_is_set_makes_no_run_dead_and_no_dead_run_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    monkeypatch.setattr(lock_files, "BEAT", 0.1)
    clock = time.time
    ledger = Ledger(tmp_path / LEDGER)
    ledger.append({"case": "a", "event": "done"})
    ledger.report(lambda: {"total": 3, "done": 1, "running": [{"case": "b", "host": "here", "seconds": 1.0}]})
    told = {"host": "node7", "pid": 3, "kernel": "other", "beat": 4, "shard": "1/2", "seconds": 60.0}
    (tmp_path / "ledger.1.jsonl").touch()
    lock_file_of(tmp_path / "ledger.1.jsonl").write_text(json.dumps(told))
    monkeypatch.setattr(time, "time", lambda: clock() + jump)
    found = read_status(tmp_path)
    ledger.close()
    assert [run["alive"] for run in found["runs"]] == [True, False]
    assert found["to_do"] == 2 and 0 < found["per_hour"] <= 3600
    assert "running: b on here, for 1 s" in status_lines(found)
