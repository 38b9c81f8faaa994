"""Where the body is, as a coarse map of blocks that hold more than air."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

BLOCK_VOXELS = 8  # voxels of the model grid along each edge of a block of the body map


def body_blocks(image: torch.Tensor, air_hu: float) -> npt.NDArray[np.bool_]:
    """Return which blocks of 8x8x8 voxels of ``image`` (X, Y, Z), in HU, hold a voxel that is not air."""
    brightest = F.max_pool3d(image[None, None], kernel_size=BLOCK_VOXELS, stride=BLOCK_VOXELS, ceil_mode=True)[0, 0]
    return (brightest >= air_hu).cpu().numpy()


def encode_blocks(blocks: npt.NDArray[np.bool_]) -> str:
    """Return a body map as text, such as ``4x4x2:0f0f...``: text survives MONAI's collate, whatever the shape."""
    return f"{'x'.join(str(n) for n in blocks.shape)}:{np.packbits(blocks).tobytes().hex()}"


def decode_blocks(text: str) -> npt.NDArray[np.bool_]:
    """Return the body map that :func:`encode_blocks` wrote.

    Raises:
        ValueError: If ``text`` is no body map.
    """
    head, _, digits = text.partition(":")
    shape = tuple(int(n) for n in head.split("x"))
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8))
    return bits[: int(np.prod(shape))].reshape(shape).astype(bool)
