"""Prepare every case before the first epoch, so that a damaged one is named then, not in the middle of a training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from liver_pipeline.data.cache_room import CacheError
from liver_pipeline.data.cases import Case, Split
from liver_pipeline.data.loaders import one_core_each
from liver_pipeline.io.failures import finding_of
from liver_pipeline.io.files import remove, write_json
from liver_pipeline.io.screen import with_bar
from liver_pipeline.io.tables import read_json
from liver_pipeline.labels import CLASS_NAMES

_CHOICES = ("fail", "skip")
NOT_OF_A_CASE = ("OUT_OF_MEMORY", "DEVICE_FAILED", "DISK_FULL")


def usable_cases(
    split: Split,
    prepare: Callable[[Mapping[str, Any]], Any],
    *,
    on_bad_case: str,
    skipped_file: str | Path,
    num_threads: int = 1,
    parts: Sequence[str] = ("train", "val"),
    held_classes: Callable[[Mapping[str, Any]], Sequence[bool]] | None = None,
    unnamed_labels: Callable[[Mapping[str, Any]], str] | None = None,
    scan_digest: Callable[[Mapping[str, Any]], str] | None = None,
    content_digest: Callable[[Mapping[str, Any]], str] | None = None,
    contents_file: str | Path | None = None,
) -> Split:
    """Return the split without the cases that cannot be used.

    Args:
        split: Cases by part.
        prepare: Reads image and label of a case for training (``cache.CaseCache.prepare``), and raises what is wrong
            with them. A CacheError, and too little memory, end the run.
        on_bad_case: ``fail`` raises and names all bad cases; ``skip`` leaves them out and lists them.
        skipped_file: JSON list of what was left out: case, part and what was found. Removed when nothing was.
        num_threads: Cases that are prepared at the same time; 0 counts as 1.
        parts: Parts that are prepared.
        held_classes: Tells of a prepared case which classes it holds, background first
            (``cache.CaseCache.held_classes``): what no case holds is said.
        unnamed_labels: Tells of a prepared case which values of its label map became background
            (``cache.CaseCache.unnamed_labels``): that is said.
        scan_digest: Tells scans apart by what their files hold (``cache.CaseCache.scan_digest``): a scan that is in two
            parts is named.
        content_digest: Tells what scan and label map of a case hold (``cache.CaseCache.content_digest``): a case that
            has changed since an earlier call is named.
        contents_file: JSON of these digests by case; goes with ``content_digest``.

    Returns:
        The split; parts that were not prepared as they were.

    Raises:
        ValueError: If ``on_bad_case`` is unknown, a case is bad and that means failure, no case is left in a part that
            had some, or no training case holds anything but background.
    """
    if on_bad_case not in _CHOICES:
        raise ValueError(f"on_bad_case is {on_bad_case!r}; it can be {' or '.join(_CHOICES)}")
    bad = _find_bad([(part, case) for part in parts for case in split[part]], prepare, num_threads)
    if bad and on_bad_case == "fail":
        named = "; ".join(f"{entry['case']} ({entry['found']})" for entry in bad)
        raise ValueError(f"{len(bad)} bad cases: {named}; mend them, or set on_bad_case=skip to train without them")
    remove(Path(skipped_file))
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
    if unnamed_labels is not None:
        _say_what_is_left_out([unnamed_labels(case) for part in parts for case in usable[part]])
    if held_classes is not None:
        _say_what_is_missing({part: {case["case"]: held_classes(case) for case in usable[part]} for part in parts})
    if scan_digest is not None:
        _say_what_is_twice(usable, scan_digest)
    if content_digest is not None and contents_file is not None:
        _say_what_changed([case for part in parts for case in usable[part]], content_digest, Path(contents_file))
    return usable


def _say_what_changed(cases: Sequence[Case], content_digest: Callable[[Mapping[str, Any]], str], file: Path) -> None:
    """Say which cases are others than when this run prepared them last, and write down what they are."""
    before = read_json(file) if file.is_file() else {}
    contents = {case["case"]: content_digest(case) for case in cases}
    if changed := [name for name, content in contents.items() if before.get(name, content) != content]:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        tqdm.write(
            f"{len(changed)} cases changed, scan or label map, since this run prepared them: {shown}; it takes them as "
            f"they are now, and earlier epochs and scores are of what they were; --restart begins anew"
        )
    if contents != before:
        write_json(file, contents)


def _say_what_is_twice(split: Split, scan_digest: Callable[[Mapping[str, Any]], str]) -> None:
    """Say which cases of different parts are one scan under two names: their scores say nothing."""
    seen: dict[str, tuple[str, str]] = {}
    twice = []
    parts = [(part, case) for part, cases in split.items() for case in cases]
    for part, case in with_bar(parts, "Comparing scans", "case"):  # those of a part that is not prepared are read whole
        with contextlib.suppress(OSError):  # they may lie elsewhere
            other_part, other = seen.setdefault(scan_digest(case), (part, case["case"]))
            if other_part != part:
                twice.append(f"{case['case']} ({part}) is {other} ({other_part})")
    if twice:
        shown = "; ".join(twice[:5]) + (f"; and {len(twice) - 5} more" if len(twice) > 5 else "")
        tqdm.write(
            f"{len(twice)} scans are in two parts of the split, under two names: {shown}; remove one of each, or give "
            f"both the same patient (patients.csv), and begin anew"
        )


def _say_what_is_left_out(unnamed: Sequence[str]) -> None:
    """Say once what became background because the label map names something else."""
    if told := [text for text in unnamed if text]:
        tqdm.write(f"{told[0]} (in {len(told)} of {len(unnamed)} cases; `check --labels --label-map` lists each)")


def _say_what_is_missing(held: Mapping[str, Mapping[str, Sequence[bool]]]) -> None:
    """Say which classes no case of a part holds; refuse to train on background alone.

    Args:
        held: By part and case, which classes the case holds.
    """
    train = held.get("train", {})
    blank = [case for case, classes in train.items() if classes and not any(classes[1:])]
    if train and len(blank) == len(train):
        raise ValueError("no training case holds liver (1) or tumor (2); are these the label maps, is label_map right?")
    if blank:
        shown = ", ".join(blank[:5])
        tqdm.write(f"{len(blank)} of {len(train)} training cases hold neither liver (1) nor tumor (2): {shown}")
    for part, effect in (("train", "cannot be learned"), ("val", "is without a score")):
        for index in range(1, len(next(iter(train.values()))) if train else 1):
            if held.get(part) and not any(classes[index] for classes in held[part].values()):
                name = CLASS_NAMES[index] if index < len(CLASS_NAMES) else str(index)
                tqdm.write(f"no case of {part} holds {name} ({index}), which {effect}")


def _find_bad(
    cases: Sequence[tuple[str, Case]], prepare: Callable[[Mapping[str, Any]], Any], num_threads: int
) -> list[dict[str, str]]:
    bad = []
    pool = one_core_each(max(num_threads, 1))
    try:
        found = [pool.submit(_fault, prepare, case) for _, case in cases]
        bar = tqdm(found, desc="Preparing cases", unit="case", disable=None, leave=False)
        for (part, case), fault in zip(cases, bar, strict=True):
            if (text := fault.result()) is not None:
                bad.append({"case": case["case"], "part": part, "found": text})
    finally:
        pool.shutdown(cancel_futures=True)
    return bad


def _fault(prepare: Callable[[Mapping[str, Any]], Any], case: Case) -> str | None:
    try:
        prepare(case)
    except CacheError:
        raise
    except Exception as error:  # whatever a reader or a transform raises belongs to its case, unless memory is out
        found = finding_of(error)
        if found.code in NOT_OF_A_CASE:
            raise
        return str(error) if isinstance(error, (ValueError, OSError)) else found.detail
    return None
