"""Line charts as inline SVG that needs no script: it scales, prints, and takes its colours from the page.

Series differ by colour and by dash, and each has its last value in the legend, so that nothing is said by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stoker.runs.fields import number
from stoker.runs.markup import Html, join, tag

_WIDTH, _HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 36
_MOST_POINTS = 400
"""More points than that do not show on a screen: neighbours are averaged."""
_MOST_HINTS = 80
"""Up to so many points each have a text that shows under the pointer."""
_MOST_DOTS = 30


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line."""

    name: str
    look: str
    """The CSS class: `test` (solid, accent) or `train` (dashed)."""
    points: Sequence[tuple[float, float | None]]
    """x and y; y is None or not finite where there is a gap."""


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return round(self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5), 1)


def line_chart(
    name: str, title: str, series: Sequence[Series], *, x_label: str, show: Callable[[float], str], from_zero: bool = False, whole_x: bool = True
) -> Html:
    """Return a figure. `name` makes the ids in it unique on the page; `show` formats a y value; `from_zero` starts the y axis at 0."""
    drawn = [Series(name=entry.name, look=entry.look, points=_thinned(entry.points)) for entry in series]
    finite = [(x, y) for entry in drawn for x, y in entry.points if y is not None]
    heading = tag("figcaption", tag("h3", title), _legend(drawn, show) if finite else None)
    if not finite:
        return tag("figure", heading, tag("p", "No finite values were recorded.", class_="muted"), class_="chart")
    x_ticks = _x_ticks([x for x, _ in finite], whole_x)
    y_ticks = _y_ticks([y for _, y in finite], from_zero)
    x_scale = _Scale(low=min(x for x, _ in finite), high=max(x for x, _ in finite), start=_LEFT + 6, end=_WIDTH - _RIGHT - 6)
    y_scale = _Scale(low=y_ticks[0], high=y_ticks[-1], start=_HEIGHT - _BOTTOM, end=_TOP)
    picture = tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", _described(drawn, x_label, show), id=f"{name}-desc"),
        _axes(x_ticks, y_ticks, x_scale, y_scale, x_label, show),
        *(_line(entry, x_scale, y_scale) for entry in drawn),
        *(_hints(entry, x_scale, y_scale, x_label, show) for entry in drawn),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )
    return tag("figure", heading, picture, class_="chart")


def compact(value: float) -> str:
    """Return a number for an axis: 7.5e-4, 0.25, 1,200, 45k, 1.2M."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    if size >= 1e3:
        return f"{value:,.0f}"
    if size != 0 and size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    finite = [(x, number(y)) for x, y in points]
    if len(finite) <= _MOST_POINTS:
        return finite
    size = math.ceil(len(finite) / _MOST_POINTS)
    return [_mean(finite[start : start + size]) for start in range(0, len(finite), size)]


def _mean(points: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
    values = [y for _, y in points if y is not None]
    return points[len(points) // 2][0], sum(values) / len(values) if values else None


def _legend(series: Sequence[Series], show: Callable[[float], str]) -> Html:
    entries = []
    for entry in series:
        last = entry.points[-1][1] if entry.points else None
        sample = tag("svg", tag("path", d="M1 5H23", class_=f"line {entry.look}"), viewBox="0 0 24 10", aria_hidden="true")
        value = tag("b", "not finite" if last is None else show(last))
        name = entry.name if len(series) > 1 or entry.name in ("train", "test") else "last"
        entries.append(tag("li", sample, f" {name} ", value))
    return tag("ul", *entries, class_="legend")


def _axes(x_ticks: list[float], y_ticks: list[float], x_scale: _Scale, y_scale: _Scale, x_label: str, show: Callable[[float], str]) -> Html:
    parts: list[Html] = []
    for value in y_ticks:
        y = y_scale(value)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="base" if value == y_ticks[0] else "rule"))
        parts.append(tag("text", show(value), x=_LEFT - 8, y=y + 4, text_anchor="end"))
    for value in x_ticks:
        parts.append(tag("text", compact(value), x=x_scale(value), y=_HEIGHT - _BOTTOM + 17, text_anchor="middle"))
    parts.append(tag("text", x_label, x=_WIDTH - _RIGHT, y=_HEIGHT - 3, text_anchor="end", class_="label"))
    return tag("g", *parts, aria_hidden="true")


def _line(entry: Series, x_scale: _Scale, y_scale: _Scale) -> Html:
    """Return the line, broken where values are missing, with dots when there are few points or one stands alone."""
    path, dots, drawing = "", [], False
    for index, (x, y) in enumerate(entry.points):
        if y is None:
            drawing = False
            continue
        path += f"{'L' if drawing else 'M'}{x_scale(x):g} {y_scale(y):g}"
        alone = not drawing and (index + 1 == len(entry.points) or entry.points[index + 1][1] is None)
        if alone or len(entry.points) <= _MOST_DOTS:
            dots.append(tag("circle", cx=x_scale(x), cy=y_scale(y), r=2.5, class_=f"dot {entry.look}"))
        drawing = True
    return join(tag("path", d=path, class_=f"line {entry.look}"), *dots)


def _hints(entry: Series, x_scale: _Scale, y_scale: _Scale, x_label: str, show: Callable[[float], str]) -> Html | None:
    if len(entry.points) > _MOST_HINTS:
        return None
    return join(
        *(
            tag("g", tag("title", f"{x_label} {compact(x)}: {entry.name} {show(y)}"), tag("circle", cx=x_scale(x), cy=y_scale(y), r=9), class_="hint")
            for x, y in entry.points
            if y is not None
        )
    )


def _described(series: Sequence[Series], x_label: str, show: Callable[[float], str]) -> str:
    sentences = []
    for entry in series:
        finite = [(x, y) for x, y in entry.points if y is not None]
        if not finite:
            sentences.append(f"{entry.name}: no finite values.")
            continue
        (first_x, first), (last_x, last) = finite[0], finite[-1]
        low, high = min(y for _, y in finite), max(y for _, y in finite)
        sentences.append(
            f"{entry.name}: {show(first)} at {x_label} {compact(first_x)}, {show(last)} at {x_label} {compact(last_x)}; "
            f"between {show(low)} and {show(high)}."
        )
    return " ".join(sentences)


def _step(span: float, count: int) -> float:
    """Return the round distance (1, 2, 2.5 or 5 times a power of ten) that gives at most about `count` ticks over `span`."""
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _y_ticks(values: list[float], from_zero: bool) -> list[float]:
    low, high = min(values), max(values)
    if from_zero or 0 <= low < 0.25 * high:
        low = min(0.0, low)
    if high - low <= 1e-9 * max(abs(high), abs(low)):  # flat, or one point
        margin = abs(high) * 0.1 or 1.0
        low, high = (0.0 if low == 0 else low - margin), high + margin
    step = _step(high - low, 4)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(start, end + 1)]


def _x_ticks(values: list[float], whole: bool) -> list[float]:
    low, high = min(values), max(values)
    if high == low:
        return [low]
    step = _step(high - low, 7)
    if whole:
        step = float(max(1, math.ceil(step)))
    ticks = [float(f"{index * step:.12g}") for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return ticks if not whole or ticks[0] == low else [low, *(tick for tick in ticks if tick - low > step * 0.6)]
