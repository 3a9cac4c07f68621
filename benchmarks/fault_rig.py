"""A robot on the bench whose devices can be told to fail, and an eye on its arm. For `benchmarks.faults`."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fault_devices import SIGN, Sign
from contracts.errors import EntracteError
from runtime.arms.sim import SimArm
from runtime.board import Board, LoopState
from runtime.config import RobotConfig, load_config
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import RunPlan
from runtime.standstill import STILL_FOR_S, STILL_UNITS_PER_S

if TYPE_CHECKING:
    from benchmarks.fault_causes import Cause

ROOT = Path(__file__).resolve().parent.parent
POLICY = ROOT / "pretrained" / "policy-open_drawer"
CLEAN = "clean"
START_S = 60.0
PATIENCE_S = 10.0
_LOOK_S = 0.003
# The bench takes pictures for cameras of its own kind only: ours has that name, and is found first.
_ENTRY_POINTS = """[entracte.arms]
faulty = benchmarks.fault_devices:FaultyArm
[entracte.cameras]
sim = benchmarks.fault_devices:FaultyCamera
[entracte.engines]
faulty = benchmarks.fault_devices:FaultyEngine
"""
RATE_HZ, WATCHDOG_S = 30, 0.07
SETTINGS = (
    "pace=realtime",
    f"loop.rate_hz={RATE_HZ}",
    f"loop.watchdog_timeout_s={WATCHDOG_S}",
    f"loop.lease_s={WATCHDOG_S}",
    "arm.kind=faulty",
    "cameras.front={kind: sim, width: 128, height: 96, rate_hz: 30, depth: true}",
    "cameras.wrist={kind: sim, width: 128, height: 96, rate_hz: 30, depth: true}",
    f"policy.package={POLICY}",
    "policy.engine=faulty",
    "link.enabled=false",
    "episode.max_s=3600",
    "gate.jerk_time_s=0.05",
    "gate.soft_margin=3",
)


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """The faulty devices as an installed distribution of this process and of those it starts."""
    site = folder / "site"
    info = site / "entracte_faults-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: entracte-faults\nVersion: 1\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    before = os.environ.get("PYTHONPATH")
    paths = [str(site), str(ROOT), *([before] if before else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    # `python -m` looks into the working folder first, where the repository's own names may be.
    home = Path.cwd()
    os.chdir(site)
    try:
        yield
    finally:
        os.chdir(home)
        sys.path.remove(str(site))
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Clock:
    """The wall clock of the robot's processes, to be stepped (`clock_shim.c`)."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "clock"
        self._path.write_bytes(struct.pack("<q", 0))
        library = folder / "clock_shim.so"
        if not library.exists():
            source = str(Path(__file__).with_name("clock_shim.c"))
            subprocess.run(
                ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True
            )
        self.environment = {"LD_PRELOAD": str(library), "ENTRACTE_CLOCK_FILE": str(self._path)}

    def step(self, seconds: int) -> None:
        with self._path.open("r+b") as file:
            file.write(struct.pack("<q", seconds))


class Eye(threading.Thread):
    """Reads the arm's positions from the bench, some hundred times a second, over its own connection."""

    def __init__(self, arm: SimArm) -> None:
        super().__init__(name="eye", daemon=True)
        self._arm, self._over = arm, threading.Event()
        self._seen: list[tuple[float, np.ndarray, float]] = []
        self.lost = False

    def run(self) -> None:
        while not self._over.wait(_LOOK_S):
            try:
                state = self._arm.read()
            except EntracteError:
                self.lost = True
                return
            speed = float(np.abs(state.velocities).max()) if state.velocities is not None else 0.0
            self._seen.append((state.at_s, state.positions, speed))
            if len(self._seen) > 20_000:
                del self._seen[:10_000]

    @property
    def moving(self) -> bool:
        return bool(self._seen) and self._seen[-1][2] > 2 * STILL_UNITS_PER_S

    def still_since(self, from_s: float) -> float | None:
        """From when on the arm has stood, after `from_s`; None while it has not for `STILL_FOR_S`."""
        seen = [one for one in self._seen if one[0] >= from_s]
        last: float | None = None
        for at_s, _, speed in reversed(seen):
            if speed > STILL_UNITS_PER_S:
                break
            last = at_s
        if last is None or seen[-1][0] - last < STILL_FOR_S:
            return None
        return last

    def close(self) -> None:
        self._over.set()
        self.join(2.0)
        self._arm.close()


