"""Pass, warn or fail, each with its reasons. Owns the limits; what is measured is `quality`'s."""

from __future__ import annotations

from typing import Literal

import msgspec

from calibration.handeye.quality import CameraQuality

Level = Literal["pass", "warn", "fail"]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """(warn, fail) from these on. `interval_*`: the widest half-width of the 95 % intervals. `turn_deg`: the
    second largest spread of the hand's orientation, below. `size_share`: warns only: the half-width to which
    the arm's movements tell the board's size, beyond which a wrong one might pass."""

    interval_mm: tuple[float, float] = (5.0, 15.0)
    interval_deg: tuple[float, float] = (0.7, 2.0)
    corner_px: tuple[float, float] = (1.0, 3.0)
    held_out_px: tuple[float, float] = (3.0, 10.0)
    turn_deg: tuple[float, float] = (10.0, 0.5)
    stands: tuple[int, int] = (10, 4)
    left_out_share: tuple[float, float] = (0.15, 0.4)
    size_share: float = 0.02


class Verdict(msgspec.Struct, frozen=True):
    level: Level
    reasons: tuple[str, ...]


def judge(
    cameras: dict[str, CameraQuality],
    turns_deg: dict[str, float],
    left_out: int,
    stands: int,
    size_share: float,
    limits: Limits | None = None,
) -> Verdict:
    """`turns_deg`: by camera, `refusals.turns_deg`'s second; `left_out` of `stands` were not used;
    `size_share`: half-width of the board's measured size."""
    limits = limits or Limits()
    found: list[tuple[Level, str]] = []

    def judged(what: str, value: float, limit: tuple[float, float], unit: str, do: str) -> None:
        up = limit[0] < limit[1]
        if (value > limit[0]) if up else (value < limit[0]):
            level: Level = "fail" if ((value > limit[1]) if up else (value < limit[1])) else "warn"
            where = f"{'above' if up else 'below'} {limit[0]:g}, fail at {limit[1]:g}"
            found.append((level, f"{what} {value:.3g}{unit} (warn {where}): {do}"))

    more = "add stands that tilt the hand more"
    for name, one in cameras.items():
        judged(
            f"{name}: 95 % interval of its place",
            max(one.interval_mm),
            limits.interval_mm,
            " mm",
            more,
        )
        judged(
            f"{name}: 95 % interval of its turn",
            max(one.interval_deg),
            limits.interval_deg,
            " deg",
            more,
        )
        judged(
            f"{name}: median corner",
            one.corner_px.median,
            limits.corner_px,
            " px",
            "check focus, light and the camera's intrinsics",
        )
        judged(
            f"{name}: median of stands held out",
            one.held_out.pixels.median,
            limits.held_out_px,
            " px",
            "the arm is less exact than the pictures: let it settle, check its own calibration",
        )
        judged(f"{name}: second axis of rotation", turns_deg[name], limits.turn_deg, " deg", more)
        judged(f"{name}: stands", one.stands, limits.stands, "", "capture more")
    share = left_out / stands if stands else 1.0
    judged(
        "share of stands left out", share, limits.left_out_share, "", "look at those that are named"
    )
    if size_share > limits.size_share:
        text = (
            f"the board's size is told by the arm's movements to ± {100 * size_share:.1f} % only (warn above "
            f"{100 * limits.size_share:g}): squares of another size might pass: measure them, or add stands "
            "nearer and farther"
        )
        found.append(("warn", text))
    worst: Level = (
        "fail" if any(level == "fail" for level, _ in found) else "warn" if found else "pass"
    )
    return Verdict(worst, tuple(f"{level}: {text}" for level, text in found))
