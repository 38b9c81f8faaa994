"""What a file calls the values of a label map, as 3D Slicer's segments do: liver, tumor, or not clear."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from liver_pipeline.labels import CLASS_NAMES, LIVER, TUMOR

ValueName = tuple[int, str]  # a value on disk, and what the file calls it

_LIVER = "liver|hepatic|hepar|parenchyma|leber|foie|higado|fegato"
_TUMOR = "tumou?r|tumeur|lesion|lasion|metastas[ei]|cancer|carcinoma|hcc"
_NOTHING = "segment(?:ation)?|seg|label|mask|class|value|region|roi|the|of|in|e?s"


def named_classes(names: Iterable[ValueName]) -> dict[int, int]:
    """Return the class of each value by its name; none where the names say nothing, such as "Segment_1".

    Args:
        names: Of each value of a file; a value can have several.

    Raises:
        ValueError: If not all that is named is clearly liver or tumor, saying what to do.

    Example:
        >>> named_classes([(1, "Liver tumors"), (2, "liver")]), named_classes([(1, "Segment_1")])
        ({1: 2, 2: 1}, {})
    """
    named = [(value, name, _class_of(name)) for value, name in names if value != 0]
    clear = {(value, found) for value, _, found in named if found}
    if not clear and all(found == 0 for _, _, found in named):
        return {}
    classes = dict(clear)
    classes |= {value: value for value, _, found in named if found == 0 and value in (LIVER, TUMOR)}
    by_value = any(found == 0 for _, _, found in named)  # values count where there are no names, so others must agree
    unclear = any(found is None for _, _, found in named) or len(classes) < len({value for value, _, _ in named})
    if unclear or len(clear) > len(dict(clear)) or (by_value and any(value != found for value, found in clear)):
        shown = ", ".join(f"{value} {name[:40]!r}" for value, name, _ in named[:8]) + (
            ", ..." if len(named) > 8 else ""
        )
        known = ", ".join(f"{value}: {found}" for value, found in sorted(dict(clear).items())) or "1: 1"
        raise ValueError(
            f"the file names its values {shown}, of which not all are clearly liver or tumor; label_map, such as "
            f"{{{known}}}, says which value is liver (1), which tumor (2)"
        )
    return classes


def as_named(names: Iterable[ValueName], classes: dict[int, int]) -> str:
    """Say how values are read."""
    return ", ".join(
        f"{value} {name[:40]!r} as {CLASS_NAMES[classes[value]]}" for value, name in names if value in classes
    )


def _class_of(name: str) -> int | None:
    """Return the class that a name is clearly of, 0 where it says nothing, ``None`` where it says something else."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", name.lower()) if not unicodedata.combining(char))
    words = re.sub(r"[\W\d_]+", "", plain)
    if re.search("[+&/,]", plain) or not re.fullmatch(f"(?:{_LIVER}|{_TUMOR}|{_NOTHING})*", words):
        return None
    return TUMOR if re.search(_TUMOR, words) else LIVER if re.search(_LIVER, words) else 0
