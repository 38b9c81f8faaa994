"""Checkpoint files that are whole or absent, and verified before they are used."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from liver_pipeline.io.checksums import DamagedFileError, verify_archive
from liver_pipeline.io.files import sync, whole_file

# Not *.pt: programs such as MONAI Label take any file of that name in models/ for the weights that model.pt holds.
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
OLDER = ("last.pt", "previous.pt")  # what earlier versions called them


class DamagedCheckpointError(DamagedFileError):
    """A checkpoint file whose content is not what was written."""


def save_checkpoint(path: str | Path, contents: Mapping[str, Any], *, keep_as: str | None = None) -> None:
    """Write a checkpoint so that ``path`` is always either the old file or the whole new one.

    Args:
        path: Target; its folder is made.
        contents: Tensors, plain Python values and state dictionaries: what ``torch.load(weights_only=True)`` reads.
        keep_as: Name under which the file that is replaced stays in the folder. Between the two renames only that one
            exists, whole.
    """
    path = Path(path)
    with whole_file(path) as temporary:
        with temporary.open("wb") as file:
            torch.save(dict(contents), file)
        sync(temporary)  # whole on disk before the older one steps aside
        if keep_as is not None and path.exists():
            path.replace(path.with_name(keep_as))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU after comparing every record with its checksum.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedCheckpointError: If it was cut short or changed since it was written.
    """
    path = Path(path)
    try:
        verify_archive(path)
        contents: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # what is damaged makes the unpickler fail in any of a dozen ways
        raise DamagedCheckpointError(f"{path}: {str(error).partition(chr(10))[0]}") from None
    return contents


def load_latest(folder: str | Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the newest checkpoint of a folder that is whole: ``last.ckpt``, else ``previous.ckpt``.

    Returns:
        Contents, or None when the folder holds neither file; and a line about each file that was passed over.

    Raises:
        DamagedCheckpointError: If there are files and none is whole.
        ValueError: If there are only those of an earlier version, which have other names.
    """
    folder = Path(folder)
    refuse_older_names(folder)
    problems: list[str] = []
    for name in (LAST, PREVIOUS):
        try:
            return load_checkpoint(folder / name), problems
        except FileNotFoundError:
            continue
        except DamagedCheckpointError as error:
            problems.append(f"damaged checkpoint passed over: {error}")
    if problems:
        raise DamagedCheckpointError(f"{'; '.join(problems)}; --restart begins the training anew")
    return None, problems


def peek_latest(folder: str | Path) -> dict[str, Any] | None:
    """Return the newest checkpoint of a folder that can be opened, mapped and with no checksum compared; else None."""
    for name in (LAST, PREVIOUS):
        with contextlib.suppress(Exception):  # not there, or damaged in any of a dozen ways
            contents: dict[str, Any] = torch.load(Path(folder) / name, map_location="cpu", mmap=True, weights_only=True)
            return contents
    return None


def refuse_older_names(folder: Path) -> None:
    """Raise ValueError if a folder holds checkpoints of an earlier version, and none of this one."""
    older = [name for name in OLDER if (folder / name).is_file()]
    if older and not any((folder / name).exists() for name in (LAST, PREVIOUS)):
        renamed = " and ".join(f"{name} to {Path(name).stem}.ckpt" for name in older)
        raise ValueError(
            f"{folder} holds checkpoints of an earlier version; rename {renamed} to continue, or move them"
        )
