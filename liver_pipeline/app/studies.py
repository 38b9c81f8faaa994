"""A study that was sent as one: each of its series is a case."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from liver_pipeline.app.cases import STARTED, CaseFolder, NoSuchCase
from liver_pipeline.app.uploads import refuse_too_many
from liver_pipeline.io.discovery import ScanInput
from liver_pipeline.io.files import link_or_copy, remove, write_json
from liver_pipeline.io.paths import printable

SHARED = ("scan", "reference")  # what was sent, and every series needs


def split_study(cases: CaseFolder, case: str, volumes: Sequence[ScanInput]) -> list[str]:
    """Make the case that of the first series, and a case of each other one.

    All of them have what was sent, by hard links, so that each can be deleted without the others. After a kill at any
    point the same call goes on: the name of a new case follows from study and series, and the first one takes its
    series last.

    Args:
        cases: Where they lie.
        case: The study.
        volumes: What is to be segmented of it: its path, each with its series.

    Returns:
        The new cases, which are started.

    Raises:
        NoSuchCase: If the study was deleted meanwhile.
        Refusal: TOO_MANY_CASES.
        OSError: If something cannot be written.
    """
    refuse_too_many(cases, len(volumes))
    note = cases.note(case)
    titles = [" ".join(printable(one.title).split())[:150] for one in volumes]
    told = []
    for one, title in zip(volumes, titles, strict=True):
        name = f"{note['name']}: {title if titles.count(title) == 1 else f'{title} {one.series}'}"
        told.append({"name": name, "study": case, "series": one.series, "why": one.why})
    names = [hashlib.sha256(f"{case}/{one.series}".encode()).hexdigest()[:16] for one in volumes]
    there = set(cases.ids())
    new = [name for name in names[1:] if name not in there]
    try:
        for number, (name, words) in enumerate(zip(names, told, strict=True)):
            if name in new:
                created = note["created"] + number * 1e-3  # s: beside the study, in order
                _add(cases, case, name, {**note, **words, "created": created, "state": STARTED})
        cases.amend(case, **told[0])
    except (OSError, NoSuchCase):
        for name in new:
            remove(cases.uploads / name, strict=False)
        raise
    return new


def _add(cases: CaseFolder, study: str, case: str, note: dict[str, object]) -> None:
    folder = cases.uploads / case
    remove(folder, strict=False)  # half made by an app that was killed
    folder.mkdir(mode=0o700)
    for part in SHARED:
        (folder / part).mkdir(mode=0o700)
        for path in (cases.uploads / study / part).glob("*"):
            link_or_copy(path, folder / part / path.name)
    write_json(folder / "case.json", note)
