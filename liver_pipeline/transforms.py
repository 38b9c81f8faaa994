"""Transforms that YAML can name; the thinking lies in geometry, scans and postprocessing."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep

from liver_pipeline.geometry import (
    AxisMap,
    axis_map,
    model_grid_for_size,
    model_grid_for_spacing,
)
from liver_pipeline.intake import settle
from liver_pipeline.resampling import resample_linear, resample_nearest
from liver_pipeline.scans import Scan, label_findings, read_label_map, read_scan
from liver_pipeline.windows import body_blocks, encode_blocks

AIR_HU = -500.0  # below: air outside the body, or empty lung; the liver's neighbours are above


class LoadScand(MapTransform):
    """Read scans and label maps as they are stored: file axis order, stored dtype, no float copy.

    ``data[key]`` is a path or a :class:`liver_pipeline.scans.Scan`; it becomes a MetaTensor (1, X, Y, Z) that shares
    the scan's memory. Its meta holds affine (RAS, float64), slope, intercept (``HU = slope * stored + intercept``) and
    filename_or_obj. What is a MetaTensor already stays as it is.

    Args:
        keys: What to read.
        label_keys: Keys that are label maps (whole numbers, uint8).
        modality: "ct" or "mr"; see ``read_scan``.
        allowed_labels: See ``read_label_map``.
        accept: Codes of errors to take as warnings.
        repair: Codes to repair, such as "SHEAR"; only in scans.
        allow_missing_keys: Whether a case may lack a key (the label at inference).

    Raises:
        liver_pipeline.intake.IntakeError: A file is not what it should be, or a label map lies on another grid than the
            scan.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        label_keys: KeysCollection = ("label",),
        modality: str = "ct",
        allowed_labels: Collection[int] = (0, 1, 2),
        accept: Collection[str] = (),
        repair: Collection[str] = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_keys = (label_keys,) if isinstance(label_keys, str) else tuple(label_keys)  # type: ignore[arg-type]
        self.modality = modality
        self.allowed_labels = tuple(allowed_labels)
        self.accept = tuple(accept)
        self.repair = tuple(repair)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key read."""
        read = dict(data)
        unread = [key for key in self.key_iterator(read) if not isinstance(read[key], MetaTensor)]
        scans = {key: self._read(key, read[key]) for key in unread}
        image = next((scan for key, scan in scans.items() if key not in self.label_keys), None)
        for key, scan in scans.items():
            if key in self.label_keys and image is not None:
                settle(scan.path, label_findings(image, scan), self.accept)
            read[key] = scan_to_tensor(scan)
        return read

    def _read(self, key: Hashable, source: Any) -> Scan:
        """Read one scan or label map, unless it has been read before."""
        if isinstance(source, Scan):
            return source
        if key in self.label_keys:
            return read_label_map(source, allowed=self.allowed_labels, accept=self.accept)
        return read_scan(source, modality=self.modality, accept=self.accept, repair=self.repair)


def scan_to_tensor(scan: Scan) -> MetaTensor:
    """Return a scan as MetaTensor (1, X, Y, Z) that shares its memory; meta: affine, slope, intercept and path."""
    meta = {
        "slope": float(scan.slope),
        "intercept": float(scan.intercept),
        "filename_or_obj": str(scan.path),
    }
    affine = torch.as_tensor(np.asarray(scan.affine, dtype=np.float64))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The given NumPy array is not writable"
        )  # nothing here writes to a scan
        return MetaTensor(torch.from_numpy(scan.array[None]), affine=affine, meta=meta)


class ToModelGridd(MapTransform):
    """Resample scans to the model grid: axes along R, A, S, with the given spacing or the given number of voxels.

    Takes what :class:`LoadScand` gives, or any MetaTensor (1, X, Y, Z) with an affine. Linear keys become float32 in
    HU, nearest keys keep their dtype. The meta of the result holds affine (of the model grid), scan_affine,
    scan_shape and filename_or_obj; linear keys also ``body``, the coarse map of what is not air, which lets inference
    skip windows of air.

    Shape and affine equal MONAI's Orientationd("RAS") and Spacingd(pixdim=spacing), values its bilinear/border to
    1e-3 HU.

    Args:
        keys: What to resample.
        spacing: Voxel size in mm along R, A, S; or
        grid_size: number of voxels along R, A, S over the whole field of view.
        mode: "bilinear" or "nearest" for each key.
        air_hu: Values below are air; None (for MR, where nothing is known) leaves ``body`` out.
        allow_missing_keys: Whether a case may lack a key.

    Raises:
        ValueError: If not exactly one of ``spacing`` and ``grid_size`` is given, or a mode is unknown.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        spacing: Sequence[float] | None = None,
        grid_size: Sequence[int] | None = None,
        mode: str | Sequence[str] = ("bilinear", "nearest"),
        air_hu: float | None = AIR_HU,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if (spacing is None) == (grid_size is None):
            raise ValueError(f"give either spacing or grid_size, got spacing={spacing}, grid_size={grid_size}")
        modes = (mode,) if isinstance(mode, str) else tuple(mode)
        if unknown := set(modes) - {"bilinear", "nearest"}:
            raise ValueError(f"mode {sorted(unknown)} is unknown; known: bilinear, nearest")
        self.spacing = spacing
        self.grid_size = grid_size
        # One key with the default pair takes the first mode: an image alone is bilinear.
        self.mode = modes[:1] if len(self.keys) == 1 else ensure_tuple_rep(modes, len(self.keys))
        self.air_hu = air_hu

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key on the model grid."""
        moved = dict(data)
        for key, mode in self.key_iterator(moved, self.mode):
            moved[key] = self._move(moved[key], mode)
        return moved

    def model_grid(
        self, scan_affine: np.ndarray[Any, Any], scan_shape: Sequence[int]
    ) -> tuple[np.ndarray[Any, Any], AxisMap]:
        """Return the model grid's affine for a scan, and the map between the two."""
        if self.spacing is not None:
            affine, shape = model_grid_for_spacing(scan_affine, scan_shape, self.spacing)
        else:
            assert self.grid_size is not None
            affine, shape = model_grid_for_size(scan_affine, scan_shape, self.grid_size)
        return affine, axis_map(scan_affine, scan_shape, affine, shape)

    def _move(self, volume: MetaTensor, mode: str) -> MetaTensor:
        """Resample one volume (1, X, Y, Z)."""
        if volume.ndim != 4 or volume.shape[0] != 1:
            raise ValueError(f"expected one channel and three axes (1, X, Y, Z), got shape {tuple(volume.shape)}")
        array = volume.as_tensor().cpu().numpy()[0]
        scan_affine = np.asarray(volume.affine.cpu().numpy(), dtype=np.float64)
        affine, grid = self.model_grid(scan_affine, array.shape)
        meta = {
            "scan_affine": torch.from_numpy(scan_affine),
            "scan_shape": torch.tensor(array.shape),
            "filename_or_obj": str(volume.meta.get("filename_or_obj", "")),
        }
        if mode == "nearest":
            moved = torch.from_numpy(resample_nearest(array, grid)[None])
        else:
            slope, intercept = float(volume.meta.get("slope", 1.0)), float(volume.meta.get("intercept", 0.0))
            moved = torch.from_numpy(resample_linear(array, grid, slope=slope, intercept=intercept)[None])
            if self.air_hu is not None:
                meta["body"] = encode_blocks(body_blocks(moved[0], self.air_hu))
        return MetaTensor(moved, affine=torch.from_numpy(affine), meta=meta)


