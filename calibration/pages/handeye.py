"""What stands on the page of a hand-eye calibration."""

from __future__ import annotations

import numpy as np

from calibration import rigid
from calibration.handeye.estimate import Estimate
from calibration.handeye.quality import CameraQuality, Spread
from calibration.handeye.result import CameraResult, Result, zeros_text
from calibration.handeye.samples import Setup
from calibration.handeye.verdict import Limits
from calibration.pages import charts
from calibration.pages.page import Figure, Page, Section, Table
from calibration.shots import Shots

_KINDS = (
    "arm where it most likely was",
    "arm at its word",
    "held out, arm at its word",
)


def page_of(result: Result, shots: Shots, setup: Setup, found: Estimate) -> Page:
    """`setup` and `found` are what `result` was made from."""
    measured = (
        "measured with the rest" if result.size_measured else "checked by the arm's movements"
    )
    share, half = (100 * value for value in result.size)
    facts = (
        ("arm", shots.arm or "not named"),
        ("stands used", f"{len(result.stands)} of {len(shots.shots)}"),
        ("noise of a corner", f"{result.pixels:.2f} px"),
        ("arm inexact, per axis", f"{result.arm_mm:.2f} mm and {result.arm_deg:.2f} degrees"),
        ("board's size over the stated", f"{share:.2f} % ± {half:.2f} ({measured})"),
        *zeros_text(result),
    )
    sections = [_camera(name, one, shots, setup, found) for name, one in result.cameras.items()]
    sections.append(_hand(setup, found))
    if result.not_used:
        rows = tuple((one,) for one in result.not_used)
        sections.append(Section("Not used", tables=(Table(("view or stand, and why",), rows),)))
    names = ", ".join(result.cameras)
    return Page(
        f"Where is {names}?" if len(result.cameras) == 1 else f"Where are {names}?",
        result.verdict.level,
        result.verdict.reasons,
        facts,
        tuple(sections),
    )


def _camera(
    name: str, camera: CameraResult, shots: Shots, setup: Setup, found: Estimate
) -> Section:
    one, limits = camera.quality, Limits()
    lens = shots.cameras[name].lens
    used = {sample.name: sample.views for sample in setup.samples}
    at, off = [], []
    for stand, residuals in zip(found.stands, found.own, strict=True):
        if name in residuals:
            at.append(used[stand][name].pixels)
            off.append(residuals[name])
    arrows, times = charts.residual_arrows(
        np.concatenate(at), np.concatenate(off), lens.width, lens.height
    )
    each = {
        stand: (value.corner_px, value.stated_px, value.held_out_px)
        for stand, value in one.each.items()
    }
    figures = (
        Figure(
            arrows,
            f"Every corner that was found, and by how much the estimate misses it, {times:g} times as long. "
            "Arrows that turn about the middle or all point outwards are a lens that does not hold: "
            "check it with robot-calibrate intrinsics.",
        ),
        Figure(
            charts.intervals(one.interval_mm, one.bootstrap_mm, limits.interval_mm, "mm"),
            "Half-widths of the 95 % intervals of the camera's place, along its own axes. Where resampling "
            "says much more, a few stands hold the answer together.",
        ),
        Figure(
            charts.by_stand(each, _KINDS, "mean corner, px"),
            "By stand. A single stand that is far off with the arm at its word was misreported by the arm "
            "(it weighs little); all of them far off is an arm that is inexact everywhere.",
            wide=True,
        ),
    )
    frame = "hand" if camera.mount == "hand" else "base"
    place = ", ".join(f"{1e3 * row[3]:.1f}" for row in camera.pose[:3])
    return Section(
        f"Camera {name}",
        f"{frame}_T_camera is at {place} mm, seen from {one.stands} stands.",
        figures,
        (_misses(one), _intervals(one), _solvers(one), _pose(camera)),
    )


def _misses(one: CameraQuality) -> Table:
    def row(name: str, spread: Spread, unit: str) -> tuple[str, ...]:
        return (name, *(f"{value:.2f} {unit}" for value in (spread.median, spread.p90, spread.max)))

    return Table(
        ("how far off", "median", "p90", "largest"),
        (
            row("corners, arm where it most likely was", one.corner_px, "px"),
            row("corners, arm at its word", one.reprojection_px, "px"),
            row("stands held out: mean corner", one.held_out.pixels, "px"),
            row("stands held out: the board's place", one.held_out.mm, "mm"),
            row("stands held out: the board's turn", one.held_out.degrees, "°"),
            row("pairs of stands (AX = XB): place", one.pairs_mm, "mm"),
            row("pairs of stands (AX = XB): turn", one.pairs_deg, "°"),
        ),
    )


def _intervals(one: CameraQuality) -> Table:
    def row(name: str, values: tuple[float, float, float] | None, unit: str) -> tuple[str, ...]:
        cells = ("not resampled",) * 3 if values is None else (f"± {v:.2f} {unit}" for v in values)
        return (name, *cells)

    return Table(
        ("95 % interval, axes of the camera", "x", "y", "z"),
        (
            row("place, from the estimate", one.interval_mm, "mm"),
            row("place, by resampling stands", one.bootstrap_mm, "mm"),
            row("turn, from the estimate", one.interval_deg, "°"),
            row("turn, by resampling stands", one.bootstrap_deg, "°"),
        ),
    )


def _solvers(one: CameraQuality) -> Table:
    rows = []
    for method, solver in one.solvers.items():
        if solver.mm is None or solver.degrees is None or solver.pixels is None:
            rows.append((method, solver.refused, "", ""))
        else:
            rows.append(
                (
                    method,
                    f"{solver.mm:.1f} mm",
                    f"{solver.degrees:.2f} °",
                    f"{solver.pixels:.2f} px",
                )
            )
    head = ("OpenCV's solver on the same corners", "place from ours", "turn", "its median corner")
    return Table(head, tuple(rows))


def _pose(camera: CameraResult) -> Table:
    frame = "hand" if camera.mount == "hand" else "base"
    rows = tuple(("", *(f"{value:.6f}" for value in row)) for row in camera.pose)
    return Table((f"{frame}_T_camera, metres", "x", "y", "z", "place"), rows)


def _hand(setup: Setup, found: Estimate) -> Section:
    samples = [sample for sample in setup.samples if sample.name in found.stands]
    first = samples[0].base_T_hand[:3, :3]
    vectors = np.array([rigid.turn_of(first.T @ one.base_T_hand[:3, :3]) for one in samples])
    turns = charts.turns(np.degrees(vectors), [sample.name for sample in samples])
    return Section(
        "How the hand turned",
        "Hand-eye calibration lives from turning about at least two axes. Stands on a line here turned "
        "about one only, and leave the place of the camera along that axis to chance.",
        (
            Figure(
                turns,
                "Each stand's turn from the first one, along the two axes they spread most in.",
            ),
        ),
    )
