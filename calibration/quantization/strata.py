"""Which kind of moment a recorded step is, and how steps are chosen evenly over kinds. Pure.

A stratum is (task, quarter of the episode, light, gripper): what changes the range of a network's
activations on a robot, and what a random draw meets least (the hand in motion, the dark picture).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PHASES = ("first quarter", "second quarter", "third quarter", "last quarter")
LIGHTS = ("dark", "middle", "bright")
GRIPPERS = ("closed", "open", "moving")
NO_GRIPPER = "none"

DARK_BELOW = 100.0
BRIGHT_FROM = 138.0
"""Mean grey level: half a photographic stop either side of mid-grey (18 % reflectance, 118 in sRGB)."""
MOVING_PER_S = 20.0
"""A gripper that moves faster than this (percent of its travel a second) is opening or closing."""
OPEN_FROM = 50.0
"""Percent of its travel."""


@dataclass(frozen=True, order=True)
class Stratum:
    """One kind of moment. `task` is the data set's task string, the others are of the tuples above."""

    task: str
    phase: str
    light: str
    gripper: str


@dataclass(frozen=True, order=True)
class Step:
    """One recorded step: which data set (its index), episode and row of it."""

    source: int
    episode: int
    row: int


def phase_of(row: int, length: int) -> str:
    """Quarter of the episode that a row of `length` lies in."""
    return PHASES[min(4 * row // max(length, 1), 3)]


def light_of(picture: np.ndarray) -> str:
    """`LIGHTS` of uint8[H, W, 3] RGB by its mean luma (ITU-R BT.601 weights)."""
    red, green, blue = picture.reshape(-1, 3).mean(0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return LIGHTS[0] if luma < DARK_BELOW else LIGHTS[2] if luma >= BRIGHT_FROM else LIGHTS[1]


def grippers_of(travel: np.ndarray | None, rate_hz: float) -> list[str]:
    """`GRIPPERS` of every step from the gripper's position float[T] in percent; of `None`, nothing."""
    if travel is None:
        return []
    speed = np.gradient(travel.astype(np.float64)) * rate_hz if len(travel) > 1 else np.zeros(1)
    return [
        "moving" if abs(v) > MOVING_PER_S else "open" if at >= OPEN_FROM else "closed"
        for at, v in zip(travel, speed, strict=True)
    ]


def choose(
    candidates: Sequence[tuple[Step, Stratum]], count: int, rng: np.random.Generator
) -> list[tuple[Step, Stratum]]:
    """`count` of the candidates (all, if there are fewer), in order of their steps.

    Strata take turns, so that rare ones are as well represented as they can be; within a stratum the
    episode that gave the fewest steps so far is next. Ties fall by `rng`.
    """
    order = rng.permutation(len(candidates))
    waiting: dict[Stratum, list[int]] = {}
    for index in order:
        waiting.setdefault(candidates[index][1], []).append(int(index))
    given: Counter[tuple[int, int]] = Counter()
    chosen: list[int] = []
    while len(chosen) < min(count, len(candidates)):
        for stratum in sorted(waiting):
            if not waiting[stratum] or len(chosen) == count:
                continue
            index = min(waiting[stratum], key=lambda i: given[_episode(candidates[i][0])])
            waiting[stratum].remove(index)
            given[_episode(candidates[index][0])] += 1
            chosen.append(index)
    return sorted((candidates[index] for index in chosen), key=lambda pair: pair[0])


def _episode(step: Step) -> tuple[int, int]:
    return step.source, step.episode
