"""Charts as inline SVG with the colours of the page: curves over the epochs, and histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pyro_dvae.jobs.report.markup import Html, element, joined

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 250, 58, 12, 12, 40
_BINS = 30
COLOURS = 6  # classes c0 .. c5 of the style sheet
_DASHES = (None, "7 4", "2 3")


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    :param colour: number of its colour.
    :param dashes: number of its dash pattern; 0 is solid.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: int = 0
    dashes: int = 0


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers within [low, high]."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= count)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class _Frame:
    """Maps numbers to positions in the chart."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def up(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_label: str, y_label: str, whole: str) -> Html:
        """Return labelled axes; the axis ``whole``, "x" or "y", has whole numbers at its ticks."""
        parts = []
        for value in ticks(*self.x):
            if whole == "x" and value != int(value):
                continue
            at = {"x": f"{self.across(value):.1f}", "y": HEIGHT - BOTTOM + 15}
            parts.append(element("text", f"{value:g}", **at, text_anchor="middle"))
        for value in ticks(*self.y):
            if whole == "y" and value != int(value):
                continue
            height = f"{self.up(value):.1f}"
            parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height, class_="grid"))
            at = {"x": LEFT - 6, "y": f"{self.up(value) + 4:.1f}"}
            parts.append(element("text", f"{value:g}", **at, text_anchor="end"))
        middle, upright = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
        parts.append(element("text", x_label, x=middle, y=HEIGHT - 6, text_anchor="middle"))
        turned = f"rotate(-90 13 {upright})"
        parts.append(element("text", y_label, x=13, y=upright, text_anchor="middle", transform=turned))
        return joined(parts)


def _svg(title: str, *parts: Html) -> Html:
    box = f"0 0 {WIDTH} {HEIGHT}"
    return element("svg", element("title", title), *parts, viewBox=box, role="img", aria_label=title)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or max(0.5, 0.01 * abs(high))
    return low - room, high + room


def curves(title: str, lines: Sequence[Curve], marks: Sequence[tuple[float, float, int]] = ()) -> Html:
    """Return bounds over the epochs with a legend; low values of the first epochs may be cut off.

    :param marks: points to mark: epoch, bound, and number of the colour.
    """
    drawn = [
        (line, [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None and math.isfinite(y)])
        for line in lines
    ]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return element("p", "No epoch has a bound yet.")
    last = max(points[-1][0] for _, points in drawn)
    settled = [y for _, points in drawn for x, y in points if x > 0.1 * last or x == points[-1][0]]
    frame = _Frame((min(1.0, last - 1), max(last, 1.0)), _padded(min(settled), max(settled)))
    parts = [frame.axes("epoch", "nats per row", "x")]
    floor = HEIGHT - BOTTOM
    for line, points in drawn:
        kept = [point for point in points if frame.up(point[1]) <= floor]
        path = " ".join(f"{frame.across(x):.1f},{frame.up(y):.1f}" for x, y in _thinned(kept))
        style = f"line c{line.colour % COLOURS}"
        if len(kept) == 1:
            parts.append(_dot(frame, *kept[0], line.colour, 3))
        parts.append(
            element("polyline", points=path, class_=style, stroke_dasharray=_DASHES[line.dashes % 3])
        )
    parts += [_dot(frame, x, y, colour, 4) for x, y, colour in marks if frame.y[0] <= y <= frame.y[1]]
    keys = [element("li", _key(line.colour, line.dashes), line.label) for line, _ in drawn]
    if marks:
        keys.append(element("li", "● best epoch by validation"))
    if any(y < frame.y[0] for _, points in drawn for _, y in points):
        keys.append(element("li", "bounds of the first epochs lie below"))
    return element("div", _svg(title, *parts), element("ul", *keys, class_="legend"), class_="chart")


def _thinned(points: Sequence[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    step = max(1, math.ceil(len(points) / most))
    return [*points[::step], *points[-1:]]


def _dot(frame: _Frame, x: float, y: float, colour: int, radius: int) -> Html:
    at = {"cx": f"{frame.across(x):.1f}", "cy": f"{frame.up(y):.1f}"}
    return element("circle", **at, r=radius, class_=f"dot c{colour % COLOURS}")


def _key(colour: int, dashes: int) -> Html:
    style = {"class_": f"line c{colour % COLOURS}", "stroke_dasharray": _DASHES[dashes % 3]}
    line = element("line", x1=0, x2=28, y1=5, y2=5, **style)
    return element("svg", line, viewBox="0 0 28 10", class_="key", aria_hidden="true")


def histogram(title: str, values: Sequence[float | None], label: str, threshold: float | None = None) -> Html:
    """Return a histogram of values over the rows; values above the threshold have another colour."""
    finite = [each for each in values if each is not None and math.isfinite(each)]
    if not finite:
        return element("p", f"No finite value of {label}.")
    reach = [*finite, threshold] if threshold is not None else finite
    low, high = _padded(min(reach), max(reach))
    width = (high - low) / _BINS
    if threshold is not None:  # at the edge of a bar
        low = threshold - math.ceil((threshold - low) / width) * width
    counts = [0] * (_BINS + 1)
    for each in finite:
        counts[int((each - low) / width)] += 1
    frame = _Frame((low, low + len(counts) * width), (0.0, 1.05 * max(counts)))
    parts = [frame.axes(label, "rows", "y")]
    for number, count in enumerate(counts):
        left, top = low + number * width, frame.up(count)
        bad = threshold is not None and left + width / 2 > threshold
        at = {"x": f"{frame.across(left):.1f}", "y": f"{top:.1f}"}
        size = {
            "width": f"{frame.across(left + width) - frame.across(left) - 0.5:.1f}",
            "height": f"{HEIGHT - BOTTOM - top:.1f}",
        }
        parts.append(element("rect", **at, **size, class_="bar bad" if bad else "bar"))
    if threshold is not None:
        x = f"{frame.across(threshold):.1f}"
        parts.append(element("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="limit"))
    return element("div", _svg(title, *parts), class_="chart")
