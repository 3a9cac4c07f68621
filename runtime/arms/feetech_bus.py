"""The bus of Feetech servos through the maker's SDK (`scservo_sdk`): what was asked, retried and counted.

The only module that imports the SDK. Its port is replaced by one that waits in the kernel instead of
spinning, keeps to the monotonic clock and drops what a broken reply left behind; its group reader by a loop
that goes on after a lost reply and knows whose it was.
"""

from __future__ import annotations

import errno
import os
import select
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any

from contracts.errors import DeviceError, MissingDependency
from runtime.arms.sts import BITS_A_BYTE, Register

TRIES = 4
"""Of what is read or written one servo at a time, before it counts as failed."""
_OVERHEAD = 6  # bytes of a reply besides its data: two of header, id, length, error, checksum


def _sdk() -> Any:
    try:
        import scservo_sdk
    except ImportError as error:
        raise MissingDependency(
            "the so101 arm needs Feetech's SDK", remedy="pip install 'entracte[so101]'"
        ) from error
    return scservo_sdk


def users_of(port: str) -> list[str]:
    """Other processes that have this port open, as "name (pid)"; those of other users are not seen."""
    device, found = os.path.realpath(port), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            folder = f"/proc/{pid}/fd"
            if any(os.readlink(f"{folder}/{fd}") == device for fd in os.listdir(folder)):
                with open(f"/proc/{pid}/comm") as comm:
                    found.append(f"{comm.read().strip()} ({pid})")
        except OSError:
            continue  # ended meanwhile, or another user's
    return found


def _make_port(sdk: Any, device: str, baud: int, timeout_s: float) -> Any:
    class Port(sdk.PortHandler):  # type: ignore[misc]
        """`scservo_sdk.PortHandler` with `timeout_s` for a reply beyond its time on the wire."""

        def setupPort(self, _flag: int) -> bool:
            import serial

            self.ser = serial.Serial(
                self.port_name, self.baudrate, timeout=0, write_timeout=0.5, exclusive=True
            )
            self.is_open = True
            self._byte_s = BITS_A_BYTE / self.baudrate
            self._deadline_s = 0.0
            self.clearPort()
            return True

        def clearPort(self) -> None:
            termios.tcflush(self.ser.fileno(), termios.TCIFLUSH)

        def drain(self) -> None:
            """Wait until nothing has come for `timeout_s`: a late reply must not pass for the next one, and
            nothing in it says which question it answers."""
            give_up_s = time.monotonic() + 10 * timeout_s
            file = self.ser.fileno()
            while time.monotonic() < give_up_s and select.select([file], [], [], timeout_s)[0]:
                if not os.read(file, 4096):
                    raise OSError("the port was unplugged")

        def readPort(self, length: int) -> bytes:
            if length <= 0:
                return b""
            file = self.ser.fileno()
            left_s = max(0.0, self._deadline_s - time.monotonic())
            if not select.select([file], [], [], left_s)[0]:
                return b""
            data = os.read(file, length)
            if not data:
                raise OSError("the port was unplugged")
            return data

        def setPacketTimeout(self, packet_length: int) -> None:
            self._deadline_s = time.monotonic() + packet_length * self._byte_s + timeout_s

        def setPacketTimeoutMillis(self, msec: float) -> None:
            self._deadline_s = time.monotonic() + msec / 1000.0

        def isPacketTimeout(self) -> bool:
            return time.monotonic() >= self._deadline_s

    port = Port(device)
    port.baudrate = baud
    return port


