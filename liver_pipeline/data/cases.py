"""Which files belong to which case, and which cases train, validate and test.

A case is a plain dictionary, ``{"case", "patient", "image", "label"}``, so that it goes through YAML, JSON and MONAI
datasets as it is. Where the values of its label map are not 0, 1, 2, ``label_map`` says what they mean
(:data:`~liver_pipeline.labels.LabelValues`).
"""

from __future__ import annotations

from typing import Any

Case = dict[str, Any]
Split = dict[str, list[Case]]
PARTS = ("train", "val", "test")
