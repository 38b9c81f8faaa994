"""What a folder run would do: its cases, their outputs, collisions and predicted memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from liver_pipeline.io.discovery import ScanInput, case_name, find_inputs, same_names, voxel_count
from liver_pipeline.io.findings import refuse
from liver_pipeline.prediction.case import FolderCase


def find_scans(path: Path | str) -> list[dict[str, str]]:
    """Return the scans at ``path`` (see :func:`liver_pipeline.io.discovery.find_inputs`) as data for a MONAI Dataset.

    Returns:
        One ``{"image": path, "case": name, "root": path}`` a scan.

    Raises:
        IntakeError: NOT_FOUND, NO_SCANS.
    """
    return [{"image": str(one.path), "case": one.case, "root": str(path)} for one in find_inputs(path)]


def plan_cases(items: Iterable[Mapping[str, Any]], output_dir: Path) -> list[FolderCase]:
    """Return one case an item of :func:`find_scans`; "case" and "root" may be absent.

    Masks of an earlier run, in an output folder inside the searched folder, are no inputs.

    Raises:
        IntakeError: NO_SCANS if none is left.
    """
    output = output_dir.resolve()
    cases = []
    for item in items:
        path = Path(item["image"])
        root = Path(item.get("root", path.parent))
        if _inside(output, root.resolve()) and _inside(path.resolve(), output):
            continue
        name = item.get("case", case_name(path.name, path.is_dir()))
        cases.append(FolderCase.of(ScanInput(path, name), root, output_dir))
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
        raise refuse(paths[1], "DUPLICATE_NAME", f"{both} would both write {name}.nii.gz; rename one")
    inputs = {case.path.resolve() for case in cases}
    for case in cases:
        if case.output.resolve() in inputs:
            raise ValueError(f"the mask of {case.path} would replace a scan; choose another output folder")


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
        state = states.get(row.get("event", ""), "new")
        size = f"{predicted_bytes(case.path) / 1e9:.2f} GB"
        lines.append(f"{case.path} -> {case.output}  {size}  {state}")
    twins = same_names(ScanInput(case.path, case.name) for case in cases)
    for name, paths in twins.items():
        lines.append(f"DUPLICATE_NAME: {', '.join(map(str, paths))} would all write {name}.nii.gz")
    lines.append(f"{len(cases)} cases, {len(twins)} collisions, {budget / 1e9:.1f} GB for cases in flight")
    return lines, len(twins)


def predicted_bytes(path: Path, *, probabilities: bool = False) -> int:
    """Predict what a case takes while it is in flight: stored voxels, a float32 model grid as fine, a label map.

    With ``probabilities`` also a byte each for liver and tumor.
    """
    voxels, itemsize = voxel_count(path)
    return voxels * (itemsize + 4 + 1 + (2 if probabilities else 0))


def _inside(path: Path, folder: Path) -> bool:
    return path != folder and path.is_relative_to(folder)
