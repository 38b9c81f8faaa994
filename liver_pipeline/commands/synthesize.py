"""Write synthetic scans with their label maps, as a data set to try things out on or to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip

from liver_pipeline.io.files import whole_file
from liver_pipeline.synthesis import ScanGenerator
from liver_pipeline.synthesis.sheet import write_sheet

FIELD_MM = (384.0, 336.0, 288.0)  # along R, A, S: a trunk from the lower chest to the upper pelvis
SHEET = "contact_sheet.png"
_SHOWN = 24  # most scans on the sheet
WINDOW = {True: (-200.0, 300.0), False: (-200.0, 400.0)}  # of the sheet: HU, and units of random contrast


def synthesize(
    out: str | Path,
    *,
    n: int = 12,
    seed: int = 0,
    shapes: str | Path | None = None,
    spacing: float = 3.0,
    ct: bool = True,
) -> Path:
    """Write ``images/synthetic-0000.nii.gz`` and so on, ``labels/`` with the same names, and a contact sheet.

    The folder is one that ``--data folder`` takes. The same seed gives the same files.

    Args:
        out: The folder; made when it does not exist.
        n: Number of scans.
        seed: Of the first one; the others follow from it.
        shapes: Folder of liver shapes (:func:`liver_pipeline.synthesis.shapes.load_shapes`); None invents livers.
        spacing: mm.
        ct: Values in HU; else random contrast, as MR, in arbitrary units.

    Returns:
        The contact sheet.

    Raises:
        FileExistsError: If there are scans, labels or a sheet in the folder.
        FileNotFoundError: If ``shapes`` holds none.
        ValueError: If ``n`` or ``spacing`` is not positive.
    """
    out = Path(out)
    if n < 1 or not spacing > 0:
        raise ValueError(f"expected at least one scan and a spacing in mm, got n={n}, spacing={spacing}")
    for part in ("images", "labels", SHEET):
        if (out / part).exists():
            raise FileExistsError(f"{out / part} exists; choose another folder")
    size = [round(length / spacing / 16) * 16 for length in FIELD_MM]
    generator = ScanGenerator(size, spacing, shapes=shapes, seed=seed)
    shown = []
    for i in range(n):
        sample = generator.sample(i, ct=ct)
        image, label = sample.image.cpu().numpy(), sample.label.cpu().numpy()
        name = f"synthetic-{i:04d}.nii.gz"
        _write(out / "images" / name, np.clip(np.rint(image), -1024, 3071).astype(np.int16), spacing)
        _write(out / "labels" / name, label, spacing)
        low, high = WINDOW[ct]
        shown.append((np.clip((image - low) / (high - low), 0, 1), label))
    write_sheet(out / SHEET, shown[:_SHOWN])
    return out / SHEET


def _write(path: Path, array: npt.NDArray[Any], spacing: float) -> None:
    """Write a volume on a grid along R, A, S whose centre is the origin; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = [-(side - 1) / 2 * spacing for side in array.shape]
    nifti = nib.Nifti1Image(array, affine)
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(affine, code=1)
    nifti.set_sform(affine, code=1)
    with (
        whole_file(path) as temporary,
        temporary.open("wb") as file,
        igzip.IGzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed,
    ):
        nifti.to_stream(compressed)
