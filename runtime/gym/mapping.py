"""A robot's joints and pictures in an environment's observations, and its commands as actions.

Pure: spaces and observations are given. Whatever does not fit is one sentence that says what there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from contracts.errors import ConfigError, DeviceError, some_of
from runtime.gym.section import GymnasiumSection

WHERE = "bench.gymnasium"
_SHOWN = 12


def leaves(observation: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Every array of an observation by its names joined by dots; "" where it is one array itself."""
    if isinstance(observation, Mapping):
        found: dict[str, np.ndarray] = {}
        for name, value in observation.items():
            found |= leaves(value, f"{prefix}.{name}" if prefix else str(name))
        return found
    return {prefix: np.asarray(observation)}


def offers(found: Mapping[str, Any]) -> str:
    """What an environment has, in words: names, kinds and shapes of arrays, names of anything else."""
    said = [
        f"{name or 'one array'} {value.dtype}{list(value.shape)}"
        if isinstance(value, np.ndarray)
        else name
        for name, value in found.items()
    ]
    return some_of(said, _SHOWN) or "nothing"


def look_up(tree: Any, key: str) -> Any:
    """The value behind names joined by dots; a name that holds a dot itself is found as well. Raises
    `KeyError`."""
    if not key:
        return tree
    if isinstance(tree, Mapping):
        if key in tree:
            return tree[key]
        name, dot, rest = key.partition(".")
        if dot and name in tree:
            return look_up(tree[name], rest)
    raise KeyError(key)


class JointMap:
    """Positions float64[joints] out of observations, actions float[entries] out of targets."""

    def __init__(self, section: GymnasiumSection) -> None:
        joints = section.joints.values()
        self._names = tuple(section.joints)
        self._seen = [(joint.observation.key, joint.observation.index) for joint in joints]
        self._seen_scale = np.array([joint.observation.scale for joint in joints])
        self._seen_zero = np.array([joint.observation.zero for joint in joints])
        self._entries = np.array([joint.action.index for joint in joints])
        self._scale = np.array([joint.action.scale for joint in joints])
        self._zero = np.array([joint.action.zero for joint in joints])
        commands = [joint.action.command for joint in joints]
        self._steps = np.array([command == "step" for command in commands])
        self._pulls = np.array([command == "pull" for command in commands])
        self._commanded = np.zeros(len(self._names))
        self._low = self._high = np.zeros(0)
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def check(self, observation: Any, action_space: Any) -> None:
        """Raise `ConfigError` where a joint is not in the observation or not in the actions."""
        there = leaves(observation)
        for name, (key, index) in zip(self._names, self._seen, strict=True):
            array = there.get(key)
            if array is None:
                raise ConfigError(
                    f"{WHERE}.joints.{name}: the environment observes no '{key}'"
                    if key
                    else f"{WHERE}.joints.{name}.observation.key is empty",
                    expected=f"one of what it observes: {offers(there)}",
                )
            if not _has_entry(array, index):
                raise ConfigError(
                    f"{WHERE}.joints.{name}: no entry {index} in '{key or 'the observation'}'",
                    expected="an entry of a row of numbers",
                    found=offers({key: array}),
                )
        self._low = np.asarray(getattr(action_space, "low", ()), np.float64)
        self._high = np.asarray(getattr(action_space, "high", ()), np.float64)
        if self._low.ndim != 1 or not len(self._low):
            raise ConfigError(
                f"{WHERE}: actions of this environment can't be mapped",
                expected="a row of numbers (Box)",
                found=action_space,
            )
        self._dtype = np.dtype(action_space.dtype)
        for name, index in zip(self._names, self._entries, strict=True):
            if index >= len(self._low):
                raise ConfigError(
                    f"{WHERE}.joints.{name}: actions have no entry {index}",
                    expected=f"0 to {len(self._low) - 1}",
                    found=f"actions {action_space}",
                )

    def positions(self, observation: Any) -> np.ndarray:
        """float64[joints], in the joints' units. Raises `DeviceError` where an observation is no longer what
        was checked."""
        entries = []
        for name, (key, index) in zip(self._names, self._seen, strict=True):
            array: np.ndarray | None = None
            with contextlib.suppress(KeyError):
                array = np.asarray(look_up(observation, key))
            if array is None or not _has_entry(array, index):
                raise DeviceError(
                    f"{WHERE}.joints.{name}: observations have changed since the start",
                    expected=f"a row of numbers with an entry {index} in '{key or 'the observation'}'",
                    found=offers(leaves(observation)),
                    remedy="the environment must keep its observation space",
                )
            entries.append(array[index])
        positions: np.ndarray = self._seen_zero + self._seen_scale * np.array(entries, np.float64)
        return positions

    def begin(self, positions: np.ndarray) -> None:
        """A new scene, in which the joints stand so."""
        self._commanded = positions.copy()

    def action(self, targets: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The next action, float[entries], towards `targets` from `positions`; entries that move no joint are
        0, or the nearest that is allowed."""
        action = np.zeros(len(self._low))
        action[self._entries] = (targets - self._origin(positions)) / self._scale
        action = np.clip(action, self._low, self._high)
        moved = self._commanded + action[self._entries] * self._scale
        self._commanded = np.where(self._steps, moved, targets)
        return action.astype(self._dtype)

    def targets(self, action: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """float64[joints]: the positions that this action goes to from `positions`: `action` undone."""
        entries = np.clip(action, self._low, self._high)[self._entries]
        found: np.ndarray = self._origin(positions) + entries * self._scale
        return found

    def _origin(self, positions: np.ndarray) -> np.ndarray:
        """float64[joints]: what an action's entries are counted from."""
        return np.where(self._pulls, positions, np.where(self._steps, self._commanded, self._zero))


def _has_entry(array: np.ndarray, index: int) -> bool:
    """Whether it is a row of numbers, and long enough."""
    return array.ndim == 1 and array.dtype.kind in "fiu" and index < len(array)


def picture(found: Any, what: str, width: int, height: int) -> np.ndarray:
    """What is to be a camera's picture, checked: uint8[height, width, 3]. Raises `ConfigError`."""
    array = np.asarray(found)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        told = type(found).__name__ if array.dtype == object else offers({"": array})
        raise ConfigError(f"{what} is no picture", expected="uint8[height, width, 3]", found=told)
    if array.shape[:2] != (height, width):
        raise ConfigError(
            f"{what} has another size",
            expected=f"{width}x{height}, as configured",
            found=f"{array.shape[1]}x{array.shape[0]}",
            remedy="set width and height of the camera to it, or the environment's own options",
        )
    return array


def truth(info: Any, key: str) -> bool:
    """Whether `info` says that the task is done. Raises `ConfigError`, with what it has."""
    try:
        return bool(np.asarray(look_up(info, key)).reshape(()) > 0.5)
    except KeyError:
        names = {str(name): name for name in info} if isinstance(info, Mapping) else {}
        raise ConfigError(
            f"{WHERE}.success: info has no '{key}'", expected=f"one of {offers(names)}"
        ) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{WHERE}.success: '{key}' of info is no yes or no", found=str(look_up(info, key))
        ) from error
