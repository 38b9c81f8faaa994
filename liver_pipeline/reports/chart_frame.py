"""What every chart stands in: axes with round ticks, grid, words, the SVG element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 430, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 16, 40


@dataclass(frozen=True)
class Axis:
    """A linear axis: data from ``low`` to ``high`` onto pixels from ``start`` to ``stop``, with its ticks."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def axis(values: Sequence[float], start: float, stop: float, *, include: Sequence[float] = ()) -> Axis:
    """Return an axis with round ticks that holds all ``values`` and ``include``; some width even for one value."""
    known = [*values, *include] or [0.0, 1.0]
    low, high = min(known), max(known)
    if high - low < 1e-12:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    step = _round_step((high - low) / 4)
    ticks = np.arange(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1) * step
    return Axis(float(ticks[0]), float(ticks[-1]), start, stop, tuple(float(tick) for tick in ticks))


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def axis_below(x: Axis, name: str) -> list[str]:
    """Return values and title of the axis below."""
    marks = [chart_text(x.at(tick), HEIGHT - BOTTOM + 14, tick_text(tick), "small") for tick in x.ticks]
    return [*marks, chart_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, name, "small")]


def tick_text(value: float) -> str:
    """Return the number at a tick."""
    return f"{value:,g}".replace("-", "−")


def grid_lines(y: Axis) -> str:
    """Return horizontal lines with their values."""
    lines = []
    for tick in y.ticks:
        at = y.at(tick)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        lines.append(f'<text class="small end" x="{LEFT - 6}" y="{at + 3.5:.1f}">{tick_text(tick)}</text>')
    return "".join(lines)


def chart_text(x: float, y: float, words: str, kind: str) -> str:
    """Return words about a point; ``kind`` is a class of the page's style."""
    return f'<text class="{kind} middle" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def chart_svg(marks: Sequence[str], name: str) -> str:
    """Return marks as a chart of the usual height; ``name`` is the title of its value axis."""
    title = (
        f'<text class="small middle" transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)">'
        f"{escape(name)}</text>"
    )
    return framed_svg(marks, name, HEIGHT, title=title)


def framed_svg(marks: Sequence[str], name: str, height: float, *, title: str) -> str:
    """Return marks and a title (an SVG element) as a chart of some height, which readers aloud call ``name``."""
    return f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {WIDTH} {height}">{title}{"".join(marks)}</svg>'
