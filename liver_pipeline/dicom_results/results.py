"""DICOM results beside a mask: SEG, SR and secondary captures, all of them or none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liver_pipeline.dicom_results.origin import origin_of
from liver_pipeline.dicom_results.source import labels_on, read_source
from liver_pipeline.evaluation.description import describe
from liver_pipeline.evaluation.scoring import ACCEPTED
from liver_pipeline.io.checksums import file_sha256, folder_sha256
from liver_pipeline.io.dicom_classes import quietly
from liver_pipeline.io.file_names import DICOM_ENDINGS, RECORD, file_beside
from liver_pipeline.io.files import whole_file, whole_folder
from liver_pipeline.io.findings import IntakeError, refuse
from liver_pipeline.io.outputs import check_outputs
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.tables import read_json
from liver_pipeline.io.volumes import Scan, read_label_map

SEG_TYPES = ("binary", "labelmap")


@dataclass(frozen=True)
class DicomResults:
    """Which results are written beside a mask, and how; the ``dicom_results`` of ``inference.yaml``.

    Attributes:
        kinds: Of "seg", "sr" and "sc". A report refers to segments, so "sr" brings "seg" along.
        seg_type: "binary" or "labelmap"; see :func:`liver_pipeline.dicom_results.segmentation.build_segmentation`.
        deflate: Pack the SEG.

    Raises:
        ValueError: If a name is unknown.
    """

    kinds: Sequence[str] = ()
    seg_type: str = "binary"
    deflate: bool = False

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(DICOM_ENDINGS):
            raise ValueError(f"unknown DICOM result {sorted(unknown)[0]!r}; expected {', '.join(DICOM_ENDINGS)}")
        if self.seg_type not in SEG_TYPES:
            raise ValueError(f"seg_type is {self.seg_type!r}; expected {' or '.join(SEG_TYPES)}")

    def as_json(self) -> dict[str, Any]:
        """Return the settings as a row of the ledger holds them."""
        return {
            "kinds": [kind for kind in DICOM_ENDINGS if kind in self._wanted()],
            "seg_type": self.seg_type,
            "deflate": self.deflate,
        }

    def paths(self, mask: Path) -> dict[str, Path]:
        """Return where each result lies, by kind."""
        return {kind: path for kind, path in result_paths(mask).items() if kind in self._wanted()}

    def _wanted(self) -> set[str]:
        return {*self.kinds, *(["seg"] if "sr" in self.kinds else [])}


def result_paths(mask: Path) -> dict[str, Path]:
    """Return where the results of a mask lie, by kind, whether they are there or not."""
    return {kind: file_beside(mask, ending) for kind, ending in DICOM_ENDINGS.items()}


def write_results(
    settings: DicomResults,
    mask: Path,
    scan: Path,
    *,
    series: str | None = None,
    paths: Mapping[str, Path] | None = None,
    reader: ScanReader | None = None,
    record: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    announce: Callable[[dict[str, str]], None] | None = None,
) -> dict[str, str]:
    """Write what ``settings`` ask for; files that are there are replaced.

    Everything is on disk before the first file appears. The same mask, slices and record give the same bytes.

    Args:
        settings: Which results.
        mask: Label map 0, 1, 2 on the grid of the series, however its file orders the axes.
        scan: The series: a folder or a zip.
        series: Which of several series there.
        paths: Where each kind goes; by default beside the mask.
        reader: How the run reads scans.
        record: What ``predict`` wrote beside the mask.
        table: What :func:`liver_pipeline.evaluation.description.describe` says of the mask; by default it is asked.
        announce: Called with the sha256 of each kind just before the files appear.

    Returns:
        sha256 of each kind.

    Raises:
        IntakeError: DICOM_REFERENCE if the series cannot be referred to, LABEL_GRID_MISMATCH, DICOM_RESULT_FAILED, or
            what reading mask or series gives; nothing is written.
        OSError: If a file cannot be written.
    """
    reader, paths = reader or ScanReader(), paths or settings.paths(mask)
    source = read_source(scan, reader, series=series)
    labels_file = read_label_map(mask, accept=ACCEPTED)
    labels = labels_on(source, labels_file)
    origin = origin_of(source, labels_file.sha256, record)
    if table is None and ("sr" in paths or "sc" in paths):
        table = describe(mask, scan, reader=reader, series=series)
    try:
        with contextlib.ExitStack() as files, quietly():
            temporary = {
                kind: files.enter_context((whole_folder if kind == "sc" else whole_file)(path))
                for kind, path in paths.items()
            }
            _write_documents(settings, temporary, labels, source, origin, table)
            if "sc" in temporary:
                _write_captures(temporary["sc"], reader.scan(scan, series=series), labels, source, origin, table)
            hashes = {k: folder_sha256(path) if k == "sc" else file_sha256(path) for k, path in temporary.items()}
            if announce is not None:
                announce(hashes)
    except (IntakeError, OSError, MemoryError):
        raise
    except Exception as reason:  # what it says may quote the header, and with it the patient
        detail = f"{type(reason).__name__} while the result was built; the mask is not concerned"
        raise refuse(mask, "DICOM_RESULT_FAILED", detail) from reason
    return hashes


def write_report(table: Mapping[str, Any], mask: Path, scan: Path, path: Path, *, overwrite: bool = False) -> None:
    """Write the SR that ``predict --dicom sr`` writes as ``path``, and beside it the SEG that it refers to.

    What ``predict`` wrote beside the mask says where the mask comes from; without it the report says so.

    Args:
        table: Result of :func:`liver_pipeline.evaluation.description.describe` for the mask.
        mask: The label map.
        scan: The series: a folder or a zip.
        path: Of the report; ``a.sr.dcm`` or ``a.dcm`` have their SEG in ``a.seg.dcm``.
        overwrite: Replace files that are there; a SEG that is the same to the byte stays in any case.

    Raises:
        FileExistsError: If a file is there and ``overwrite`` is false.
        IntakeError: See :func:`write_results`.
    """
    check_outputs([path], overwrite)
    seg = path.with_name(path.name.removesuffix(".dcm").removesuffix(".sr") + DICOM_ENDINGS["seg"])
    beside = file_beside(mask, RECORD)

    def refuse_other(hashes: Mapping[str, str]) -> None:
        if seg.exists() and file_sha256(seg) != hashes["seg"]:
            check_outputs([seg], overwrite)

    write_results(
        DicomResults(("sr",)), mask, scan, paths={"seg": seg, "sr": path}, table=table, announce=refuse_other,
        record=read_json(beside) if beside.is_file() else None,
    )  # fmt: skip


def _write_documents(
    settings: DicomResults, paths: Mapping[str, Path], labels: Any, source: Any, origin: Any, table: Any
) -> None:
    """Write SEG and SR."""
    from liver_pipeline.dicom_results.segmentation import build_segmentation
    from liver_pipeline.dicom_results.structured_report import build_structured_report

    if "seg" not in paths:
        return
    seg = build_segmentation(labels, source, origin, seg_type=settings.seg_type, deflate=settings.deflate)
    seg.save_as(paths["seg"])
    if "sr" in paths:
        build_structured_report(table, labels, source, seg, origin).save_as(paths["sr"])


def _write_captures(folder: Path, scan: Scan, labels: Any, source: Any, origin: Any, table: Any) -> None:
    """Write the captures under their numbers."""
    from liver_pipeline.dicom_results.captures import build_captures

    for number, capture in enumerate(build_captures(scan, labels, source, origin, table), 1):
        capture.save_as(folder / f"{number:04d}.dcm")
