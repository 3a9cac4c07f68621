"""A gamepad through pygame (SDL): sticks jog joints, buttons command. Needs no window."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

from contracts.errors import ConfigError, DeviceError, MissingDependency
from contracts.specs import ActionSpec
from runtime.operator.commands import Command
from runtime.teleoperation import Reading

AXES = (0, 1, 4, 3, 2, 5)
"""Joint by joint, the axis that moves it: as an Xbox pad numbers them, the left stick, the right one, the
triggers."""
TRIGGERS = (2, 5)
"""They say -1 when let go, and 0 until they are first touched (SDL does not know them before)."""
INVERTED = (1, 4)
"""A stick that is pushed away says -1."""
BUTTONS = {
    0: "success",
    1: "failure",
    2: "rerecord",
    3: "end",
    4: "hand_back",
    5: "take_over",
    6: "stop",
    7: "pause",
}
"""A, B, X, Y, the shoulder buttons, back and start."""
DEADZONE = 0.12
STILL_S = 0.7
"""A pad whose radio dies is one whose stick stands still: SDL keeps the last value and says that the pad is
gone when Bluetooth gives up (2 to 20 s), with some receivers never. SDL tells changes alone, so that a
trigger at its end is as still as a dead pad: moving anything on it lets it count again."""


class Gamepad:
    """`Teleoperator`. `axes`: of each joint in order (-1: none moves it); `triggers`: those among them that
    rest at one end of their way; `inverted`: axes that count the other way; `buttons`: commands by number;
    `index`: which pad; `still_s`: sticks and triggers count for so long after anything on the pad changed,
    then as let go; `now_s`: the clock. Raises `DeviceError` when it is unplugged: the arm then holds, and the
    pad is looked for again."""

    rate_hz = 60.0

    def __init__(
        self,
        spec: ActionSpec,
        axes: tuple[int, ...] = AXES,
        triggers: tuple[int, ...] = TRIGGERS,
        inverted: tuple[int, ...] = INVERTED,
        buttons: dict[int, str] | None = None,
        index: int = 0,
        deadzone: float = DEADZONE,
        still_s: float = STILL_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if not still_s > 0.0:
            raise ConfigError(
                "operator.teleoperator_options.still_s of a gamepad",
                expected="seconds above 0",
                found=still_s,
            )
        self._pygame = _pygame()
        self._still_s, self._now_s, self._heard_s = still_s, now_s, -math.inf
        self._axes = [*axes, *[-1] * len(spec.names)][: len(spec.names)]
        self._triggers, self._inverted, self._deadzone = set(triggers), set(inverted), deadzone
        self._buttons = {
            int(number): _command(name) for number, name in (buttons or BUTTONS).items()
        }
        self._pygame.event.pump()  # else a pad that was plugged in again is not counted
        found = self._pygame.joystick.get_count()
        if found <= index:
            raise DeviceError("no gamepad", expected=f"number {index}", found=f"{found} there")
        self._pad = self._pygame.joystick.Joystick(index)
        self.name: str = self._pad.get_name()
        self._down: set[int] = set()
        self._pygame.event.pump()
        self._first = [self._pad.get_axis(axis) for axis in range(self._pad.get_numaxes())]
        self._awake: set[int] = set()
        """Axes that count: a trigger since it moved, any other since it was at rest."""

    def read(self) -> Reading:
        now_s = self._now_s()
        for event in self._pygame.event.get():
            if getattr(event, "instance_id", None) != self._pad.get_instance_id():
                continue
            if event.type == self._pygame.JOYDEVICEREMOVED:
                raise DeviceError(f"the gamepad '{self.name}' is gone")
            self._heard_s = now_s
        count = self._pad.get_numbuttons()
        down = {n for n in self._buttons if n < count and self._pad.get_button(n)}
        pressed, self._down = down - self._down, down
        shares = tuple(self._share(axis) for axis in self._axes)
        if now_s - self._heard_s > self._still_s:
            shares = (0.0,) * len(shares)
        return Reading(shares=shares, commands=tuple(self._buttons[n] for n in sorted(pressed)))

    def close(self) -> None:
        self._pad.quit()

    def _share(self, axis: int) -> float:
        if not 0 <= axis < len(self._first):
            return 0.0
        value = float(self._pad.get_axis(axis))
        trigger = axis in self._triggers
        if value != self._first[axis] if trigger else abs(value) < self._deadzone:
            self._awake.add(axis)
        if axis not in self._awake:
            return 0.0
        if trigger:
            value = 0.5 * (value + 1.0)  # 0 let go, 1 pulled
        size = abs(value)
        if size < self._deadzone:
            return 0.0
        share = min(1.0, (size - self._deadzone) / (1.0 - self._deadzone))
        return share if (value > 0) != (axis in self._inverted) else -share


def _command(name: str) -> Command:
    if name.upper() not in Command.__members__:
        raise ConfigError(
            f"a gamepad's button can't mean '{name}'",
            expected=", ".join(command.name.lower() for command in Command),
        )
    return Command[name.upper()]


def _pygame() -> Any:
    # A pad needs no screen and no sound; events reach a process that has no window only if it says so.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
    except ImportError as error:
        raise MissingDependency(
            "a gamepad needs pygame: pip install 'entracte[gamepad]'"
        ) from error
    pygame.display.init()
    pygame.joystick.init()
    return pygame
