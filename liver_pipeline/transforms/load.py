"""From a file, or a scan in memory, to a tensor."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from liver_pipeline.io.findings import settle
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.volumes import Scan, label_findings
from liver_pipeline.labels import LIVER_OR_TUMOR, TUMOR, LabelValues
from liver_pipeline.metrics.overlap import as_told


class LoadScand(MapTransform):
    """Read scans and label maps as they are stored: file axis order, stored dtype, no float copy.

    ``data[key]`` is a path or a :class:`Scan`; it becomes a MetaTensor (1, X, Y, Z) that shares
    the scan's memory. Its meta holds affine (RAS, float64), slope, intercept (``HU = slope * stored + intercept``) and
    filename_or_obj. What is a MetaTensor already stays as it is.

    ``data["label_map"]``, which a case may have, says what the values of its label map mean; it is taken out. Beside a
    label, ``unnamed_labels`` says which values it does not name, or the file names otherwise, "" for none, and
    ``tells_tumors`` whether tumors were outlined; where they were not, liver and tumor are 1 (see
    :class:`MarkUntoldTumorsd`).

    Args:
        keys: What to read.
        label_keys: Keys that are label maps (whole numbers, uint8).
        reader: How they are read.
        allow_missing_keys: Whether a case may lack a key (the label at inference).

    Raises:
        IntakeError: A file is not what it should be, or a label map lies on another grid than the
            scan.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        label_keys: KeysCollection = ("label",),
        reader: ScanReader | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_keys = ensure_tuple(label_keys)
        self.reader = reader or ScanReader()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key read."""
        read = dict(data)
        values = read.pop("label_map", None)
        unread = [key for key in self.key_iterator(read) if not isinstance(read[key], MetaTensor)]
        scans = {key: self._read(key, read[key], values) for key in unread}
        image = next((scan for key, scan in scans.items() if key not in self.label_keys), None)
        for key, scan in scans.items():
            if key in self.label_keys:
                if image is not None:
                    settle(scan.path, label_findings(image, scan), self.reader.accept)
                told = (f.detail for f in scan.findings if f.code in ("LABEL_NAMES", "LABEL_UNNAMED"))
                read["unnamed_labels"] = next(told, "")
                labels, _, read["tells_tumors"] = as_told(scan.array, scan.array)
                scan = replace(scan, array=labels)
            read[key] = scan_to_tensor(scan)
        return read

    def _read(self, key: Hashable, source: Any, values: LabelValues | None) -> Scan:
        """Read one scan or label map, unless it has been read before."""
        if isinstance(source, Scan):
            return source
        return self.reader.label_map(source, values) if key in self.label_keys else self.reader.scan(source)


class MarkUntoldTumorsd(MapTransform):
    """Turn liver whose tumors were not outlined, as :class:`LoadScand` told, into ``LIVER_OR_TUMOR``; 3 for the loss.

    Args:
        keys: Label maps (1, X, Y, Z).
        num_classes: Of the network; with two classes tumor is liver anyway, and label maps stay as they are.
    """

    def __init__(self, keys: KeysCollection, *, num_classes: int) -> None:
        super().__init__(keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the labels, without what told it."""
        marked = dict(data)
        if not marked.pop("tells_tumors", True) and self.num_classes > TUMOR:
            for key in self.key_iterator(marked):
                marked[key] = torch.where(marked[key] > 0, LIVER_OR_TUMOR, marked[key])
        return marked


def scan_to_tensor(scan: Scan) -> MetaTensor:
    """Return a scan as MetaTensor (1, X, Y, Z) that shares its memory; meta: affine, slope, intercept and path.

    A picture in colour has its channels first: meta ``channels_ready`` says that no window has to make them.
    """
    meta: dict[str, Any] = {
        "slope": float(scan.slope),
        "intercept": float(scan.intercept),
        "filename_or_obj": str(scan.path),
    }
    array = scan.array[None]
    if scan.array.ndim == 4:  # a picture in colour, (X, Y, 1, C)
        array, meta["channels_ready"] = np.ascontiguousarray(np.moveaxis(scan.array, -1, 0)), True
    affine = torch.as_tensor(np.asarray(scan.affine, dtype=np.float64))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The given NumPy array is not writable"
        )  # nothing here writes to a scan
        return MetaTensor(torch.from_numpy(array), affine=affine, meta=meta)
