"""The SO-101 (and SO-100): six STS3215 servos on one bus, calibrated with LeRobot.

Owns what makes a bus an arm: which servo is which joint, units, what is read back of what was written, and
when power may be given. Bytes and retries are `feetech_bus`'s, fencing and timeouts the server's.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contracts.errors import ConfigError, DeviceError
from contracts.specs import SO101_JOINTS, ActionSpec, is_gripper
from runtime.arms import ArmState, Glitch, so101_setup, sts
from runtime.arms.feetech_bus import FeetechBus
from runtime.arms.so101_calibration import IDS, JOINTS, Units, read_calibration
from runtime.arms.so101_replies import SLOW_STEPS_S, Replies
from runtime.arms.so101_setup import named
from runtime.arms.sts import Reading
from runtime.run import Run

KEEP_GOAL_STEPS = 34
"""3 degrees. A still servo this near its goal keeps it in hold: told to hold where it sags to, it would sag
again. Measured under load: 20 to 30 steps (TheRobotStudio/SO-ARM100, issue 134)."""
GRIPPER = IDS["gripper"]
GOAL_TRIES = 3
HOLD_TRIES = 5
POWER_GAP_S = 1.0
"""A servo without torque for longer gets none from a hold: its supply was cut, not gone for a moment. What
gives it back (an emergency stop that is reset) must not power the arm."""


class So101:
    """`Driver`. Options:

    `port`, `calibration` (LeRobot's file), `baud`; `normalised`: joints in percent of their range, as with
    LeRobot's `use_degrees: false`; `velocity_deg_s`, `acceleration_deg_s2`, `gripper_velocity`,
    `gripper_acceleration` (percent): what the gate lets the arm do at most; `max_temperature_c`: a fault,
    below the servo's own limit, at which it would let go; `reply_s`: how long a reply may take beyond its
    time on the wire; `still_s`: how long the arm must stand still before it is powered.
    """

    in_control = False

    def __init__(
        self,
        run: Run,
        port: str,
        calibration: str,
        baud: int = sts.BAUD,
        normalised: bool = False,
        velocity_deg_s: float = 120.0,
        acceleration_deg_s2: float = 1200.0,
        gripper_velocity: float = 250.0,
        gripper_acceleration: float = 4000.0,
        max_temperature_c: int = 65,
        reply_s: float = 0.02,
        still_s: float = 0.3,
    ) -> None:
        for name, value in (
            ("velocity_deg_s", velocity_deg_s),
            ("acceleration_deg_s2", acceleration_deg_s2),
            ("gripper_velocity", gripper_velocity),
            ("gripper_acceleration", gripper_acceleration),
            ("reply_s", reply_s),
            ("still_s", still_s),
        ):
            if not value > 0:
                raise ConfigError(f"arm.options.{name}", expected="> 0", found=value)
        self._port, self._baud, self._reply_s, self._still_s = port, baud, reply_s, still_s
        self._max_temperature_c = max_temperature_c
        self.calibration = read_calibration(Path(calibration).expanduser())
        self.units = Units(self.calibration, normalised)
        degree = np.abs(self.units.scale) * sts.STEPS_A_TURN / 360.0  # the joint's units for 1 deg
        gripper = np.array([is_gripper(joint) for joint in JOINTS])
        velocity = np.where(gripper, gripper_velocity, velocity_deg_s * degree)
        acceleration = np.where(gripper, gripper_acceleration, acceleration_deg_s2 * degree)
        self._fastest = velocity / np.abs(self.units.scale)  # steps/s
        self._period_s = 1.0 / run.config.loop.rate_hz
        self.degrees = tuple((360.0 / sts.STEPS_A_TURN / self.units.scale).tolist())
        self._spec = ActionSpec(
            names=SO101_JOINTS,
            units=tuple("percent" if normalised or g else "deg" for g in gripper),
            low=tuple(self.units.low.tolist()),
            high=tuple(self.units.high.tolist()),
            max_velocity=tuple(velocity.tolist()),
            max_acceleration=tuple(acceleration.tolist()),
            rate_hz=run.config.loop.rate_hz,
        )
        self._ids = tuple(IDS[joint] for joint in JOINTS)
        self._bus: FeetechBus | None = None
        self._replies = Replies()
        self._readings = self._replies.last
        self._goals: np.ndarray | None = None
        """Goals written last, int64[6] steps; None before the motors were powered."""
        self._goals_before: deque[np.ndarray] = deque(maxlen=GOAL_TRIES + 1)
        """Those before: a servo that hears nothing is left with one of them until that is a fault."""
        self._powered: set[int] = set()
        """Servos that may have torque: all of them, or those that an `enable` that failed had come to."""
        self._silent: set[int] = set()
        """Servos that the last round of questions did not hear, or does not believe: told nothing."""
        self._torque_s: dict[int, float] = {}
        """When each was last heard with torque."""
        self._let_go: set[int] = set()
        """Those that a hold found without torque and gave it again: it is not to pass unseen."""
        self._behind: set[int] = set()
        """Those that have missed commands: they catch up no faster than twice their limit, not at once."""
        self._written_s = math.inf
        self._held: dict[int, int] = {}
        """The goals of this hold, until the next command: chosen anew each time, a loaded arm would sink."""
        self._unheard = 0
        self._repeated = 0

    @property
    def bus(self) -> FeetechBus:
        if self._bus is None:
            raise DeviceError("the arm is not open")
        return self._bus

    def spec(self) -> ActionSpec:
        return self._spec

    def open(self) -> None:
        self._bus = FeetechBus(self._port, self._baud, self._reply_s)
        self._replies.clear()
        try:
            so101_setup.check_servos(self.bus)
            so101_setup.check_calibration(self.bus, self.calibration)
            so101_setup.configure(self.bus)
        except BaseException:
            self.close()
            raise

    # -- reading

    def read(self) -> ArmState:
        readings, at_s = self._readings_now()
        self._judge(readings)
        steps = np.array([readings[i].position for i in self._ids], np.float64)
        speeds = np.array([readings[i].velocity for i in self._ids], np.float64)
        goals = np.array([readings[i].goal for i in self._ids], np.float64)
        return ArmState(
            self.units.of(steps).astype(np.float32),
            at_s,
            self.units.speed(speeds).astype(np.float32),
            self.units.of(goals).astype(np.float32),
            all(readings[i].torque for i in self._ids),
        )

    def _readings_now(self) -> tuple[dict[int, Reading], float]:
        """All six, those that were lost asked for once more. The time is that of the first question."""
        at_s = time.monotonic()
        found: dict[int, Reading] = {}
        for again in (False, True, True):
            missing = [i for i in self._ids if i not in found]
            if not missing:
                break
            self._repeated += len(missing) if again else 0
            for one, (reading, believed) in self._ask(missing).items():
                if believed:
                    found[one] = reading
        missing = [i for i in self._ids if i not in found]
        self._silent = set(missing)
        if missing:
            self.bus.drain()
            raise Glitch(
                f"{named(missing)} {'does' if len(missing) == 1 else 'do'} not answer",
                found=f"no whole reply in 3 attempts, {self.retries()} repeated so far",
                remedy="check its cable and power; noise on all of them is a bad cable or supply",
            )
        return found, at_s

    def _ask(self, ids: Sequence[int]) -> dict[int, tuple[Reading, bool]]:
        """Those that were heard, and whether they are believed: if so, it is what they said last."""
        asked_s = time.monotonic()
        blocks = self.bus.read_all(ids, sts.BLOCK_START, sts.BLOCK_SIZE)
        heard_s = time.monotonic()
        found = {one: sts.parse_block(*block) for one, block in blocks.items()}
        self._torque_s |= {one: heard_s for one, reading in found.items() if reading.torque}
        return {
            one: (reading, self._replies.believe(one, reading, asked_s, heard_s))
            for one, reading in found.items()
        }

    def _judge(self, readings: Mapping[int, Reading]) -> None:
        """What must not go on. Raises `DeviceError` naming the servo."""
        for one, reading in readings.items():
            bits = reading.errors
            if one == GRIPPER:
                bits &= ~sts.OVERLOAD  # it is holding something: the servo limits its own torque
            if bits:
                what, remedy = sts.errors_of(bits)
                raise DeviceError(f"{named([one])}: {what}", remedy=remedy)
            if reading.temperature >= self._max_temperature_c:
                raise DeviceError(
                    f"{named([one])} is hot",
                    expected=f"below {self._max_temperature_c} C",
                    found=f"{reading.temperature} C",
                    remedy="support the arm, switch it off and let it cool down",
                )
            if one in self._powered and one in self._replies.wrapped:
                before, after = self._replies.wrapped[one]
                raise DeviceError(
                    f"{named([one])} went over the end of its turn",
                    expected="no more than half a turn between two readings",
                    found=f"{before} and then {after} of {sts.STEPS} steps",
                    remedy="support the arm, power it off and turn the joint back by hand",
                )
            if one in self._powered and (not reading.torque or one in self._let_go):
                raise DeviceError(
                    f"{named([one])} has let go of its torque",
                    remedy="support the arm; look for an overload, then power it off and on",
                )
        if self._goals is not None:
            self._compare_goals(readings, self._goals)

    def _compare_goals(self, readings: Mapping[int, Reading], goals: np.ndarray) -> None:
        """A sync write is not acknowledged: whether it arrived is read back. Lost ones are sent again."""
        wrong = [
            one
            for one, goal in zip(self._ids, goals, strict=True)
            if one in self._powered and readings[one].goal != goal
        ]
        if not wrong:
            self._unheard = 0
            return
        for one in wrong:
            if readings[one].goal not in {int(known[one - 1]) for known in self._goals_before}:
                raise DeviceError(
                    f"{named([one])} was given a goal that is not ours",
                    found=f"{readings[one].goal} instead of {goals[one - 1]} steps",
                    remedy="stop the other program that commands this arm",
                )
        self._unheard += 1
        if self._unheard > GOAL_TRIES:
            raise DeviceError(
                f"{named(wrong)} does not take commands",
                found=f"{self._unheard} in a row were not read back",
                remedy="check its cable; look for noise on the bus",
            )
        self._repeated += len(wrong)
        self.bus.write_all(sts.GOAL_POSITION, {one: int(goals[one - 1]) for one in wrong})

    # -- commanding

    def enable(self) -> None:
        """Goals are set to where the arm stands before power is given, servo by servo."""
        first, _ = self._readings_now()
        already = all(reading.torque for reading in first.values())
        self._judge(first)
        so101_setup.require_in_range(first, self.calibration, self.units)
        last = so101_setup.require_still(first, lambda: self._readings_now()[0], self._still_s)
        self._replies.wrapped.clear()  # turned by hand, without power
        if already:  # it stands powered, from an earlier run: its goals are what keeps it up
            goals = [
                last[i].goal
                if i == GRIPPER or abs(last[i].goal - last[i].position) < KEEP_GOAL_STEPS
                else last[i].position
                for i in self._ids
            ]
        else:
            goals = [last[i].position for i in self._ids]
        low, high = self.units.low_steps, self.units.high_steps
        held = self._command(np.clip(goals, low, high).astype(np.int64))
        for one, goal in zip(self._ids, held, strict=True):
            have = named(sorted(self._powered)) or "none"
            self._powered.add(one)  # naming a goal may power it, heard or not
            if not (
                self.bus.write(one, sts.GOAL_POSITION, int(goal))
                and self.bus.write(one, sts.TORQUE_ENABLE, 1)
            ):
                raise DeviceError(
                    f"{named([one])} does not take its power",
                    found=f"the write was not read back; with torque: {have}",
                    remedy="support the arm; check its cable and power",
                )

    def write(self, targets: np.ndarray) -> None:
        if self._goals is None:
            raise DeviceError("a command before the motors were powered")
        wanted, now_s = self.units.steps(targets), time.monotonic()
        self._behind |= self._silent
        for one in list(self._behind):
            before, most = self._goals[one - 1], 0
            # A goal gives power: one that lost its supply, fell and comes to would go back up unseen.
            if one not in self._silent:
                since_s = min(max(0.0, now_s - self._written_s), 2.0 * self._period_s)
                most = math.ceil(2.0 * self._fastest[one - 1] * since_s)
            goal = np.clip(wanted[one - 1], before - most, before + most)
            if goal == wanted[one - 1] and one not in self._silent:
                self._behind.discard(one)
            wanted[one - 1] = goal
        self._written_s = now_s
        goals = self._command(wanted)
        told = {one: int(goals[one - 1]) for one in self._ids if one not in self._silent}
        if told:
            self.bus.write_all(sts.GOAL_POSITION, told)

    def _command(self, goals: np.ndarray) -> np.ndarray:
        if self._goals is not None:
            self._goals_before.append(self._goals)
        self._goals, self._held = goals, {}
        return goals

    def hold(self) -> None:
        """Every servo that still answers stops where it is; told again, it is given the same goal again. A
        reply that can't be true moves nothing: it is asked for again, and its servo keeps its goal meanwhile.
        So does one that is not heard: where it was heard last is behind it, its goal ahead by the lag alone.
        Raises `DeviceError` naming the others."""
        if self._goals is None:
            return  # without power it isn't ours to move
        self._behind.clear()  # what comes after it starts where the arm is
        missing = sorted(self._powered)
        for again in range(HOLD_TRIES):
            heard = self._stop(missing)
            if not again:  # a dead servo silences those that wait for it to answer: each by itself
                for one in [one for one in missing if one not in heard]:
                    heard |= self._stop([one])
            # Asked together, the silent ones come last from now on.
            missing = [one for one in missing if heard.get(one) is False] + [
                one for one in missing if one not in heard
            ]
            if not missing:
                break
        goals = [self._held.get(one, int(self._goals[one - 1])) for one in self._ids]
        if goals != self._goals.tolist():
            self._goals_before.append(self._goals)
            self._goals = np.array(goals, np.int64)
        if unpowered := [one for one in missing if self._is_cut(one) and one in heard]:
            raise DeviceError(
                f"hold gives no power back: {named(unpowered)} had none for over {POWER_GAP_S:g} s",
                remedy="support the arm, power it off and on, and start again",
            )
        if missing:
            raise DeviceError(
                f"hold can't be verified: {named(missing)} did not read back its goal",
                remedy="use the emergency stop; check the servo's cable and power",
            )

    def _stop(self, ids: Sequence[int]) -> dict[int, bool]:
        """Those of these servos that are heard and believed are told where to stop; a goal named to any other
        might send one back up that lost its supply, fell and comes to. By servo: whether it has that goal."""
        held, heard, told = self._held, {}, {}
        for one, (reading, believed) in self._ask(ids).items():
            heard[one] = reading.torque and held.get(one) == reading.goal
            if heard[one] or not believed:
                continue
            if not reading.torque:
                self._let_go.add(one)
                if self._is_cut(one):
                    continue
            if one not in held or not reading.torque:  # one that let go may have sunk
                held[one] = self._stop_at(one, reading)
            told[one] = held[one]
        if told:
            self.bus.write_all(sts.GOAL_POSITION, told)
        return heard

    def _is_cut(self, one: int) -> bool:
        return time.monotonic() - self._torque_s.get(one, math.inf) > POWER_GAP_S

    def _stop_at(self, one: int, reading: Reading) -> int:
        goal = int(self._goals[one - 1]) if self._goals is not None else reading.goal
        still = reading.torque and abs(reading.velocity) < SLOW_STEPS_S
        near = abs(goal - reading.position) < KEEP_GOAL_STEPS
        kept = still and (
            near or one == GRIPPER
        )  # a still gripper far from its goal holds something
        # A moving joint comes to rest where its hardest braking ends: told to go back, it would jerk.
        braking = self._replies.braking(one, reading.velocity)
        at = goal if kept else round(reading.position + braking)
        return int(np.clip(at, self.units.low_steps[one - 1], self.units.high_steps[one - 1]))

    def release(self) -> None:
        failed = [one for one in self._ids if not self.bus.write(one, sts.TORQUE_ENABLE, 0)]
        self._goals = None
        self._goals_before.clear()
        self._powered.clear()
        self._let_go.clear()
        self._torque_s.clear()
        self._behind.clear()
        self._held.clear()
        if failed:
            raise DeviceError(f"{named(failed)} did not confirm that its torque is off")

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def retries(self) -> int:
        return self._repeated + (self._bus.retries if self._bus else 0)

    def warmest_c(self) -> float:
        return float(max((r.temperature for r in self._readings.values()), default=0))
