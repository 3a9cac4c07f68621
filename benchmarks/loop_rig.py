"""What the control loops are measured on: a simulated servo bus as the arm, two recorded RGB-D cameras.

Nothing is rendered while a loop runs. Owns the bus process, the recording and the configuration; the loops
under test are started elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import EntracteError
from runtime.config import load_config
from runtime.processes.supervisor import make_run
from runtime.run import Run, RunPlan

CAMERAS = ("front", "wrist")
WIDTH, HEIGHT, CAMERA_HZ = 640, 480, 30
ARM_NAME = "rig"
INSTRUCTION = "open the drawer"
_START_S = 60.0
_RECORDED_S = 2.0
_BUS = """
from runtime.bench.servo_bus import main
from runtime.system.priority import Rank, run_first
run_first(Rank.BUS)
main()
"""
# Servos do not wait for this computer's other programs.


class Rig:
    """`with Rig(folder) as rig`: the bus runs until the block is left. `folder` keeps the recording."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.recording = self.folder / "recording"
        self.calibration = self.folder / f"{ARM_NAME}.json"
        self.port = self.folder / "port"
        self._bus: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Rig:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.recording / "meta" / "info.json").exists():
            self._record()
        command = [sys.executable, "-c", _BUS]
        paths = ["--calibration", str(self.calibration), "--link", str(self.port)]
        self._bus = start([*command, *paths], self.folder / "bus.log")
        wait_for(self.port.exists, self._bus, self.folder / "bus.log", "the servo bus")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bus is not None:
            end(self._bus)

    def overrides(self, rate_hz: float, package: Path) -> list[str]:
        """Of `runtime.config`, for a robot on this rig."""
        cameras = [
            f"cameras.{name}={{kind: playback, width: {WIDTH}, height: {HEIGHT}, rate_hz: {CAMERA_HZ}, "
            f"depth: true, options: {{path: '{self.recording}', camera: {name}}}}}"
            for name in CAMERAS
        ]
        # A kernel thread of ordinary priority carries a pseudo-terminal's bytes: with both processors taken
        # it needs longer than a wire.
        options = f"{{port: '{self.port}', calibration: '{self.calibration}', reply_s: 0.05}}"
        return [
            *("pace=realtime", "bench.enabled=false", f"loop.rate_hz={rate_hz}"),
            *("loop.watchdog_timeout_s=0.2", "loop.lease_s=0.2", "loop.pause_allowance_s=1.0"),
            *cameras,
            f"arm={{kind: so101, options: {options}, read_rate_hz: 100, fault_after_s: 0.5, "
            "command_timeout_s: 1.25}",  # more than the pause that is allowed
            # The servos stand in the middle of their ranges, where no table is.
            *("gate.workspace_x_m=[-1, 1]", "gate.workspace_y_m=[-1, 1]"),
            *("gate.workspace_z_m=[-1, 1]", f"episode.instruction={INSTRUCTION}"),
            *(
                "recording.ring_s=0.5",
                f"policy.package={package.resolve()}",
                "policy.explore_deg=0",
            ),
        ]

    @contextlib.contextmanager
    def cameras(self, rate_hz: float, package: Path, folder: Path) -> Iterator[Run]:
        """The capture processes alone, for a loop that isn't ours."""
        config = load_config(None, self.overrides(rate_hz, package))
        run = make_run(config, RunPlan(sink="none"), folder)
        started: list[subprocess.Popen[bytes]] = []
        try:
            for name in CAMERAS:
                command = [sys.executable, "-m", "runtime.cameras.capture"]
                more = ["--run-dir", run.run_dir, "--camera", name]
                started.append(start([*command, *more], folder / f"camera-{name}.log"))
            for name, process in zip(CAMERAS, started, strict=True):
                log = folder / f"camera-{name}.log"
                wait_for(run.camera_path(name).exists, process, log, f"camera {name}")
            yield run
        finally:
            for process in started:
                end(process)
            for path in Path(run.shm_dir).iterdir():
                path.unlink()
            Path(run.shm_dir).rmdir()

    def _record(self) -> None:
        """Two seconds of the bench's two cameras at full size, by the scripted expert."""
        sizes = [
            f"cameras.{name}.{key}={value}"
            for name in CAMERAS
            for key, value in (("width", WIDTH), ("height", HEIGHT), ("rate_hz", CAMERA_HZ))
        ]
        settings = [*sizes, f"loop.rate_hz={CAMERA_HZ}", f"episode.max_s={_RECORDED_S}"]
        command = [
            *(sys.executable, "-m", "runtime.app", "record", "--expert", "--task", "open-drawer"),
            *("--episodes", "1", "--output", str(self.recording)),
            *("--run-dir", str(self.folder / "recording-run")),
            *(word for one in settings for word in ("--set", one)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EntracteError("the cameras' pictures could not be recorded", found=done.stderr)


def start(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A child whose output goes to `log`."""
    with log.open("wb") as out:
        more = {"OMP_NUM_THREADS": "1", **(environment or {})}
        return subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **more})


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_for(ready: object, process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    """Until `ready()`. Raises `EntracteError` with the log's last lines."""
    give_up_s = time.monotonic() + _START_S
    while not ready():  # type: ignore[operator]
        if process.poll() is not None or time.monotonic() > give_up_s:
            raise EntracteError(f"{what} did not start", found=tail(log))
        time.sleep(0.05)


def tail(log: Path, lines: int = 3) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:])
