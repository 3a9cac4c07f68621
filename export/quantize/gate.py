"""What a quantised package must pass before it exists: actions on held-out observations, success.

The limits are defaults with reasons, not laws: both are options of `robot-export quantize`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from contracts.errors import CheckFailed
from export.parity.bench import POINTS, Z_95, ClosedLoop
from export.quantize.chain import RangeError, worst

ACTION_LIMIT = 2.0
"""Percent of a joint's range, p99: 4.4 degrees of an SO-101's base, about a third of what one step of its
chunk may move it (120 degrees/s at 10 Hz). Two noises drawn for the same observation differ by more: see
`own_spread` in the report."""
SUCCESS_LIMIT = POINTS
"""The interval of the paired difference must lie above minus this: a policy that lost more is found out, one
that lost nothing passes (with what probability, `power` says)."""
_KEEP = "leave more layers in float32 (--keep-float)"


class QuantizationRefused(CheckFailed):
    """The quantised package is not as good as its float32 parent; nothing was written."""


def require_actions(
    errors: Sequence[RangeError], limit: float, what: str, precision: str = "int8"
) -> None:
    """Raise `QuantizationRefused` naming the worst joint unless every p99 is finite and within `limit`
    percent."""
    one = worst(errors)
    if not all(math.isfinite(error.p99) and error.p99 <= limit for error in errors):
        raise QuantizationRefused(
            f"{what} moves {one.name} too far on held-out observations",
            expected=f"p99 <= {limit:g} % of its range",
            found=f"{one.p99:.2f} %",
            remedy="draw a calibration set that covers what the robot meets, leave more layers in float32 "
            "(--keep-float) or use --precision fp16"
            if precision == "int8"
            else _KEEP,
        )


def require_success(found: ClosedLoop, limit: float, what: str, precision: str = "int8") -> None:
    """Raise `QuantizationRefused` unless the interval of the difference lies above -`limit` points."""
    if not 100.0 * found.low > -limit:
        raise QuantizationRefused(
            f"{what} may lose more than {limit:g} points of success",
            expected=f"interval of the paired difference above -{limit:g} points",
            found=f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}] over "
            f"{found.episodes} pairs",
            remedy=_remedy(found, limit, precision),
        )


def _remedy(found: ClosedLoop, limit: float, precision: str) -> str:
    if found.holds and 100.0 * found.difference > -limit:
        return "the interval is as wide as that for lack of pairs: run more --episodes"
    return _KEEP + (" or use --precision fp16" if precision == "int8" else "")


def power(discordant: float, episodes: int, limit: float) -> float:
    """Probability (normal approximation) that a package that lost nothing passes `require_success`, when a
    share `discordant` of the pairs falls differently."""
    error = 100.0 * math.sqrt(max(discordant, 1.0 / episodes) / episodes)
    return NormalDist().cdf(limit / error - Z_95)
