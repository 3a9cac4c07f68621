"""Keyframes of an episode: where the gripper starts to move (James and Davison 2022).

One definition for what the bench records and what the trainer cuts from data sets.
"""

from __future__ import annotations

import numpy as np

GRIPPER_MOVES = 6.0
"""Change of the gripper's action from one step to the next, in its unit, that counts as moving."""


def next_keyframes(actions: np.ndarray, gripper: int = -1) -> np.ndarray:
    """int64[T] for actions float[T, A]: of each step the next one at which the gripper starts to move, else
    the last step."""
    jaw = actions[:, gripper]
    moving = np.abs(np.diff(jaw, append=jaw[-1])) > GRIPPER_MOVES
    begins = moving & ~np.concatenate([[False], moving[:-1]])
    steps = len(actions)
    following = np.where(begins, np.arange(steps), steps - 1)
    nearest: np.ndarray = np.minimum.accumulate(following[::-1])[::-1]
    return nearest
