"""Time on the servo bus: our driver beside Feetech's bare SDK on one bus in one run, then the arm's process.

The simulated bus is a process of its own on a pseudo-terminal, keeps to the time on the wire at 1 Mbaud and
moves its servos. The system carries its bytes in a kernel thread without priority: measure on a quiet
machine. In every period each way reads and writes once, in turning order, so that all see the same machine.
The arm holds its pose while it is measured: goals are written, and are where it stands.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.bare import quantiles
from benchmarks.machine import in_words, machine
from contracts.errors import EntracteError
from runtime.arms import Glitch, sts
from runtime.arms.client import ServedArm
from runtime.arms.so101 import So101
from runtime.arms.so101_calibration import IDS
from runtime.board import Board
from runtime.config import RobotConfig, load_config
from runtime.processes.supervisor import make_run
from runtime.run import Run, RunPlan

_START_S = 30.0
WAYS = {
    "driver": "`so101` driver: everything of 6 servos, checked, then 6 goals",
    "sdk_all": "bare SDK: the same 31 bytes of 6 servos, then 6 goals",
    "sdk_position": "bare SDK: positions alone, as LeRobot reads, then 6 goals",
}
Way = Callable[[], None]


def measure(
    seconds: float, rate_hz: float, bit_errors: float, port: str, calibration: Path | None
) -> dict[str, Any]:
    """Quantiles of time on the bus per way, and of answers and ages through the arm's process."""
    with tempfile.TemporaryDirectory(prefix="entracte-arm-") as folder:
        if port:
            if calibration is None:
                raise EntracteError("--port needs --calibration, LeRobot's file of that arm")
            return _both(seconds, rate_hz, port, calibration, Path(folder), bit_errors)
        file = Path(folder) / "arm.json"
        with _bus(file, Path(folder) / "port", bit_errors) as simulated:
            return _both(seconds, rate_hz, simulated, file, Path(folder), bit_errors)


def _both(
    seconds: float, rate_hz: float, port: str, calibration: Path, folder: Path, bit_errors: float
) -> dict[str, Any]:
    found: dict[str, Any] = {"rate_hz": rate_hz, "seconds": seconds, "bit_errors": bit_errors}
    found |= _interleaved(seconds, rate_hz, port, calibration)
    found["process"] = _through_process(seconds, rate_hz, port, calibration, folder)
    return found | {"machine": machine(), "wire_ms": round(_wire_s() * 1e3, 2)}


@contextmanager
def _bus(calibration: Path, link: Path, bit_errors: float) -> Iterator[str]:
    command = [sys.executable, "-m", "runtime.bench.servo_bus", "--calibration", str(calibration)]
    command += ["--link", str(link), "--bit-errors", str(bit_errors)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise EntracteError("the simulated bus did not start")
        yield str(link)
    finally:
        process.terminate()
        process.wait(10)


def _wire_s() -> float:
    """What reading and writing everything takes on the wire alone."""
    ask, reply = 8 + len(IDS), 6 + sts.BLOCK_SIZE
    write = 8 + 3 * len(IDS)
    return (ask + reply * len(IDS) + write) * sts.BITS_A_BYTE / sts.BAUD


# -- beside the SDK


def _interleaved(seconds: float, rate_hz: float, port: str, calibration: Path) -> dict[str, Any]:
    run: Any = SimpleNamespace(config=RobotConfig())
    arm = So101(run, port=port, calibration=str(calibration))
    arm.open()
    arm.enable()
    sdk_port, failed = _sdk_port(port), dict.fromkeys(WAYS, 0)
    targets = arm.read().positions.astype(np.float64)
    goals = arm.units.steps(targets)

    def driver() -> None:
        try:
            arm.read()
        except Glitch:
            failed["driver"] += 1
        arm.write(targets)

    def bare(name: str, start: int, size: int) -> Way:
        import scservo_sdk as sdk

        packets = sdk.PacketHandler(0)
        reader = sdk.GroupSyncRead(sdk_port, packets, start, size)
        writer = sdk.GroupSyncWrite(sdk_port, packets, sts.GOAL_POSITION.address, 2)
        for one, goal in zip(IDS.values(), goals, strict=True):
            reader.addParam(one)
            writer.addParam(one, sts.GOAL_POSITION.encode(int(goal)))

        def once() -> None:
            failed[name] += reader.txRxPacket() != sdk.COMM_SUCCESS
            writer.txPacket()

        return once

    ways: dict[str, Way] = {
        "driver": driver,
        "sdk_all": bare("sdk_all", sts.BLOCK_START, sts.BLOCK_SIZE),
        "sdk_position": bare("sdk_position", sts.PRESENT_POSITION.address, 2),
    }
    times_s: dict[str, list[float]] = {name: [] for name in ways}
    names, missed = list(ways), 0
    try:
        for tick, late in _ticks(seconds, rate_hz):
            missed += late
            for name in names[tick % len(names) :] + names[: tick % len(names)]:
                started_s = time.perf_counter()
                ways[name]()
                times_s[name].append(time.perf_counter() - started_s)
    finally:
        arm.close()
        sdk_port.closePort()
    return {
        "ways": {name: quantiles(times_s[name], 0) | {"failed": failed[name]} for name in ways},
        "repeated": arm.retries(),
        "periods_missed": missed,
    }


def _sdk_port(port: str) -> Any:
    import scservo_sdk

    handler = scservo_sdk.PortHandler(port)
    if not handler.openPort():
        raise EntracteError(f"the SDK can't open {port}")
    return handler


def _ticks(seconds: float, rate_hz: float) -> Iterator[tuple[int, int]]:
    """(number, periods that were missed before it) at absolute deadlines."""
    started_s, number, done = time.monotonic(), 0, 0
    while number < seconds * rate_hz:
        now_s = time.monotonic()
        due_s = started_s + number / rate_hz
        if now_s < due_s:
            time.sleep(due_s - now_s)
        late = int(max(0.0, time.monotonic() - due_s) * rate_hz)
        yield done, late
        number, done = number + 1 + late, done + 1


# -- through the arm's process


def _through_process(
    seconds: float, rate_hz: float, port: str, calibration: Path, folder: Path
) -> dict[str, Any]:
    config = load_config(
        None,
        [
            "pace=realtime", "arm.kind=so101", "arm.answer_timeout_s=1", "arm.command_timeout_s=1",
            "loop.watchdog_timeout_s=0.5", "loop.lease_s=0.5", "loop.pause_allowance_s=0.5",
            "arm.fault_after_s=1",  # a machine that others use too is slow now and then: that is counted
            f"arm.options={{port: {port}, calibration: {calibration}}}",
        ],
    )  # fmt: skip
    run = make_run(config, RunPlan(driver="expert"), folder / "run")
    with Board.create(run.board_path) as board:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime.arms.server", "--run-dir", run.run_dir]
        )
        try:
            return _ask(run, board, seconds, rate_hz)
        finally:
            process.terminate()
            process.wait(10)
            for path in Path(run.shm_dir).iterdir():
                path.unlink()
            Path(run.shm_dir).rmdir()


