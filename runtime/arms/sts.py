"""Feetech STS3215: registers, numbers and units. Pure; owns no bus.

Sources: Feetech's memory table of the STS/SMS series (STS3215 product page, "ST series memory table") and
LeRobot's `motors/feetech/tables.py`, whose names are used here so that they can be looked up there.
"""

from __future__ import annotations

from dataclasses import dataclass

MODEL_STS3215 = 777
STEPS = 4096
STEPS_A_TURN = STEPS - 1
"""What LeRobot divides a turn by (`_normalize`, DEGREES); data and calibrations depend on it."""
BAUD = 1_000_000
BITS_A_BYTE = 10  # one start, eight data, one stop bit


@dataclass(frozen=True, slots=True)
class Register:
    """`sign_bit`: numbers are sign and magnitude, with the sign in this bit; None: unsigned."""

    address: int
    size: int
    sign_bit: int | None = None

    def decode(self, raw: bytes | bytearray) -> int:
        """The number in little-endian bytes of this register's size."""
        value = int.from_bytes(raw, "little")
        if self.sign_bit is None:
            return value
        magnitude = value & ((1 << self.sign_bit) - 1)
        return -magnitude if value >> self.sign_bit & 1 else magnitude

    def encode(self, value: int) -> list[int]:
        """Bytes of a number; `ValueError` if it does not fit."""
        if self.sign_bit is not None:
            if abs(value) >> self.sign_bit:
                raise ValueError(f"{value} does not fit {self.sign_bit} bits and a sign")
            value = abs(value) | (1 << self.sign_bit if value < 0 else 0)
        return list(value.to_bytes(self.size, "little"))


# EEPROM: kept without power; changed only while LOCK is 0.
FIRMWARE = Register(0, 2)
MODEL_NUMBER = Register(3, 2)
RETURN_DELAY = Register(7, 1)  # 2 us each
STATUS_LEVEL = Register(8, 1)  # 1: every instruction to one servo is answered
MIN_POSITION = Register(9, 2)
MAX_POSITION = Register(11, 2)
MAX_TEMPERATURE = Register(13, 1)  # degrees Celsius at which the servo cuts its own torque
MAX_VOLTAGE = Register(14, 1)  # 0.1 V
MIN_VOLTAGE = Register(15, 1)
MAX_TORQUE = Register(16, 2)  # 0.1 % of the stall torque
P_GAIN = Register(21, 1)
D_GAIN = Register(22, 1)
I_GAIN = Register(23, 1)
PROTECTION_CURRENT = Register(28, 2)
HOMING_OFFSET = Register(31, 2, sign_bit=11)
OPERATING_MODE = Register(33, 1)  # 0: position
OVERLOAD_TORQUE = Register(36, 1)
# SRAM: as they are after power-up.
TORQUE_ENABLE = Register(40, 1)
ACCELERATION = Register(41, 1)  # 100 steps/s2 each
GOAL_POSITION = Register(42, 2, sign_bit=15)
GOAL_VELOCITY = Register(46, 2, sign_bit=15)  # steps/s; 0: as fast as it can
LOCK = Register(55, 1)
PRESENT_POSITION = Register(56, 2, sign_bit=15)
PRESENT_VELOCITY = Register(58, 2, sign_bit=15)  # steps/s
PRESENT_LOAD = Register(60, 2, sign_bit=10)  # 0.1 % of the stall torque
PRESENT_VOLTAGE = Register(62, 1)  # 0.1 V
PRESENT_TEMPERATURE = Register(63, 1)  # degrees Celsius
PRESENT_CURRENT = Register(69, 2, sign_bit=15)  # 6.5 mA
MAX_ACCELERATION = Register(85, 1)

BLOCK_START = TORQUE_ENABLE.address
BLOCK_SIZE = PRESENT_CURRENT.address + PRESENT_CURRENT.size - BLOCK_START
"""One read per servo and cycle: torque and goal as the servo has them, and everything that it measures."""

ERRORS = {
    1: "its voltage is out of range",
    2: "its angle sensor failed",
    4: "it is overheated",
    8: "its current is too high",
    32: "it is overloaded",
}
"""Bits of the error byte in every reply."""
OVERLOAD = 32
_REMEDIES = {
    1: "check the power supply and its cable",
    2: "power the arm off and on; replace the servo if it stays",
    4: "let it cool down, and lighten its load",
    8: "free the joint and power the arm off and on",
    32: "free the joint, then power the arm off and on",
}


def errors_of(bits: int) -> tuple[str, str]:
    """The error byte in words, and what to do about it."""
    words = [what for bit, what in ERRORS.items() if bits & bit]
    remedies = [what for bit, what in _REMEDIES.items() if bits & bit]
    return " and ".join(words) or f"its error byte is {bits:#x}", (remedies or ["power it off"])[0]


@dataclass(frozen=True, slots=True)
class Reading:
    """One servo at one moment, in its own units: steps, steps/s, 0.1 %, 0.1 V, degrees Celsius."""

    torque: bool
    goal: int
    position: int
    velocity: int
    load: int
    voltage: int
    temperature: int
    current: int
    errors: int = 0


def parse_block(block: bytes | bytearray, errors: int = 0) -> Reading:
    """A reply to a read of `BLOCK_SIZE` bytes from `BLOCK_START`."""

    def number(register: Register) -> int:
        at = register.address - BLOCK_START
        return register.decode(block[at : at + register.size])

    return Reading(
        torque=number(TORQUE_ENABLE) == 1,
        goal=number(GOAL_POSITION),
        position=number(PRESENT_POSITION),
        velocity=number(PRESENT_VELOCITY),
        load=number(PRESENT_LOAD),
        voltage=number(PRESENT_VOLTAGE),
        temperature=number(PRESENT_TEMPERATURE),
        current=number(PRESENT_CURRENT),
        errors=errors,
    )
