"""Building blocks of the page: tables, figures, pictures, numbers for reading."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

Cell = str  # HTML, escaped by whoever made it


def table(head: Sequence[str], rows: Iterable[str], *, classes: str = "", max_width: str = "") -> str:
    """A table that scrolls sideways; ``head`` is escaped, ``rows`` are elements."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    style = f' style="max-width:{max_width}"' if max_width else ""
    body = f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"{style}><table class="{classes}">{body}</table></div>'


def row(*cells: Cell) -> str:
    """A table row."""
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def section_row(title: str, columns: int) -> str:
    """A row that heads the rows below it."""
    return f'<tr class="section"><td colspan="{columns}">{escape(title)}</td></tr>'


def sortable(head: Sequence[str], rows: Iterable[str]) -> str:
    """A table whose headings sort it; the cells come from :func:`cell`."""
    cells = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in head)
    body = f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody>"
    hint = '<p class="soft">Press a heading to sort.</p>'
    return f'{hint}<div class="scroll"><table class="sortable">{body}</table></div>'


def cell(text: str, value: Any, *, classes: str = "") -> str:
    """A cell that sorts by ``value``; None comes last."""
    key = "" if value is None else escape(str(value))
    return f'<td class="{classes}" data-value="{key}">{escape(text)}</td>'


def words(text: str, *, classes: str = "") -> str:
    """A cell of running text."""
    return f'<td class="words {classes}">{escape(text)}</td>'


def figure(title: str, content: str, caption: Cell) -> str:
    """A chart under a title, with a caption."""
    return f"<figure><h3>{escape(title)}</h3>{content}<figcaption>{caption}</figcaption></figure>"


def picture(png: bytes, text: str, caption: Cell) -> str:
    """An embedded picture; ``text`` says what it shows to those who cannot see it."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image = f'<img decoding="async" alt="{escape(text)}" src="{source}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def shown_number(value: float | None, digits: int = 3) -> str:
    """A figure for reading; a dash where it is undefined."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits if abs(value) < 10 else min(digits, 2)}f}"
    return text.replace("-", "−")


def with_interval(value: float | None, interval: Sequence[float | None], digits: int = 3) -> str:
    """A figure and its interval in brackets, if it has one."""
    if interval[0] is None:
        return shown_number(value, digits)
    return f"{shown_number(value, digits)} [{shown_number(interval[0], digits)}, {shown_number(interval[1], digits)}]"


def plural(count: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
