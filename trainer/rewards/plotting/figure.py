"""Draws the signals of a video with matplotlib: key frames above curves, and the panels of a film.

Owns layout and colours (Okabe and Ito's, told apart by the colour-blind; every line also has a shape of its
own). Draws into memory; needs no display.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from contracts.errors import MissingDependency
from trainer.rewards.plotting.footage import Footage, shown_once
from trainer.rewards.plotting.scoring import SIGNALS, Scores, reason_of

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import ConnectionPatch, Patch
except ImportError as error:
    raise MissingDependency(
        "pictures of reward models need matplotlib", remedy="pip install 'entracte[trainer]'"
    ) from error

COLOURS = {"process": "#0072B2", "completion": "#D55E00", "contrastive": "#007A5E"}
MARKERS = {"process": "o", "completion": "s", "contrastive": "^"}
LIMITS = {"process": (-0.04, 1.04), "completion": (-0.04, 1.04), "contrastive": (-1.08, 1.08)}
AXES_LEFT, AXES_WIDE = 0.075, 0.9
CURSOR = (60, 60, 66)
INK, PALE, SILENT, CALLED, PAPER = "#222226", "#6A6A72", "#B8B8C0", "#CC79A7", "#FFFFFF"
HATCHES = ("////", "\\\\\\\\", "xxxx", "....", "++++")
KEY_FRAMES = 7
WIDTH_IN, PANEL_IN, HEAD_IN, AXIS_IN, LINE_IN = 11.0, 1.15, 0.75, 0.45, 0.2


@dataclass(frozen=True)
class Panels:
    """The curves as pictures uint8[H, W, 3] of equal size, `full` and `empty` (axes alone), and the pixel
    columns at which their time axis begins and ends; `rows`: top and bottom of the curves."""

    full: np.ndarray
    empty: np.ndarray
    left: float
    right: float
    rows: tuple[int, int]

    def at(self, share: float) -> np.ndarray:
        """What was known at `share` in [0, 1] of the time axis, a cursor at that moment."""
        column = round(self.left + min(share, 1.0) * (self.right - self.left)) - 3
        out = self.empty.copy()
        out[:, :column] = self.full[:, :column]
        out[self.rows[0] : self.rows[1], column : column + 2] = CURSOR
        return out


def still(footage: Footage, scores: Scores, dpi: int = 110) -> np.ndarray:
    """uint8[H, W, 3]: instruction and model, key frames, the signals under them."""
    keys = key_rows(footage, scores)
    views = shown_once([*footage.video.views.values()])
    height, width = views[0].shape[1:3]
    each_in = WIDTH_IN * AXES_WIDE / len(keys)
    strip_in = each_in * height / width * len(views)
    names = panels_of(scores)
    foot_in = _foot_in(footage, scores)
    total_in = HEAD_IN + strip_in + 0.35 + PANEL_IN * len(names) + foot_in
    figure = _figure(total_in, dpi)
    _heading(figure, footage, scores, total_in)
    bottom, top = foot_in / total_in, (foot_in + PANEL_IN * len(names)) / total_in
    axes = _curves(figure, footage, scores, names, bottom, top)
    _annotate(axes, scores)
    strip_top = 1.0 - HEAD_IN / total_in
    _strip(figure, footage, keys, axes[0], strip_top, strip_in / total_in)
    _legend(figure, footage, scores, total_in)
    return _pixels(figure)


def panels(footage: Footage, scores: Scores, width_px: int, dpi: int = 100) -> Panels:
    """The curves for a film `width_px` wide."""
    names = panels_of(scores)
    width_in = width_px / dpi
    foot_in = _foot_in(footage, scores)
    total_in = len(names) + foot_in + 0.08
    drawn = []
    for shown in (True, False):
        figure = _figure(total_in, dpi, width_in)
        axes = _curves(
            figure, footage, scores, names, foot_in / total_in, 1.0 - 0.08 / total_in, shown=shown
        )
        _legend(figure, footage, scores, total_in)
        drawn.append(_pixels(figure))
    box, lowest = axes[0].get_position(), axes[-1].get_position()
    full, empty = drawn
    high, wide = full.shape[:2]
    rows = (round((1 - box.y1) * high), round((1 - lowest.y0) * high))
    return Panels(full, empty, box.x0 * wide, box.x1 * wide, rows)


def panels_of(scores: Scores) -> list[str]:
    """Signals that the model gives, in order, and "scores" where it gives the distribution of 1 to 5."""
    names = [name for name in SIGNALS if scores.gives(name)]
    return [*names, *(["scores"] if scores.distribution is not None else [])]


def key_rows(footage: Footage, scores: Scores) -> list[int]:
    """Frames for the strip: the first, the last, evenly between; the one nearest to the first call of
    success gives way to that moment."""
    times = footage.video.times_s
    wanted = np.linspace(times[0], times[-1], min(KEY_FRAMES, len(times)))
    called = scores.first_called_s
    if called is not None and len(wanted) > 2:
        inner = 1 + int(np.abs(wanted[1:-1] - called).argmin())
        wanted[inner] = called
    return sorted({int(np.abs(times - moment).argmin()) for moment in wanted})


def extent(footage: Footage, scores: Scores) -> tuple[float, float]:
    """Seconds that the time axis shows: the last value is held as long as others are, to be seen at all."""
    gaps = np.diff(scores.times_s)
    held_s = float(np.median(gaps)) if len(gaps) else 1.0 / footage.rate_hz
    return float(footage.video.times_s[0]), float(footage.video.times_s[-1]) + held_s


def _figure(height_in: float, dpi: int, width_in: float = WIDTH_IN) -> Figure:
    figure = Figure(figsize=(width_in, height_in), dpi=dpi, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def _pixels(figure: Figure) -> np.ndarray:
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()


def _heading(figure: Figure, footage: Footage, scores: Scores, total_in: float) -> None:
    said = textwrap.shorten(footage.instruction, 90, placeholder=" …")
    figure.text(
        0.015, 1 - 0.12 / total_in, f"“{said}”", size=14, color=INK, va="top", weight="bold"
    )
    line = f"{footage.name}   ·   model {scores.model_id}   ·   {verdict(scores)}"
    figure.text(0.015, 1 - 0.45 / total_in, line, size=9, color=PALE, va="top")


def verdict(scores: Scores) -> str:
    """What the last moment says."""
    at_end = scores.called[-1]
    if at_end is None:
        return "can't say at the end whether it is done"
    return "done at the end" if at_end else "not done at the end"


def _curves(
    figure: Figure,
    footage: Footage,
    scores: Scores,
    names: Sequence[str],
    bottom: float,
    top: float,
    *,
    shown: bool = True,
) -> list[Any]:
    """One axes a signal, from the top down, on one time axis."""
    each = (top - bottom) / len(names)
    begin, end = extent(footage, scores)
    axes: list[Any] = []
    for index, name in enumerate(names):
        low = top - (index + 1) * each
        ax = figure.add_axes((AXES_LEFT, low + 0.06 * each, AXES_WIDE, 0.86 * each))
        ax.set_xlim(begin, end)
        ax.tick_params(labelsize=8, colors=PALE, labelbottom=index == len(names) - 1)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(SILENT)
        if name == "scores":
            _distribution(ax, scores, end, shown)
        else:
            _signal(ax, name, scores, footage, end, shown)
        axes.append(ax)
    axes[-1].set_xlabel("seconds", size=9, color=PALE, labelpad=1)
    return axes


def _signal(
    ax: Any, name: str, scores: Scores, footage: Footage, end_s: float, shown: bool
) -> None:
    """A value holds until the next one: that is what was known in between."""
    ax.set_ylim(*LIMITS[name])
    ax.set_ylabel(name, color=COLOURS[name], size=9.5, weight="bold")
    ax.set_yticks([-1, 0, 1] if name == "contrastive" else [0, 0.5, 1])
    ax.grid(axis="y", color="#E6E6EA", linewidth=0.8)
    ax.set_axisbelow(True)
    if name == "contrastive":
        ax.axhline(0, color=PALE, linewidth=0.8)
    if name == "completion":
        ax.axhline(scores.threshold, color=INK, linewidth=1, linestyle=(0, (6, 3)))
    if not shown:
        return
    _abstentions(ax, scores, end_s)
    times, values = stepped(scores.times_s, scores.values(name), end_s)
    if name == "process" and footage.truth is not None:
        ax.plot(footage.video.times_s, footage.truth, ":", color=INK, linewidth=1.6)
    half = stepped(scores.times_s, scores.values("uncertainty") / 2, end_s)[1]
    if name != "contrastive":
        low, high = (values - half).clip(0, 1), (values + half).clip(0, 1)
        ax.fill_between(times, low, high, color=COLOURS[name], alpha=0.22, linewidth=0)
    else:
        ax.fill_between(times, 0, values, color=COLOURS[name], alpha=0.15, linewidth=0)
    style = {"color": COLOURS[name], "linewidth": 1.8, "markersize": 3.2}
    ax.plot(times, values, **{**style, "markersize": 0})
    ax.plot(scores.times_s, scores.values(name), MARKERS[name], **style)
    if name == "completion":
        _calls(ax, scores, end_s)


def stepped(times: np.ndarray, values: np.ndarray, end_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of every value's time, float64[2 M] each: also of one that is followed by none (NaN), whose
    step matplotlib's own fillings leave out."""
    edges = np.append(times, end_s)
    return np.column_stack([edges[:-1], edges[1:]]).ravel(), np.repeat(values, 2)


