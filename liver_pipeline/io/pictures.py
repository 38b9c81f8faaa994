"""JPG and PNG slices, for runs of 2D networks: no Hounsfield units, no millimetres."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from liver_pipeline.io.files import file_sha256
from liver_pipeline.io.findings import IntakeError, error, refuse, settle, warning
from liver_pipeline.io.formats import is_picture
from liver_pipeline.io.volumes import Scan, read_scan

LEVELS_OF_GREY = 255.0
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # Pillow's, of eight bits a channel or less


@dataclass(frozen=True)
class Pictures:
    """How a run takes pictures.

    Attributes:
        roi_size: The run's window: only networks of one slice take pictures.
        spacing: Of the run's voxels in mm, which a pixel is taken for; None: the picture is resized.
        window: What black and white stand for, HU or values of an MR.
        channels: 1 or 3.
    """

    roi_size: Sequence[int]
    spacing: Sequence[float] | None = None
    window: Sequence[float] = (0.0, 255.0)
    channels: int = 1

    @property
    def taken(self) -> bool:
        """Whether this is a run of a 2D network."""
        return tuple(self.roi_size)[2] == 1

    def read(self, path: Path) -> Scan | None:
        """Read a picture, ``None`` for any other file; see :func:`read_picture`.

        Raises:
            IntakeError: PICTURE if the run takes none, and as :func:`read_picture`.
        """
        try:
            if not is_picture(path):
                return None
            if not self.taken or self.channels not in (1, 3):
                return read_scan(path)  # which says why not
            window = self.window if self.channels == 1 else (0.0, 1.0)
            return read_picture(path, channels=self.channels, window=window, pixel_mm=self.spacing)
        except OSError as reason:
            raise refuse(path, "READ_FAILED", f"{reason.strerror or reason}; is the file readable?") from reason


def read_picture(
    path: Path, *, channels: int, window: Sequence[float], pixel_mm: Sequence[float] | None = None
) -> Scan:
    """Read a picture as a scan of one slice.

    It is taken as radiologists look at an axial slice: the patient's right on the left, the front on top.

    Args:
        path: A JPG or PNG of eight bits.
        channels: What the run takes: 1, to which colours become grey, or 3.
        window: What black and white stand for: HU of the run's window, or [0, 1] for channels.
        pixel_mm: Edges of the run's voxels along R, A, S: a pixel is taken for one. None: 1 mm.

    Returns:
        A scan of shape (X, Y, 1), or (X, Y, 1, channels) of several; X runs to the right in the picture, Y downwards.
        PICTURE, a warning, says what was taken for what.

    Raises:
        IntakeError: UNSUPPORTED_DTYPE, TRUNCATED, BAD_HEADER, CONSTANT.
        OSError: If it cannot be read.
    """
    pixels = _pixels(path, channels)
    x, y, z = pixel_mm if pixel_mm is not None else (1.0, 1.0, 1.0)
    affine = np.diag([-float(x), -float(y), float(z), 1.0])
    low, high = (float(edge) for edge in window)
    header = nib.Nifti1Header()
    header.set_data_shape((*pixels.shape[:2], 1))
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=1)
    kind = "grey" if channels == 1 else "colours"
    size = f"{pixels.shape[0]}x{pixels.shape[1]} pixels as {kind}"
    detail = f"{size}, 0 to 255 taken for {low:g} to {high:g}; it has no HU and no millimetres"
    findings = [warning("PICTURE", detail)]
    if pixels.min() == pixels.max():
        findings.append(error("CONSTANT", f"every pixel is {pixels.min()}; nothing to segment"))
    array = np.asfortranarray(pixels[:, :, None, 0] if channels == 1 else pixels[:, :, None])
    scale = (high - low) / LEVELS_OF_GREY
    return Scan(array, affine, scale, low, header, path, file_sha256(path), settle(path, findings))


def _pixels(path: Path, channels: int) -> npt.NDArray[np.uint8]:
    """Return pixels (X, Y, channels) as the picture is shown: upright, where its EXIF says how a camera was held."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as file, Image.open(file, formats=("PNG", "JPEG")) as image:
                if image.mode not in MODES or getattr(image, "n_frames", 1) > 1:
                    detail = f"pixels of kind {image.mode}, {getattr(image, 'n_frames', 1)} frames"
                    raise refuse(path, "UNSUPPORTED_DTYPE", f"{detail}; save one picture of eight bits a channel")
                turned = ImageOps.exif_transpose(image)  # upright, as every viewer shows it
                pixels = np.asarray(turned.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    except IntakeError:
        raise
    except OSError as reason:
        if reason.errno is not None:
            raise
        code = "TRUNCATED" if "truncated" in str(reason) else "BAD_HEADER"
        raise refuse(path, code, f"{reason}; copy the picture again") from reason
    except Exception as reason:  # a damaged file makes Pillow fail in any of a dozen ways
        raise refuse(path, "BAD_HEADER", f"{type(reason).__name__}: {reason}; copy the picture again") from reason
    along_x: npt.NDArray[np.uint8] = pixels.reshape(*pixels.shape[:2], channels).transpose(1, 0, 2)
    return along_x
