"""Lateness of our control loop beside a bare absolute-deadline loop and LeRobot's own, block by block.

Of each rate, blocks of some 20 s take turns: our robot with everything running (inference, two 640x480 RGB-D
cameras, recording, streaming to a trainer), a loop that only meets deadlines and copies two pictures, and
LeRobot's `record_loop` on the same arm, cameras and policy. Blocks are kept as they are done: the same
command goes on where it was stopped. Probes on every processor say when the machine itself stood still.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import loop_rig
from benchmarks.loop_blocks import (
    KINDS,
    LATE_S,
    Blocks,
    explain,
    off_period,
    on_grid,
    picture_ages,
)
from benchmarks.loop_rig import Rig
from benchmarks.pauses import Probes, stolen_s
from contracts.errors import EntracteError
from contracts.files.episode_log import EpisodeLogReader
from contracts.messages import EpisodeEnd, Step

BIN = Path(sys.executable).parent
SOCKETS = ("frames", "episodes", "weights", "health")
LEROBOT = "ENTRACTE_LEROBOT_PYTHON"
EXECUTE_STEPS = 8
ROBOT = "rig"
"""Its id, at any rate: what a start left in its spool is offered by the next."""
_ANSWER_S = 300.0
"""What LeRobot may need beside the block itself: to connect, and to encode what it recorded."""
_MOST_STOPS, _MOST_RESTLESS = 10, 150
_ROOT = Path(__file__).resolve().parent.parent

Report = Callable[[str], None]


class Stopped(EntracteError):
    """Our robot went into hold by itself, for a fault that it saw."""


def measure(
    package: Path,
    rate_hz: float,
    ticks: int,
    block_s: float,
    folder: Path,
    report: Report,
    restless_percent: float = 100.0,
) -> dict[str, Any]:
    """Blocks in turn until each kind has `ticks` of this rate; what `folder` holds already is kept. Those
    with more than `restless_percent` of their time lost to the machine don't count, see `Blocks`."""
    done = Blocks(folder / f"blocks-{rate_hz:g}.jsonl", restless_percent)
    lerobot = os.environ.get(LEROBOT, "")
    kinds = [kind for kind in KINDS if kind != "lerobot" or lerobot]
    if not lerobot:
        report(f"LeRobot's loop is left out: {LEROBOT} names no Python with lerobot 0.4.4")
    if all(done.ticks(kind) >= ticks for kind in kinds):
        return done.summary(rate_hz)
    with Rig(folder / "rig") as rig, Trainer(folder / "trainer") as trainer:
        loops: dict[str, Any] = {
            "loop": OurLoop(rig, trainer, package, rate_hz, folder),
            "bare": BareLoop(rate_hz),
        }
        if lerobot:
            loops["lerobot"] = LeRobotLoop(lerobot, rig, package, rate_hz, folder)
        stops = restless = 0
        try:
            while waiting := [kind for kind in kinds if done.ticks(kind) < ticks]:
                for kind in waiting:
                    block = _block(loops[kind], block_s)
                    done.add(kind, block)
                    left_out = (
                        "" if done.counts(block) else ", without this block: a restless machine"
                    )
                    report(f"{rate_hz:g} Hz, {kind}: {done.ticks(kind)} of {ticks} ticks{left_out}")
                    restless += bool(left_out)
                    if restless > _MOST_RESTLESS:
                        raise EntracteError(
                            f"in {restless} blocks the machine stood still for over {restless_percent:g} %",
                            remedy="try again when it is left alone: the same command goes on",
                        )
                    if why := block.get("stopped"):
                        stops += 1
                        report(f"{rate_hz:g} Hz, {kind} stopped by itself: {why}")
                    if stops > _MOST_STOPS:
                        raise EntracteError(f"loops stopped by themselves {stops} times", found=why)
        finally:
            for one in loops.values():
                one.close()
    return done.summary(rate_hz)


