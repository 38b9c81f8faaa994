"""Several data sets in one training, each in its own layout, with its own values of labels."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from liver_pipeline.data.cases import Case
from liver_pipeline.data.chaos import chaos_cases
from liver_pipeline.data.ircadb import ircadb_cases
from liver_pipeline.data.layouts import folder_cases, lits_cases, refuse_doubles
from liver_pipeline.data.msd import msd_cases
from liver_pipeline.hints import did_you_mean
from liver_pipeline.labels import LABEL_VALUES_SAY, meanings

LAYOUTS: dict[str, Callable[..., list[Case]]] = {
    "lits": lits_cases,
    "msd_task03": msd_cases,
    "ircadb": ircadb_cases,
    "chaos": chaos_cases,
    "folder": folder_cases,
}


def mixed_cases(dataset_dir: str | Path, datasets: Sequence[Mapping[str, Any]]) -> list[Case]:
    """Cases of several data sets; each is named, and so is its patient, by the data set's folder and its name there.

    Args:
        dataset_dir: Holds the folders of the data sets.
        datasets: Of each ``folder`` (below ``dataset_dir``, or a whole path), ``layout`` (a name of :data:`LAYOUTS`),
            and what else the layout's function takes, such as ``label_map: {1: liver_or_tumor}`` where only livers are
            outlined.

    Raises:
        FileNotFoundError: If a data set is not there.
        ValueError: If an entry is not as described, two folders have one name, or a data set is not as its layout says.
    """
    if not datasets:
        raise ValueError("datasets is empty; it names those to mix, each {folder: LiTS, layout: lits}")
    # the path as it is written: a folder of links keeps its own name
    folders = [Path(os.path.normpath(Path(dataset_dir, Path(one["folder"]).expanduser()))) for one in datasets]
    refuse_doubles([folder.name for folder in folders], folders, Path(dataset_dir))
    return [
        {**case, "case": f"{folder.name}/{case['case']}", "patient": f"{folder.name}/{case['patient']}"}
        for number, (folder, entry) in enumerate(zip(folders, datasets, strict=True))
        for case in _cases_of(folder, f"datasets[{number}]", entry)
    ]


def _cases_of(folder: Path, where: str, entry: Mapping[str, Any]) -> list[Case]:
    options = {key: value for key, value in entry.items() if key not in ("folder", "layout")}
    find = LAYOUTS.get(entry["layout"])
    if find is None:
        hint = did_you_mean(entry["layout"], LAYOUTS)
        raise ValueError(f"{where} has the layout {entry['layout']!r}{hint}; known are {', '.join(LAYOUTS)}")
    known = inspect.signature(find).parameters.keys() - {"dataset_dir"}
    for key in sorted(options.keys() - known):
        raise ValueError(
            f"{where} sets '{key}'{did_you_mean(key, known)}; {entry['layout']} takes {', '.join(sorted(known))}"
        )
    values = options.get("label_map")
    if values is not None and meanings(values) is None:
        raise ValueError(f"{where} has the label_map {values!r}; expected {LABEL_VALUES_SAY}")
    return find(folder, **options)
