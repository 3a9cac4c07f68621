"""Taking the arm: looked at, taken under a watchdog's eyes, powered. Owns the order; nothing moves by it."""

from __future__ import annotations

import time

from contracts.errors import GateFault
from runtime.control import pacing
from runtime.control.resting import PAUSE_S, Resting
from runtime.control.robot import Robot

WATCHDOG_START_S = 20.0


def take_arm(robot: Robot, resting: Resting) -> bool:
    """From here on the gate's owner may command it; False: a stop was asked for first. Raises
    `EntracteError`."""
    board, config = robot.board, robot.run.config
    give_up_s = time.monotonic() + WATCHDOG_START_S
    while not board.watchdog_ready:
        if board.estop_requested or board.stop_requested:
            return False
        if time.monotonic() > give_up_s:
            raise GateFault(
                "the arm is not taken: no watchdog watches this run",
                found=f"none in {WATCHDOG_START_S:g} s",
                remedy="see logs/watchdog.log",
            )
        time.sleep(PAUSE_S)
    if not robot.clock.lockstep:  # where time stands, nobody moves an arm
        robot.gate.require_quiet(config.gate.quiet_s, config.gate.quiet_units)
    prepare(robot)
    robot.pace = pacing.start(config.loop.rate_hz, robot.clock.now_s())
    robot.post(0.0)
    if board.estop_requested or board.stop_requested:
        return False
    robot.gate.take_arm()  # from here on the watchdog watches
    return resting(robot.gate.power, "powering the motors")


def prepare(robot: Robot) -> None:
    """The gate armed at the pose in which the arm stands. Raises `EntracteError`."""
    seen = robot.senses.observe(robot.clock.now_s())
    robot.gate.prepare(seen.joints, seen.state_age_s)
