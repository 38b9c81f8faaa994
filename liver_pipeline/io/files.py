"""Files that appear whole or not at all: written beside their place, synced to disk, renamed."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from liver_pipeline.io.clocks import Ages
from liver_pipeline.io.paths import printable

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DISK_RESERVE = 1 << 20  # bytes; a disk with less than this left counts as full
# Names of what a killed process may leave behind: nobody's search for masks or scans takes them, whatever the target's
# suffix, and they are short even where the target's name is as long as a file system allows. The host and a number that
# nobody else draws are in them: on a shared file system others write to the same folder.
TEMPORARY = ".liver-pipeline.{}.part"
ABANDONED = 86_400.0  # seconds without a change after which nobody is at work on one
EARLIER = "earlier"  # folder for what a newer run takes the place of


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, in the folder of ``path``; on leaving, it becomes ``path``.

    The target's folder is made. The bytes are on disk before the rename, and the rename is before this returns, so that
    a power cut leaves the old file or the new one. An error inside leaves the old file and nothing else.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name())
    try:
        with telling_of(path, temporary):
            yield temporary
            sync(temporary)
            temporary.replace(path)
    finally:
        remove(temporary, strict=False)
    with contextlib.suppress(OSError):  # not every file system syncs folders
        sync(path.parent)


@contextlib.contextmanager
def telling_of(path: Path, temporary: Path) -> Iterator[None]:
    """Let an error about a temporary file or folder, or what is in it, name what it was to become."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str) and Path(error.filename).is_relative_to(temporary):
            error.filename = str(path / Path(error.filename).relative_to(temporary))
        raise


def temporary_name() -> str:
    """Return a new name for a file or folder that is not whole yet: this host and a random number."""
    host = re.sub(r"[^0-9A-Za-z]+", "-", socket.gethostname())[:63]
    return TEMPORARY.format(f"{host}.{uuid4().hex}")


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder to write files into, beside ``path``; on leaving, it becomes ``path``.

    As :func:`whole_file` does, but that a folder which is there is moved away before the new one takes its place: a
    kill between the two leaves none.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    temporary, earlier = (path.with_name(temporary_name()) for _ in range(2))
    try:
        with telling_of(path, temporary):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                sync(file)
            sync(temporary)
            if path.exists():
                path.rename(earlier)
            temporary.rename(path)
    finally:
        for left in (temporary, earlier):
            remove(left, strict=False)
    with contextlib.suppress(OSError):  # not every file system syncs folders
        sync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all; line ends as they are in ``text``.

    What came from a file name that is no UTF-8 is written as its bytes, such as ``M\\xfcller``.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    with whole_file(path) as temporary:
        temporary.write_text(printable(text), encoding="utf-8", newline="")


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as strict JSON, whole or not at all.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
        ValueError: If a number is not finite: JSON has no NaN.
        TypeError: If ``content`` holds what JSON does not know.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Walk from an error down to what caused it; each comes once, also where a cause was raised again by itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def disk_is_full(error: BaseException, folder: str | Path) -> bool:
    """Tell whether writing to ``folder`` failed because no space is left; PyTorch does not always say so."""
    if any(isinstance(link, OSError) and link.errno in DISK_FULL for link in causes(error)):
        return True
    return isinstance(error, (OSError, RuntimeError)) and free_bytes(folder) < DISK_RESERVE


def free_bytes(folder: str | Path) -> float:
    """Return how many bytes can be written to a folder, or where it will be made; inf where the disk does not say."""
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    if sys.platform == "win32":
        return float(shutil.disk_usage(there).free)
    disk = os.statvfs(there)
    blocks = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail  # some are kept for root
    return float(blocks * disk.f_frsize) if disk.f_blocks else math.inf


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name: a hard link where the file system has them, else a copy.

    Raises:
        OSError: If neither can be made, or ``target`` is there.
    """
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's entries, to disk.

    Raises:
        OSError: If the disk is full or the file system cannot.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path, *, strict: bool = True) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing where nothing is.

    No other function of the package removes anything (tests/test_house.py): its callers name what the package made
    itself. What it made for a user, such as weights, is moved aside instead: see :func:`move_aside`.

    Args:
        path: A link is removed itself, whatever it points to.
        strict: Whether what cannot be removed is an error; otherwise it stays.

    Raises:
        OSError: If it cannot be removed, and ``strict``.
    """
    with contextlib.nullcontext() if strict else contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=not strict)
        else:
            path.unlink(missing_ok=True)


def remove_temporary(folder: str | Path) -> None:
    """Remove what killed processes left half written in ``folder`` and below; only for a folder nobody writes to."""
    for path in Path(folder).rglob(TEMPORARY.format("*")):
        remove(path, strict=False)


def remove_abandoned(folder: str | Path) -> None:
    """Remove what killed processes left half written in ``folder``, which others may write to: what is a day old."""
    changed = {}
    for path in Path(folder).glob(TEMPORARY.format("*")):
        with contextlib.suppress(OSError):  # it has become what it was to be
            changed[str(path)] = path.stat().st_mtime
    for name, seconds in Ages(lambda: changed).look().items():
        if seconds > ABANDONED:
            remove(Path(name), strict=False)


def move_aside(folder: Path, names: Iterable[str], *, copies: Iterable[str] = ()) -> Path | None:
    """Move what matches ``names`` in ``folder`` to ``folder/earlier/<number>``, under the same names.

    It is the one way in which a command takes away what an earlier one wrote.

    Args:
        folder: Of the files.
        names: Names or patterns below it, such as ``logs/events.*``, of what this package writes there.
        copies: Files and folders that are copied instead.

    Returns:
        The new folder, or None if nothing is there to move or to copy.

    Raises:
        OSError: If something cannot be moved; what was moved before is in the new folder.
    """
    found = sorted({path for name in names for path in folder.glob(name)})
    copied = [folder / name for name in copies if (folder / name).exists()]
    if not found and not copied:
        return None
    numbers = [int(path.name) for path in (folder / EARLIER).glob("*") if path.name.isdigit()]
    aside = folder / EARLIER / str(max(numbers, default=0) + 1)
    aside.mkdir(parents=True)
    for path in (*copied, *found):
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in found:
            path.rename(target)
        elif path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copy2(path, target)
    return aside


def plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: lists for tensors and arrays, finite numbers, the rest as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
