"""Where a command is going to write: looked at before the work that gives something to write."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from liver_pipeline.io.files import free_bytes
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.paths import is_there

# Masks of real livers in 75 to 501 slices of 512 x 512: a byte for 190 to 430 voxels.
VOXELS_A_BYTE, RECORD_BYTES = 400, 8192


def check_outputs(paths: Iterable[Path], overwrite: bool, *, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse to write to ``paths``, before there is anything to write, where something is lost or it cannot be done.

    Raises:
        FileExistsError: If one is there and may not be overwritten.
        ValueError: If one is among ``inputs``, which nothing may replace.
        OSError: If no file can be written to the folder of one, or no such folder can be made.
    """
    paths = list(paths)
    for source in inputs:
        for path in paths:
            if source is not None and is_there(path) and is_there(source) and path.samefile(source):
                raise ValueError(f"{path} is what is read, and would be replaced; name another file")
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise FileExistsError(f"there already: {' and '.join(there)}; name another folder or add --overwrite")
    for folder in dict.fromkeys(path.absolute().parent for path in paths):
        made = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not (made.is_dir() and os.access(made, os.W_OK | os.X_OK)):
            raise PermissionError(errno.EACCES, "nothing can be written there; name another folder", str(made))


def refuse_full_disk(mask: Path, voxels: int) -> None:
    """Refuse to begin a mask that there is no room for, which would be told only when it is written.

    A disk that is filled meanwhile is still told then; one that gets room meanwhile has it at the next try.

    Args:
        mask: Where it goes; ``.nii`` takes a byte a voxel.
        voxels: Of the scan.

    Raises:
        IntakeError: DISK_FULL.
    """
    needed = RECORD_BYTES + (voxels if mask.name.endswith(".nii") else voxels // VOXELS_A_BYTE)
    if (free := free_bytes(mask.parent)) < needed:
        detail = f"{free / 1e6:.3g} MB are free there, and the mask takes about {needed / 1e6:.2g} MB"
        raise refuse(mask, "DISK_FULL", f"{detail}; free space and run the same command again")
