"""How far the runs into a folder of masks are, as lines for a terminal and as a page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from liver_pipeline.io.ledger import LEDGER, read_ledger, shard_ledgers
from liver_pipeline.io.lock_files import heard_of, lock_file_of, said
from liver_pipeline.reports.html import plural, row, table
from liver_pipeline.reports.page import document

REFRESH = 10  # seconds between two looks of a browser


def read_status(masks: Path) -> dict[str, Any]:
    """Read ledgers and lock files of an output folder; nothing is locked and nothing written.

    Returns:
        ``done`` (a number), ``failed`` (code to number), ``failures`` (the rows), ``runs`` (what each lock file says,
        with ``alive`` and ``silent``, seconds), ``running`` (cases in flight, of living runs), ``to_do`` (cases that
        living runs have still before them, None if none lives), ``per_hour`` and ``seconds_left`` (None where they
        cannot be told).

    Raises:
        FileNotFoundError: If no run has written there.
    """
    ledger = masks / LEDGER
    if not ledger.exists() and not shard_ledgers(ledger):
        raise FileNotFoundError(f"{masks} holds no {LEDGER}; name the output folder of `liver-pipeline predict`")
    rows = read_ledger(ledger)[0].values()
    failures = sorted((one for one in rows if one.get("event") == "failed"), key=lambda one: str(one["case"]))
    paths = (lock_file_of(one) for one in (ledger, *shard_ledgers(ledger)))
    runs = [_run(told) for told in heard_of(list(paths))]
    alive = [run for run in runs if run["alive"]]
    known = [run for run in alive if run["to_do"] is not None]
    left = [run["to_do"] / run["per_second"] for run in known if run["per_second"] > 0]
    return {
        "folder": str(masks),
        "done": sum(one.get("event") == "done" for one in rows),
        "failed": dict(Counter(str(one.get("code")) for one in failures)),
        "failures": failures,
        "runs": runs,
        "running": [case for run in alive for case in run.get("running", [])],
        "to_do": sum(run["to_do"] for run in known) if known else None,
        "per_hour": 3600 * sum(run["per_second"] for run in known) if left else None,
        "seconds_left": max(left) if left and len(left) == len(alive) else None,
    }


def _run(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a lock file says of its run, with what follows from it."""
    ended = told.get("done", 0) + told.get("failed", 0)
    total = told.get("total")
    return {
        **told,
        "to_do": None if total is None else total - ended - told.get("before", 0),
        "per_second": ended / max(told["seconds"], 1.0),
    }


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """Return the status for a terminal."""
    lines = [_counts(status)]
    for run in status["runs"]:
        state = "runs" if run["alive"] else f"ended without a word, last heard {run['silent']:.0f} s ago"
        lines.append(f"{said(run)}: {state}")
    lines += [f"running: {one['case']} on {one['host']}, {_lasting(one)}" for one in status["running"]]
    if status["to_do"] is not None:
        lines.append(_pace(status))
    if status["runs"] and not any(run["alive"] for run in status["runs"]):
        lines.append("no run is alive: the same command goes on")
    return lines


def _counts(status: Mapping[str, Any]) -> str:
    codes = ", ".join(f"{count} {code}" for code, count in sorted(status["failed"].items()))
    failed = sum(status["failed"].values())
    return f"{status['done']} done, {failed} failed{f' ({codes})' if codes else ''}, {len(status['running'])} running"


def _pace(status: Mapping[str, Any]) -> str:
    pace = "" if status["per_hour"] is None else f", {status['per_hour']:.0f} an hour"
    left = "" if status["seconds_left"] is None else f", {_duration(status['seconds_left'])} still"
    return f"{plural(status['to_do'], 'case')} to do{pace}{left}"


def _lasting(case: Mapping[str, Any]) -> str:
    return f"for {_duration(case['seconds'])}"


def _duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def status_page(status: Mapping[str, Any]) -> str:
    """Return the status as a page that loads nothing; it reads itself again while a run is alive."""
    alive = any(run["alive"] for run in status["runs"])
    lines = [line for line in status_lines(status) if not line.startswith("running: ")]
    written = time.strftime("%Y-%m-%d %H:%M:%S %z")
    headline = "".join(f"<p>{escape(line)}</p>" for line in lines) + f'<p class="soft">{escape(f"as of {written}")}</p>'
    running = [row(*map(escape, (str(one["case"]), str(one["host"]), _lasting(one)))) for one in status["running"]]
    failed = [
        row(*(escape(str(one.get(key, ""))) for key in ("case", "code", "detail", "host", "time")))
        for one in status["failures"]
    ]
    parts = [
        ("running", "Running", table(("case", "where", "how long"), running) if running else ""),
        ("failed", "Failed", table(("case", "code", "detail", "host", "when"), failed) if failed else ""),
    ]
    return document(f"Masks in {Path(status['folder']).name}", headline, parts, refresh=REFRESH if alive else None)
