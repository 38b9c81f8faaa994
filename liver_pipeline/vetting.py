"""Read every case once before the first epoch, so that a damaged one is named then, not in the middle of a training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from liver_pipeline.cases import Case, Split
from liver_pipeline.files import write_json

CHOICES = ("fail", "skip")


def usable_cases(
    split: Split,
    read: Callable[[Mapping[str, Any]], Any],
    *,
    on_bad_case: str,
    checked_file: str | Path,
    skipped_file: str | Path,
    parts: Sequence[str] = ("train", "val"),
) -> Split:
    """Return the split without the cases that cannot be read.

    Args:
        split: Cases by part.
        read: Reads image and label of a case, and raises ValueError (an IntakeError with its code) or OSError.
        on_bad_case: ``fail`` raises and names all bad cases; ``skip`` leaves them out and lists them.
        checked_file: JSON of the files that were found good, with size and time of change; those are not read again.
        skipped_file: JSON list of what was left out: case, part and what was found. Removed when nothing was.
        parts: Parts that are read.

    Returns:
        The split; parts that were not read as they were.

    Raises:
        ValueError: If ``on_bad_case`` is unknown, a case is bad and that means failure, or no case is left in a part
            that had some.
    """
    if on_bad_case not in CHOICES:
        raise ValueError(f"on_bad_case is {on_bad_case!r}; it can be {' or '.join(CHOICES)}")
    bad = _find_bad([(part, case) for part in parts for case in split[part]], read, Path(checked_file))
    if bad and on_bad_case == "fail":
        named = "; ".join(f"{entry['case']} ({entry['found']})" for entry in bad)
        raise ValueError(f"{len(bad)} bad cases: {named}; mend them, or set on_bad_case=skip to train without them")
    Path(skipped_file).unlink(missing_ok=True)
    if bad:
        write_json(skipped_file, bad)
        tqdm.write(f"{len(bad)} bad cases are left out: {', '.join(e['case'] for e in bad)}; see {skipped_file}")
    names = {entry["case"] for entry in bad}
    usable = {part: [case for case in cases if case["case"] not in names] for part, cases in split.items()}
    empty = [part for part in parts if split[part] and not usable[part]]
    if empty:
        raise ValueError(
            f"no usable case is left in {empty[0]}; the first bad one: {bad[0]['case']} ({bad[0]['found']})"
        )
    return usable


def _find_bad(
    cases: Sequence[tuple[str, Case]], read: Callable[[Mapping[str, Any]], Any], checked_file: Path
) -> list[dict[str, str]]:
    good: dict[str, Any] = json.loads(checked_file.read_text()) if checked_file.is_file() else {}
    bad = []
    for part, case in tqdm(cases, desc="Checking cases", unit="case", disable=None, leave=False):
        state = _file_state(case)
        if state is not None and good.get(case["case"]) == state:
            continue
        try:
            read(case)
        except (ValueError, OSError) as error:
            bad.append({"case": case["case"], "part": part, "found": str(error)})
        else:
            good[case["case"]] = state
    write_json(checked_file, good)
    return bad


def _file_state(case: Case) -> list[Any] | None:
    """Return path, size and time of change of the files of a case; None if one does not exist."""
    try:
        stats = [(path, Path(path).stat()) for path in (case["image"], case["label"])]
    except OSError:
        return None
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
