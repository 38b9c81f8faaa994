"""Keep a folder of files below a number of bytes: the longest unused go first, what a live run needs never."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from liver_pipeline.io.files import disk_is_full, remove, remove_abandoned

REMEMBERED = "sources"  # folder of what is remembered of scans
ENTRY_NAME = "[0-9a-f]" * 32  # a pattern for what this package names
WRITERS = 8  # runs that may fill the room side by side: each looks again before it has used its share of what is left


class CacheError(RuntimeError):
    """The cache, not a case, is why the work cannot go on."""


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while the cache writes into a CacheError: the case that it writes is not to blame.

    Raises:
        CacheError: If the disk is full or the folder cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, CacheError):
            raise
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise CacheError(f"{folder}, or what it lies in, is a file; name another cache_dir, a folder") from None
        reason = "no space left" if disk_is_full(error, folder) else str(error).partition("\n")[0]
        raise CacheError(
            f"the cache in {folder} cannot be written ({reason}); make room, or name another cache_dir; what is in it "
            f"serves the next run"
        ) from None


class Room:
    """The room in a folder whose files several runs share.

    A run says what it needs in ``in_use/<id>.names`` and holds ``in_use/<id>.lock``; the operating system gives the
    lock back when the process ends, however it ends, and then nobody needs these files any more.

    Args:
        folder: Of the files.
        suffix: Of the files that count and may be removed, after a name of 32 hexadecimal digits; a user's own
            weights may lie beside them.
        max_bytes: Of all of them together.
    """

    def __init__(self, folder: Path, *, suffix: str, max_bytes: float) -> None:
        self.folder, self.suffix, self.max_bytes = folder, suffix, max_bytes
        self._unlooked = 0.0  # bytes that fit, whatever others write meanwhile: a look asks the disk about every file
        self._names: Path | None = None
        self._lock: FileLock | None = None

    def claim(self, name: str) -> None:
        """Say that this process needs the file of this name (without suffix) until it ends."""
        if self._names is None:
            for folder in (self.folder, self.folder / REMEMBERED):
                remove_abandoned(folder)
            (self.folder / "in_use").mkdir(parents=True, exist_ok=True)
            self._names = self.folder / "in_use" / f"{uuid.uuid4().hex}.names"
            self._lock = FileLock(self._names.with_suffix(".lock"), thread_local=False)
            self._lock.acquire()
        with self._names.open("a") as file:
            file.write(f"{name}\n")

    def make(self, size: int) -> None:
        """Remove what was not used for longest until ``size`` more bytes fit.

        Raises:
            CacheError: If what live runs need leaves too little.
        """
        if size <= self._unlooked:
            self._unlooked -= size
            return
        files = [(stat.st_mtime_ns, stat.st_size, path) for path, stat in self._files()]
        over = sum(bytes_ for _, bytes_, _ in files) + size - self.max_bytes
        needed = self._needed() if over > 0 else set()
        for _, bytes_, path in sorted(files):
            if over <= 0:
                break
            if path.stem not in needed:
                remove(path)
                over -= bytes_
        if over > 0:
            raise CacheError(
                f"the cases of this run, and of others at work, need more than the {self.max_bytes / 1e9:g} GB that "
                f"{self.folder} may hold; raise cache_gb, or name another cache_dir"
            )
        self._unlooked = -over / WRITERS

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob(f"{ENTRY_NAME}{self.suffix}"):
            with contextlib.suppress(FileNotFoundError):  # another run may remove it now
                yield path, path.stat()

    def _needed(self) -> set[str]:
        """Return the names that live runs have claimed; what ended runs claimed is forgotten."""
        needed: set[str] = set()
        for names in (self.folder / "in_use").glob(f"{ENTRY_NAME}.names"):
            lock = FileLock(names.with_suffix(".lock"))
            try:
                with lock.acquire(timeout=0):
                    remove(names)
                remove(Path(lock.lock_file))
            except Timeout:
                needed.update(names.read_text().split())
        return needed
