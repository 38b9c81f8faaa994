"""Fingerprint of a data set: every case measured once, kept on disk by content, summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from liver_pipeline.data.cases import Case
from liver_pipeline.io.checksums import content_sha256
from liver_pipeline.io.failures import PASSING, finding_of
from liver_pipeline.io.formats import stored_sha256
from liver_pipeline.io.ledger import Ledger
from liver_pipeline.io.paths import relative
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.planning.fingerprint import TISSUES, VERSION, CaseRow, intensities, is_bad, measure, read_case
from liver_pipeline.planning.histograms import EMPTY_HISTOGRAM, Histogram


def survey_cases(cases: Sequence[Case], reader: ScanReader, ledger_path: Path, *, root: Path) -> list[CaseRow]:
    """Measure every case that was not measured before.

    Each case is written to the ledger as soon as it is measured, so that a run that was killed goes on where it
    stopped. What was measured is known by the content of image and label (sha256), by what the label's values mean, and
    by ``reader``; files whose size and time of change are the same are not even hashed.

    Args:
        cases: The cases.
        reader: How they are read.
        ledger_path: JSON lines; made when it does not exist.
        root: The data set's folder: paths are told below it.

    Returns:
        One row a case in the order of ``cases``: case, patient, image, label, findings, ``usable``, and, where it is,
        what :func:`liver_pipeline.planning.fingerprint.measure` gives.

    Raises:
        ValueError: If another run writes to the ledger.
        OSError: If it cannot be written.
    """
    ledger_path.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(ledger_path)
    try:
        known = {row["key"]: row for row in ledger.last.values() if row.get("key")}
        return [
            _describe(case, _measured(case, reader, ledger, known), root)
            for case in tqdm(cases, desc="Reading cases", unit="case", disable=None, leave=False)
        ]
    finally:
        ledger.close()


def _measured(case: Case, reader: ScanReader, ledger: Ledger, known: dict[str, CaseRow]) -> CaseRow:
    """Return the ledger's row for a case, measured now if there is none for its content."""
    state = _file_state(case, reader)
    last = ledger.last.get(case["case"])
    if last is not None and state is not None and last["state"] == state and not _passing(last):
        return last
    key = _content_key(case, reader) if known else None
    if key in known and not _passing(known[key]):
        row = known[key] | {"case": case["case"], "state": state}
    else:
        row = _measure(case, reader) | {"state": state}
    ledger.append(row)
    if row["key"]:
        known[row["key"]] = row
    return row


def _measure(case: Case, reader: ScanReader) -> CaseRow:
    image, label, findings = read_case(case, reader)
    result = None
    if image is not None and label is not None and not is_bad(findings):
        try:
            result = measure(image, label, reader.modality)
        except Exception as reason:  # of one case, which must not stop the others
            findings = [*findings, {"file": "label", **asdict(finding_of(reason))}]
    bad = is_bad(findings)
    if image is not None and label is not None:
        key: str | None = _key(image.sha256, label.sha256, reader, case)  # hashed while they were read
    else:
        key = _content_key(case, reader)
    event = "bad" if bad else "measured"
    return {"case": case["case"], "event": event, "key": key, "findings": findings, "result": result}


def _passing(row: CaseRow) -> bool:
    """Whether a case failed for a reason that says nothing about its files, such as a disk that was away."""
    return any(finding["code"] in PASSING for finding in row["findings"])


def _file_state(case: Case, reader: ScanReader) -> list[Any] | None:
    """Return what tells without reader that nothing has changed; None for folders and files that are not there."""
    paths = [Path(case["image"]), Path(case["label"])]
    if not all(path.is_file() for path in paths):
        return None
    stats = [(path, path.stat()) for path in paths]
    return [_key("", "", reader, case), *([str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats)]


def _content_key(case: Case, reader: ScanReader) -> str | None:
    try:
        return _key(stored_sha256(Path(case["image"])), stored_sha256(Path(case["label"])), reader, case)
    except OSError:
        return None


def _key(image: str, label: str, reader: ScanReader, case: Case) -> str:
    values = sorted((case.get("label_map") or {}).items())
    return content_sha256([VERSION, image, label, asdict(reader), values])


def _describe(case: Case, measured: CaseRow, root: Path) -> CaseRow:
    return {
        "case": case["case"],
        "patient": case["patient"],
        "image": relative(Path(case["image"]), root),
        "label": relative(Path(case["label"]), root),
        "usable": measured["event"] == "measured",
        "findings": measured["findings"],
        **(measured["result"] or {}),
    }


def pooled_histograms(rows: Iterable[Mapping[str, Any]]) -> dict[str, Histogram]:
    """Pool the histograms of all usable cases, by region; only values on one scale (CT) can be."""
    pooled = dict.fromkeys(TISSUES, EMPTY_HISTOGRAM)
    for row in rows:
        if row["usable"]:
            for name, content in row["histograms"].items():
                pooled[name] += Histogram.from_json(content)
    return pooled


def summarize_dataset(rows: Sequence[Mapping[str, Any]], modality: str) -> dict[str, Any]:
    """Sum up a data set.

    Args:
        rows: From :func:`survey_cases`.
        modality: Intensities are pooled over the voxels of all cases for "ct" alone: MR has no absolute scale.

    Returns:
        Numbers of cases and patients, codes found (number of cases with each), orientations, and for spacing, shape,
        field of view (along R, A, S), liver and tumor volume, lesions a case, lesion volume and diameter: minimum,
        percentiles 10 and 90, median, maximum; those of tumors over the cases where these were outlined.
    """
    usable = [row for row in rows if row["usable"]]
    patients = Counter(row["patient"] for row in rows)
    told = [row for row in usable if row["lesions"] is not None]
    lesions = [lesion for row in told for lesion in row["lesions"]]
    voxels = {name: sum(row["voxels"][name] for row in usable) for name in TISSUES}
    return {
        "n_cases": len(rows),
        "n_usable": len(usable),
        "n_patients": len(patients),
        "n_patients_with_several_cases": sum(n > 1 for n in patients.values()),
        "n_cases_without_label": sum(not row["voxels"]["liver"] + row["voxels"]["tumor"] for row in usable),
        "n_cases_with_tumor": sum(row["voxels"]["tumor"] > 0 for row in usable),
        "n_cases_tumors_unknown": len(usable) - len(told),
        "codes": dict(Counter(c for row in rows for c in sorted({f["code"] for f in row["findings"]})).most_common()),
        "orientations": dict(Counter(row["orientation"] for row in usable).most_common()),
        **{name: spread([row[name] for row in usable]) for name in ("spacing_mm", "shape", "fov_mm")},
        "liver_ml": spread([row["liver_ml"] for row in usable]),
        "tumor_ml": spread([row["tumor_ml"] for row in told]),
        "lesions_per_case": spread([len(row["lesions"]) for row in told]),
        "lesion_volume_ml": spread([lesion["volume_ml"] for lesion in lesions]),
        "lesion_diameter_mm": spread([lesion["diameter_mm"] for lesion in lesions]),
        "n_lesions": len(lesions),
        "voxels": voxels,
        "intensity": intensities(pooled_histograms(usable)) if modality == "ct" and usable else None,
    }


def spread(values: Sequence[Any]) -> dict[str, Any] | None:
    """Return minimum, 10th percentile, median, 90th percentile and maximum, along each axis; None without values."""
    if not len(values):
        return None
    marks = {"min": 0, "p10": 10, "median": 50, "p90": 90, "max": 100}
    return {name: np.percentile(values, percent, axis=0).tolist() for name, percent in marks.items()}
