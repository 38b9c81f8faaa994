"""Check scans and label maps without using them: what ``liver-pipeline check`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from liver_pipeline.io.discovery import ScanInput, find_inputs, same_names
from liver_pipeline.io.file_names import lits_case_name
from liver_pipeline.io.findings import CODES, Finding, IntakeError, Severity, error
from liver_pipeline.io.masks import is_label_map
from liver_pipeline.io.reader import ScanReader
from liver_pipeline.io.studies import find_volumes
from liver_pipeline.io.volumes import Scan, label_findings, read_label_map
from liver_pipeline.labels import LabelValues


@dataclass(frozen=True)
class FileReport:
    """What was found in one file."""

    path: Path
    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity | None:
        """The worst severity; ``None`` where nothing was found."""
        found = {finding.severity for finding in self.findings}
        return next((s for s in (Severity.ERROR, Severity.WARNING) if s in found), None)

    def as_json(self) -> dict[str, Any]:
        """Return path, codes, severity and detail, ready for JSON."""
        return {
            "path": str(self.path),
            "codes": [finding.code for finding in self.findings],
            "severity": None if self.severity is None else str(self.severity),
            "detail": "; ".join(f"{finding.code}: {finding.detail}" for finding in self.findings),
        }


def check(
    path: Path | str,
    *,
    labels: Path | str | None = None,
    label_map: LabelValues | None = None,
    modality: str = "ct",
    accept: Collection[str] = (),
) -> list[FileReport]:
    """Read every scan at ``path``, with its label map where ``labels`` names a folder of them, and say what is wrong.

    Args:
        path: A scan, or a folder searched recursively.
        labels: A folder with a label map of the same case name for each scan, or the label map of a single scan.
        label_map: What the values of label maps mean, where they are not 0, 1, 2; see
            :func:`~liver_pipeline.io.volumes.read_label_map`.
        modality: "ct" or "mr".
        accept: Codes of errors to take as warnings.

    Returns:
        One report a file; nothing is raised for a file that cannot be read.

    Raises:
        IntakeError: NOT_FOUND, NO_SCANS.
    """
    folder = None if labels is None else Path(labels)
    inputs = find_volumes(path, accept=accept)
    return list(check_scans(inputs, labels=folder, label_map=label_map, modality=modality, accept=accept))


def check_scans(
    inputs: Iterable[ScanInput],
    *,
    labels: Path | None = None,
    modality: str = "ct",
    label_map: LabelValues | None = None,
    accept: Collection[str] = (),
) -> Iterator[FileReport]:
    """Read every scan, and its label map where a folder (or file) of them is named; yield one report a file.

    Args:
        inputs: From :func:`liver_pipeline.io.studies.find_volumes`.
        labels: A folder with a label map of the same case name for each scan, or the label map of a single scan.
        modality: "ct" or "mr".
        label_map: What the values of label maps mean, where they are not 0, 1, 2.
        accept: Codes of errors to take as warnings.
    """
    inputs = list(inputs)
    twins = same_names(inputs)
    doubled = {path: case for case, paths in twins.items() for path in paths}
    label_paths, label_twins = _label_paths(inputs, labels)
    reader = ScanReader(modality, accept)
    for one in inputs:
        read = partial(reader.scan, one.path, series=one.series, why=one.why, elsewhere=one.elsewhere)
        scan, findings = _try_read(read)
        if one.path in doubled:
            findings = (*findings, error("DUPLICATE_NAME", f"{len(twins[doubled[one.path]])} inputs are {one.case}"))
        yield FileReport(one.path if one.series is None else one.path / one.series, findings)
        if labels is not None:
            name = lits_case_name(one.case)
            report = _check_label(label_paths.get(name), one, scan, label_map, accept)
            if others := label_twins.get(name):
                both = " and ".join(path.name for path in others)
                report = FileReport(report.path, (*report.findings, error("DUPLICATE_NAME", f"{both} are both {name}")))
            yield report


def _label_paths(inputs: list[ScanInput], labels: Path | None) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Return the label map of each case, and those of cases that several files claim."""
    if labels is None:
        return {}, {}
    found = find_inputs(labels, label_maps=True)
    if labels.is_file() and len(inputs) == 1:
        return {lits_case_name(inputs[0].case): labels}, {}
    named = [replace(one, case=lits_case_name(one.case)) for one in found]
    maps = [one for one in named if is_label_map(one.path)] if labels.is_dir() else named
    names = {one.case for one in maps}
    kept = [*maps, *(one for one in named if one.case not in names)]  # scans may lie beside their references
    return {one.case: one.path for one in kept}, same_names(kept)


def _check_label(
    path: Path | None, one: ScanInput, scan: Scan | None, label_map: LabelValues | None, accept: Collection[str]
) -> FileReport:
    if path is None:
        return FileReport(one.path, (error("LABEL_MISSING", f"no label map is called {one.case}.nii.gz"),))
    label, findings = _try_read(lambda: read_label_map(path, label_map=label_map, accept=accept))
    if scan is not None and label is not None:
        findings = (*findings, *label_findings(scan, label))
    return FileReport(path, findings)


def _try_read(read: Callable[[], Scan]) -> tuple[Scan | None, tuple[Finding, ...]]:
    try:
        scan = read()
    except IntakeError as reason:
        return None, reason.findings
    return scan, scan.findings


def summary_lines(reports: Collection[FileReport]) -> list[str]:
    """Return the counts: files, errors, warnings, and each code with its meaning."""
    worst = Counter(report.severity for report in reports)
    lines = [f"{len(reports)} files: {worst[Severity.ERROR]} with errors, {worst[Severity.WARNING]} with warnings only"]
    codes = Counter(code for report in reports for code in {finding.code for finding in report.findings})
    lines += [f"  {count:5d} {code:22s} {CODES[code]}" for code, count in codes.most_common()]
    return lines
