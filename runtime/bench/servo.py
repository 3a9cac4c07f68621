"""A simulated Feetech STS3215: its memory table and how its horn moves. No bus, no clock of its own."""

from __future__ import annotations

import math

from runtime.arms import sts
from runtime.arms.sts import Register

MAX_SPEED = 3070.0
"""Steps/s without load at 12 V: 0.222 s for 60 degrees (Feetech's data sheet of the STS3215)."""
_STEP_S = 0.002
_MEMORY_S = 2.0
"""Longer gaps without anybody asking are not integrated: it has long arrived by then."""


class Servo:
    """Moves towards its goal with its own speed and acceleration while torque is on. Without torque it stays
    where it is, or sinks towards `sinks_to` (steps): a raised joint without power."""

    def __init__(self, number: int, position: int = 2047, now_s: float = 0.0) -> None:
        self.memory = bytearray(128)
        self.id = number
        self.silent = False
        """Dead: answers nothing and holds nothing."""
        self.errors = 0
        self.pushed = 0.0
        """Speed in steps/s at which somebody else moves it while it has no torque."""
        self.sinks_to: float | None = None
        self.heating_c = 0.0
        self.stop_at: float | None = None
        """Position beyond which it can't close: something is in the way."""
        self.sag = 0.0
        """Steps by which it stands below its goal under load."""
        self.powered = self.let_go = 0
        """How often it was given power, and how often that was taken away."""
        self.stale_goal = False
        """Given power, it goes for the goal of long ago. LeRobot relies on servos that don't: it powers them
        without naming a goal."""
        self._position, self._velocity, self._now_s = float(position), 0.0, now_s
        for register, value in (
            (sts.FIRMWARE, 3 | 10 << 8),
            (sts.MODEL_NUMBER, sts.MODEL_STS3215),
            (Register(5, 1), number),
            (sts.RETURN_DELAY, 250),
            (sts.STATUS_LEVEL, 1),
            (sts.MAX_POSITION, 4095),
            (sts.MAX_TEMPERATURE, 70),
            (sts.MAX_VOLTAGE, 140),
            (sts.MIN_VOLTAGE, 95),
            (sts.MAX_TORQUE, 1000),
            (sts.P_GAIN, 32),
            (sts.D_GAIN, 32),
            (sts.PROTECTION_CURRENT, 500),
            (sts.OVERLOAD_TORQUE, 80),
            (sts.LOCK, 1),
            (sts.PRESENT_VOLTAGE, 121),
            (sts.PRESENT_TEMPERATURE, 31),
            (sts.MAX_ACCELERATION, 254),
        ):
            self.set(register, value)
        self._show()

    def get(self, register: Register) -> int:
        return register.decode(self.memory[register.address : register.address + register.size])

    def set(self, register: Register, value: int) -> None:
        self.memory[register.address : register.address + register.size] = bytes(
            register.encode(value)
        )

    @property
    def torque(self) -> bool:
        return self.get(sts.TORQUE_ENABLE) == 1

    @property
    def position(self) -> float:
        return self._position

    def write(self, address: int, data: bytes) -> None:
        """As an instruction writes it. A new goal powers the motor, as these servos do: whoever must not
        move an arm must not even name a goal."""
        was_powered = self.torque
        self.memory[address : address + len(data)] = data
        goal = sts.GOAL_POSITION.address
        if address <= goal < address + len(data):
            self.set(sts.TORQUE_ENABLE, 1)
        elif self.torque and not was_powered and not self.stale_goal:
            self.set(sts.GOAL_POSITION, round(self._position))
        self.powered += self.torque and not was_powered
        self.let_go += was_powered and not self.torque

    def advance(self, now_s: float) -> None:
        """Let time pass up to `now_s`."""
        self._now_s = max(self._now_s, now_s - _MEMORY_S)
        while (left_s := now_s - self._now_s) > 1e-9:
            step_s = min(_STEP_S, left_s)
            self._move(step_s)
            self._now_s += step_s
        self._show()

    def _move(self, dt: float) -> None:
        if self.silent or not self.torque:
            speed = self.pushed
            if self.sinks_to is not None and abs(self.sinks_to - self._position) > 1.0:
                speed = math.copysign(400.0, self.sinks_to - self._position)
            self._velocity = speed
            self._position += speed * dt
            return
        low, high = self.get(sts.MIN_POSITION), self.get(sts.MAX_POSITION)
        goal = min(max(self.get(sts.GOAL_POSITION), low), high)
        limit = min(self.get(sts.GOAL_VELOCITY) or MAX_SPEED, MAX_SPEED)
        most = 100.0 * (self.get(sts.ACCELERATION) or 254)
        error = goal - self._position
        # The fastest speed from which it can still stop at the goal after this step, however long the next.
        safe = most * (math.sqrt(dt * dt + 2.0 * abs(error) / most) - dt)
        wanted = math.copysign(min(limit, safe), error)
        change = min(max(wanted - self._velocity, -most * dt), most * dt)
        self._velocity += change
        moved = self._velocity * dt
        if abs(moved) >= abs(error) and abs(self._velocity) <= most * dt + 1e-9 + abs(wanted):
            self._position, self._velocity = float(goal), 0.0
        else:
            self._position += moved
        if self.stop_at is not None and self._position < self.stop_at:
            self._position, self._velocity = self.stop_at, 0.0

    def _show(self) -> None:
        self.set(sts.PRESENT_POSITION, round(self._position - self.sag))
        self.set(sts.PRESENT_VELOCITY, round(self._velocity))
        load = min(1000, round(abs(self._velocity) / MAX_SPEED * 300)) if self.torque else 0
        self.set(sts.PRESENT_LOAD, int(math.copysign(load, self._velocity)) if load else 0)
        self.set(sts.PRESENT_TEMPERATURE, min(99, round(31 + self.heating_c)))
