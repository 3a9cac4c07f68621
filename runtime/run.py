"""One start of `robot-run`: what it does, its folder, and where its processes find one another."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from contracts.errors import ConfigError
from runtime.config import RobotConfig

LOOP_FILE = "loop.json"
"""In the run folder: what control says of its loop (`runtime.control.periodicity`, `.realtime`)."""
EXIT_FILE = "control.exit.json"
"""In the run folder: why control ended, unless all went well."""

_SHM_PREFIX = "entracte-"

Purpose = Literal["refine", "evaluate", "record"]


class RunPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this start of `robot-run` does, beside the hardware configuration.

    `driver`: "policy", "expert" for the bench's scripted teleoperator in `style`, or "person" for a
    teleoperator (`operator.teleoperator`). `episodes`: 0 until
    stopped (or `iteration.count` iterations). `sink`: who consumes the ring: "link", "dataset" (the
    recorder writes `output`) or "none".
    """

    purpose: Purpose = "refine"
    driver: Literal["policy", "expert", "person"] = "policy"
    style: str = ""
    episodes: int = 0
    first: int = 0
    """Of an evaluation: this block of it begins at that episode, whose scene, numbers and times are as in the
    whole."""
    sink: Literal["link", "dataset", "none"] = "link"
    output: str = ""
    label_steps: bool = False
    """Record the bench's progress and success with every step (data for reward models)."""
    keep: Literal["all", "success"] = "all"
    """Which recorded episodes the data set takes."""
    claims: str = ""
    """Folder from which this run and others with the same plan take episodes (`runtime.processes.claims`)."""


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`config.json` of a run folder: everything that the processes of one start need to know."""

    config: RobotConfig
    plan: RunPlan
    run_dir: str
    shm_dir: str
    session_id: str

    @property
    def board_path(self) -> Path:
        return Path(self.shm_dir) / "board"

    @property
    def blackbox_path(self) -> Path:
        """The last seconds of control (`runtime.blackbox.box`)."""
        return Path(self.shm_dir) / "blackbox"

    @property
    def blackbox_dir(self) -> Path:
        """Its dumps."""
        return Path(self.run_dir) / "blackbox"

    @property
    def ring_path(self) -> Path:
        return Path(self.shm_dir) / "ring"

    @property
    def bench_address(self) -> Path:
        """Unix socket of the bench process."""
        return Path(self.shm_dir) / "bench"

    @property
    def arm_address(self) -> Path:
        """Unix socket of the arm's process."""
        return Path(self.shm_dir) / "arm"

    @property
    def stage_path(self) -> Path:
        """What the bench's cameras look at (`runtime.bench.stage`)."""
        return Path(self.shm_dir) / "stage"

    @property
    def spool_dir(self) -> Path:
        return Path(self.run_dir) / "spool"

    @property
    def slots_dir(self) -> Path:
        return Path(self.run_dir) / "slots"

    @property
    def truth_path(self) -> Path:
        return Path(self.run_dir) / self.config.bench.truth_file

    def frames_path(self, camera: str) -> Path:
        return Path(self.shm_dir) / f"frames-{camera}"

    def hand_path(self, desk: str) -> Path:
        """What a person wants of the arm (`runtime.teleoperation.page`), by the desk they sit at."""
        return Path(self.shm_dir) / f"hand-{desk}"

    def desk_path(self, desk: str) -> Path:
        """The lock of a desk: one process at a time gives its commands."""
        return Path(self.shm_dir) / f"desk-{desk}"

    @property
    def page_key_path(self) -> Path:
        """What the operator's page proves itself with (`runtime.operator.doors`)."""
        return Path(self.shm_dir) / "page-key"

    @property
    def window_path(self) -> Path:
        """What control shows of its ticks (`runtime.operator.window`)."""
        return Path(self.shm_dir) / "window"

    def camera_path(self, camera: str) -> Path:
        """The spec of a camera that a process of its own has opened."""
        return Path(self.shm_dir) / f"camera-{camera}.json"

    def ring_bytes(self) -> int:
        """Room for `recording.ring_s` seconds of raw pictures of all cameras at the loop's rate, and for
        those of one tick at least: a record may fill half of the ring."""
        config = self.config
        frame = sum(
            camera.width * camera.height * (5 if camera.depth and config.recording.depth else 3)
            for camera in config.cameras.values()
        )
        rate = config.loop.rate_hz / config.recording.frames_every
        seconds = int(frame * rate * config.recording.ring_s)
        return max(4 << 20, seconds + (1 << 20), 2 * frame + (1 << 20))

    def save(self) -> None:
        path = Path(self.run_dir) / "config.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))

    @classmethod
    def load(cls, run_dir: Path) -> Run:
        path = run_dir / "config.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise ConfigError(f"no run at {run_dir}", found=error.strerror) from error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: {error}") from error


def run_of_process(module: str) -> Run:
    """The run that this process, `python -m <module> --run-dir <dir>`, belongs to. Raises `ConfigError`."""
    parser = argparse.ArgumentParser(prog=module, description=sys.modules["__main__"].__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    return Run.load(parser.parse_args().run_dir)


def new_shm_dir(session_id: str) -> Path:
    """A fresh folder in memory where the machine has one (short: Unix socket paths end at 107 bytes)."""
    path = _memory() / f"{_SHM_PREFIX}{session_id}"
    path.mkdir(mode=0o700)
    return path


def forget_the_killed(run_dir: Path) -> None:
    """Remove the shared memory of the start before, where it was killed and could not: a hundred megabytes
    each time. What of it is still ending keeps what it has open. A folder that is the copy of another's says
    nothing of itself: that one's robot may be at work."""
    with contextlib.suppress(ConfigError):
        run = Run.load(run_dir)
        left, own = Path(run.shm_dir), run.run_dir == str(run_dir.resolve())
        if own and left.parent == _memory() and left.name.startswith(_SHM_PREFIX):
            shutil.rmtree(left, ignore_errors=True)


def _memory() -> Path:
    base = Path("/dev/shm")
    usable = base.is_dir() and os.access(base, os.W_OK)
    return base if usable else Path(tempfile.gettempdir())
