"""What a folder run would do: its cases, their outputs, collisions and predicted memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.discovery import ScanInput, same_names
from liver_pipeline.io.file_names import FORMATS, case_name
from liver_pipeline.io.findings import refuse
from liver_pipeline.io.formats import voxel_count
from liver_pipeline.io.paths import is_there, real_path
from liver_pipeline.io.screen import one_line
from liver_pipeline.io.studies import find_volumes
from liver_pipeline.prediction.case import FolderCase


def find_scans(
    path: Path | str, *, series: str | None = None, accept: Collection[str] = (), pictures: bool = False
) -> list[dict[str, Any]]:
    """Return the scans at ``path`` (see :func:`liver_pipeline.io.studies.find_volumes`) as data for a MONAI Dataset.

    Returns:
        One ``{"image": path, "case": name, "root": path}`` a scan, with "series" and "why" of a DICOM series, and
        "elsewhere" of one that is only a part.

    Raises:
        IntakeError: NOT_FOUND, NO_SCANS, NO_SERIES.
    """
    return scan_items(find_volumes(path, series=series, accept=accept, pictures=pictures), path)


def scan_items(inputs: Iterable[ScanInput], root: Path | str) -> list[dict[str, Any]]:
    """Return inputs found below ``root`` as :func:`find_scans` gives them."""
    return [
        {"image": str(one.path), "case": one.case, "root": str(root)}
        | ({} if one.series is None else {"series": one.series, "why": one.why})
        | ({"elsewhere": one.elsewhere} if one.elsewhere else {})
        for one in inputs
    ]


def plan_cases(
    items: Iterable[Mapping[str, Any]], output_dir: Path, suffix: str = FORMATS["nifti"]
) -> list[FolderCase]:
    """Return one case an item of :func:`find_scans`; only "image" has to be there.

    Masks of an earlier run, in an output folder inside the searched folder, are no inputs.

    Raises:
        IntakeError: NO_SCANS if none is left.
    """
    output = real_path(output_dir)
    cases = []
    for item in items:
        path = Path(item["image"])
        root = Path(item.get("root", path.parent))
        if _inside(output, real_path(root)) and _inside(real_path(path), output):
            continue
        name = item.get("case", case_name(path.name, path.is_dir()))
        one = ScanInput(path, name, item.get("series"), item.get("why", ""), elsewhere=item.get("elsewhere", ""))
        cases.append(FolderCase.of(one, root, output_dir, suffix))
    if not cases:
        raise refuse(output_dir, "NO_SCANS", "no scan to segment; name the folder of the scans")
    return cases


def refuse_collisions(cases: Sequence[FolderCase]) -> None:
    """Refuse inputs that would write the same mask, and masks that would replace a scan.

    Raises:
        IntakeError: DUPLICATE_NAME.
        ValueError: If a mask would replace a scan.
    """
    for name, paths in same_names(ScanInput(case.path, case.name) for case in cases).items():
        both = " and ".join(str(path) for path in paths[:2])
        raise refuse(paths[1], "DUPLICATE_NAME", f"{both} would both write the mask {name}; rename one")
    inputs = {real_path(case.path) for case in cases}
    for case in cases:
        if real_path(case.output) in inputs:
            raise ValueError(f"the mask of {case.path} would replace a scan; choose another output folder")


def refuse_other_formats(cases: Sequence[FolderCase], written: Mapping[str, Collection[str]]) -> None:
    """Refuse to write masks beside those that the same folder's ledger wrote in another format.

    Raises:
        ValueError: Naming the first.
    """
    for case in cases:
        for suffix in FORMATS.values():
            other = case.output.with_name(f"{case.output.name.removesuffix(case.suffix)}{suffix}")
            if (
                suffix != case.suffix
                and is_there(other)
                and other.is_file()
                and file_sha256(other) in written.get(case.name, ())
            ):
                kind = next(name for name, ending in FORMATS.items() if ending == suffix)
                raise ValueError(
                    f"{other.parent} holds masks of format {kind}, such as {other.name}; go on with --format {kind}, "
                    f"or choose another folder for {case.suffix}"
                )


def plan_lines(
    cases: Sequence[FolderCase], last: Mapping[str, Mapping[str, Any]], budget: int
) -> tuple[list[str], int]:
    """Return what a dry run prints, and the number of collisions.

    Args:
        cases: All cases.
        last: The ledger's last row of each case.
        budget: Bytes for cases in flight.
    """
    lines = []
    for case in cases:
        row = last.get(case.name, {})
        states = {"done": "done before", "failed": f"failed before: {row.get('code')}"}
        state = f"MIXED_SERIES: {case.elsewhere}" if case.elsewhere else states.get(row.get("event", ""), "new")
        gigabytes = predicted_bytes(case) / 1e9
        size = f"{gigabytes:.2f} GB" if gigabytes >= 0.01 else "under 0.01 GB"
        series = "" if case.series is None else f" series {case.series}"
        lines.append(one_line(f"{case.path}{series} -> {case.output}  {size}  {state}"))
    twins = same_names(ScanInput(case.path, case.name) for case in cases)
    for name, paths in twins.items():
        lines.append(one_line(f"DUPLICATE_NAME: {', '.join(map(str, paths))} would all write the mask {name}"))
    lines.append(f"{len(cases)} cases, {len(twins)} collisions")
    lines.append(
        f"GB: memory of a case while it is worked on, the network's own apart; cases are read ahead while all of them "
        f"fit into {budget / 1e9:.1f} GB, and a larger one runs alone"
    )
    return lines, len(twins)


def predicted_bytes(case: FolderCase, *, probabilities: bool = False) -> int:
    """Predict what a case takes while it is in flight: stored voxels, a float32 model grid as fine, a label map.

    With ``probabilities`` also a byte each for liver and tumor.
    """
    voxels, itemsize = voxel_count(case.path, case.series)
    return voxels * (itemsize + 4 + 1 + (2 if probabilities else 0))


def _inside(path: Path, folder: Path) -> bool:
    return path != folder and path.is_relative_to(folder)