class FeetechBus:
    """One port and the servos on it. Not for two threads. Every call raises `DeviceError` when the port
    itself is gone; a servo that does not answer is the caller's to judge."""

    def __init__(self, device: str, baud: int, timeout_s: float) -> None:
        sdk = _sdk()
        self._sdk, self.device = sdk, device
        self._port = _make_port(sdk, device, baud, timeout_s)
        self._packets = sdk.PacketHandler(0)
        self.retries = 0
        if not os.path.exists(device):
            raise DeviceError(
                f"no arm at {device}", remedy="plug it in and power it, or correct arm.options.port"
            )
        try:
            opened = self._port.openPort()
        except (OSError, ValueError, termios.error) as error:
            others = users_of(device)
            remedy = f"stop {', '.join(others)}" if others else "check that this port is the arm's"
            if getattr(error, "errno", None) == errno.EACCES:
                remedy = "sudo usermod -aG dialout $USER (the port's group), and log in again"
            raise DeviceError(f"can't open {device}", found=str(error), remedy=remedy) from error
        if not opened:
            raise DeviceError(
                f"{device} does not do {baud} baud", remedy="correct arm.options.baud"
            )

    def read_all(self, ids: Sequence[int], start: int, size: int) -> dict[int, tuple[bytes, int]]:
        """One sync read; id -> (`size` bytes from `start`, error byte) of those whose reply arrived whole."""
        found: dict[int, tuple[bytes, int]] = {}
        sdk, seen = self._sdk, 0
        try:
            sent = self._packets.syncReadTx(self._port, start, size, list(ids), len(ids))
            # One reply after the other, broken ones too, until all are here or the time is out.
            while sent == sdk.COMM_SUCCESS and seen < len(ids):
                packet, result = self._packets.rxPacket(self._port)
                seen += 1
                if result == sdk.COMM_SUCCESS:
                    if packet[2] in ids and len(packet) == size + _OVERHEAD:
                        found[packet[2]] = (bytes(packet[5 : 5 + size]), packet[4])
                elif result == sdk.COMM_RX_TIMEOUT or self._port.isPacketTimeout():
                    break
        except (OSError, termios.error) as error:
            raise self._gone(error) from error
        finally:
            self._port.is_using = False
        return found

    def write_all(self, register: Register, values: Mapping[int, int]) -> None:
        """One sync write: no servo answers it, so nothing says that it arrived."""
        data = [byte for one, value in values.items() for byte in (one, *register.encode(value))]
        try:
            self._packets.syncWriteTxOnly(
                self._port, register.address, register.size, data, len(data)
            )
        except (OSError, termios.error) as error:
            raise self._gone(error) from error
        finally:
            self._port.is_using = False

    def ping(self, servo: int) -> int | None:
        """Its model number; None if it does not answer."""
        for _ in range(TRIES):
            try:
                model, result, _errors = self._packets.ping(self._port, servo)
            except IndexError:  # the SDK takes a short reply for a whole one
                continue
            except (OSError, termios.error) as error:
                raise self._gone(error) from error
            if result == self._sdk.COMM_SUCCESS:
                return int(model)
            self.drain()
        return None

    def read(self, servo: int, register: Register) -> int | None:
        """One register, tried `TRIES` times; None if it never arrived."""
        for attempt in range(TRIES):
            self.retries += attempt > 0
            try:
                data, result, _errors = self._packets.readTxRx(
                    self._port, servo, register.address, register.size
                )
            except (OSError, termios.error) as error:
                raise self._gone(error) from error
            if result == self._sdk.COMM_SUCCESS and len(data) == register.size:
                return register.decode(bytes(data))
            self.drain()
        return None

    def write(self, servo: int, register: Register, value: int) -> bool:
        """One register, acknowledged by the servo and read back; False if that failed `TRIES` times."""
        for attempt in range(TRIES):
            self.retries += attempt > 0
            try:
                result, _errors = self._packets.writeTxRx(
                    self._port, servo, register.address, register.size, register.encode(value)
                )
            except (OSError, termios.error) as error:
                raise self._gone(error) from error
            if result != self._sdk.COMM_SUCCESS:
                self.drain()
            elif self.read(servo, register) == value:
                return True
        return False

    def drain(self) -> None:
        """Wait until the bus is silent and forget what came."""
        try:
            self._port.drain()
        except (OSError, termios.error) as error:
            raise self._gone(error) from error

    def close(self) -> None:
        if self._port.ser is not None:
            self._port.closePort()

    def _gone(self, error: Exception) -> DeviceError:
        return DeviceError(
            f"the arm's port {self.device} is gone",
            found=str(error),
            remedy="plug it in again and start anew",
        )
