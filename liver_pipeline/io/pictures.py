"""JPG and PNG slices, for runs of 2D networks: no Hounsfield units, no millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.file_names import PICTURE_SUFFIXES
from liver_pipeline.io.findings import IntakeError, error, refuse, settle, warning
from liver_pipeline.io.formats import is_picture, opened_picture
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

        The mask's name follows that of the scan, so a picture is named as one, and nothing else is.

        Raises:
            IntakeError: PICTURE if the run takes none, or it is not named as one; NOT_A_SCAN or EMPTY_FILE for what is
                named so and is none; and as :func:`read_picture`.
        """
        try:
            drawn, named = is_picture(path), path.name.lower().endswith(PICTURE_SUFFIXES)
            if named and not drawn and path.is_file():
                raise _no_picture(path)
            if not drawn:
                return None
            if not self.taken or self.channels not in (1, 3):
                return read_scan(path)  # which says why not
            if not named:
                raise refuse(path, "PICTURE", f"a picture not named as one; call it {' or '.join(PICTURE_SUFFIXES)}")
            window = self.window if self.channels == 1 else (0.0, 1.0)
            return read_picture(path, channels=self.channels, window=window, pixel_mm=self.spacing)
        except OSError as reason:
            raise refuse(path, "READ_FAILED", f"{reason.strerror or reason}; is the file readable?") from reason


def read_picture(
    path: Path, *, channels: int, window: Sequence[float], pixel_mm: Sequence[float] | None = None
) -> Scan:
    """Read a picture as a scan of one slice.

    It is taken as radiologists look at an axial slice, the patient's right on the left, the front on top, and as
    programs show it: turned where its EXIF says so.

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
    """Return pixels (X, Y, channels) in the order in which programs show them."""
    try:
        with opened_picture(path) as image:
            if unfit := _unfit(path, image):
                raise refuse(
                    path, "UNSUPPORTED_DTYPE", f"{unfit}; save one grey or RGB picture of eight bits a channel"
                )
            shown = ImageOps.exif_transpose(image)
            pixels = np.asarray(shown.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    except IntakeError:
        raise
    except OSError as reason:
        if reason.errno is not None:
            raise
        code = "TRUNCATED" if "truncated" in str(reason) else "BAD_HEADER"
        raise refuse(path, code, f"{reason}; copy the picture again") from reason
    except Exception as reason:  # a damaged file makes Pillow fail in any of a dozen ways
        raise refuse(path, "BAD_HEADER", f"{type(reason).__name__}: {reason}; copy the picture again") from reason
    turned: npt.NDArray[np.uint8] = pixels.reshape(*pixels.shape[:2], channels).transpose(1, 0, 2)
    return turned


def _unfit(path: Path, image: Image.Image) -> str:
    """Return why eight bits of grey or colour are not all that the pixels of a picture hold; "" if they are."""
    with path.open("rb") as file:
        depth = file.read(25)[24] if image.format == "PNG" else 8  # Pillow drops the lower eight bits of colours
    if image.mode not in MODES or depth > 8:
        return f"pixels are {image.mode.partition(';')[0]} of {max(depth, 8)} bits"
    if (frames := getattr(image, "n_frames", 1)) > 1:
        return f"it is a film of {frames} pictures"
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        return "some pixels are transparent, and what lies behind them is not in the file"
    return ""


def _no_picture(path: Path) -> IntakeError:
    """Return the error for what is named as a picture and is none."""
    if path.stat().st_size == 0:
        return refuse(path, "EMPTY_FILE", "the file has zero bytes; copy it again")
    return refuse(
        path, "NOT_A_SCAN", "it is named as a picture and is neither PNG nor JPG; save it as PNG, or rename it"
    )
