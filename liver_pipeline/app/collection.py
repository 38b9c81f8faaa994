"""Cases that were corrected or accepted as a data set: what `--data folder` trains on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from liver_pipeline.app.cases import CaseFolder, json_or_nothing
from liver_pipeline.app.corrections import scan_of
from liver_pipeline.data.converted import write_volume
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.file_names import RECORD
from liver_pipeline.io.files import disk_is_full, link_or_copy, whole_folder
from liver_pipeline.io.records import reader_of

LINKED = (".nii.gz", ".nii", ".nrrd", ".mha", ".mgz", ".mgh")  # one file that says all, whatever it is called


def collect_cases(cases: CaseFolder, folder: Path) -> dict[str, str]:
    """Write a folder with ``images/``, ``labels/`` and ``patients.csv`` of the cases that were corrected or accepted.

    Rejected cases are left out, corrected or not. Files are linked where the file system can, else copied; a DICOM
    series or a file that names another is written as NIfTI. Cases of the same scan count as one patient, so that no
    split has it on two sides.

    Args:
        cases: Of an app.
        folder: Becomes the data set, whole or not at all; replaced if it is there.

    Returns:
        Every case that belongs to it, with what hindered it from being taken; "" for those that were taken.

    Raises:
        ValueError: If no case was corrected or accepted, or none of them could be taken; the folder stays as it was.
        OSError: If it cannot be written.
    """
    with cases.results, whole_folder(folder) as new:
        told: dict[str, str] = {}
        patients = []
        for name in ("images", "labels"):
            (new / name).mkdir()
        for case in _chosen(cases):
            try:
                _put_scan(cases, case, new / "images")
            except Exception as reason:  # one scan that is gone must not hinder the others
                if disk_is_full(reason, new):
                    raise
                found = finding_of(reason)
                told[case] = f"{found.code}: {found.detail}"
                continue
            link_or_copy(cases.result(case, f"{cases.kind(case)}.nii.gz"), new / "labels" / f"{case}.nii.gz")
            scan = json_or_nothing(cases.result(case, RECORD)).get("input", {}).get("sha256") or case
            patients.append((case, scan[:16]))
            told[case] = ""
        if not patients:
            why = "; ".join(told.values()) or "none was corrected, and none is accepted"
            raise ValueError(f"no case to train on: {why}")
        with (new / "patients.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("case", "patient"), *patients])
    return told


def _chosen(cases: CaseFolder) -> Iterator[str]:
    for case in cases.ids():
        verdict, kind = cases.note(case)["verdict"], cases.kind(case)
        if verdict != "reject" and (kind or verdict == "accept") and cases.result(case, f"{kind}.nii.gz").is_file():
            yield case


def _put_scan(cases: CaseFolder, case: str, images: Path) -> None:
    scan = scan_of(cases, case)
    suffix = next((suffix for suffix in LINKED if scan.path.name.lower().endswith(suffix)), "")
    if suffix and scan.path.is_file():
        link_or_copy(scan.path, images / f"{case}{suffix}")
    else:
        reader = reader_of(json_or_nothing(cases.result(case, RECORD)))
        write_volume(images / f"{case}.nii.gz", reader.scan(scan.path, series=scan.series, why=scan.why))
