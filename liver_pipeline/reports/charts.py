"""Charts as inline SVG: box plots, bars, Bland-Altman, curves, counts; in the page's own colours, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from liver_pipeline.reports.chart_frame import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    axis,
    axis_below,
    chart_svg,
    chart_text,
    framed_svg,
    grid_lines,
    tick_text,
)

BAR_ROW = 40  # of horizontal bars
TONES = 8  # colours of the page for experiments
Band = tuple[str, float | None, float | None, float | None, str]
Line = tuple[int, Sequence[tuple[float, float]], str]


def box_plot(groups: Sequence[tuple[str, Sequence[float | None]]], *, name: str, unit_range: bool = False) -> str:
    """Draw a box (quartiles), whiskers (extremes within 1.5 box lengths), the mean and every case per group.

    Args:
        groups: Label and values of each group; None is left out and ``n`` says how many are drawn.
        name: Title of the value axis.
        unit_range: Let the axis reach from 0 to 1.

    Returns:
        An SVG element.
    """
    values = [value for _, group in groups for value in group if value is not None]
    y = axis([] if unit_range else values, HEIGHT - BOTTOM, TOP, include=(0.0, 1.0) if unit_range else ())
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    marks = [grid_lines(y)]
    for number, (label, group) in enumerate(groups):
        known = sorted(value for value in group if value is not None)
        middle = LEFT + slot * (number + 0.5)
        marks.append(chart_text(middle, HEIGHT - BOTTOM + 16, label, "label"))
        marks.append(chart_text(middle, HEIGHT - BOTTOM + 30, f"n = {len(known)}", "small"))
        if known:
            marks.append(_box(known, middle, min(46.0, slot * 0.45), y))
    return chart_svg(marks, name)


def _box(known: Sequence[float], middle: float, width: float, y: Axis) -> str:
    low, median, high = (float(np.percentile(known, percent)) for percent in (25, 50, 75))
    reach = 1.5 * (high - low)
    whiskers = min(v for v in known if v >= low - reach), max(v for v in known if v <= high + reach)
    left = middle - width / 2
    parts = [
        f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}" y1="{y.at(end):.1f}" y2="{y.at(edge):.1f}"/>'
        for end, edge in zip(whiskers, (low, high), strict=True)
    ]
    parts.append(
        f'<rect class="box" x="{left:.1f}" y="{y.at(high):.1f}" width="{width:.1f}" '
        f'height="{max(1.0, y.at(low) - y.at(high)):.1f}"/>'
    )
    parts.append(f'<line class="median" x1="{left:.1f}" x2="{left + width:.1f}" y1="{y.at(median):.1f}" '
                 f'y2="{y.at(median):.1f}"/>')  # fmt: skip
    for number, value in enumerate(known):
        aside = middle + ((number * 0.618034) % 1 - 0.5) * width * 0.9  # spread evenly, the same each time
        parts.append(f'<circle class="case" cx="{aside:.1f}" cy="{y.at(value):.1f}" r="2.6"/>')
    mean = sum(known) / len(known)
    parts.append(f'<path class="mean" d="M{middle - 5:.1f} {y.at(mean):.1f}l5-5 5 5-5 5z"/>')
    return "".join(parts)


def bar_chart(
    groups: Sequence[tuple[str, Sequence[tuple[str, float | None, str]]]],
    *,
    name: str,
    kinds: Sequence[str] = ("series0", "series1"),
    unit_range: bool = True,
) -> str:
    """Draw bars from 0 side by side.

    Args:
        groups: Label of each group and its bars: series name, value (None draws no bar) and a note such as "3 of 5".
        name: Title of the value axis.
        kinds: Classes of each series.
        unit_range: Let the axis reach to 1; else to the largest value.

    Returns:
        An SVG element.
    """
    values = [value for _, bars in groups for _, value, _ in bars if value is not None]
    y = axis([] if unit_range else values, HEIGHT - BOTTOM, TOP, include=(0.0, 1.0))
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    marks = [grid_lines(y)]
    for number, (label, bars) in enumerate(groups):
        width = min(34.0, slot * 0.8 / max(1, len(bars)))
        left = LEFT + slot * (number + 0.5) - width * len(bars) / 2
        marks.append(chart_text(LEFT + slot * (number + 0.5), HEIGHT - BOTTOM + 16, label, "label"))
        for place, (series, value, note) in enumerate(bars):
            x = left + width * place
            if value is None:
                marks.append(chart_text(x + width / 2, y.at(0) - 4, "–", "small"))
                continue
            top = y.at(value)
            hint = escape(f"{label}, {series}: {value:.3f} ({note})")
            marks.append(
                f'<rect class="{kinds[place]}" x="{x + 1:.1f}" y="{top:.1f}" width="{width - 2:.1f}" '
                f'height="{y.at(0) - top:.1f}"><title>{hint}</title></rect>'
            )
            marks.append(chart_text(x + width / 2, top - 4, f"{value:.2f}" if unit_range else f"{value:.3g}", "small"))
    return chart_svg(marks, name)


def bland_altman_chart(
    means: Sequence[float], differences: Sequence[float], lines: Sequence[float | None], *, x_name: str, name: str
) -> str:
    """Draw differences over means, with lines (lower limit, bias, upper limit) where they are known."""
    known_lines = [line for line in lines if line is not None]
    x = axis(means, LEFT, WIDTH - RIGHT, include=(0.0,))
    y = axis(differences, HEIGHT - BOTTOM, TOP, include=(0.0, *known_lines))
    marks = [grid_lines(y)]
    marks += axis_below(x, x_name)
    for line, kind in zip(lines, ("limit", "bias", "limit"), strict=True):
        if line is not None:
            marks.append(
                f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.at(line):.1f}" y2="{y.at(line):.1f}"/>'
            )
            above = y.at(line) - 4
            marks.append(f'<text class="small end" x="{WIDTH - RIGHT}" y="{above:.1f}">{_signed(line)}</text>')
    for mean, difference in zip(means, differences, strict=True):
        marks.append(f'<circle class="case" cx="{x.at(mean):.1f}" cy="{y.at(difference):.1f}" r="3.4"/>')
    return chart_svg(marks, name)


def curve_chart(
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    x_name: str,
    name: str,
    band: tuple[float, float] | None = None,
) -> str:
    """Draw curves over one axis, each filled down to 0.

    Args:
        curves: Label, x values and y values in [0, 1] of each; they get the classes ``curve0``, ``curve1``, ...
        x_name: Title of the axis below.
        name: Title of the value axis.
        band: Range of x to shade.
    """
    x = axis([value for _, xs, _ in curves for value in (xs[0], xs[-1])], LEFT, WIDTH - RIGHT)
    y = axis([], HEIGHT - BOTTOM, TOP, include=(0.0, 1.0))
    marks = [grid_lines(y)]
    if band is not None:
        left, right = x.at(max(band[0], x.low)), x.at(min(band[1], x.high))
        marks.insert(0, f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
                        f'height="{HEIGHT - BOTTOM - TOP}"/>')  # fmt: skip
    for number, (label, xs, ys) in enumerate(curves):
        points = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in zip(xs, ys, strict=True))
        ends = f"{x.at(xs[0]):.1f},{y.at(0):.1f}", f"{x.at(xs[-1]):.1f},{y.at(0):.1f}"
        marks.append(f'<polygon class="area curve{number}" points="{ends[0]} {points} {ends[1]}"/>')
        marks.append(
            f'<polyline class="line curve{number}" points="{points}"><title>{escape(label)}</title></polyline>'
        )
    return chart_svg([*marks, *axis_below(x, x_name)], name)


def count_chart(values: Sequence[float], *, x_name: str, name: str) -> str:
    """Draw how many values lie in each of about a dozen ranges of equal width, from 0."""
    x = axis(values, LEFT, WIDTH - RIGHT, include=(0.0,))
    y_counts, edges = np.histogram(values, bins=3 * (len(x.ticks) - 1), range=(x.low, x.high))
    y = axis(y_counts.tolist(), HEIGHT - BOTTOM, TOP, include=(0.0, 4.0))  # ticks at whole numbers
    marks = [grid_lines(y)]
    for count, low, high in zip(y_counts.tolist(), edges, edges[1:], strict=False):
        if count:
            hint = escape(f"{low:.4g} to {high:.4g}: {count}")
            marks.append(
                f'<rect class="series0" x="{x.at(low) + 1:.1f}" y="{y.at(count):.1f}" '
                f'width="{x.at(high) - x.at(low) - 2:.1f}" height="{y.at(0) - y.at(count):.1f}">'
                f"<title>{hint}</title></rect>"
            )
    return chart_svg([*marks, *axis_below(x, x_name)], name)


def interval_bars(bars: Sequence[Band], *, name: str, unit_range: bool = False) -> str:
    """Draw horizontal bars from zero with their intervals, each under its label.

    Args:
        bars: Label, value (None draws no bar), lower and upper bound (None draws none) and a note such as "n = 5".
        name: Title of the value axis.
        unit_range: Let the axis reach from 0 to 1.

    Returns:
        An SVG element; bars have the classes ``tone0`` to ``tone7``, in turn.
    """
    known = [number for _, *numbers, _ in bars for number in numbers if number is not None]
    x = axis([] if unit_range else known, 12, WIDTH - 76, include=(0.0, 1.0) if unit_range else (0.0,))
    bottom = TOP + BAR_ROW * len(bars)
    marks = []
    for tick in x.ticks:
        marks.append(f'<line class="grid" x1="{x.at(tick):.1f}" x2="{x.at(tick):.1f}" y1="{TOP}" y2="{bottom}"/>')
        marks.append(chart_text(x.at(tick), bottom + 14, tick_text(tick), "small"))
    for number, (label, value, low, high, note) in enumerate(bars):
        top = TOP + BAR_ROW * number
        marks.append(f'<text class="small start" x="12" y="{top + 11}">{escape(label)}</text>')
        words = "–" if value is None else f"{value:.3f}" if unit_range else f"{value:,.1f}"
        at = x.stop + 8
        marks.append(f'<text class="label start" x="{at}" y="{top + 22}">{words}</text>')
        marks.append(f'<text class="small start" x="{at}" y="{top + 34}">{escape(note)}</text>')
        if value is not None:
            width = max(0.0, x.at(value) - x.at(0))
            marks.append(f'<rect class="bar tone{number % TONES}" x="{x.at(0):.1f}" y="{top + 16}" '
                         f'width="{width:.1f}" height="14"/>')  # fmt: skip
        if low is not None and high is not None:
            left, right = x.at(low), x.at(high)
            marks.append(f'<path class="span" fill="none" d="M{left:.1f} {top + 19}v8m0-4H{right:.1f}m0-4v8"/>')
    return framed_svg(marks, name, bottom + 36, title=chart_text((12 + x.stop) / 2, bottom + 30, name, "small"))


def line_chart(lines: Sequence[Line], *, x_name: str, name: str, unit_range: bool = False, chance: bool = False) -> str:
    """Draw lines.

    Args:
        lines: Number of the tone, points (x, y) and further classes such as "thin" of each.
        x_name: Title of the horizontal axis.
        name: Title of the vertical axis.
        unit_range: Let the vertical axis reach from 0 to 1.
        chance: Draw the diagonal that a guess would give.

    Returns:
        An SVG element. A line of one point is a dot.
    """
    points = [point for _, each, _ in lines for point in each]
    x = axis([point[0] for point in points], LEFT, WIDTH - RIGHT)
    y = axis([] if unit_range else [point[1] for point in points], HEIGHT - BOTTOM, TOP,
             include=(0.0, 1.0) if unit_range else ())  # fmt: skip
    marks = [grid_lines(y)]
    marks += axis_below(x, x_name)
    if chance:
        ends = f'x1="{x.at(0):.1f}" y1="{y.at(0):.1f}" x2="{x.at(1):.1f}" y2="{y.at(1):.1f}"'
        marks.append(f'<line class="chance" {ends}/>')
    for tone, each, classes in lines:
        kind = f"tone{tone % TONES} {classes}".strip()
        if len(each) == 1:
            marks.append(f'<circle class="dot {kind}" cx="{x.at(each[0][0]):.1f}" cy="{y.at(each[0][1]):.1f}" r="3"/>')
        else:
            path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in each)
            marks.append(f'<polyline class="trace {kind}" points="{path}"/>')
    return chart_svg(marks, name)


def _signed(value: float) -> str:
    text = f"{value:+,.0f}" if abs(value) >= 100 else f"{value:+.3g}"
    return text.replace("-", "−")
