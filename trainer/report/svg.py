"""SVG drawing for the report: scales, ticks, axes and marks. Pure: numbers in, markup out.

Looks (colours, widths, fonts) are CSS classes of the page, so that print can differ from screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Linear or, with `log`, logarithmic map from data [low, high] to pixels [start, stop]."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        share = (value - low) / (high - low) if high != low else 0.5
        return self.start + share * (self.stop - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high], steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high]."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**exponent for exponent in range(first, last + 1)]


@dataclass
class Drawing:
    """Elements of one picture, in drawing order."""

    width: float
    height: float
    label: str
    parts: list[str] = field(default_factory=list)

    def line(self, points: Iterable[Point], kind: str) -> None:
        """A line through `points`; a NaN coordinate breaks it."""
        path, pen_down = [], False
        for x, y in points:
            if math.isnan(x) or math.isnan(y):
                pen_down = False
                continue
            path.append(f"{'L' if pen_down else 'M'}{_n(x)} {_n(y)}")
            pen_down = True
        if path:
            self.parts.append(f'<path class="line {kind}" d="{"".join(path)}"/>')

    def band(self, lower: Sequence[Point], upper: Sequence[Point], kind: str) -> None:
        """The area between two lines over the same x; stretches with NaN are left out."""
        run: list[tuple[Point, Point]] = []
        for low, high in [*zip(lower, upper, strict=True), ((math.nan,) * 2, (math.nan,) * 2)]:
            if not any(math.isnan(value) for value in (*low, *high)):
                run.append((low, high))
                continue
            if len(run) > 1:
                outline = [low for low, _ in run] + [high for _, high in reversed(run)]
                path = "L".join(f"{_n(x)} {_n(y)}" for x, y in outline)
                self.parts.append(f'<path class="band {kind}" d="M{path}Z"/>')
            run = []

    def dot(self, x: float, y: float, kind: str, radius: float = 3, title: str = "") -> None:
        if math.isnan(x) or math.isnan(y):
            return
        inner = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(
            f'<circle class="dot {kind}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}">{inner}</circle>'
        )

    def rule(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(
            f'<line class="{kind}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, kind: str, *, title: str = ""
    ) -> None:
        inner = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(
            f'<rect class="{kind}" x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0))}" '
            f'height="{_n(max(height, 0))}">{inner}</rect>'
        )

    def text(
        self, x: float, y: float, words: str, kind: str = "tick", anchor: str = "middle"
    ) -> None:
        self.parts.append(
            f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def image(
        self, x: float, y: float, width: float, height: float, *, uri: str, title: str
    ) -> None:
        self.parts.append(
            f'<image x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
            f'preserveAspectRatio="xMidYMid slice" href="{escape(uri)}">'
            f"<title>{escape(title)}</title></image>"
        )

    def error_bar(self, x: float, low: float, high: float, kind: str, cap: float = 4) -> None:
        """A vertical interval with caps, pixels."""
        if math.isnan(low) or math.isnan(high):
            return
        self.rule(x, low, x, high, f"bar {kind}")
        self.rule(x - cap, low, x + cap, low, f"bar {kind}")
        self.rule(x - cap, high, x + cap, high, f"bar {kind}")

    def y_axis(
        self,
        scale: Scale,
        at: Sequence[float],
        words: Callable[[float], str],
        left: float,
        right: float,
    ) -> None:
        """Grid lines from `left` to `right` with words left of them."""
        for value in at:
            y = scale(value)
            self.rule(left, y, right, y, "grid")
            self.text(left - 7, y + 3.5, words(value), "tick", "end")

    def x_axis(
        self, scale: Scale, at: Sequence[float], words: Callable[[float], str], y: float
    ) -> None:
        """Ticks below the line at `y`."""
        self.rule(scale.start, y, scale.stop, y, "axis")
        for value in at:
            self.rule(scale(value), y, scale(value), y + 4, "axis")
            self.text(scale(value), y + 16, words(value))

    def markup(self) -> str:
        """The `<svg>` element, as wide as its place allows."""
        return (
            f'<svg viewBox="0 0 {_n(self.width)} {_n(self.height)}" role="img" '
            f'aria-label="{escape(self.label)}">' + "".join(self.parts) + "</svg>"
        )


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
