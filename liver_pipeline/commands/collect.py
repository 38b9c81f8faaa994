"""Make a data set of the cases that were corrected or accepted in the app."""

from __future__ import annotations

from pathlib import Path


def collect(work: str | Path, output: str | Path, *, data: str | Path | None = None) -> dict[str, str]:
    """Write a ``--data folder`` set of an app's cases; see :func:`liver_pipeline.app.collection.collect_cases`.

    Args:
        work: What ``app --work`` was given.
        output: The new folder.
        data: What ``app --data`` was given, where cases were named by path.

    Returns:
        The cases, with what hindered them from being taken; "" for those that were taken.

    Raises:
        FileNotFoundError: If no app has worked in ``work``.
        FileExistsError: If ``output`` is there already.
        ValueError: If no case can be taken.
    """
    from liver_pipeline.app.cases import CaseFolder
    from liver_pipeline.app.collection import collect_cases
    from liver_pipeline.app.data_folder import DataFolder

    if not (Path(work) / "uploads").is_dir():
        raise FileNotFoundError(f"no app has worked in {Path(work).resolve()}; name the folder of its --work")
    if Path(output).exists():
        raise FileExistsError(f"{output} is there already; name a new folder")
    cases = CaseFolder(Path(work), None if data is None else DataFolder(Path(data)))
    return collect_cases(cases, Path(output))
