"""Folders that one process works in at a time: a lock that a killed process gives back by itself."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from liver_pipeline.io.files import TEMPORARY, remove

LOCK = ".lock"  # in a run folder; it stays there, empty, and no command removes it
WRITTEN_ALONE = (
    "",
    "configs",
    "logs",
    "tuning",
    "tuning/quality",
    "find_lr",
)  # folders of a run that only its holder writes to
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of file systems that keep none, such as some of clusters
_held: set[Path] = set()


@contextlib.contextmanager
def lock_file(handle: int, refusal: str, *, shared: bool = False) -> Iterator[bool]:
    """Lock an open file for this process; where there are no locks, do nothing.

    At the end it is unlocked, not only closed: a process that was forked meanwhile, such as a loader of data, has the
    file open, too, and would keep the lock for as long as it lives.

    Args:
        handle: Number of the open file.
        refusal: What to say if another process has locked it.
        shared: Others that ask for a shared lock get it too.

    Yields:
        Whether the file system keeps locks.

    Raises:
        ValueError: If another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two runs into one folder are not kept apart
        yield False
        return
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(refusal) from None
    except OSError as reason:
        if reason.errno not in NO_LOCKS:
            raise
        yield False
        return
    owner = os.getpid()
    try:
        yield True
    finally:
        if os.getpid() == owner:  # in a forked process that ends, too, this would give back the lock of both
            fcntl.flock(handle, fcntl.LOCK_UN)


@contextlib.contextmanager
def lock_run(run_dir: str | Path) -> Iterator[None]:
    """Keep other processes from training in ``run_dir`` or composing it; inside, the same process may ask again.

    What a killed one left half written goes.

    Raises:
        ValueError: If another process is at it.
    """
    path = Path(run_dir).resolve() / LOCK
    if path in _held:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"another process is training in {run_dir}; wait for it, or choose another folder"
    with path.open("ab") as file, lock_file(file.fileno(), refusal):
        _held.add(path)
        for folder in WRITTEN_ALONE:
            for left in (path.parent / folder).glob(TEMPORARY.format("*")):
                remove(left, strict=False)
        try:
            yield
        finally:
            _held.discard(path)
