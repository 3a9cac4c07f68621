"""Link and trainer as real processes over loopback sockets, for tests that play control."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from tiny_package import make_package
from tiny_robot import episode, session_start

from contracts import wire
from contracts.files.packages import Package
from contracts.messages import ReleaseOutcome
from runtime.board import Board
from runtime.config import LinkSection, PolicySection, RewardSection, RobotConfig, RobotSection
from runtime.engines import EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.ring import Ring
from runtime.run import Run, RunPlan
from runtime.weights.probation import Probation
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper
from runtime.weights.swap_checks import SwapLimits
from trainer.metrics import read_metrics

PLUGIN = Path(__file__).resolve().parent / "plugin"
# Patches pickle and its like before the program starts: an exchange must not need them.
NO_PICKLE = str(Path(__file__).resolve().parent / "no_pickle.py")


def wait(what: str, condition, timeout_s: float = 30.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {timeout_s} s for {what}")


class Trainer:
    """`robot-trainer serve` in a process."""

    def __init__(self, root: Path, package: Package) -> None:
        self.root, self._package = root, package
        self.process: subprocess.Popen[bytes] | None = None
        self.endpoints: dict[str, str] = {}

    def start(self, **settings: object) -> Trainer:
        return self.launch(**settings).await_ready()

    def launch(self, **settings: object) -> Trainer:
        """Start it, and wait for nothing."""
        chosen = {
            "reward.model": "success",
            "refiner.kind": "tiny",
            "refiner.package": self._package.folder,
            "iteration.episodes": 3,
            **{f"listen.{n}": self.endpoints.get(n, "tcp://127.0.0.1:0") for n in NAMES},
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        (self.root / "endpoints.json").unlink(missing_ok=True)
        arguments = [a for key, value in chosen.items() for a in ("--set", f"{key}={value}")]
        command = [sys.executable, NO_PICKLE, "trainer.app", "serve", "--run-dir", self.root]
        path = f"{PLUGIN}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = {**os.environ, "PYTHONPATH": path}
        self.process = subprocess.Popen([*map(str, command), *arguments], env=environment)
        return self

    def await_ready(self) -> Trainer:
        assert self.process is not None
        there = (self.root / "endpoints.json").exists
        wait("the trainer", lambda: there() or self.process.poll(), 120.0)
        assert self.process.poll() is None
        found = json.loads((self.root / "endpoints.json").read_text())
        self.endpoints = {name: found[name] for name in NAMES}
        return self

    def records(self, kind: str) -> list[dict]:
        path = self.root / "metrics.jsonl"
        return [r for r in read_metrics(path) if r["kind"] == kind] if path.exists() else []

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=60)


NAMES = ("frames", "episodes", "weights", "health")


class Robot:
    """A run folder, board, ring and a link process; the test is its control."""

    def __init__(
        self,
        folder: Path,
        package: Package,
        trainer: Trainer,
        name: str = "bench-0",
        reward: Package | None = None,
        cameras: Sequence[str] = ("front",),
    ):
        self._cameras = cameras
        self.folder, self._name, self._package, self._reward = folder, name, package, reward
        (folder / "shm").mkdir(parents=True)
        key = (trainer.root / "trainer.pub").read_bytes()
        (folder / "trainer.pub").write_bytes(key)
        config = RobotConfig(
            robot=RobotSection(id=name),
            policy=PolicySection(package=str(package.folder)),
            reward=RewardSection(package=str(reward.folder) if reward else ""),
            link=LinkSection(**trainer.endpoints),
        )
        self.run = Run(
            config=config,
            plan=RunPlan(),
            run_dir=str(folder),
            shm_dir=str(folder / "shm"),
            session_id="s1",
        )
        self.run.save()
        self.board = Board.create(self.run.board_path)
        self.ring = Ring.create(self.run.ring_path, 1 << 20)
        self._reports = 0
        self.push(wire.pack(session_start(robot_id=name, cameras=cameras)))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Robot:
        self.board.link_ready = 0
        command = [sys.executable, NO_PICKLE, "runtime.link.process", "--run-dir", str(self.folder)]
        self.process = subprocess.Popen(command)
        wait("the link", lambda: self.board.link_ready)
        return self

    def push(self, parts) -> None:
        wait("room in the ring", lambda: self.ring.try_push(parts))

    def play(self, seq: int, **given) -> None:
        for parts in episode(seq, robot_id=self._name, cameras=self._cameras, **given):
            self.board.tick += 1
            self.push(parts)

    def tell(self, outcome: ReleaseOutcome) -> None:
        self._reports += 1
        report_id = outcome.report_id or f"{self.run.session_id}.{self._reports}"
        self.push(wire.pack(msgspec.structs.replace(outcome, report_id=report_id)))

    def swapper(self, target: str = "policy") -> Swapper:
        package = self._package if target == "policy" else self._reward
        assert package is not None
        slots = SlotStore(self.run.slots_dir / target, package.package_id)
        engine = OnnxRuntimeEngine(package, "head", EngineOptions())
        limits = SwapLimits(latency_s=1.0)
        rules = Probation(unjudged=1)  # nobody judges here: one episode commits
        return Swapper(
            target, slots, package, engine, robot_id=self._name, limits=limits, rules=rules
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=30)

    @property
    def spooled(self) -> list[str]:
        return sorted(p.name for p in (self.folder / "spool").glob("*.elog*"))

    @property
    def untold(self) -> int:
        return len(list((self.folder / "spool/outcomes").glob("*.wire")))


def stored(trainer: Trainer) -> list[tuple[str, int]]:
    path = trainer.root / "store" / "index.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines]
    assert [entry["arrival"] for entry in entries] == list(range(len(entries)))
    return [(entry["robot_id"], entry["episode_seq"]) for entry in entries]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("package") / "policy")


@pytest.fixture
def trainer(tmp_path: Path, package: Package) -> Iterator[Trainer]:
    (tmp_path / "trainer").mkdir()
    trainer = Trainer(tmp_path / "trainer", package)
    yield trainer
    if trainer.process is not None and trainer.process.poll() is None:
        trainer.stop(signal.SIGKILL)
