"""What is checked and set on an SO-101's servos before anything else: presence, model, firmware, calibration,
gains; and where and how the arm stands. Powers nothing and lets go of nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from contracts.errors import DeviceError
from runtime.arms import sts
from runtime.arms.feetech_bus import FeetechBus, users_of
from runtime.arms.so101_calibration import IDS, JOINTS, Calibration, Units
from runtime.arms.so101_replies import STILL_STEPS
from runtime.arms.sts import Reading, Register

# As LeRobot's SO follower sets them (`so_follower.py`, configure): gains against shaking, a gripper that
# closes on something with half its torque and current.
_SETTINGS: tuple[tuple[Register, int], ...] = (
    (sts.STATUS_LEVEL, 1),
    (sts.RETURN_DELAY, 0),
    (sts.MAX_ACCELERATION, 254),
    (sts.ACCELERATION, 254),
    (sts.OPERATING_MODE, 0),
    (sts.P_GAIN, 16),
    (sts.I_GAIN, 0),
    (sts.D_GAIN, 32),
    (sts.GOAL_VELOCITY, 0),
)
_GRIPPER: tuple[tuple[Register, int], ...] = (
    (sts.MAX_TORQUE, 500),
    (sts.PROTECTION_CURRENT, 250),
    (sts.OVERLOAD_TORQUE, 25),
)


def check_servos(bus: FeetechBus) -> None:
    """Every servo is there, is an STS3215 and all have one firmware. Raises `DeviceError`."""
    models = {joint: bus.ping(one) for joint, one in IDS.items()}
    missing = [f"{joint} (id {IDS[joint]})" for joint, model in models.items() if model is None]
    if len(missing) == len(IDS):
        others = users_of(bus.device)
        raise DeviceError(
            f"no servo answers on {bus.device}",
            remedy="check the arm's power supply, and that this port is the arm's"
            + (f"; {', '.join(others)} has it open too" if others else ""),
        )
    if missing:
        raise DeviceError(
            f"{'a servo is' if len(missing) == 1 else 'servos are'} missing: {', '.join(missing)}",
            remedy="check its cable; a new servo needs its id (lerobot-setup-motors)",
        )
    for joint, model in models.items():
        if model != sts.MODEL_STS3215:
            raise DeviceError(
                f"{joint} (id {IDS[joint]}) is another servo",
                expected=f"model {sts.MODEL_STS3215} (STS3215)",
                found=model,
            )
    versions = {joint: firmware(bus, one) for joint, one in IDS.items()}
    if len(set(versions.values())) > 1:
        raise DeviceError(
            "the servos have different firmware",
            found=", ".join(f"{joint} {version}" for joint, version in versions.items()),
            remedy="update them with Feetech's debugging software",
        )


def firmware(bus: FeetechBus, servo: int) -> str:
    version = _read(bus, servo, sts.FIRMWARE)
    return f"{version & 0xFF}.{version >> 8}"


def check_calibration(bus: FeetechBus, calibration: Mapping[str, Calibration]) -> None:
    """The servos hold the file's offsets and ranges: it is this arm's, and each id is the joint that it was
    when it was calibrated. Raises `DeviceError`."""
    for joint, one in calibration.items():
        for what, register, expected in (
            ("homing_offset", sts.HOMING_OFFSET, one.homing_offset),
            ("range_min", sts.MIN_POSITION, one.range_min),
            ("range_max", sts.MAX_POSITION, one.range_max),
        ):
            found = _read(bus, one.id, register)
            if found != expected:
                raise DeviceError(
                    f"the calibration is not this arm's: {what} of {joint} (id {one.id})",
                    expected=f"{expected} as the file says",
                    found=f"{found} in the servo",
                    remedy="give this arm's file, or run lerobot-calibrate for it",
                )


def configure(bus: FeetechBus) -> None:
    """LeRobot's settings, where they differ. LeRobot takes the torque away for that, which a raised arm would
    not survive (and some servos wake up with torque): none of them needs it but the mode. Raises
    `DeviceError`."""
    for joint, one in IDS.items():
        settings = _SETTINGS + (_GRIPPER if joint == "gripper" else ())
        wrong = [(reg, value) for reg, value in settings if _read(bus, one, reg) != value]
        if not wrong:
            continue
        modes = [register for register, _ in wrong if register is sts.OPERATING_MODE]
        if modes and _read(bus, one, sts.TORQUE_ENABLE) == 1:
            raise DeviceError(
                f"{joint} (id {one}) does not control its position, and has torque",
                expected="operating mode 0",
                remedy="support the arm and power it off and on",
            )
        for register, value in ((sts.LOCK, 0), *wrong, (sts.LOCK, 1)):
            if not bus.write(one, register, value):
                raise DeviceError(
                    f"{joint} (id {one}) does not take its settings",
                    expected=f"register {register.address} to become {value}",
                    remedy="power the arm off and on",
                )


def differing_settings(bus: FeetechBus) -> list[str]:
    """Joints whose settings are not LeRobot's."""
    return [
        joint
        for joint, one in IDS.items()
        if any(
            _read(bus, one, register) != value
            for register, value in _SETTINGS + (_GRIPPER if joint == "gripper" else ())
        )
    ]


def _read(bus: FeetechBus, servo: int, register: Register) -> int:
    value = bus.read(servo, register)
    if value is None:
        joint = next(name for name, one in IDS.items() if one == servo)
        raise DeviceError(
            f"servo {servo} ({joint}) does not answer", remedy="check its cable and power"
        )
    return value


def named(ids: Sequence[int]) -> str:
    return " and ".join(f"servo {one} ({JOINTS[one - 1]})" for one in ids)


def require_in_range(
    readings: Mapping[int, Reading], calibration: Mapping[str, Calibration], units: Units
) -> None:
    """Raises `DeviceError` for a joint outside its calibrated range, or at the end of its servo's turn."""
    slack = 3 * STILL_STEPS
    for joint, calibrated in calibration.items():
        one = IDS[joint]
        at = readings[one].position
        if not calibrated.range_min - slack <= at <= calibrated.range_max + slack:
            raise DeviceError(
                f"{named([one])} stands outside its calibrated range",
                expected=f"{calibrated.range_min} to {calibrated.range_max} steps",
                found=at,
                remedy="move it by hand into its range, or calibrate again",
            )
        low, high = (int(e[one - 1]) for e in (units.low_steps, units.high_steps))
        if not low - slack <= at <= high + slack:
            raise DeviceError(
                f"{named([one])} stands at the end of its turn",
                expected=f"{low} to {high} steps: beyond, it could turn the whole way round",
                found=at,
                remedy="without power, turn the joint by hand towards its middle, and start again",
            )


def require_still(
    first: Mapping[int, Reading], read: Callable[[], dict[int, Reading]], seconds: float
) -> dict[int, Reading]:
    """The readings after so long. Nobody else moves it: neither its joints nor its goals change meanwhile.
    Raises `DeviceError`."""
    until_s = time.monotonic() + seconds
    while True:
        now = read()
        for one, before in first.items():
            moved = abs(now[one].position - before.position)
            if moved > STILL_STEPS or now[one].goal != before.goal:
                raise DeviceError(
                    f"the arm moves by itself: {named([one])}",
                    found=f"{moved} steps in {seconds:g} s",
                    remedy="stop the other program or take your hands off, and start again",
                )
        if time.monotonic() >= until_s:
            return now
        time.sleep(0.02)
