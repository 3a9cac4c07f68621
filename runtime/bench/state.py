"""A snapshot of the bench's true state, as goals, experts and failures read it. Data only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runtime.bench.catalog import ObjectType


@dataclass(frozen=True)
class ObjectState:
    """position_m: float64[3] of the centre; rotation: float64[3, 3] body to world;
    speed_m_s: linear plus surface speed; held: both fingers touch it; touched: any part of the
    hand does."""

    type: ObjectType
    position_m: np.ndarray
    rotation: np.ndarray
    speed_m_s: float
    held: bool
    touched: bool

    @property
    def half_height_m(self) -> float:
        """Distance from the centre down to the lowest point, as it lies now."""
        h = self.type.half_m
        down = np.abs(self.rotation[2])
        if self.type.shape == "ball":
            return h[0]
        if self.type.shape == "cylinder":
            return h[2] * float(down[2]) + h[0] * math.sqrt(max(0.0, 1.0 - float(down[2]) ** 2))
        return float(down[0] * h[0] + down[1] * h[1] + down[2] * h[2])

    @property
    def bottom_m(self) -> float:
        return float(self.position_m[2]) - self.half_height_m

    @property
    def yaw_rad(self) -> float:
        return math.atan2(self.rotation[1, 0], self.rotation[0, 0])


@dataclass(frozen=True)
class BenchState:
    """fixture_open: its joint, 0 closed (lever: left) .. 1 open (right); 0 without a fixture.
    lit: the button's lamp. handle_m: float64[3], where the fixture is grasped; zeros without one."""

    time_s: float
    tip_m: np.ndarray
    gripper_pct: float
    objects: tuple[ObjectState, ...]
    fixture_open: float
    lit: bool
    handle_m: np.ndarray
    hand_speed_m_s: float = 0.0


@dataclass(frozen=True)
class Truth:
    """What is true now of the scene's goal.

    success has held for 0.3 s; progress in [0, 1] goes down on a drop or an undo; stage counts the
    goal's ordered stages that are done now; events: what has happened since reset, in order.
    """

    success: bool
    progress: float
    stage: int
    events: tuple[str, ...]
