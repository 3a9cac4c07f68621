"""Who shows an environment's task: other people's scripted controllers, by name, as a robot's targets.

`module:name` of a class or a function. It is called at the beginning of each episode, with the environment
itself if it takes an argument; what it returns is called with what the environment observed, or its
`get_action` or `act` is, and answers with an action.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from contracts.errors import ConfigError, DeviceError

Act = Callable[[Any], Any]
_NAMES = ("get_action", "act")


def find(name: str) -> Callable[..., Any]:
    """What `name` ("module:name") names. Raises `ConfigError`."""
    module, colon, attribute = name.partition(":")
    expected = "module:name of a class or function, as metaworld.policies:SawyerPushV3Policy"
    if not (module and colon and attribute):
        raise ConfigError("a task's expert", expected=expected, found=name)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the expert '{name}' is not there", expected=expected, found=str(error)
        ) from error
    if not callable(found):
        raise ConfigError(f"the expert '{name}' can't be called", expected=expected, found=found)
    made: Callable[..., Any] = found
    return made


def begin(maker: Callable[..., Any], env: Any) -> Act:
    """One who acts, new for an episode; `env` is what Gymnasium wraps. Raises `ConfigError`, and whatever
    `maker` raises."""
    try:
        parameters = inspect.signature(maker).parameters.values()
    except ValueError:  # C code says nothing of its arguments
        parameters = {}.values()
    needed = [
        one
        for one in parameters
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    made = maker(env) if needed else maker()
    for name in _NAMES:
        if callable(act := getattr(made, name, None)):
            acting: Act = act
            return acting
    if not callable(made):
        raise ConfigError(
            f"the expert '{getattr(maker, '__name__', maker)}' made one who can't act",
            expected=f"a callable, or one with {' or '.join(_NAMES)}",
            found=type(made).__name__,
        )
    called: Act = made
    return called


def action_of(answer: Any, entries: int) -> np.ndarray:
    """float64[entries]: an expert's answer, checked. Raises `DeviceError`."""
    try:
        action = np.asarray(answer, np.float64)
    except (TypeError, ValueError):
        action = np.zeros(0)
    if action.shape != (entries,) or not np.isfinite(action).all():
        raise DeviceError(
            "the expert's action", expected=f"a row of {entries} finite numbers", found=answer
        )
    return action