def _block(loop: Any, seconds: float) -> dict[str, Any]:
    """One block, with what the machine lost meanwhile."""
    before_s, began_s = stolen_s(), time.monotonic()
    with Probes() as probes:
        try:
            found: dict[str, Any] = loop.run(seconds)
        except Stopped as error:  # a result, too: a table of what survived would be none
            found = {"lateness_s": [], "off_s": [], "missed": 0, "stopped": str(error)}
        pauses = probes.stop()
    watched_s = round(time.monotonic() - began_s, 3)
    late = [explain(at_s, by_s, loop.period_s, pauses) for at_s, by_s in found.get("late", ())]
    stolen = round(stolen_s() - before_s, 3)
    return {**found, "late": late, "pauses": pauses, "stolen_s": stolen, "seconds": watched_s}


class Trainer:
    """A trainer that receives and stores, as the robot's other end."""

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        """`settings`: further ones of its configuration, as --set takes them."""
        self.folder, self._settings = folder, settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Trainer:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "endpoints.json").unlink(missing_ok=True)
        sockets = [f"listen.{n}=tcp://127.0.0.1:0" for n in SOCKETS]
        settings = ["refiner.kind=''", "reward.model=constant", "reward.live=false", *sockets]
        settings.append("store.dataset=false")
        words = [w for one in (*settings, *self._settings) for w in ("--set", one)]
        command = [str(BIN / "robot-trainer"), "serve", "--run-dir", str(self.folder), *words]
        log = self.folder / "trainer.log"
        self._process = loop_rig.start(command, log)
        loop_rig.wait_for((self.folder / "endpoints.json").exists, self._process, log, "trainer")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            loop_rig.end(self._process)

    @property
    def endpoints(self) -> dict[str, str]:
        return dict(json.loads((self.folder / "endpoints.json").read_text()))

    def logs(self) -> set[Path]:
        return set((self.folder / "store" / "logs").glob("*"))

    def wait_for_log(self, before: set[Path]) -> Path:
        """The one episode that came since. Raises `EntracteError`."""
        give_up_s = time.monotonic() + 60.0
        while not (new := self.logs() - before):
            if time.monotonic() > give_up_s:
                raise EntracteError("the trainer did not store the block's episode")
            time.sleep(0.1)
        return new.pop()


class OurLoop:
    """`robot-run start` for one episode a block."""

    def __init__(
        self, rig: Rig, trainer: Trainer, package: Path, rate_hz: float, folder: Path
    ) -> None:
        self._rig, self._trainer, self._rate_hz = rig, trainer, rate_hz
        self.period_s = 1.0 / rate_hz
        self._package, self._folder = package, folder / "robot"

    def run(self, seconds: float) -> dict[str, Any]:
        self._folder.mkdir(parents=True, exist_ok=True)
        before, endpoints = self._trainer.logs(), self._trainer.endpoints
        settings = [
            *self._rig.overrides(self._rate_hz, self._package),
            *(f"episode.max_s={seconds}", "iteration.wait_for_release=false"),
            *(f"robot.id={ROBOT}", f"policy.execute_steps={EXECUTE_STEPS}"),
            *(f"link.{name}={endpoints[name]}" for name in SOCKETS),
        ]
        words = [word for one in settings for word in ("--set", one)]
        command = [str(BIN / "robot-run"), "start", "--run-dir", str(self._folder), "--json"]
        log = self._folder / "robot.log"
        robot = loop_rig.start([*command, "--episodes", "1", *words], log)
        try:
            code = robot.wait(seconds * 2 + 120)
        finally:
            loop_rig.end(robot)
        if code:
            raise Stopped("the robot stopped", found=self._last_words())
        messages = [
            packet.message
            for packet in EpisodeLogReader(self._trainer.wait_for_log(before)).packets()
        ]
        steps = [message for message in messages if isinstance(message, Step)]
        end = next(message for message in messages if isinstance(message, EpisodeEnd))
        report = json.loads((self._folder / "run_report.json").read_text())
        return {
            "lateness_s": [round(step.lateness_s, 7) for step in steps],
            "off_s": off_period([step.tick_s for step in steps], self.period_s),
            "missed": int(end.timings["missed"]),
            "sections": {k: v for k, v in end.timings.items() if k.endswith(("p50_s", "p99_s"))},
            "late": [(s.tick_s, s.lateness_s) for s in steps if s.lateness_s > LATE_S],
            "pictures": picture_ages(steps),
            "frames_dropped": report["ring_frames_dropped"],
            "records_dropped": report["ring_records_dropped"],
            "held_ticks": report["held_ticks"],
            "loop": report["loop"],
        }

    def _last_words(self) -> str:
        logs = [self._folder / "robot.log", *sorted((self._folder / "logs").glob("*.log"))]
        said = [(log.stem, loop_rig.tail(log, 1)) for log in logs]
        return " | ".join(f"{name}: {words}" for name, words in said if words)

    def close(self) -> None:
        pass


