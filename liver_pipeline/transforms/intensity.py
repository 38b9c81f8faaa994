"""HU windows, one or several as channels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform


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
            if image.shape[0] == len(self.hu_windows) and getattr(image, "meta", {}).get("channels_ready"):
                continue  # a picture in colour
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
            image = windowed[key]
            # by a tensor of the image's device: a GPU multiplies with the reciprocal of a number, and rounds otherwise
            width = torch.full((), self.upper - self.lower, dtype=image.dtype, device=image.device)
            image.sub_(self.lower).div_(width).clamp_(0.0, 1.0)
        return windowed