class Rig:
    """`with Rig(folder, cause) as rig`: a robot under way, its arm swinging."""

    def __init__(self, folder: Path, cause: Cause | None) -> None:
        self.folder, self.cause = folder, cause
        self.sign = Sign(folder / "sign", new=True)
        self.clock = Clock(folder) if cause and cause.needs_clock else None
        self._environment = {SIGN: str(folder / "sign")} | (
            dict(cause.environment) if cause else {}
        )
        self._environment |= self.clock.environment if self.clock else {}
        self._before: dict[str, str | None] = {}
        self.run_dir = folder / "robot"
        self.robot: Supervisor
        self.eye: Eye

    @property
    def board(self) -> Board:
        return self.robot.board

    def __enter__(self) -> Rig:
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir()
        plan = self.cause.prepare(self) if self.cause else self.plan()
        self._before = {name: os.environ.get(name) for name in self._environment}
        os.environ.update(self._environment)
        try:
            run = make_run(self.config(), plan, self.run_dir)
            self.robot = Supervisor(run)
            self.robot.__enter__()
        finally:
            for name, value in self._before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        try:
            self.until(lambda: self.board.control_ready == 1 or self.control_ended, START_S)
            self.eye = Eye(SimArm(run, "eye"))
            self.eye.start()
            if not self.await_motion():
                log = self.run_dir / "logs" / "control.log"
                raise EntracteError("the robot did not start", found=log.read_text()[-500:])
        except BaseException:
            self.robot.close()
            if self.cause:
                self.cause.tidy(self)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sign.put("none")
        self.eye.close()
        self.robot.close()
        if self.cause:
            self.cause.tidy(self)

    def config(self) -> RobotConfig:
        extra = self.cause.settings if self.cause else ()
        return load_config(None, [*SETTINGS, *extra])

    def plan(self, **changes: Any) -> RunPlan:
        return RunPlan(**{"purpose": "evaluate", "episodes": 1, "sink": "none", **changes})

    @property
    def control_ended(self) -> bool:
        """Raises `KeyboardInterrupt` where somebody asked this program to end: that is no fault's doing."""
        if self.robot.interrupted:
            raise KeyboardInterrupt
        return self.robot.child("control").code is not None

    def await_motion(self) -> bool:
        """Under way, and the arm swings; False: the run ended instead."""
        board = self.board

        def ready() -> bool:
            under_way = board.loop_state == LoopState.RUNNING and board.step > 10
            return (under_way and self.eye.moving) or self.control_ended

        return self.until(ready, START_S) and not self.control_ended

    def await_running(self) -> bool:
        """Not in a hold, wherever the arm is in its swing; False: the run ended instead."""
        board = self.board

        def over() -> bool:
            return self.control_ended or board.watchdog_tripped != 0

        self.until(lambda: board.loop_state == LoopState.RUNNING or over(), START_S)
        return board.loop_state == LoopState.RUNNING and not over()

    def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
        give_up_s = time.monotonic() + patience_s
        while not condition():
            if self.robot.interrupted:
                raise KeyboardInterrupt
            if time.monotonic() > give_up_s:
                return False
            time.sleep(0.0005)
        return True

    def run_clean(self, seconds: float) -> dict[str, Any]:
        """Nothing happens: what trips here is false."""
        board = self.board
        tick, missed, started_s = board.tick, board.missed_ticks, time.monotonic()
        ended = self.until(lambda: self.control_ended or board.watchdog_tripped != 0, seconds)
        return {
            "seconds": round(time.monotonic() - started_s, 1),
            "trips": int(ended),
            "ticks": board.tick - tick,
            "missed": board.missed_ticks - missed,
            "tripped_at_s": board.watchdog_tripped_at_s,
        }