def _spans(
    scores: Scores, end_s: float, key: Callable[[int], Hashable]
) -> Iterator[tuple[float, float, Any]]:
    """(from, to, key) of moments in a row with the same key, each held until the next; not those of "" or
    None."""
    edges = [*scores.times_s.tolist(), end_s]
    for value, group in groupby(range(len(scores.signals)), key):
        moments = list(group)
        if value:
            yield edges[moments[0]], edges[moments[-1] + 1], value


def _abstentions(ax: Any, scores: Scores, end_s: float) -> None:
    kinds = [*scores.abstained]
    for start, stop, reason in _spans(scores, end_s, lambda n: reason_of(scores.signals[n])):
        hatch = HATCHES[kinds.index(reason) % len(HATCHES)]
        ax.axvspan(start, stop, facecolor="#EFEFF2", edgecolor=SILENT, hatch=hatch, linewidth=0)
    silent = [bool(signal.abstained) for signal in scores.signals]
    # Above the scale: on it, they would look like values.
    above: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "clip_on": False}
    ax.plot(
        scores.times_s[silent], np.full(sum(silent), 1.06), "x", color=PALE, markersize=4, **above
    )


def _calls(ax: Any, scores: Scores, end_s: float) -> None:
    look: dict[str, Any] = {"color": CALLED, "linewidth": 5, "solid_capstyle": "butt", "zorder": 1}
    for start, stop, _ in _spans(scores, end_s, lambda n: scores.called[n]):
        ax.plot([start, stop], [1.0, 1.0], **look)


