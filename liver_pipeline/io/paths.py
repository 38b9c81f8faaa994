"""Where a path leads, what is there, and how it is told; nothing is written."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path


def real_path(path: str | Path) -> Path:
    """Return where a path leads, links followed; of a circle of links, one (``Path.resolve`` raises)."""
    return Path(os.path.realpath(path))


def is_there(path: Path) -> bool:
    """Tell whether a file can be found; a name that the file system cannot hold is not there."""
    try:
        return path.exists()
    except OSError:
        return False


def listed(folder: Path) -> list[tuple[str, bool, bool]]:
    """Return what lies in a folder, by name: whether it is a folder, and whether a regular file; links are followed.

    The disk is asked about links alone, and for the list once.

    Raises:
        OSError: If the folder cannot be looked into.
    """
    with os.scandir(folder) as entries:
        ways = [(one, Path(one.path) if one.is_symlink() else one) for one in entries]  # a circle of links is neither
        return sorted((one.name, way.is_dir(), way.is_file()) for one, way in ways)


def refuse_pipe(path: Path) -> None:
    """Raise OSError for what is there and no regular file: to open a pipe waits for ever."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a pipe, socket or device is no scan", str(path))


def relative(path: Path, root: Path) -> str:
    """Return ``path`` below ``root``, or its name: provenance tells no folders of the machine."""
    return path.relative_to(root).as_posix() if path != root and path.is_relative_to(root) else path.name


def printable(text: str) -> str:
    """Return text that UTF-8 can hold: bytes of file names that are none become ``\\xfc`` and the like."""
    shown = re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")
