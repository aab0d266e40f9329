"""Plots with error bars as SVG text, drawn here: no plotting library is needed, and a page can hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bolid.metrics import Interval

WIDTH, HEIGHT = 460, 300  # px
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 30, 44  # margins, px
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8e6c8a", "#c98b2b", "#3b3b3b", "#5aa9a3", "#a05a2c")


@dataclass(frozen=True)
class Series:
    """A line (or the dots) of one method. x: numbers; xs: their intervals where the dots have both; y:
    intervals.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[Interval, ...]
    x_spread: tuple[Interval, ...] = ()


def plot(
    title: str,
    x_title: str,
    y_title: str,
    series: Sequence[Series],
    *,
    ticks: Sequence[tuple[float, str]] | None = None,
    lines: bool = True,
) -> str:
    """An SVG picture. ticks: places on the x axis with their names (None: chosen); lines: join the dots."""
    frame = _Frame.around(series, ticks)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {frame.height}" '
        f'font-family="sans-serif" font-size="11" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{frame.height}" fill="white"/>',
        _text(WIDTH / 2, 18, title, "middle", "bold"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, "middle"),
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_title)}</text>',
        *frame.axes(ticks),
    ]
    for number, each in enumerate(series):
        parts += _drawn(each, frame, number, lines)
        y = HEIGHT + 14 * number
        parts += [_dot(number, LEFT, y), _text(LEFT + 10, y + 4, each.name)]
    return "\n".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Frame:
    """The ranges shown, and the height with the legend."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int

    @staticmethod
    def around(series: Sequence[Series], ticks: Sequence[tuple[float, str]] | None) -> _Frame:
        xs = [x for each in series for x in each.x] + [place for place, _ in ticks or ()]
        xs += [end for each in series for i in each.x_spread for end in (i.low, i.high)]
        ys = [end for each in series for i in each.y for end in (i.low, i.high, i.mean)]
        return _Frame(_padded(xs), _padded(ys), HEIGHT + 14 * len(series))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        right = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def axes(self, ticks: Sequence[tuple[float, str]] | None) -> list[str]:
        """Frame, grid lines and numbers."""
        inner = f'width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
        parts = [f'<rect x="{LEFT}" y="{TOP}" {inner} fill="none" stroke="#999"/>']
        for value in _nice(*self.y):
            _, y = self.at(self.x[0], value)
            parts.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>'
            )
            parts.append(_text(LEFT - 5, y + 4, f"{value:g}", "end"))
        for value, name in ticks or [(v, f"{v:g}") for v in _nice(*self.x)]:
            x, _ = self.at(value, self.y[0])
            if ticks is None:
                parts.append(_text(x, HEIGHT - BOTTOM + 14, name, "middle"))
            else:  # words: many, and longer than their place
                turned = f'transform="translate({x + 4:.1f} {HEIGHT - BOTTOM + 11}) rotate(-28)"'
                parts.append(f'<text {turned} text-anchor="end" font-size="9">{escape(name)}</text>')
        return parts


def _drawn(series: Series, frame: _Frame, number: int, lines: bool) -> list[str]:
    colour = COLOURS[number % len(COLOURS)]
    spreads = series.x_spread or (None,) * len(series.x)
    points = [
        (x, y, spread)
        for x, y, spread in zip(series.x, series.y, spreads, strict=True)
        if math.isfinite(y.mean) and math.isfinite(x)
    ]
    parts = []
    if lines and len(points) > 1:
        path = " ".join("{:.1f},{:.1f}".format(*frame.at(x, y.mean)) for x, y, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for x, y, spread in points:
        (px, py), (_, low), (_, high) = (frame.at(x, value) for value in (y.mean, y.low, y.high))
        parts.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        if spread is not None:
            (left, _), (right, _) = frame.at(spread.low, y.mean), frame.at(spread.high, y.mean)
            parts.append(
                f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{py:.1f}" y2="{py:.1f}" stroke="{colour}"/>'
            )
        tip = escape(f"{series.name}: {y.mean:.3f} [{y.low:.3f}, {y.high:.3f}]")
        parts.append(_dot(number, px, py, f"<title>{tip}</title>"))
    return parts


def _dot(number: int, x: float, y: float, inner: str = "") -> str:
    """The mark of the series of that number: a circle, and where the colours begin again a square."""
    colour, again = COLOURS[number % len(COLOURS)], number >= len(COLOURS)
    if again:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}">{inner}</rect>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{inner}</circle>'


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
    )


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """The range of the finite values and a twentieth more on each side."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.5
    return low - pad, high + pad


def _nice(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between low and high."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [round(k * step, 12) for k in range(first, math.floor(high / step) + 1)]
