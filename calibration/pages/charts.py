"""Charts of calibrations: numbers in, SVG markup out, drawn by matplotlib. Pure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calibration.rigid import Array
from contracts.errors import MissingDependency

INK, SOFT, FAINT = "#1d1f21", "#5d6368", "#d9dcdf"
BLUE, ORANGE, GREY = "#1f4e79", "#b4582a", "#8a9298"
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_ARROW = 0.03
"""Length of the median arrow over the picture's width."""


def residual_arrows(pixels: Array, residuals: Array, width: int, height: int) -> tuple[str, float]:
    """Where corners [K,2] were found and which way they miss [K,2], and how many times they are drawn too
    long."""
    axes, figure = _axes(4.6, 4.6 * height / width + 0.5)
    median = float(np.median(np.linalg.norm(residuals, axis=1)))
    times = _round(_ARROW * width / max(median, 1e-9))
    axes.quiver(
        pixels[:, 0], pixels[:, 1], *(times * residuals.T),
        angles="xy", scale_units="xy", scale=1, width=0.0022, color=BLUE, alpha=0.75,
    )  # fmt: skip
    _picture(axes, width, height)
    return _svg(figure), times


def cells(values: Array, width: int, height: int, most: float, unit: str) -> str:
    """float[rows, columns] over the picture, coloured from 0 to `most`, each cell's value in it."""
    axes, figure = _axes(4.6, 4.6 * height / width + 0.3)
    rows, columns = values.shape
    axes.imshow(
        values, extent=(0, width, height, 0), vmin=0, vmax=most, cmap="Blues", aspect="equal",
        interpolation="nearest",
    )  # fmt: skip
    for row, column in np.ndindex(rows, columns):
        value = float(values[row, column])
        axes.text(
            (column + 0.5) * width / columns, (row + 0.5) * height / rows,
            f"{value:.0f}" if unit == "" or value >= 10 else f"{value:.1f}",
            ha="center", va="center", fontsize=4.6,
            color="white" if value > 0.6 * most else INK,
        )  # fmt: skip
    _picture(axes, width, height)
    return _svg(figure)


def by_stand(values: Mapping[str, Sequence[float | None]], kinds: Sequence[str], unit: str) -> str:
    """A dot for each of `kinds` at every stand; None: no dot."""
    axes, figure = _axes(9.6, 2.9)
    places = np.arange(len(values))
    for index, (kind, colour) in enumerate(zip(kinds, (BLUE, GREY, ORANGE), strict=False)):
        heights = [np.nan if one[index] is None else one[index] for one in values.values()]
        axes.plot(places, heights, "o", markersize=4.5, color=colour, label=kind)
    axes.set_xticks(places, list(values), rotation=90, fontsize=7)
    axes.set_xlim(-0.7, len(values) - 0.3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.legend(
        loc="lower right", frameon=False, ncols=len(kinds), fontsize=8, bbox_to_anchor=(1, 1)
    )
    return _svg(figure)


def intervals(
    estimated: Sequence[float],
    resampled: Sequence[float] | None,
    limits: tuple[float, float],
    unit: str,
) -> str:
    """Half-widths of the 95 % intervals along the camera's three axes, with the limits of the verdict."""
    axes, figure = _axes(4.6, 2.6)
    places = np.arange(3)
    axes.bar(places - 0.18, estimated, 0.34, color=BLUE, label="from the estimate")
    if resampled is not None:
        axes.bar(places + 0.18, resampled, 0.34, color=ORANGE, label="by resampling stands")
    top = 1.25 * max(*estimated, *(resampled or ()), limits[0])
    for limit, name in zip(limits, ("warn", "fail"), strict=True):
        if limit < top:
            axes.axhline(limit, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(2.62, limit, name, va="center", fontsize=7.5, color=SOFT)
    axes.set_ylim(0, top)
    axes.set_xlim(-0.5, 2.6)
    axes.set_xticks(places, ["x (right)", "y (down)", "z (ahead)"])
    axes.set_ylabel(unit)
    axes.legend(loc="upper center", frameon=False, ncols=2, fontsize=8, bbox_to_anchor=(0.5, 1.2))
    return _svg(figure)


def turns(vectors_deg: Array, names: Sequence[str]) -> str:
    """How the hand was turned at each stand [N,3] (rotation vectors, degrees), along its principal axes."""
    axes, figure = _axes(4.6, 3.1)
    middle = vectors_deg - vectors_deg.mean(axis=0)
    _, _, principal = np.linalg.svd(middle, full_matrices=False)
    along = middle @ principal.T
    axes.axhline(0, color=FAINT, linewidth=0.7)
    axes.axvline(0, color=FAINT, linewidth=0.7)
    axes.plot(along[:, 0], along[:, 1], "o", markersize=4.5, color=BLUE)
    for (x, y), name in zip(along[:, :2], names, strict=True):
        axes.annotate(name, (x, y), (3, 3), textcoords="offset points", fontsize=6.5, color=SOFT)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("turn about the first axis, degrees")
    axes.set_ylabel("about the second")
    return _svg(figure)


def require_matplotlib() -> Any:
    """The module `matplotlib.figure`. Raises `MissingDependency`."""
    try:
        from matplotlib import figure
    except ImportError as error:
        raise MissingDependency(
            "a report's charts need matplotlib", remedy="pip install 'entracte[calibration]'"
        ) from error
    return figure


def _axes(width: float, height: float) -> tuple[Any, Any]:
    """Axes and figure of this size in inches."""
    figure = require_matplotlib().Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelsize=8)
    axes.xaxis.label.set(color=SOFT, fontsize=8.5)
    axes.yaxis.label.set(color=SOFT, fontsize=8.5)
    return axes, figure


def _picture(axes: Any, width: int, height: int) -> None:
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
        axes.spines[side].set_color(SOFT)
    axes.set_xlabel("pixels")


def _round(value: float) -> float:
    """The nearest of 1, 2, 5, 10, ... below."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step for step in (1, 2, 5) if step * power <= value) * power)


def _svg(figure: Any) -> str:
    import matplotlib

    written = io.StringIO()
    # Text as text, and the same numbers give the same page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "entracte"}):
        figure.savefig(written, format="svg", metadata=_NO_METADATA)
    markup = written.getvalue()
    return markup[markup.index("<svg") :]