class HuWindowsd(MapTransform):
    """Show one scan through several windows of Hounsfield units, as channels of one image.

    (1, X, Y, Z) in HU becomes (N, X, Y, Z); each channel maps its window to [0, 1] and clips what lies outside. Three
    windows make the RGB image that ImageNet encoders expect.

    Args:
        keys: Images, floating point.
        hu_windows: Lower and upper value of each of the N windows.
        allow_missing_keys: Whether a case may lack a key.

    Raises:
        ValueError: If there is no window, or one is empty; when called, if an image has more than one channel.
    """

    def __init__(
        self, keys: KeysCollection, hu_windows: Sequence[Sequence[float]], *, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.hu_windows = [(float(lower), float(upper)) for lower, upper in hu_windows]
        if not self.hu_windows or any(lower >= upper for lower, upper in self.hu_windows):
            raise ValueError(f"hu_windows must be pairs of a lower and a higher value, got {self.hu_windows}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with one channel per window."""
        windowed = dict(data)
        for key in self.key_iterator(windowed):
            image = windowed[key]
            if image.shape[0] != 1:
                raise ValueError(f"expected one channel (1, X, Y, Z), got shape {tuple(image.shape)}")
            channels = [((image - low) / (high - low)).clamp_(0.0, 1.0) for low, high in self.hu_windows]
            windowed[key] = torch.cat(channels)
        return windowed


class WindowHud(MapTransform):
    """Map a window of Hounsfield units to [0, 1] and clip what lies outside.

    Equal to MONAI's ScaleIntensityRanged with ``clip``, but in place: that one makes three copies, which for a scan of
    512x512x1000 on its own grid are 3 GB. The image that comes in is overwritten.

    Args:
        keys: Images, floating point.
        hu_window: Lower and upper value, mapped to 0 and 1.
        allow_missing_keys: Whether a case may lack a key.

    Raises:
        ValueError: If the window is empty.
    """

    def __init__(self, keys: KeysCollection, hu_window: Sequence[float], *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.lower, self.upper = (float(value) for value in hu_window)
        if self.lower >= self.upper:
            raise ValueError(f"hu_window must be a lower and a higher value, got {tuple(hu_window)}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the images windowed."""
        windowed = dict(data)
        for key in self.key_iterator(windowed):
            windowed[key].sub_(self.lower).div_(self.upper - self.lower).clamp_(0.0, 1.0)
        return windowed