def _distribution(ax: Any, scores: Scores, end_s: float, shown: bool) -> None:
    """Probability of each score, darker is more, and the expected score as a line."""
    ax.set_ylim(0.5, 5.5)
    ax.set_yticks([1, 3, 5])
    ax.set_ylabel("score", color=INK, size=9.5, weight="bold")
    shares = scores.distribution
    if not shown or shares is None:
        return
    _abstentions(ax, scores, end_s)
    edges = np.append(scores.times_s, end_s)
    colours = ax.pcolormesh(edges, np.arange(6) + 0.5, shares.T, cmap="Greys", vmin=0, vmax=1)
    colours.set_zorder(1)
    times, expected = stepped(scores.times_s, shares @ np.arange(1, 6), end_s)
    ax.plot(times, expected, color="#E69F00", linewidth=2, zorder=3)


def _annotate(axes: Sequence[Any], scores: Scores) -> None:
    called = scores.first_called_s
    if called is None:
        return
    for ax in axes:
        ax.axvline(called, color=CALLED, linewidth=1.2)
    begin, end = axes[0].get_xlim()
    late = (called - begin) / (end - begin) > 0.85
    axes[0].annotate(
        f"success first called at {called:.1f} s", (called, LIMITS["process"][1]), fontsize=8.5, zorder=9,
        xytext=(0, 3), textcoords="offset points", color="#9A3E74",
        ha="right" if late else "left", weight="bold",
        bbox={"facecolor": PAPER, "linewidth": 0, "pad": 1},
    )  # fmt: skip


