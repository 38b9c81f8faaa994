"""Who writes to a ledger: a small file that says host and pid, and shows signs of life while the writer lives.

The lock itself is the operating system's (:mod:`liver_pipeline.io.locks`). On a shared file system it may hold on one
host only (BeeGFS and Lustre by default, NFS mounted with ``nolock`` or ``local_lock``). There this file, rewritten
every :data:`BEAT` seconds, tells a run on another host that is alive from one whose host is gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from liver_pipeline.io.clocks import Beginning
from liver_pipeline.io.files import remove

logger = logging.getLogger(__name__)

BEAT = 10.0  # seconds between two signs of life
SILENCE = 45.0  # seconds without one after which a writer on another host counts as dead
LONGEST = 1 << 20  # bytes; no lock file is longer


def lock_file_of(ledger: Path) -> Path:
    """Return where the lock file of a ledger lies: beside it, hidden."""
    return ledger.with_name(f".{ledger.name}.lock")


def read_lock_file(path: Path) -> dict[str, Any] | None:
    """Return what a lock file says: ``host``, ``pid`` and how far the run is; None where there is none to be read."""
    try:
        with path.open("rb") as file:
            told = json.loads(file.read(LONGEST))
            told["heard"] = os.fstat(file.fileno()).st_mtime
    except (OSError, ValueError, TypeError):
        return None
    return told if {"host", "pid", "kernel", "beat"} <= told.keys() else None


def is_gone(told: Mapping[str, Any]) -> bool:
    """Tell whether the writer of a lock file ran on this host and has ended."""
    if told["kernel"] != this_kernel():
        return False
    try:
        os.kill(int(told["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def living(paths: Sequence[Path], *, trust_locks: bool) -> dict[str, Any] | None:
    """Return the first writer of these lock files that shows a sign of life; wait :data:`SILENCE` seconds for one.

    There is no wait where no lock file was left behind by another host.

    Args:
        paths: Lock files of ledgers that the operating system calls free.
        trust_locks: It keeps locks: those of this host are as it says.
    """
    before = {path: told for path in paths if (told := read_lock_file(path)) is not None}
    before = {
        path: told
        for path, told in before.items()
        if not (is_gone(told) or (trust_locks and told["kernel"] == this_kernel()))
    }
    if before:
        names = ", ".join(said(told) for told in before.values())
        logger.warning("waiting %.0f s for a sign of life from %s", SILENCE, names)
    end = time.monotonic() + SILENCE
    while before and time.monotonic() < end:
        time.sleep(min(1.0, SILENCE / 4))
        for path, told in list(before.items()):
            now = read_lock_file(path)
            if now is None and not path.exists():
                del before[path]  # it has ended
            elif now is not None and now["beat"] != told["beat"]:
                return now
    for told in before.values():
        logger.warning("%s is dead: its part goes on here", said(told))
    return None


def heard_of(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what lock files say, with ``alive`` and ``silent``, seconds since the last sign of life.

    Silence is told by two clocks, of the file system and of this process, and either may be wrong or have just been
    set: where they make a writer look dead, its next sign of life is waited for.
    """
    found = {path: told for path in paths if (told := read_lock_file(path)) is not None}
    doubtful = []
    for path, told in found.items():
        silent = time.time() - told["heard"]  # noqa: TID251 (the file system's times are by this clock)
        told |= {"alive": not is_gone(told) and abs(silent) < 2 * SILENCE, "silent": max(silent, 0.0)}
        if not (told["alive"] or is_gone(told)):
            doubtful.append(path)
    if doubtful:
        time.sleep(1.5 * BEAT)
    for path in doubtful:
        now = read_lock_file(path)
        if now is not None and now["beat"] != found[path]["beat"]:
            found[path] = now | {"alive": True, "silent": 0.0}
    return list(found.values())


def said(told: Mapping[str, Any]) -> str:
    """Return the writer of a lock file for a message: ``shard 3/8, pid 4711 on node7``."""
    shard = f"shard {told['shard']}, " if told.get("shard") else ""
    return f"{shard}pid {told['pid']} on {told['host']}"


def this_kernel() -> str:
    """Return what tells this running kernel, and the numbers of its processes, from any other."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


class LockFile:
    """Writes the lock file of a ledger that is open here, and rewrites it in a thread until it is closed.

    Args:
        path: The lock file.
        shard: ``I/N`` of a shard.

    Attributes:
        progress: Called for what else the file says, such as the cases that run.
        lost: Another process has taken the ledger over: it held this one for dead.
    """

    def __init__(self, path: Path, shard: str | None = None) -> None:
        self.path = path
        self.progress: Callable[[], Mapping[str, Any]] = dict
        self.lost = False
        self._about = {
            "host": socket.gethostname(), "pid": os.getpid(), "kernel": this_kernel(), "token": uuid4().hex,
            "shard": shard,
        }  # fmt: skip
        self._beats, self._began = 0, Beginning()
        self._ended = threading.Event()
        remove(path)  # of a dead writer: the caller has seen to that
        with path.open("xb"):
            pass
        self.beat()
        self._thread = threading.Thread(target=self._beat_on, name="lock-file", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Rewrite the file. A file system that cannot for a while is no reason to end a run."""
        told = read_lock_file(self.path)
        if told is not None and told.get("token") != self._about["token"]:
            self.lost = True
            return
        self._beats += 1
        told = {**self._about, "beat": self._beats, "seconds": self._began.seconds, **self.progress()}
        line = json.dumps(told).encode() + b"\n"
        with contextlib.suppress(OSError), self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.write(line.ljust(os.fstat(file.fileno()).st_size))  # one write: a reader meets a whole file

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT):
            self.beat()

    def close(self) -> None:
        """Stop, and remove the file."""
        self._ended.set()
        self._thread.join()
        if not self.lost:
            remove(self.path, strict=False)
