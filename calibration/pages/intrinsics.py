"""What stands on the page of an intrinsic calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from calibration.intrinsics import Fit, counts
from calibration.pages import charts
from calibration.pages.page import Figure, Page, Section, Table
from calibration.rigid import Array

_NAMES = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3")


def page_of(
    camera: str, found: Fit, cells: Mapping[str, Array], level: str, reasons: tuple[str, ...]
) -> Page:
    """`cells`, pixels over the picture: "unsure" (two deviations), "halves", "factory"."""
    lens = found.lens
    size = lens.width, lens.height
    most = max(0.5, float(np.quantile(np.concatenate([c.ravel() for c in cells.values()]), 0.9)))
    arrows, times = charts.residual_arrows(found.pixels, found.residuals, *size)
    seen = counts(found.pixels, lens)

    def drawn(name: str, caption: str) -> Figure:
        return Figure(charts.cells(cells[name], *size, most, "px"), caption)

    figures = (
        Figure(
            arrows,
            f"Every corner that was found, and by how much the lens misses it, {times:g} times as long. "
            "A pattern is something that this lens can't say; noise points everywhere.",
        ),
        Figure(
            charts.cells(seen, *size, float(seen.max()), ""),
            "Corners in each part of the picture. What was not seen is not known.",
        ),
        drawn("unsure", "How unsure the lens is: two standard deviations, in pixels."),
        drawn(
            "halves",
            "By how much two halves of the pictures disagree: what another session would have said.",
        ),
        drawn("factory", "How far the lens that the capture names (the factory's) is from it."),
    )
    deviations = np.sqrt(np.diag(found.covariance))
    values = (lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion)
    digits = (2,) * 4 + (5,) * 5
    rows = tuple(
        (name, f"{value:.{d}f}", f"± {2 * float(deviation):.{d}f}")
        for name, value, deviation, d in zip(_NAMES, values, deviations, digits, strict=True)
    )
    sections = [
        Section(
            "Over the picture",
            "Lenses are compared by what they say of the same pixels, after the rotation that makes them "
            "agree best, and the maps of pixels share one scale of colours.",
            figures,
        ),
        Section("The lens", tables=(Table(("OpenCV's numbers, pixels", "value", "95 %"), rows),)),
    ]
    if found.views.left_out:
        rows_out = tuple((one,) for one in found.views.left_out)
        sections.append(Section("Not used", tables=(Table(("picture, and why",), rows_out),)))
    facts = (
        ("pictures used", str(len(found.views.names))),
        ("corners", str(len(found.pixels))),
        ("noise of a corner, per axis", f"{found.noise:.2f} px"),
        ("share of the picture's cells seen", f"{100 * found.covered:.0f} %"),
        ("resolution", f"{lens.width} × {lens.height}"),
    )
    return Page(f"The lens of {camera}", level, reasons, facts, tuple(sections))
