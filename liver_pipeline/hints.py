"""Which of the known names somebody meant who typed another one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LIKE_ENOUGH = 0.6  # share of letters in common, as difflib counts them


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'resnet34_unet'?`` for the known name nearest to ``name``, or "" if none is near.

    Nearness is judged also by as much of a name's beginning as was typed: ``resnet35`` is near ``resnet34_unet``.
    """

    def likeness(other: str) -> float:
        ends = (other, other[: len(name)])
        return max(difflib.SequenceMatcher(None, name.lower(), end.lower()).ratio() for end in ends)

    close = max(sorted(known), key=likeness, default="")
    return f"; did you mean '{close}'?" if close and likeness(close) >= LIKE_ENOUGH else ""
