"""A simulated servo bus on a pseudo-terminal: STS3215 servos that speak Feetech's protocol, and its faults.

`python -m runtime.bench.servo_bus --calibration arm.json` lets anybody try the `so101` arm without one. The
protocol: header FF FF, id, length, instruction or error byte, data, checksum (the complement of the sum of
all but the header); Feetech, "SMS/STS communication protocol".
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import threading
import time
import tty
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import ConfigError
from contracts.files import outputs
from contracts.files.stop_event import StopEvent
from runtime.arms import sts
from runtime.arms.so101_calibration import (
    JOINTS,
    Calibration,
    read_calibration,
    write_calibration,
)
from runtime.bench.servo import Servo
from runtime.system.priority import Rank, run_first

PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE = 1, 2, 3, 4, 5, 0x82, 0x83
BROADCAST = 0xFE
_MIN_LENGTH = 2

CALIBRATION = {
    name: Calibration(number, 0, offset, low, high)
    for name, number, offset, low, high in (
        ("shoulder_pan", 1, 112, 792, 3302),
        ("shoulder_lift", 2, -341, 905, 3189),
        ("elbow_flex", 3, 267, 940, 3154),
        ("wrist_flex", 4, -95, 962, 3132),
        ("wrist_roll", 5, 410, 0, 4095),
        ("gripper", 6, -188, 1500, 2950),
    )
}
"""Of the simulated arm, as `lerobot-calibrate` would have written it."""


@dataclass
class Faults:
    """What is wrong with the wire. Probabilities per byte and per reply; may be changed at any time.
    `chained`: a servo that is silent in a sync read silences those after it."""

    bit_errors: float = 0.0
    lost_replies: float = 0.0
    delay_s: float = 0.0
    chained: bool = False


def so101_servos(calibration: dict[str, Calibration] | None = None) -> list[Servo]:
    """Six servos as a calibrated SO-101 has them, in the middle of their ranges."""
    servos = []
    for one in (calibration or CALIBRATION).values():
        servo = Servo(one.id, (one.range_min + one.range_max) // 2, time.monotonic())
        servo.set(sts.HOMING_OFFSET, one.homing_offset)
        servo.set(sts.MIN_POSITION, one.range_min)
        servo.set(sts.MAX_POSITION, one.range_max)
        servos.append(servo)
    return servos


def checksum(body: Iterable[int]) -> int:
    return ~sum(body) & 0xFF


class ServoBus:
    """`with ServoBus(so101_servos()) as bus: ... bus.path`. Answers in a thread of its own."""

    def __init__(
        self,
        servos: Iterable[Servo],
        faults: Faults | None = None,
        baud: int = sts.BAUD,
        wire_time: bool = True,
        seed: int = 0,
    ) -> None:
        self.servos = {servo.id: servo for servo in servos}
        self.faults = faults or Faults()
        self.instructions = self.broken = 0
        self._byte_s = sts.BITS_A_BYTE / baud if wire_time else 0.0
        self._random = random.Random(seed)
        self._registered: dict[int, tuple[int, bytes]] = {}
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._stop = threading.Event()
        self._unplugged = False
        self._thread = threading.Thread(target=self._forever, name="servo bus", daemon=True)

    def __enter__(self) -> ServoBus:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2.0)
        self.unplug()

    def unplug(self) -> None:
        """The port disappears under whoever has it open."""
        if not self._unplugged:
            self._unplugged = True
            self._stop.set()
            if self._thread is not threading.current_thread() and self._thread.is_alive():
                self._thread.join(2.0)
            os.close(self._master)
            os.close(self._slave)

    def servo(self, number: int) -> Servo:
        return self.servos[number]

    def advance(self) -> None:
        """Bring every servo up to now (for those who look at them without asking over the bus)."""
        now_s = time.monotonic()
        for servo in self.servos.values():
            servo.advance(now_s)

    # -- the wire

    def _forever(self) -> None:
        run_first(Rank.BUS)  # a real bus does not wait for this computer's other programs
        pending = bytearray()
        while not self._stop.is_set():
            if not select.select([self._master], [], [], 0.05)[0]:
                continue
            try:
                pending += self._noisy(os.read(self._master, 4096))
            except OSError:
                return
            while (packet := self._next(pending)) is not None:
                reply = self._answer(packet)
                seconds = (len(packet) + len(reply)) * self._byte_s + self.faults.delay_s
                if seconds > 0:
                    time.sleep(seconds)
                if reply:
                    os.write(self._master, self._noisy(reply))

    def _next(self, pending: bytearray) -> bytes | None:
        """The next whole instruction; broken ones are dropped, as a servo drops them."""
        while True:
            start = pending.find(b"\xff\xff")
            if start < 0:
                del pending[: max(0, len(pending) - 1)]
                return None
            del pending[:start]
            if len(pending) < 4:
                return None
            if pending[2] == 0xFF or pending[3] < _MIN_LENGTH or pending[3] > 250:
                del pending[0]
                continue
            size = pending[3] + 4
            if len(pending) < size:
                return None
            packet = bytes(pending[:size])
            if checksum(packet[2:-1]) == packet[-1]:
                del pending[:size]
                return packet
            self.broken += 1
            del pending[:2]

    def _noisy(self, data: bytes) -> bytes:
        rate = self.faults.bit_errors
        if not rate:
            return data
        return bytes(
            byte ^ (1 << self._random.randrange(8)) if self._random.random() < rate else byte
            for byte in data
        )

    # -- the servos

    def _answer(self, packet: bytes) -> bytes:
        self.instructions += 1
        self.advance()
        target, instruction, data = packet[2], packet[4], packet[5:-1]
        if instruction == SYNC_READ:
            return self._sync_read(data[0], data[1], data[2:])
        if instruction == SYNC_WRITE:
            self._sync_write(data[0], data[1], data[2:])
            return b""
        targets = list(self.servos) if target == BROADCAST else [target]
        replies = [self._one(number, instruction, data) for number in targets]
        # To a broadcast only a ping is answered, by everybody in turn.
        return b"".join(replies) if target != BROADCAST or instruction == PING else b""

    def _one(self, number: int, instruction: int, data: bytes) -> bytes:
        servo = self.servos.get(number)
        if servo is None or servo.silent:
            return b""
        if instruction == READ:
            return self._reply(servo, bytes(servo.memory[data[0] : data[0] + data[1]]))
        if instruction == WRITE:
            servo.write(data[0], data[1:])
        elif instruction == REG_WRITE:
            self._registered[number] = (data[0], data[1:])
        elif instruction == ACTION and number in self._registered:
            servo.write(*self._registered.pop(number))
        return self._reply(servo, b"")

    def _sync_read(self, start: int, size: int, numbers: bytes) -> bytes:
        replies = b""
        for number in numbers:
            servo = self.servos.get(number)
            if servo is None or servo.silent:
                if self.faults.chained:
                    break
                continue
            replies += self._reply(servo, bytes(servo.memory[start : start + size]))
        return replies

    def _sync_write(self, start: int, size: int, data: bytes) -> None:
        for at in range(0, len(data) - size, size + 1):
            servo = self.servos.get(data[at])
            if servo is not None and not servo.silent:
                servo.write(start, data[at + 1 : at + 1 + size])

    def _reply(self, servo: Servo, data: bytes) -> bytes:
        if self.faults.lost_replies and self._random.random() < self.faults.lost_replies:
            return b""
        body = bytes([servo.id, len(data) + 2, servo.errors]) + data
        return b"\xff\xff" + body + bytes([checksum(body)])


def _ours(path: Path) -> bool:
    """Not a real arm's calibration, which looks alike."""
    try:
        return read_calibration(path) == CALIBRATION
    except ConfigError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=Path, required=True, help="file to write")
    parser.add_argument("--link", type=Path, help="symbolic link to make to the port")
    parser.add_argument("--bit-errors", type=float, default=0.0, help="probability per byte")
    parser.add_argument("--dead", type=int, default=0, help="id of a servo that dies")
    parser.add_argument("--dead-after-s", type=float, default=10.0)
    given = parser.parse_args()
    try:
        outputs.require_file(given.calibration, "the simulated arm's calibration", _ours)
    except ConfigError as error:
        parser.error(str(error))
    if given.link and given.link.exists() and not given.link.is_symlink():
        parser.error(f"{given.link} is no link: choose another name")
    write_calibration(given.calibration, CALIBRATION)
    stop = StopEvent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ServoBus(so101_servos(), Faults(bit_errors=given.bit_errors)) as bus:
        port = bus.path
        if given.link:
            given.link.unlink(missing_ok=True)
            given.link.symlink_to(bus.path)
            port = str(given.link)
        print(
            f"{', '.join(JOINTS)} on {port}; robot-run ... --set pace=realtime --set arm.kind=so101 "
            "--set loop.watchdog_timeout_s=0.5 --set loop.lease_s=0.5 "
            f"--set arm.options.port={port} --set arm.options.calibration={given.calibration}",
            flush=True,
        )
        if given.dead and not stop.wait(given.dead_after_s):
            bus.servo(given.dead).silent = True
        stop.wait()
    if given.link:
        with contextlib.suppress(OSError):
            given.link.unlink()


if __name__ == "__main__":
    main()
