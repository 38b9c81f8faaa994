"""The experiment file that a plan writes: a line and a reason for each value, and whether somebody edited it since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from liver_pipeline.planning.rules import Value

AS_PLANNED = "# as planned: "  # and a hash: a file without it was edited, and is not replaced


def experiment_text(
    values: Mapping[str, Value], layers: Mapping[str, str], summary: Mapping[str, Any], heading: str
) -> str:
    """Return the experiment file: valid YAML, a line and a reason for each value."""
    found = f"{summary['n_usable']} usable cases (of {summary['n_cases']})"
    lines = [f"# Planned by `liver-pipeline plan` from {found} {heading}; edit as you like."]
    names = {kind: str(Path(name).absolute()) if Path(name).is_file() else name for kind, name in layers.items()}
    named = ", ".join(f"{kind}: {json.dumps(name)}" for kind, name in names.items())
    lines.append(f"layers: {{{named}}}")
    for key, proposed in values.items():
        head = f"{key}: {_in_yaml(proposed.value)}"
        lines.append(f"{head:<41} # {proposed.reason}")
    text = "\n".join(lines) + "\n"
    return f"{text}{AS_PLANNED}{_short_sha256(text)}\n"


def _in_yaml(value: Any) -> str:
    """Return a value as YAML on one line; JSON's 2e-07 would be read as text."""
    return yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=float("inf")).strip()[1:-1]


def refuse_edited(experiment: Path) -> None:
    """Refuse to replace a file that somebody has edited."""
    if is_edited(experiment):
        raise FileExistsError(f"{experiment} was edited; choose another folder, or --overwrite moves it aside")


def is_edited(experiment: Path) -> bool:
    """Tell whether somebody has edited an experiment file: its last line tells the hash of those above."""
    if not experiment.exists():
        return False
    text, _, sha256 = experiment.read_text(encoding="utf-8").rpartition(AS_PLANNED)
    return sha256.strip() != _short_sha256(text)


def _short_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
