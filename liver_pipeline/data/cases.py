"""Which files belong to which case, and which cases train, validate and test.

A case is a plain dictionary of strings, ``{"case", "patient", "image", "label"}``, so that it goes through YAML, JSON
and MONAI datasets as it is.
"""

from __future__ import annotations

Case = dict[str, str]
Split = dict[str, list[Case]]
PARTS = ("train", "val", "test")
