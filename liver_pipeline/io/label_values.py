"""Values of label maps: the one place where what a file holds becomes 0 background, 1 liver, 2 tumor."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from liver_pipeline.geometry.boxes import NOWHERE, bounding_box
from liver_pipeline.io.findings import Finding, error, warning
from liver_pipeline.io.label_names import ValueName, as_named, named_classes
from liver_pipeline.labels import CLASS_NAMES, LARGEST_VALUE, LabelValues, meanings

FINE_SLOPE = 0.01  # a slope as small was made to store floats as integers
FLOAT32_STEP = 1e-5  # of float32, in which the slope is written
PLAIN_LABELS = tuple(range(len(CLASS_NAMES)))


def whole_labels(
    array: npt.NDArray[Any],
    scale: tuple[float, float],
    allowed: Collection[int],
    label_map: LabelValues | None,
    names: Sequence[ValueName] = (),
) -> tuple[npt.NDArray[np.uint8], list[Finding]]:
    """Return labels as uint8 (X, Y, Z), and what is wrong with their values.

    Args:
        array: Stored values (X, Y, Z); looked at plane by plane, so that floats are never copied whole.
        scale: Slope and intercept of these.
        allowed: Labels that may occur, 0 to 255, where there is no ``label_map``.
        label_map: What the values mean; those that it does not name become 0.
        names: What the file calls them: without ``label_map`` they decide what 1 and 2 are, where they say anything.
    """
    label_map, told = (label_map, []) if label_map is not None or not names else _by_name(names)
    said = meanings(label_map)
    classes = {label: label for label in allowed} if said is None else {0: 0, **said}
    table: npt.NDArray[np.uint8] = np.zeros(LARGEST_VALUE + 1, dtype=np.uint8)
    named, seen = np.zeros((2, LARGEST_VALUE + 1), dtype=bool)
    for value, label in classes.items():
        table[value], named[value] = label, True
    labels: npt.NDArray[np.uint8] = np.full(array.shape, table[0], dtype=np.uint8, order="F")
    no_label: list[float] = []
    for z in range(array.shape[-1]):
        plane = array[:, :, z : z + 1]
        if scale != (1.0, 0.0):
            plane = _scaled(plane, scale)
        box = bounding_box(plane != 0) or NOWHERE  # most of a label map is 0, which needs no table
        part = plane[box]
        seen[0] |= part.size < plane.size
        with np.errstate(invalid="ignore"):  # what does not fit is unequal below
            index = part.astype(np.uint16)
        labels[:, :, z : z + 1][box] = table[index]
        whole = index == part
        if not whole.all():
            no_label += np.unique(part[~whole])[:5].tolist()
            index = index[whole]
        seen[index] = True
    others = np.flatnonzero(seen & ~named).tolist()
    found = _label_findings(np.unique(no_label).tolist(), others, labels, allowed, label_map, hint=not told)
    return labels, [*told, *found]


def _scaled(stored: npt.NDArray[Any], scale: tuple[float, float]) -> npt.NDArray[Any]:
    """Return values; one to which no stored number could come nearer than this is taken for that whole number."""
    slope, intercept = scale
    values = stored * slope + intercept
    near = np.rint(values)
    half = 0.501 * abs(slope) if abs(slope) <= FINE_SLOPE else 0.0
    return np.where(np.abs(values - near) <= half + FLOAT32_STEP, near, values)


def _by_name(names: Sequence[ValueName]) -> tuple[LabelValues | None, list[Finding]]:
    """Return what the values mean by their names, ``None`` where these agree with 1 and 2; and what is told of it."""
    try:
        classes = named_classes(names)
    except ValueError as reason:
        return None, [error("LABEL_NAMES", str(reason))]
    if all(value == label for value, label in classes.items()):
        return None, []
    return classes, [warning("LABEL_NAMES", f"values are read as the file names them: {as_named(names, classes)}")]


def _label_findings(
    no_label: list[float],
    others: list[int],
    labels: npt.NDArray[np.uint8],
    allowed: Collection[int],
    label_map: LabelValues | None,
    *,
    hint: bool,
) -> list[Finding]:
    """Say what is wrong with values: those that are no whole number from 0 on, and others that nobody named."""
    if label_map is not None and no_label:
        seen = ", ".join(f"{value:g}" for value in no_label[:5])
        return [error("LABEL_VALUES", f"label map holds {seen}; a label is a whole number, 0 to {LARGEST_VALUE}")]
    if label_map is None and (no_label or others):
        seen = ", ".join(f"{value:g}" for value in np.unique([*no_label, *others])[:5])  # nan last
        known = ", ".join(str(label) for label in sorted(allowed))
        example = others[0] if others and hint else None  # names, where there are some, hint better
        said = (
            f"; label_map, such as {{{example}: 1}}, says which value is liver (1), which tumor (2)" if example else ""
        )
        return [error("LABEL_VALUES", f"label map holds {seen}; expected only {known}{said}")]
    found = []
    if others:
        more = f" and {len(others) - 8} more" if len(others) > 8 else ""
        shown = ", ".join(map(str, others[:8]))
        found = [warning("LABEL_UNNAMED", f"label_map does not name {shown}{more}, which became background")]
    if not labels.any():
        said = "" if label_map is None else f": of the values that label_map names ({_listed(label_map)}) none occurs"
        found.append(warning("LABEL_EMPTY", f"the label map is background everywhere{said}"))
    return found


def _listed(label_map: LabelValues) -> str:
    return ", ".join(str(value) for value, meaning in label_map.items() if meaning)
