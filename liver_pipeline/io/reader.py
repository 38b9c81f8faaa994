"""How a run reads: one set of settings, for training, prediction, description and whoever else reads its scans."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from liver_pipeline.io.formats import is_picture
from liver_pipeline.io.pictures import read_picture
from liver_pipeline.io.volumes import Scan, read_label_map, read_scan


@dataclass(frozen=True)
class ScanReader:
    """Reads the scans and label maps of one run.

    Attributes:
        modality: "ct" or "mr": which values are plausible; see :func:`~liver_pipeline.io.volumes.read_scan`.
        accept: Codes of errors to take as warnings.
        repair: Codes to repair in scans, such as "SHEAR".
        labels: Values that a label map may hold.
        orientation: Where the axes of Analyze files run to, such as "LAS"; they do not say so.
        pictures: How JPG and PNG are read: ``roi_size``, ``spacing``, ``hu_window`` and ``channels`` of the run, whose
            window has to be one slice. None: not at all.
    """

    modality: str = "ct"
    accept: Collection[str] = ()
    repair: Collection[str] = ()
    labels: Collection[int] = (0, 1, 2)
    orientation: str | None = None
    pictures: Mapping[str, Any] | None = None

    @property
    def takes_pictures(self) -> bool:
        """Whether this is the reader of a 2D network."""
        return self.pictures is not None and tuple(self.pictures["roi_size"])[2] == 1

    def scan(self, path: Path | str, *, series: str | None = None, why: str = "") -> Scan:
        """Read one scan; raises IntakeError as :func:`~liver_pipeline.io.volumes.read_scan` does.

        Args:
            path: Where it is.
            series: Which of several DICOM series there.
            why: The reason of that choice, for SERIES_CHOSEN.
        """
        if self.takes_pictures and is_picture(Path(path)):
            return self._picture(Path(path))
        scan = read_scan(
            path, modality=self.modality, accept=self.accept, repair=self.repair, series=series,
            orientation=self.orientation,
        )  # fmt: skip
        told = [replace(f, detail=why) if why and f.code == "SERIES_CHOSEN" else f for f in scan.findings]
        return replace(scan, findings=tuple(told))

    def _picture(self, path: Path) -> Scan:
        """Read a picture: black and white are the ends of the CT's window; of an MR or of channels, 0 and 255, or 1."""
        assert self.pictures is not None
        channels = int(self.pictures["channels"])
        window = (0.0, 1.0) if channels > 1 else self.pictures["hu_window"] if self.modality == "ct" else (0.0, 255.0)
        return read_picture(path, channels=channels, window=window, pixel_mm=self.pictures["spacing"])

    def label_map(self, path: Path | str) -> Scan:
        """Read one label map; raises IntakeError as :func:`~liver_pipeline.io.volumes.read_label_map` does."""
        return read_label_map(path, allowed=self.labels, accept=self.accept, orientation=self.orientation)