class BareLoop:
    """`benchmarks.bare` in a process of its own, at our loop's priority, on an otherwise idle machine."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz, self.period_s = rate_hz, 1.0 / rate_hz

    def run(self, seconds: float) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.bare", str(self._rate_hz), str(seconds), "raw"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_ROOT)
        found = json.loads(done.stdout)
        return {
            "lateness_s": found["lateness_s"],
            "off_s": off_period(found["starts_s"], self.period_s),
            "missed": found["missed"],
        }

    def close(self) -> None:
        pass


def answer(process: subprocess.Popen[str], within_s: float, log: Path) -> str:
    """The next line that `process` says; empty if it ended. Raises `EntracteError` if it says none."""
    assert process.stdout is not None
    file, data, give_up_s = process.stdout.fileno(), b"", time.monotonic() + within_s
    while not data.endswith(b"\n"):
        left_s = max(0.0, give_up_s - time.monotonic())
        if not select.select([file], [], [], left_s)[0]:
            process.kill()
            raise EntracteError(
                "LeRobot's loop does not answer",
                expected=f"a line within {within_s:g} s",
                found=loop_rig.tail(log, 6),
            )
        piece = os.read(file, 1 << 16)
        if not piece:
            return ""
        data += piece
    return data.decode()


class LeRobotLoop:
    """`benchmarks/lerobot_loop.py` under LeRobot's Python, which is kept between blocks."""

    def __init__(self, python: str, rig: Rig, package: Path, rate_hz: float, folder: Path) -> None:
        self._rig, self._package, self._rate_hz = rig, package, rate_hz
        self.period_s = 1.0 / rate_hz
        self._folder = folder / "lerobot"
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = {
            # What LeRobot's environment lacks (ONNX Runtime, msgspec) comes from ours, behind its own.
            "paths": [str(_ROOT), *(path for path in sys.path if path.endswith("site-packages"))],
            "rate_hz": rate_hz,
            "folder": str(self._folder),
            "port": str(rig.port.resolve()),
            "calibration": str(rig.calibration),
            "package": str(package.resolve()),
            "execute": EXECUTE_STEPS,
            "instruction": loop_rig.INSTRUCTION,
        }
        path = self._folder / "settings.json"
        path.write_text(json.dumps(settings))
        with (self._folder / "lerobot.log").open("wb") as log:
            self._process = subprocess.Popen(
                [python, str(Path(__file__).with_name("lerobot_loop.py")), str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )

    def run(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        cameras = self._folder / "cameras"
        with self._rig.cameras(self._rate_hz, self._package, cameras) as run:
            frames = {name: str(run.frames_path(name)) for name in loop_rig.CAMERAS}
            self._process.stdin.write(json.dumps({"seconds": seconds, "frames": frames}) + "\n")
            self._process.stdin.flush()
            log = self._folder / "lerobot.log"
            line = answer(self._process, 2 * seconds + _ANSWER_S, log)
        if not line:
            raise EntracteError(
                "LeRobot's loop ended", found=loop_rig.tail(self._folder / "lerobot.log", 6)
            )
        told = json.loads(line)
        starts_s = told["starts_s"]
        lateness_s, missed = on_grid(starts_s, self._rate_hz)
        return {
            "lateness_s": lateness_s,
            "off_s": off_period(starts_s, self.period_s),
            "missed": missed,
            "stopped": told["stopped"],
        }

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
