"""What is done to a video's time: which of its rows are shown, in which order. Pure.

A video is N rows at a fixed rate; an edit gives int64[M] rows of it. Labels are not decided here.
"""

from __future__ import annotations

import numpy as np


def resampled(frames: int, rate_hz: float, fps: int, longest_s: float) -> np.ndarray:
    """Rows that show `frames` at `rate_hz` as `fps` frames a second, the first and last always in; a video
    longer than `longest_s` is played faster to fit."""
    span = (frames - 1) / rate_hz
    count = max(2, round(min(span, longest_s) * fps) + 1)
    return np.floor(np.linspace(0, frames - 1, count) + 0.5).astype(np.int64)


def clipped(rows: np.ndarray, fraction: float) -> np.ndarray:
    """The first `fraction` of the way, at least two rows."""
    last = max(1, round(fraction * (len(rows) - 1)))
    return rows[: last + 1]


def held(rows: np.ndarray, length: int) -> np.ndarray:
    """`rows`, the last one held until there are `length`: as long as a success, and not one."""
    return np.concatenate([rows, np.repeat(rows[-1:], max(0, length - len(rows)))])


def rewound(rows: np.ndarray, turn: float, end: float) -> np.ndarray:
    """Forward to fraction `turn` of the way, then backward to `end` (as ReWiND does, arXiv:2505.10911)."""
    at, last = (max(1, round(f * (len(rows) - 1))) for f in (turn, end))
    return np.concatenate([rows[: at + 1], rows[last:at][::-1]])


def paused(rows: np.ndarray, at: float, count: int) -> np.ndarray:
    """The row at fraction `at` held for `count` more rows."""
    place = round(at * (len(rows) - 1))
    return np.insert(rows, place, np.repeat(rows[place], count))


def at_speed(rows: np.ndarray, factor: float) -> np.ndarray:
    """Played `factor` times as fast, the first and last row always in."""
    count = max(2, round((len(rows) - 1) / factor) + 1)
    return rows[np.floor(np.linspace(0, len(rows) - 1, count) + 0.5).astype(np.int64)]
