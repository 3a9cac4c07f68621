"""The real link and the real trainer under a steady stream: two RGB-D cameras, as control sends them.

This process is control: raw pictures into the ring, episodes one after another. Link and trainer are
processes of their own, over loopback with CURVE. Nothing is scored or refined, no data set is written.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks import link_scene
from contracts import wire
from contracts.errors import EntracteError
from contracts.files.keys import KeyStore
from contracts.messages import EpisodeEnd
from contracts.sockets import Pass
from runtime.board import Board, LinkState, LoopState
from runtime.config import LinkSection, RobotConfig, RobotSection
from runtime.ring import Ring
from runtime.run import Run, RunPlan, new_shm_dir

ROBOT_ID, TRAINER = "bench-0", "trainer"
SOCKETS = ("frames", "episodes", "weights", "health")
PATIENCE_S = 60.0
RING_S = 1.0
GAP_S = 0.2
"""Between two episodes, as a robot that is already back has it."""


class Ends:
    """Both processes, from their start until they have stored everything."""

    def __init__(self, folder: Path, encrypted: bool) -> None:
        self.root, self._robot = folder / "trainer", folder / "robot"
        for one in (self.root, self._robot):
            one.mkdir(parents=True)
        if encrypted:
            exchange_keys(self.root, self._robot)
        self._encrypted = encrypted
        self.frames_pushed = self.frames_dropped = self._episodes = 0

    def __enter__(self) -> Ends:
        settings = {
            **{f"listen.{name}": "tcp://127.0.0.1:0" for name in SOCKETS},
            "refiner.kind": "''",
            "reward.model": "success",
            "reward.purposes": "[]",
            "reward.live": "false",
            "store.dataset": "false",
            "listen.curve": "always" if self._encrypted else "auto",
        }
        sets = [a for name, value in settings.items() for a in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "trainer.app", "serve", "--run-dir", str(self.root)]
        with (self.root / "stderr").open("w") as said:
            self.trainer = subprocess.Popen([*command, *sets], stderr=said)
        endpoints = self.root / "endpoints.json"
        self._wait("the trainer", endpoints.exists)
        found = json.loads(endpoints.read_text())
        self._run = Run(
            config=RobotConfig(
                robot=RobotSection(id=ROBOT_ID),
                link=LinkSection(
                    **{name: found[name] for name in SOCKETS},
                    curve="always" if self._encrypted else "auto",
                ),
            ),
            plan=RunPlan(),
            run_dir=str(self._robot),
            shm_dir=str(new_shm_dir(f"link-{time.monotonic_ns() % 10**9}")),
            session_id="link",
        )
        self._run.save()
        self.board = Board.create(self._run.board_path)
        self.board.loop_state = int(LoopState.RUNNING)
        self.board.loop_rate_hz = float(link_scene.RATE_HZ)
        moment = sum(5 * link_scene.WIDTH * link_scene.HEIGHT for _ in link_scene.CAMERAS)
        self._ring = Ring.create(self._run.ring_path, int(moment * link_scene.RATE_HZ * RING_S))
        self._ring.try_push(wire.pack(link_scene.session(ROBOT_ID, self._run.session_id)))
        command = [sys.executable, "-m", "runtime.link.process", "--run-dir", str(self._robot)]
        self.link = subprocess.Popen(command)
        self._wait("the greeting", lambda: self.board.link_state == LinkState.WELCOME)
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.link, self.trainer):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        self.board.close()
        self._ring.close()
        shutil.rmtree(self._run.shm_dir, ignore_errors=True)

    def stream(
        self,
        seconds: float,
        episode_s: float,
        rate_hz: float,
        views: link_scene.Views,
        each_second: Callable[[], None] = lambda: None,
    ) -> None:
        """Episodes for so long, a tick every 1 / `rate_hz`; pictures that find no room are counted. In the
        end every episode is stored at the trainer."""
        buffers = [link_scene.raw(moment) for moment in views]
        began_s = looked_s = time.monotonic()
        while time.monotonic() - began_s < seconds:
            start = link_scene.episode_start(ROBOT_ID, self._run.session_id, self._episodes)
            self._push(wire.pack(start))
            first_s, steps = time.monotonic(), round(episode_s * rate_hz)
            for index in range(steps):
                at_s = first_s + index / rate_hz
                time.sleep(max(0.0, at_s - time.monotonic()))
                self.board.tick += 1
                parts = wire.pack(
                    link_scene.step(index, time.monotonic()), buffers[index % len(buffers)]
                )
                self.frames_pushed += 1
                self.frames_dropped += not self._ring.try_push(parts)
                if time.monotonic() - looked_s >= 1.0:
                    looked_s = time.monotonic()
                    each_second()
            self._push(wire.pack(EpisodeEnd(self._episodes, steps, "completed", True)))
            self._episodes += 1
            time.sleep(GAP_S)
        self._wait("the last episode at the trainer", lambda: self.stored == self._episodes)

    @property
    def stored(self) -> int:
        path = self.root / "store" / "index.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def part_ways(self) -> None:
        """Stop the link and wait until the trainer has noticed: its last word on ages is in the metrics."""
        self.link.terminate()
        self.link.wait(30)
        self._wait("the trainer's last word", self._robot_lost)

    def _robot_lost(self) -> bool:
        said = (self.root / "metrics.jsonl").read_bytes()
        return 0 < said.count(b'"state": "seen"') <= said.count(b'"state": "lost"')

    def _push(self, parts: list[bytes | memoryview]) -> None:
        self._wait("room in the ring", lambda: self._ring.try_push(parts))

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            for process in (self.trainer, getattr(self, "link", self.trainer)):
                if process.poll() not in (None, 0):
                    raise EntracteError(f"waited for {what}", found=f"exit {process.returncode}")
            if time.monotonic() > give_up_s:
                raise EntracteError(f"waited {PATIENCE_S:g} s in vain for {what}")
            time.sleep(0.002)


class Spent:
    """CPU seconds of a process, from here on."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self._began_s, self._at_s = self._now(), time.monotonic()

    def cores(self) -> float:
        """Cores in use since the start, on average."""
        return (self._now() - self._began_s) / (time.monotonic() - self._at_s)

    def _now(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def exchange_keys(root: Path, robot: Path, name: str = ROBOT_ID) -> None:
    """What enrolment of the robot of that name leaves on both ends."""
    there, here = KeyStore(root / "keys"), KeyStore(robot / "keys")
    theirs, ours = there.own(make=True), here.own(make=True)
    now_s = time.time()
    there.add(Pass(name=name, key=ours.public, enrolled_unix_s=now_s))
    here.add(Pass(name=TRAINER, key=theirs.public, enrolled_unix_s=now_s))
