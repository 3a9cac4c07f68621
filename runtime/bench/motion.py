"""Smooth joint trajectories at the control rate: smooth timing within speed limits.

Pure functions of joint positions, float64[6] deg and %, one row for each control tick.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from runtime.bench import arm
from runtime.bench.arm import TipPose

TICK_S = 0.1
# Below the safety gate's limits (90 deg/s, 600 deg/s^2, 200 %/s), so that it never has to clip.
SPEED_LIMIT = np.array([80.0, 80.0, 80.0, 80.0, 85.0, 185.0])
ACCELERATION_LIMIT = np.array([520.0, 520.0, 520.0, 520.0, 520.0, 2500.0])

# Of the cubic below, relative to way / time and way / time^2. A minimum-jerk profile is smoother
# but needs a quarter more time for the same peak speed, and a servo at 10 Hz cannot tell.
_PEAK_SPEED = 1.5
_PEAK_ACCELERATION = 6.0


def ease(share: float) -> float:
    """Position, 0..1, at a share 0..1 of the time: at rest at both ends."""
    return share * share * (3.0 - 2.0 * share)


def joint_move(start: np.ndarray, end: np.ndarray, speed: float) -> np.ndarray:
    """Rows float64[n, 6] from start (not included) to end; all joints arrive together.

    speed: share of the limits in (0, 1].
    """
    way = np.abs(end - start)
    by_speed = float((_PEAK_SPEED * way / (SPEED_LIMIT * speed)).max())
    by_acceleration = float(np.sqrt(_PEAK_ACCELERATION * way / ACCELERATION_LIMIT).max())
    ticks = max(1, math.ceil(max(by_speed, by_acceleration) / TICK_S - 1e-6))
    shares = np.array([ease(k / ticks) for k in range(1, ticks + 1)])
    return np.asarray(start + shares[:, None] * (end - start))


def traced_move(
    start: np.ndarray, path: Callable[[float], TipPose], gripper_pct: float, speed: float
) -> np.ndarray:
    """Rows float64[n, 6] that lead the fingertips along path(0..1), as fast as the limits allow.

    Raises:
        arm.Unreachable: a point of the path is out of reach.
    """
    end = _solve(start, path(1.0), gripper_pct)
    ticks = len(joint_move(start, end, speed))
    for _ in range(6):
        rows = [start]
        for k in range(1, ticks + 1):
            share = ease(k / ticks)
            jaw = start[5] + share * (gripper_pct - start[5])
            rows.append(_solve(rows[-1], path(share), jaw))
        moves = np.diff(np.array(rows), axis=0)
        fast = float((np.abs(moves) / TICK_S / (SPEED_LIMIT * speed)).max())
        padded = np.vstack([np.zeros(6), moves, np.zeros(6)])
        jerky = np.abs(np.diff(padded, axis=0)) / TICK_S**2 / ACCELERATION_LIMIT
        excess = max(fast, math.sqrt(float(jerky.max())))
        if excess <= 1.02:
            break
        ticks = math.ceil(ticks * min(excess, 2.0))
    return np.array(rows[1:])


def _solve(near: np.ndarray, pose: TipPose, gripper_pct: float) -> np.ndarray:
    return arm.inverse(pose, gripper_pct, roll_near_deg=float(near[4]))


class SlewLimiter:
    """The last word on what an expert commands: bounded speed and acceleration between ticks."""

    def __init__(self, start: np.ndarray) -> None:
        self._last = np.array(start, dtype=float)
        self._speed = np.zeros(6)

    def limit(self, target: np.ndarray) -> np.ndarray:
        """The allowed next command, float64[6], as near to target as the limits permit."""
        wanted = (target - self._last) / TICK_S
        change = ACCELERATION_LIMIT * TICK_S * 1.05
        speed = np.clip(wanted, self._speed - change, self._speed + change)
        speed = np.clip(speed, -SPEED_LIMIT * 1.05, SPEED_LIMIT * 1.05)
        self._last = np.clip(self._last + speed * TICK_S, arm.LOWER, arm.UPPER)
        self._speed = speed
        return self._last.copy()
