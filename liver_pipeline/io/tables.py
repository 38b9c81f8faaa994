"""CSV written whole or not at all; CSV and JSON from outside, cleaned, or refused naming file, line and column."""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from liver_pipeline.io.files import write_text

logger = logging.getLogger(__name__)

NO_TEXT = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)  # control characters; of UTF-16 without its mark every other one
NO_WIDTH = "\u200b\u200e\u200f\u2060\ufeff"  # what copying from a page or a spreadsheet leaves
SEPARATORS = (",", ";", "\t")
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; a key that only some rows have is blank in the others."""
    write_text(path, table_text(rows, list(dict.fromkeys(key for row in rows for key in row))))


def write_table_or_warn(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table whose rows stand elsewhere, too; where that cannot be, it is only warned of."""
    try:
        write_table(path, rows)
    except OSError as reason:
        logger.warning("%s was not written: %s", path, reason)


def table_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV; keys that are no column are left out, and the entries of a list stand behind each other."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
        writer.writerow(cells)
    return text.getvalue()


def clean_name(name: str) -> str:
    """Return a name as all names are compared: without blanks around it, seen or not, and accents in one form (NFC)."""
    return unicodedata.normalize("NFC", name).strip().strip(NO_WIDTH).strip()


def read_table(path: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV that somebody wrote by hand or in a spreadsheet; cells are cleaned names.

    Fields may be separated by ``,`` ``;`` or tabs and quoted; the file is UTF-8, or UTF-16 with its mark, and may begin
    with a byte order mark or Excel's ``sep=`` line. Blank lines are left out, and so are columns not asked for.

    Args:
        path: The file; its first line names the columns, in any order and upper or lower case.
        columns: Must be there, and filled in each line; the first one names the line and occurs once.

    Returns:
        A row a line, in their order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Naming file, line and column: a column or cell is missing, a line has more cells than columns, the
            first column repeats itself, a quote is left open, or the file is no text.
    """
    path = Path(path)
    lines = _cells(path, columns)
    if not lines:
        raise ValueError(f"{path} is empty; its first line names the columns {', '.join(columns)}")
    head_number, head = lines[0]
    head = [name.lower() for name in head]
    for name in columns:
        if head.count(name) != 1:
            many = "twice" if name in head else "missing"
            raise ValueError(
                f"{path}, line {head_number}: column '{name}' is {many}, the line reads '{' | '.join(head)}'; it names "
                f"the columns {', '.join(columns)}, separated by commas, semicolons or tabs"
            )
    rows: list[dict[str, str]] = []
    seen: dict[str, int] = {}
    for number, cells in lines[1:]:
        if any(cells[len(head) :]):
            raise ValueError(
                f"{path}, line {number}: {len(cells)} cells, but line {head_number} has {len(head)} columns"
            )
        named = dict(zip(head, [*cells, *[""] * len(head)], strict=False))
        for name in columns:
            if not named[name]:
                raise ValueError(f"{path}, line {number}: column '{name}' is empty; fill it in, or remove the line")
            if "\n" in named[name]:
                raise ValueError(
                    f"{path}, line {number}: column '{name}' is {named[name]!r}, of two lines; make it one"
                )
        key = named[columns[0]]
        if key in seen:
            raise ValueError(
                f"{path}, line {number}: column '{columns[0]}' is {key} again, as in line {seen[key]}; keep one of them"
            )
        seen[key] = number
        rows.append({name: named[name] for name in columns})
    return rows


def read_names(path: str | Path) -> list[str]:
    """Read names, one a line, or the column ``case`` of a CSV.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a name occurs twice, or see :func:`read_table`.
    """
    path = Path(path)
    lines = _cells(path, ["case"])
    if lines and "case" in [name.lower() for name in lines[0][1]]:
        return [row["case"] for row in read_table(path, ["case"])]
    names = [clean_name(line) for line in text_of(path).splitlines() if line.strip()]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"{path}: {name} stands there twice; keep one of them")
    return names


def read_json(path: str | Path) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Naming file, line and column: it is not valid JSON, or an object has a key twice.
    """
    path = Path(path)
    text = text_of(path)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from None
    except KeyError as error:
        raise ValueError(f"{path}: the key '{error.args[0]}' stands twice in one object; keep one of them") from None
    except (RecursionError, ValueError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else "a number of thousands of digits"
        raise ValueError(f"{path}: not valid JSON: {reason}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise KeyError(key)
        content[key] = value
    return content


def text_of(path: Path) -> str:
    """Read a text file of UTF-8, or UTF-16 with its mark; lines end in ``\\n``, whatever ends them in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Naming file and line of what is no text.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not {encoding.upper()} text; save it as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if found := NO_TEXT.search(text):
        line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
        raise ValueError(f"{path}, line {line}, column {column}: {found[0]!r} is no text; save it as UTF-8")
    return text


def _cells(path: Path, columns: Collection[str]) -> list[tuple[int, list[str]]]:
    """Return the cells of each line that is not blank, with the line's number; ``columns`` tell how they part."""
    text = text_of(path)
    first, _, rest = text.partition("\n")
    told = first.strip().lower().removeprefix("sep=")
    skipped = 1 if first.strip().lower().startswith("sep=") else 0
    if skipped:
        text, separator = rest, "\t" if told == "" else told[0]
    else:
        separator = max(SEPARATORS, key=lambda one: _found(first, one, columns))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    lines = []
    try:
        for cells in reader:
            cleaned = [clean_name(cell) for cell in cells]
            if any(cleaned):
                lines.append((reader.line_num + skipped, cleaned))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + skipped}: no table: {error}; check its quotes") from None
    return lines


def _found(line: str, separator: str, columns: Collection[str]) -> int:
    """Count the columns that a first line names, if its cells are parted so."""
    cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    return len({clean_name(cell).lower() for cell in cells} & set(columns))
