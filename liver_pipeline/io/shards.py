"""Part I of N of a folder, for machines that need no agreement: a scan's name alone says which part it is in."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``."""

    index: int
    count: int

    @classmethod
    def of(cls, text: str) -> Shard:
        """Read ``I/N``.

        Raises:
            ValueError: If it is none.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None or not int(found[1]) < int(found[2]):
            raise ValueError(f"shard is {text!r}; expected I/N with I from 0 to N-1, such as 0/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, name: str) -> bool:
        """Tell whether a scan is in this part.

        Args:
            name: Its path below the searched folder, with ``/``.

        Example:
            >>> [Shard(index, 2).holds("site_b/a.nii.gz") for index in range(2)]
            [False, True]
        """
        return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") % self.count == self.index
