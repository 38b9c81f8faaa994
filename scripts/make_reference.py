"""Write docs/reference from the code: the table of keys and the intake codes. A test says when it has fallen behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from liver_pipeline.bundle.keys import SECTIONS
from liver_pipeline.bundle.names import default_values, users_of
from liver_pipeline.bundle.roles import MEANING, Key, Role
from liver_pipeline.evaluation.intervals import UNCALIBRATED
from liver_pipeline.evaluation.quality import REASONS
from liver_pipeline.io.findings import CODES

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
WRITTEN = "<!-- written by scripts/make_reference.py; edit {} -->"
ABOUT_KEYS = """\
What can be set: in an experiment file, in a layer of one's own, as `key=value` on the command line, or as `--key value`
with `python -m monai.bundle run`. `a::b` sets an item inside a key. A value that begins with `$` is Python, with `@`
another key's value. Of a cascade, `liver_<key>` is the liver stage's `<key>`.
"""
ABOUT_CODES = """\
What can be wrong with an input has a code. An error stops the case, a warning is recorded in `<case>.json`; which of
the two it is depends on how bad it is. `accept=[CODE]` takes errors of a code as warnings.
"""
ABOUT_REASONS = """\
Why a mask is flagged, where masks are judged (`quality=true`): see [how-to/quality.md](../how-to/quality.md).
"""

ABOUT_UNCALIBRATED = """\
Why a volume comes without its interval, or confidence is uncalibrated: `intervals` and `confidence` in `<case>.json`.
See [how-to/quality.md](../how-to/quality.md).
"""

ABOUT_API = """\
The verbs of the command line, and reading and writing of scans and label maps: `import liver_pipeline as lp`.
"""


def main() -> None:
    """Write both pages."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
        print(f"docs/reference/{name}")


def pages() -> dict[str, str]:
    """Return the text of each page by its name."""
    return {"keys.md": keys_page(), "codes.md": codes_page(), "api.md": api_page()}


def keys_page() -> str:
    """Return the page of the table of keys."""
    defaults = default_values()
    parts = [WRITTEN.format("liver_pipeline/bundle/keys.py"), "# Keys", ABOUT_KEYS.strip()]
    rows = ((f"`{_name(role)}`", f"{MEANING[role]}") for role in MEANING)
    parts += ["What follows from a key is in the column *role*:", _table(("role", "meaning"), rows)]
    for title, section in SECTIONS.items():
        plain = [_cells(row, defaults) for row in section if not row.kind.is_built]
        built = [(f"`{row.name}`", row.what, _roles(row)) for row in section if row.kind.is_built]
        parts.append(f"## {title[0].upper()}{title[1:]}")
        parts += [_table(("key", "default", "accepts", "what it is", "role"), plain)] if plain else []
        parts += [_table(("component", "what it is", "role"), built)] if built else []
    return "\n\n".join(parts) + "\n"


def codes_page() -> str:
    """Return the page of the intake codes, of the reasons for which a mask is flagged, and of missing intervals."""
    intake, reasons, uncalibrated = (
        _table(("code", "meaning"), ((f"`{code}`", meaning) for code, meaning in codes.items()))
        for codes in (CODES, REASONS, UNCALIBRATED)
    )
    sources = WRITTEN.format("liver_pipeline/io/findings.py, liver_pipeline/evaluation/quality.py and intervals.py")
    parts = [sources, "# Intake codes", ABOUT_CODES.strip(), intake, "# Reasons", ABOUT_REASONS.strip(), reasons]
    parts += ["# Without interval or calibration", ABOUT_UNCALIBRATED.strip(), uncalibrated]
    return "\n\n".join(parts) + "\n"


def api_page() -> str:
    """Return the page of the public names, which the site fills in from their docstrings."""
    stub = REFERENCE.parents[1] / "liver_pipeline" / "__init__.pyi"
    found = re.findall(r"^from (\.[\w.]+) import (\w+)", stub.read_text(encoding="utf-8"), re.MULTILINE)
    names = [f"::: liver_pipeline{module}.{name}" for module, name in sorted(found, key=lambda pair: pair[1].lower())]
    return "\n\n".join((WRITTEN.format("liver_pipeline/__init__.pyi"), "# Python", ABOUT_API.strip(), *names)) + "\n"


def _cells(row: Key, defaults: dict[str, Any]) -> tuple[str, ...]:
    if row.name in defaults:
        value = defaults[row.name]
        default = f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"
    else:
        default = f"with {', '.join(f'`{layer}`' for layer in users_of(row.name)[1])}"
    unit = f" ({row.unit})" if row.unit else ""
    return f"`{row.name}`", default, f"{row.kind.says}{unit}", row.what, _roles(row)


def _roles(row: Key) -> str:
    return ", ".join(f"`{_name(role)}`" for role in MEANING if role in row.roles)


def _name(role: Role) -> str:
    return str(role.name).lower()


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    main()
