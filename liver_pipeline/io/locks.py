"""Folders that one process works in at a time: a lock that a killed process gives back by itself."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"  # in a run folder; it stays there, empty, and no command removes it
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of file systems that keep none, such as some of clusters
_held: set[Path] = set()


def lock_file(handle: int, refusal: str, *, shared: bool = False) -> bool:
    """Lock an open file for this process until it is closed; where there are no locks, do nothing.

    Args:
        handle: Number of the open file.
        refusal: What to say if another process has locked it.
        shared: Others that ask for a shared lock get it too.

    Returns:
        Whether the file system keeps locks.

    Raises:
        ValueError: If another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two runs into one folder are not kept apart
        return False
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(refusal) from None
    except OSError as reason:
        if reason.errno not in NO_LOCKS:
            raise
        return False
    return True


@contextlib.contextmanager
def lock_run(run_dir: str | Path) -> Iterator[None]:
    """Keep other processes from training in ``run_dir`` or composing it; inside, the same process may ask again.

    Raises:
        ValueError: If another process is at it.
    """
    path = Path(run_dir).resolve() / LOCK
    if path in _held:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        lock_file(file.fileno(), f"another process is training in {run_dir}; wait for it, or choose another folder")
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)
