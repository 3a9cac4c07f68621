"""The simulated bus speaks Feetech's protocol: judged by Feetech's own SDK, with nothing of ours between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from robots import until

from runtime.bench.servo_bus import ServoBus

scs = pytest.importorskip("scservo_sdk")
Sdk = tuple[Any, Any]


@pytest.fixture
def sdk(bus: ServoBus) -> Iterator[Sdk]:
    port = scs.PortHandler(bus.path)
    assert port.openPort()
    yield port, scs.PacketHandler(0)
    port.closePort()


def answered(port: Any, ask: Callable[[], Any]) -> Any:
    """What the SDK says, asked again where it has given up: it waits 50 ms, and a busy machine's bus may need
    longer. It would take an answer that is late for that to its next question."""
    for _ in range(20):
        said = ask()
        if (said[-2] if isinstance(said, tuple) else said) == scs.COMM_SUCCESS:  # before the error
            return said
        time.sleep(0.2)
        port.ser.reset_input_buffer()
    raise AssertionError("the bus does not answer")


def test_ping_read_write_and_who_is_missing(bus: ServoBus, sdk: Sdk) -> None:
    port, packets = sdk
    assert answered(port, lambda: packets.ping(port, 4)) == (777, scs.COMM_SUCCESS, 0)
    assert packets.ping(port, 9)[1] == scs.COMM_RX_TIMEOUT
    written = answered(port, lambda: packets.write1ByteTxRx(port, 2, 21, 16))
    assert written == (scs.COMM_SUCCESS, 0)
    read = answered(port, lambda: packets.read1ByteTxRx(port, 2, 21))
    assert read == (16, scs.COMM_SUCCESS, 0)
    bus.servo(3).errors = 32
    assert answered(port, lambda: packets.read2ByteTxRx(port, 3, 56))[2] == 32


def test_registered_writes_wait_for_their_action(bus: ServoBus, sdk: Sdk) -> None:
    port, packets = sdk
    answered(port, lambda: packets.regWriteTxRx(port, 1, 41, 1, [77]))
    assert answered(port, lambda: packets.read1ByteTxRx(port, 1, 41))[0] == 0
    packets.action(port, scs.BROADCAST_ID)
    until(lambda: answered(port, lambda: packets.read1ByteTxRx(port, 1, 41))[0] == 77)


def test_group_reads_and_writes_move_servos_as_fast_as_real_ones(bus: ServoBus, sdk: Sdk) -> None:
    port, packets = sdk
    writer = scs.GroupSyncWrite(port, packets, 42, 2)
    reader = scs.GroupSyncRead(port, packets, 56, 2)
    before = {}
    for one in (1, 2):
        reader.addParam(one)
    answered(port, reader.txRxPacket)
    for one in (1, 2):
        before[one] = reader.getData(one, 56, 2)
        goal = before[one] + 600
        writer.addParam(one, [goal & 0xFF, goal >> 8])
    assert writer.txPacket() == scs.COMM_SUCCESS
    started_s = time.monotonic()
    while True:
        answered(port, reader.txRxPacket)
        at = reader.getData(1, 56, 2)
        took_s = time.monotonic() - started_s
        if at == before[1] + 600:
            break
        assert at - before[1] < took_s * 3070 + 30, "faster than the servo can turn"
        assert took_s < 5.0
    assert took_s > 600 / 3070
    answered(port, reader.txRxPacket)
    assert abs(reader.getData(2, 56, 2) - before[2] - 600) <= 1


def test_a_broken_byte_is_seen_by_the_checksum(bus: ServoBus, sdk: Sdk) -> None:
    port, packets = sdk
    bus.faults.bit_errors = 0.02
    results = [packets.read2ByteTxRx(port, 1, 56) for _ in range(150)]
    good = [value for value, result, _ in results if result == scs.COMM_SUCCESS]
    assert set(good) == {2047}
    assert 50 < len(good) < 150
    assert bus.broken > 0
