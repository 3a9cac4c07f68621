"""By how much one signal comes after another that causes it, to a part of a sample. Pure numpy.

UMI (Chi et al. 2024, appendix) shifts one curve over the other until they correlate most. Here the cause may
have several channels (joints) and the effect others (pixels), with an unknown linear map between them: for
each delay the effect is regressed on the cause, and the delay that explains most is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import EntracteError

Array = npt.NDArray[np.float64]

MIN_SAMPLES = 40
MIN_EXPLAINED = 0.5
"""Of the effect's variance, by the cause at its best delay: below it the two are not the same movement."""
_COARSE_S = 0.005
_FINE_S = 0.0005
_BLOCKS = 8
_RIDGE = 1e-9


class DelayError(EntracteError):
    """These signals tell no delay."""


@dataclass(frozen=True)
class Delay:
    """`seconds` ± `half_width_s` (95 %, by leaving out an eighth of the record at a time); `explained`: share
    of the effect's variance."""

    seconds: float
    half_width_s: float
    explained: float


def delay_of(
    cause_s: Array, cause: Array, effect_s: Array, effect: Array, longest_s: float = 0.5
) -> Delay:
    """`cause` [N,J] at `cause_s` [N] and `effect` [M,K] at `effect_s` [M], seconds of one clock, increasing.
    The delay is sought from 0 (less a coarse step) to `longest_s`. Raises `DelayError`."""
    _check(cause_s, cause, effect_s, effect)
    keep = (effect_s >= cause_s[0] + longest_s) & (effect_s <= cause_s[-1])
    if keep.sum() < MIN_SAMPLES:
        raise DelayError(
            "too little of the movement was seen",
            expected=f"{MIN_SAMPLES} readings after the first {longest_s:g} s",
            found=int(keep.sum()),
            remedy="move for longer, or look for a shorter delay",
        )
    when, what = effect_s[keep], effect[keep]
    coarse: Array = np.arange(-_COARSE_S, longest_s + _COARSE_S, _COARSE_S, np.float64)
    best, explained = _best(cause_s, cause, when, what, coarse)
    if explained < MIN_EXPLAINED:
        raise DelayError(
            "the two don't show the same movement",
            expected=f"{100 * MIN_EXPLAINED:.0f} % of it explained at some delay",
            found=f"{100 * explained:.0f} % at {1e3 * best:.0f} ms",
            remedy="move more of the arm in the camera's sight, and nothing else",
        )
    if best >= coarse[-1] - _COARSE_S or best <= coarse[0]:
        raise DelayError(
            "the delay lies outside what was looked for",
            expected=f"0 to {1e3 * longest_s:.0f} ms",
            found=f"{1e3 * best:.0f} ms",
            remedy="look for a longer one; a negative one means clocks that differ",
        )
    fine: Array = best + np.arange(-2 * _COARSE_S, 2 * _COARSE_S, _FINE_S, np.float64)
    seconds, explained = _best(cause_s, cause, when, what, fine)
    # Jackknife over blocks: neighbouring samples are alike, so that single ones would promise too much.
    blocks = np.array_split(np.arange(len(when)), _BLOCKS)
    without = []
    for block in blocks:
        kept = np.setdiff1d(np.arange(len(when)), block)
        without.append(_best(cause_s, cause, when[kept], what[kept], fine)[0])
    spread = np.sqrt((_BLOCKS - 1) / _BLOCKS * np.sum((np.array(without) - np.mean(without)) ** 2))
    # 2.36: Student's t, 7 degrees of freedom; and never finer than the grid.
    return Delay(seconds, max(2.36 * float(spread), _FINE_S), explained)


def _best(
    cause_s: Array, cause: Array, when: Array, what: Array, delays: Array
) -> tuple[float, float]:
    shares = [_explained(cause_s, cause, when - delay, what) for delay in delays.tolist()]
    at = int(np.argmax(shares))
    seconds = float(delays[at])
    if 0 < at < len(delays) - 1:  # the top of a parabola through three
        left, top, right = shares[at - 1 : at + 2]
        bend = left - 2 * top + right
        if bend < 0:
            seconds += float(delays[1] - delays[0]) * 0.5 * (left - right) / bend
    return seconds, float(shares[at])


def _explained(cause_s: Array, cause: Array, when: Array, what: Array) -> float:
    columns = [np.interp(when, cause_s, cause[:, joint]) for joint in range(cause.shape[1])]
    x = np.stack([*columns, np.ones(len(when))], axis=1)
    x = x / np.maximum(np.linalg.norm(x, axis=0), 1e-12)
    y = what - what.mean(axis=0)
    weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ y)
    return float(1.0 - ((y - x @ weights) ** 2).sum() / max((y**2).sum(), 1e-30))


def _check(cause_s: Array, cause: Array, effect_s: Array, effect: Array) -> None:
    for name, at, values in (("cause", cause_s, cause), ("effect", effect_s, effect)):
        if values.ndim != 2 or len(at) != len(values) or len(at) < MIN_SAMPLES:
            raise DelayError(
                f"readings of the {name}",
                expected=f"{MIN_SAMPLES} or more, each with its time",
                found=f"{values.shape} at {len(at)} times",
            )
        if not (np.isfinite(at).all() and np.isfinite(values).all() and (np.diff(at) > 0).all()):
            raise DelayError(f"readings of the {name}", expected="finite, times that increase")
    if not effect.std(axis=0).max() > 0 or not cause.std(axis=0).max() > 0:
        raise DelayError("nothing moved", remedy="is the arm powered, and in the camera's sight?")
