"""Training windows of a cascade's tumor stage come from the liver's box: transforms that YAML names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable

from liver_pipeline.geometry.affines import spacing_of
from liver_pipeline.geometry.boxes import Box, bounding_box, box_corners, parse_box, shifted, widen


class CropToLiverd(MapTransform):
    """Cut scan and label map down to the liver's box before they are resampled: the fine grid exists only there.

    Takes what :class:`~liver_pipeline.transforms.LoadScand` gives, (1, X, Y, Z) on one grid; what comes out shares its
    memory. The box is ``data["box"]`` (see :func:`liver_pipeline.geometry.boxes.box_text`; it is taken out); without
    it, that of liver and tumors in the label map. Where that box is None, the scan stays whole.

    Args:
        keys: What to cut.
        margin_mm: Added to the box on each side.
        label_key: The label map.
    """

    def __init__(self, keys: KeysCollection, *, margin_mm: float, label_key: str = "label") -> None:
        super().__init__(keys)
        self.margin_mm = margin_mm
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key cut."""
        cropped = dict(data)
        label = cropped[self.label_key]
        text = cropped.pop("box", None)
        box = bounding_box(label.numpy()[0] > 0) if text is None else parse_box(text)
        if box is None:
            return cropped
        wide = widen(box, self.margin_mm, spacing_of(label.affine.numpy()), label.shape[1:])
        for key in self.key_iterator(cropped):
            cropped[key] = cut_out(cropped[key], wide)
        return cropped


class RandNarrowBoxd(Randomizable, MapTransform):
    """Move each face of a volume inwards by a random distance: at inference the box is not exactly where it should be.

    Args:
        keys: Volumes (C, X, Y, Z) on one grid; all are cut alike. What comes out shares their memory.
        jitter_mm: Each of the six faces moves by 0 to so much, uniformly; at least one voxel is left.
        indices_key: Where the voxels of each class are listed, as ``ClassesToIndicesd`` writes them: those that are
            left, counted in the volume that is left, take their place.
    """

    def __init__(self, keys: KeysCollection, *, jitter_mm: float, indices_key: str | None = None) -> None:
        super().__init__(keys)
        if not jitter_mm >= 0:
            raise ValueError(f"jitter_mm must be 0 or more, got {jitter_mm}")
        self.jitter_mm = jitter_mm
        self.indices_key = indices_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key cut."""
        narrowed = dict(data)
        first: MetaTensor = narrowed[self.keys[0]]
        shape = tuple(first.shape[1:])
        box = self._narrow(shape, spacing_of(first.affine.cpu().numpy()))
        for key in self.key_iterator(narrowed):
            narrowed[key] = cut_out(narrowed[key], box)
        if self.indices_key is not None:
            narrowed[self.indices_key] = [_moved(indices, shape, box) for indices in narrowed[self.indices_key]]
        return narrowed

    def _narrow(self, shape: Sequence[int], spacing: Sequence[float]) -> Box:
        sides = []
        for length, edge in zip(shape, spacing, strict=True):
            low, high = (self.R.uniform(0.0, self.jitter_mm, size=2) / edge).astype(np.int64)
            start = min(int(low), length - 1)
            sides.append(slice(start, max(length - int(high), start + 1)))
        return sides[0], sides[1], sides[2]


def _moved(indices: Any, shape: Sequence[int], box: Box) -> npt.NDArray[np.int64]:
    """Return flat indices into a volume of ``shape`` as such into the part in ``box``; those outside are left out."""
    places = np.stack(np.unravel_index(np.asarray(indices, dtype=np.int64), tuple(shape)))
    starts, stops = np.array(box_corners(box)).T[..., None]
    inside = ((places >= starts) & (places < stops)).all(axis=0)
    moved = np.ravel_multi_index(tuple((places - starts)[:, inside]), tuple((stops - starts)[:, 0].tolist()))
    return np.asarray(moved, dtype=np.int64)


def cut_out(volume: MetaTensor, box: Box) -> MetaTensor:
    """Return the part of a volume (C, X, Y, Z) inside a box: a view, with the affine of its own corner."""
    part = volume.as_tensor()[(slice(None), *box)]
    affine = torch.as_tensor(shifted(np.asarray(volume.affine.cpu().numpy(), dtype=np.float64), box))
    return MetaTensor(part, affine=affine, meta={key: value for key, value in volume.meta.items() if key != "affine"})
