"""How a run reads: one set of settings, for training, prediction, description and whoever else reads its scans."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from liver_pipeline.io.volumes import Scan, read_label_map, read_scan


@dataclass(frozen=True)
class ScanReader:
    """Reads the scans and label maps of one run.

    Attributes:
        modality: "ct" or "mr": which values are plausible; see :func:`~liver_pipeline.io.volumes.read_scan`.
        accept: Codes of errors to take as warnings.
        repair: Codes to repair in scans, such as "SHEAR".
        labels: Values that a label map may hold.
    """

    modality: str = "ct"
    accept: Collection[str] = ()
    repair: Collection[str] = ()
    labels: Collection[int] = (0, 1, 2)

    def scan(self, path: Path | str) -> Scan:
        """Read one scan; raises IntakeError as :func:`~liver_pipeline.io.volumes.read_scan` does."""
        return read_scan(path, modality=self.modality, accept=self.accept, repair=self.repair)

    def label_map(self, path: Path | str) -> Scan:
        """Read one label map; raises IntakeError as :func:`~liver_pipeline.io.volumes.read_label_map` does."""
        return read_label_map(path, allowed=self.labels, accept=self.accept)