def _ask(run: Run, board: Board, seconds: float, rate_hz: float) -> dict[str, Any]:
    arm = ServedArm(run.arm_address, "bench", 1.0, _START_S)
    arm.take(1)
    arm.enable()
    targets = arm.read().positions.astype(np.float64)
    reads_s, writes_s, ages_s = [], [], []
    for _ in _ticks(seconds, rate_hz):
        started_s = time.perf_counter()
        state = arm.read()
        read_s = time.perf_counter()
        ages_s.append(time.monotonic() - state.at_s)
        arm.write(targets)
        reads_s.append(read_s - started_s)
        writes_s.append(time.perf_counter() - read_s)
    arm.close()
    return {
        "read": quantiles(reads_s, 0),
        "write": quantiles(writes_s, 0),
        "age": quantiles(ages_s, 0),
        "bus_p99_ms": board.arm_read_p99_s * 1e3,
        "bus_max_ms": board.arm_read_max_s * 1e3,
        "readings": board.arm_readings,
        "repeated": board.arm_retries,
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| one period | p50 ms | p99 ms | p99.9 ms | max ms | periods | failed reads |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {WAYS[name]} | {_numbers(q)} | {q['ticks']} | {q['failed']} |"
        for name, q in found["ways"].items()
    ]
    process = found["process"]
    lines += [
        "",
        "| through the arm's process | p50 ms | p99 ms | p99.9 ms | max ms | periods |",
        "|---|---|---|---|---|---|",
        f"| answer to `read` | {_numbers(process['read'])} | {process['read']['ticks']} |",
        f"| answer to `write` | {_numbers(process['write'])} | {process['write']['ticks']} |",
        f"| age of the reading | {_numbers(process['age'])} | {process['age']['ticks']} |",
        "",
        f"{found['rate_hz']:g} Hz for {found['seconds']:g} s each; the wire alone takes "
        f"{found['wire_ms']} ms at 1 Mbaud. Broken bytes: {found['bit_errors']:g} of all; the driver asked "
        f"again {found['repeated']} times, its process {process['repeated']} times in "
        f"{process['readings']} readings. Periods missed: {found['periods_missed']}.",
        f"Machine: {in_words(found['machine'])}.",
    ]
    return "\n".join(lines)


def _numbers(q: dict[str, Any]) -> str:
    return " | ".join(f"{q[key]:.2f}" for key in ("p50_ms", "p99_ms", "p99.9_ms", "max_ms"))