def _strip(
    figure: Figure, footage: Footage, keys: Sequence[int], under: Any, top: float, high: float
) -> None:
    """Key frames side by side, cameras one below the other, a line from each to its moment in axes `under`.
    `top` and `high` of the strip in the figure's shares."""
    views = shown_once([*footage.video.views.values()])
    wide, each = AXES_WIDE / len(keys), high / len(views)
    for number, row in enumerate(keys):
        left = AXES_LEFT + number * wide
        for line, view in enumerate(views):
            ax = figure.add_axes((left + 0.002, top - (line + 1) * each, wide - 0.004, each * 0.97))
            ax.imshow(view[row], aspect="auto", interpolation="lanczos")
            ax.set_axis_off()
        time_s = float(footage.video.times_s[row])
        box = {"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 1.5}
        place: dict[str, Any] = {"transform": ax.transAxes, "ha": "center", "bbox": box}
        ax.text(0.5, 0.03, f"{time_s:.1f} s", size=8, color="white", **place)
        line_to = ConnectionPatch(
            xyA=(left + wide / 2, top - high),
            xyB=(time_s, LIMITS["process"][1]),
            coordsA="figure fraction",
            coordsB="data",
            axesB=under,
            color=SILENT,
            linewidth=0.9,
            zorder=-1,
        )
        figure.add_artist(line_to)


def _foot_in(footage: Footage, scores: Scores) -> float:
    """Height of the time axis and of the legend under it."""
    entries = len(_entries(footage, scores))
    columns = _columns(scores)
    return AXIS_IN + LINE_IN * -(-entries // columns) + (LINE_IN if footage.note else 0.0)


def _columns(scores: Scores) -> int:
    return 2 if scores.abstained else 4


def _entries(footage: Footage, scores: Scores) -> list[Any]:
    """Threshold, call, band, truth, and every reason to abstain with its count."""
    rule = f"threshold {scores.threshold:.2f}"
    if scores.consecutive > 1:
        rule += f", {scores.consecutive} in a row"
    entries: list[Any] = [
        Line2D([], [], color=INK, linestyle=(0, (6, 3)), linewidth=1, label=rule),
        Line2D([], [], color=CALLED, linewidth=5, label="success would be called"),
    ]
    if np.isfinite(scores.values("uncertainty")).any():
        entries.append(Patch(color=COLOURS["process"], alpha=0.22, label="± half its uncertainty"))
    if footage.truth is not None:
        entries.append(
            Line2D([], [], color=INK, linestyle=":", linewidth=1.6, label="true progress")
        )
    for index, (reason, count) in enumerate(scores.abstained.items()):
        said = textwrap.shorten(reason, 60, placeholder=" …")
        label = f"abstains {count} of {len(scores.signals)}: {said}"
        hatch = HATCHES[index % len(HATCHES)]
        entries.append(Patch(facecolor="#EFEFF2", edgecolor=SILENT, hatch=hatch, label=label))
    return entries


def _legend(figure: Figure, footage: Footage, scores: Scores, total_in: float) -> None:
    note_in = LINE_IN if footage.note else 0.0
    figure.legend(
        handles=_entries(footage, scores), loc="lower left", fontsize=8, ncol=_columns(scores),
        bbox_to_anchor=(0.07, (0.02 + note_in) / total_in), frameon=False, labelcolor=PALE,
        handlelength=2.6, columnspacing=1.6, borderaxespad=0.2,
    )  # fmt: skip
    if footage.note:
        figure.text(0.078, 0.06 / total_in, f"note: {footage.note}", size=8, color=PALE)
