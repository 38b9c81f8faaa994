"""From the scan's grid to the model's."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep

from liver_pipeline.geometry.axes import AxisMap, axis_map
from liver_pipeline.geometry.body import body_blocks, encode_blocks
from liver_pipeline.geometry.grids import model_grid_for_size, model_grid_for_spacing
from liver_pipeline.geometry.resampling import resample_linear, resample_nearest
from liver_pipeline.io.limits import total_bytes

GPU_BYTES = 200e6  # of a model grid that is kept on a GPU; a few are there at a time in a folder run
AIR_HU = -500.0  # below: air outside the body, or empty lung; the liver's neighbours are above


class ToModelGridd(MapTransform):
    """Resample scans to the model grid: axes along R, A, S, with the given spacing or the given number of voxels.

    Takes what :class:`~liver_pipeline.transforms.LoadScand` gives, or any MetaTensor (1, X, Y, Z) with an affine.
    Linear keys become float32 in HU, nearest keys keep their dtype. The meta of the result holds affine (of the model
    grid), scan_affine, scan_shape and filename_or_obj; linear keys also ``body``, the coarse map of what is not air,
    which lets inference skip windows of air.

    Shape and affine equal MONAI's Orientationd("RAS") and Spacingd(pixdim=spacing), values its bilinear/border to
    1e-3 HU.

    Args:
        keys: What to resample.
        spacing: Voxel size in mm along R, A, S; or
        grid_size: number of voxels along R, A, S over the whole field of view.
        mode: "bilinear" or "nearest" for each key.
        air_hu: Values below are air; None (for MR, where nothing is known) leaves ``body`` out.
        device: Where linear keys are resampled and then are; values are the same on all. What a GPU has no room for, or
            a model grid of more than ``GPU_BYTES``, stays on the CPU; nearest keys always do.
        allow_missing_keys: Whether a case may lack a key.

    Raises:
        ValueError: If not exactly one of ``spacing`` and ``grid_size`` is given, or a mode is unknown.

    Called, it raises MemoryError where the model grid of a scan cannot fit into this job's memory.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        spacing: Sequence[float] | None = None,
        grid_size: Sequence[int] | None = None,
        mode: str | Sequence[str] = ("bilinear", "nearest"),
        air_hu: float | None = AIR_HU,
        device: torch.device | str = "cpu",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.device = torch.device(device)
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
        """Return the model grid's affine for a scan, and the map between the two.

        Raises:
            MemoryError: If a volume on that grid cannot fit into this job's memory.
        """
        if self.spacing is not None:
            affine, shape = model_grid_for_spacing(scan_affine, scan_shape, self.spacing)
        else:
            assert self.grid_size is not None
            affine, shape = model_grid_for_size(scan_affine, scan_shape, self.grid_size)
        if (wanted := 4 * math.prod(map(int, shape))) > total_bytes():
            asked = f"spacing {list(self.spacing)} mm" if self.spacing is not None else f"grid_size {self.grid_size}"
            size = " x ".join(map(str, shape))
            raise MemoryError(
                f"{asked} makes {size} voxels of this scan, {wanted / 1e9:.0f} GB, more than this job has"
            )
        return affine, axis_map(scan_affine, scan_shape, affine, shape)

    def _move(self, volume: MetaTensor, mode: str) -> MetaTensor:
        """Resample one volume (1, X, Y, Z)."""
        if volume.ndim != 4 or (volume.shape[0] != 1 and not volume.meta.get("channels_ready")):
            raise ValueError(f"expected one channel and three axes (1, X, Y, Z), got shape {tuple(volume.shape)}")
        channels = volume.as_tensor().cpu().numpy()
        array = channels[0]
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
            parts = [self._resample(one, grid, slope, intercept) for one in channels]
            moved = parts[0][None] if len(parts) == 1 else torch.stack(parts)  # a scan's volume is not copied
            if len(parts) > 1:
                meta["channels_ready"] = True
            if self.air_hu is not None:
                meta["body"] = encode_blocks(body_blocks(moved[0], self.air_hu))
        return MetaTensor(moved, affine=torch.from_numpy(affine), meta=meta)

    def _resample(self, array: np.ndarray[Any, Any], grid: AxisMap, slope: float, intercept: float) -> torch.Tensor:
        """Resample linearly, on a GPU if it has room."""
        if self.device.type != "cpu" and 4 * np.prod(grid.model_shape) <= GPU_BYTES:
            try:
                return resample_linear(array, grid, slope=slope, intercept=intercept, device=self.device)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        return resample_linear(array, grid, slope=slope, intercept=intercept)
