"""How a run reads: one set of settings, for training, prediction, description and whoever else reads its scans."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from liver_pipeline.io.findings import refuse
from liver_pipeline.io.volumes import Scan, read_label_map, read_scan
from liver_pipeline.labels import LabelValues


@dataclass(frozen=True)
class ScanReader:
    """Reads the scans and label maps of one run.

    Attributes:
        modality: "ct" or "mr": which values are plausible; see :func:`~liver_pipeline.io.volumes.read_scan`.
        accept: Codes of errors to take as warnings.
        repair: Codes to repair in scans, such as "SHEAR".
        orientation: Where the axes of Analyze files run to, such as "LAS"; they do not say so.
    """

    modality: str = "ct"
    accept: Collection[str] = ()
    repair: Collection[str] = ()
    orientation: str | None = None

    def scan(self, path: Path | str, *, series: str | None = None, why: str = "", elsewhere: str = "") -> Scan:
        """Read one scan; raises IntakeError as :func:`~liver_pipeline.io.volumes.read_scan` does.

        Args:
            path: Where it is.
            series: Which of several DICOM series there.
            why: The reason of that choice, for SERIES_CHOSEN.
            elsewhere: What of the series lies in another place, for MIXED_SERIES.
        """
        if elsewhere:
            raise refuse(path, "MIXED_SERIES", elsewhere)
        scan = read_scan(
            path, modality=self.modality, accept=self.accept, repair=self.repair, series=series,
            orientation=self.orientation,
        )  # fmt: skip
        told = [replace(f, detail=why) if why and f.code == "SERIES_CHOSEN" else f for f in scan.findings]
        return replace(scan, findings=tuple(told))

    def label_map(self, path: Path | str, values: LabelValues | None = None) -> Scan:
        """Read one label map; raises IntakeError as :func:`~liver_pipeline.io.volumes.read_label_map` does.

        Args:
            path: Where it is.
            values: What its values mean, where they are not 0, 1, 2.
        """
        return read_label_map(path, label_map=values, accept=self.accept, orientation=self.orientation)
