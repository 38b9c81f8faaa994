"""What was drawn on a page, carried to the scan's own grid: what was not drawn on stays as it is."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from liver_pipeline.labels import LabelMap

MAX_EDIT_BYTES = 32 << 20  # of the JSON; a liver that is erased whole takes about 1 MB
UNTOUCHED = 255

_Triple = tuple[
    Annotated[int, Field(ge=0, lt=2**31)], Annotated[int, Field(ge=0, lt=2**31)], Annotated[int, Field(ge=0, lt=2**31)]
]
_Run = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0, le=2)]]


class Edit(BaseModel):
    """Voxels of a page that got another label.

    A page may show a box of the scan, and several of its voxels as one: ``start`` and ``size`` are the box in voxels of
    the scan along the axes nearest to right, anterior and superior, ``steps`` how many of them one voxel of the page
    stands for; the last along an axis may stand for fewer.
    """

    model_config = ConfigDict(extra="forbid")
    made_from: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="sha256 of the mask that was drawn on")]
    start: _Triple
    size: _Triple
    steps: _Triple
    runs: Annotated[
        list[_Run],
        Field(description="first voxel of the page (right fastest, superior slowest), how many, label; in order"),
    ]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The page's voxels along right, anterior, superior."""
        x, y, z = (math.ceil(size / step) for size, step in zip(self.size, self.steps, strict=True))
        return x, y, z

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if min(*self.size, *self.steps) < 1:
            raise ValueError("size and steps are at least 1")
        if any(first + count > start for (first, count, _), (start, _, _) in pairwise(self.runs)):
            raise ValueError("runs overlap, or are out of order")
        if self.runs and sum(self.runs[-1][:2]) > math.prod(self.shape):
            raise ValueError("runs lead out of the page's box")
        return self


def lay_on(label_map: LabelMap, edit: Edit) -> None:
    """Give the voxels that were drawn on their labels, in place.

    Args:
        label_map: Of the scan's own grid, seen along the axes nearest to right, anterior, superior: uint8 (X, Y, Z).
        edit: What was drawn; every voxel that one of the page stands for gets its label.

    Raises:
        ValueError: If the page's box leads out of the grid; nothing is changed.

    Example:
        >>> row = np.zeros((5, 1, 1), dtype=np.uint8)
        >>> lay_on(row, Edit(made_from="0" * 64, start=(0, 0, 0), size=(5, 1, 1), steps=(2, 1, 1), runs=[(1, 2, 2)]))
        >>> row.ravel()  # voxels 1 and 2 of a page of three; the last stands for one voxel
        array([0, 0, 2, 2, 2], dtype=uint8)
    """
    ends = [start + size for start, size in zip(edit.start, edit.size, strict=True)]
    if any(end > side for end, side in zip(ends, label_map.shape, strict=True)):
        raise ValueError(f"the page's box ends at {ends}, the mask's grid at {list(label_map.shape)}")
    drawn = np.full(math.prod(edit.shape), UNTOUCHED, dtype=np.uint8)
    for first, count, label in edit.runs:
        drawn[first : first + count] = label
    box = label_map[tuple(slice(start, end) for start, end in zip(edit.start, ends, strict=True))]
    x, y, z = edit.steps
    for plane, page_plane in enumerate(drawn.reshape(edit.shape, order="F").transpose(2, 0, 1)):
        if (page_plane == UNTOUCHED).all():
            continue
        labels = page_plane.repeat(x, axis=0).repeat(y, axis=1)[: box.shape[0], : box.shape[1]]
        np.copyto(box[:, :, plane * z : (plane + 1) * z], labels[:, :, None], where=(labels != UNTOUCHED)[:, :, None])


def changes(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> dict[str, dict[str, int]]:
    """Count the voxels that liver (1) and tumor (2) gained and lost; arrays of one shape."""
    old, new = (array[before != after] for array in (before, after))
    return {
        name: {str(label): int((labels == label).sum()) for label in (1, 2)}
        for name, labels in (("added", new), ("removed", old))
    }
