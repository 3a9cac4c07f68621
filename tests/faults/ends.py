"""Both ends of the cable for chaos runs: the real daemon and the real link as processes, and a control.

Control is stood in for by a thread: it infers with the real engine, asks the real rule whether an action may
be followed, writes real messages into the real ring, and swaps fetched releases in between two episodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from tiny_package import LENGTH, head_inputs
from tiny_robot import pictures, session_start, step

from benchmarks.link_run import exchange_keys
from contracts import wire
from contracts.files.keys import KeyStore
from contracts.files.packages import Package
from contracts.messages import EpisodeEnd, EpisodeStart, GateBit, ReleaseOutcome
from contracts.weights import read_tensors
from runtime.board import Board
from runtime.config import LinkSection, PolicySection, RobotConfig, RobotSection
from runtime.engines import EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.gate.limits import InForce, Origin, wrong_origin
from runtime.ring import Ring
from runtime.run import Run, RunPlan
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper
from runtime.weights.swap_checks import SwapLimits
from tests.faults.history import Written, digest
from tests.faults.processes import Process

SOCKETS = ("frames", "episodes", "weights", "health")
MAX_ACTION_AGE_S = 1.0
RING_BYTES = 1 << 20


class PowerCut(Exception):
    """The robot went dark: what was not on its disk is gone."""


class TrainerEnd:
    """`robot-trainer serve` with the tiny refiner; a later start binds the same ports."""

    def __init__(
        self,
        root: Path,
        package: Package,
        episodes_per_iteration: int,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.root, self._package = root, package
        self.encrypts = (settings or {}).get("listen.curve") == "always"
        if self.encrypts:
            KeyStore(root / "keys").own(make=True)
        self._settings = {
            "reward.model": "success",
            "reward.live": True,
            "refiner.kind": "tiny",
            "refiner.package": package.folder,
            "iteration.episodes": episodes_per_iteration,
            "release.keep": 100_000,
            "store.dataset": False,
            "store.min_free_mib": 1,
            **(settings or {}),
        }
        self.endpoints: dict[str, str] = {}
        self.process = self._process("tcp://127.0.0.1:0")
        self.process.start()
        there = (root / "endpoints.json").exists
        wait("the trainer", lambda: there() or not self.process.alive)
        if not there():
            raise AssertionError(f"the trainer did not start: {self.process.log.read_text()}")
        found = json.loads((root / "endpoints.json").read_text())
        self.endpoints = {name: found[name] for name in SOCKETS}
        first, self.process = self.process, self._process("")
        first.end()
        self.process.start()

    def _process(self, listen: str) -> Process:
        chosen = {
            **self._settings,
            **{f"listen.{name}": self.endpoints.get(name, listen) for name in SOCKETS},
        }
        overrides = [a for key, value in chosen.items() for a in ("--set", f"{key}={value}")]
        arguments = ("serve", "--run-dir", str(self.root), *overrides)
        return Process("trainer.app", self.root, *arguments)

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def stored(self) -> int:
        """Episodes in the index."""
        path = self.store / "index.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def actions(self) -> dict[int, np.ndarray]:
        """What the weights of each release do, float[6], and the package's own (0)."""
        found = {0: act(self._package.refinable_weights())}
        for folder in sorted((self.root / "releases" / "policy").iterdir()):
            path = folder / "weights.safetensors"
            if path.exists():
                found[int(folder.name)] = act(read_tensors(path.read_bytes()))
        return found


class RobotEnd(threading.Thread):
    """A robot: run folder, link process, and control as this thread. `written` is the truth of the run."""

    def __init__(
        self,
        folder: Path,
        package: Package,
        trainer: TrainerEnd,
        addresses: Mapping[str, str],
        name: str,
        episodes: int,
        seed: str,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.folder, self._package = folder, package
        self._random = random.Random(seed)
        self._episodes, self._session = episodes, 0
        self._config = RobotConfig(
            robot=RobotSection(id=name),
            policy=PolicySection(package=str(package.folder)),
            link=LinkSection(
                **addresses,
                spool_max_mib=48,
                spool_min_free_mib=1,
                curve="always" if trainer.encrypts else "auto",
            ),
        )
        folder.mkdir(exist_ok=True)
        if trainer.encrypts:
            exchange_keys(trainer.root, folder, name)
        (folder / "trainer.pub").write_bytes((trainer.root / "trainer.pub").read_bytes())
        self.link = Process("runtime.link.process", folder, "--run-dir", str(folder))
        self.lock = threading.RLock()
        """Held by whoever starts or kills the link."""
        self.written: list[Written] = []
        self.activated: set[int] = set()
        self.swaps = self.restarts = self.power_cuts = self.ended_full = 0
        self.next_restart = ""
        """Set from outside: "restart" (between two episodes) or "power cut" (at once)."""
        self.done = False
        self.error: BaseException | None = None
        self._seq = self._reports = 0
        self._boot()

    # -- what the machine does

    def _boot(self) -> None:
        """Start again and again until the disk has room for it."""
        while True:
            try:
                self._start_run()
                return
            except OSError:
                time.sleep(0.1)

    def _start_run(self) -> None:
        """A start of the run: new session, new shared memory, the swapper from what the slots hold."""
        with self.lock:
            self.link.kill()
            self._session += 1
            # As /dev/shm: memory that a full disk takes nothing of.
            shm = self.folder.with_name(f"{self.folder.name}-shm-{self._session}")
            shm.mkdir()
            self._run = Run(
                config=self._config,
                plan=RunPlan(),
                run_dir=str(self.folder),
                shm_dir=str(shm),
                session_id=f"s{self._session}",
            )
            self._run.save()
            self.board = Board.create(self._run.board_path)
            self.ring = Ring.create(self._run.ring_path, RING_BYTES)
            self._pushed = 0
            self.link.start()
        slots = SlotStore(self._run.slots_dir / "policy", self._package.package_id)
        engine = OnnxRuntimeEngine(self._package, "head", EngineOptions())
        self.swapper = Swapper(
            "policy",
            slots,
            self._package,
            engine,
            robot_id=self.name,
            limits=SwapLimits(latency_s=30.0),
        )
        self.swapper.start()
        self.activated.add(self.swapper.version)
        while not self.ring.try_push(wire.pack(session_start(self._run.session_id, self.name))):
            time.sleep(0.001)
        self._pushed += 1

    def kill_link(self) -> None:
        """SIGKILL, and a new one, as the supervisor starts it."""
        self.link.kill()
        self.board.link_ready = 0
        self.link.start()

    def _restart(self) -> None:
        """Control ended well; the supervisor lets the link empty the ring and then ends it."""
        self.restarts += 1
        while self.ring.waiting:
            time.sleep(0.01)
        self.swapper.close()
        self._boot()

    def _go_dark(self) -> None:
        """What is in shared memory is lost, and with it what the episodes in there had not on disk."""
        with self.lock:
            self.link.kill()
            taken = self._pushed - self.ring.waiting
        for written in reversed(self.written):
            if written.key[1] != self._run.session_id or 0 < written.ended <= taken:
                break
            written.cut = True
        self.swapper.close()

    @property
    def untold(self) -> int:
        """Files that still wait for the trainer."""
        spool = self._run.spool_dir
        waiting = [*spool.glob("*.elog*"), *(spool / "outcomes").glob("*.wire")]
        return len(waiting) + (self.ring.waiting if not self.done else 0)

    # -- what control does

    def run(self) -> None:
        try:
            while self._seq < self._episodes:
                if self.next_restart == "restart":
                    self.next_restart = ""
                    self._restart()
                try:
                    self._episode()
                except OSError:
                    # The slots could not be written: control ends there, and somebody starts it again.
                    self.ended_full += 1
                    self._restart()
                except PowerCut:
                    self.next_restart = ""
                    self.power_cuts += 1
                    self._go_dark()
                    self._boot()
                self._seq += 1
            while self.ring.waiting:
                time.sleep(0.01)
        except BaseException as error:
            self.error = error
        finally:
            self.done = True

    def _between_episodes(self) -> None:
        """The arm is brought back; now and then the newest release is waited for."""
        patience_s = 3.0 if self._random.random() < 0.1 else self._random.expovariate(10)
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s and not self.next_restart:
            if patience_s == 3.0 and self.board.staged_policy_seq > self.swapper.tried:
                return
            time.sleep(0.005)

    def _episode(self) -> None:
        self._between_episodes()
        for outcome in self.swapper.follow(self._seq):
            self._tell(outcome)  # what a power cut kept from the trainer
        for outcome in self.swapper.swap(self._seq):
            self.swaps += outcome.outcome == "swapped"
            self._tell(outcome)
        version = self.swapper.version
        self.activated.add(version)
        key = (self.name, self._run.session_id, self._seq)
        written = Written(key, version, kept=self._random.random() > 0.02)
        self.written.append(written)
        start = EpisodeStart(
            *(*key[:2], self._seq, "open", "open-drawer", "refine", version),
            *(self._package.package_id, 0, "", 0, 1e9),
        )
        self._push(wire.pack(start))
        steps = self._random.randint(2, 16)
        for index in range(steps):
            self._step(written, index)
        reason = "time_limit" if written.kept else "rerecord"
        self._push(wire.pack(EpisodeEnd(self._seq, steps, reason, self._random.random() < 0.5)))
        written.ended = self._pushed
        outcome = self.swapper.settle()
        if outcome is not None:
            self._tell(outcome)

    def _step(self, written: Written, index: int) -> None:
        chunk = index // LENGTH
        if index % LENGTH == 0:
            self._observed_s = time.monotonic()
            self._action = infer(self.swapper)
        if self._random.random() < 0.01:
            time.sleep(0.05)
        now_s = time.monotonic()
        force = InForce(self._seq, self.swapper.version, chunk - 1)
        origin = Origin(self._seq, written.version, chunk, self._observed_s)
        refused = wrong_origin(force, origin, now_s, MAX_ACTION_AGE_S)
        message = msgspec.structs.replace(
            step(index, written.version),
            action=tuple(float(value) for value in self._action),
            gate=GateBit.HELD | GateBit.FOREIGN if refused else 0,
            inference_started_s=self._observed_s,
            actuated_s=now_s,
            chunk=chunk,
            chunk_index=index % LENGTH,
        )
        seen = pictures(index, self._seq) if index % 2 == 0 else []
        parts = wire.pack(message, seen)
        written.steps.append(digest(wire.unpack(parts)))
        self.board.tick += 1
        self._push(parts)

    def _tell(self, outcome: ReleaseOutcome) -> None:
        self._reports += 1
        report_id = outcome.report_id or f"{self._run.session_id}.{self._reports}"
        self._push(wire.pack(msgspec.structs.replace(outcome, report_id=report_id)))

    def _push(self, parts: list[bytes | memoryview]) -> None:
        """As in pace asap: a full ring is waited for."""
        while not self.ring.try_push(parts):
            if self.next_restart == "power cut":
                raise PowerCut
            time.sleep(0.001)
        self._pushed += 1
        if self.next_restart == "power cut" and self._random.random() < 0.2:
            raise PowerCut


def infer(swapper: Swapper) -> np.ndarray:
    """One action of the active weights, float[6]; the same for the same weights."""
    return np.array(swapper.engine.run(_inputs())["chunks"][0, 0])


def act(weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """What `infer` gives with these weights, by arithmetic."""
    inputs = _inputs()
    return np.asarray(inputs["features"] @ weights["head/mix"] + weights["head/bias"])[0]


def _inputs() -> dict[str, np.ndarray]:
    inputs = dict(head_inputs(np.random.default_rng(0)))
    return {**inputs, "noise": np.zeros_like(inputs["noise"])}


def wait(what: str, condition, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.01)


class SmallDisk:
    """A file system of its own, in memory, that can be filled; not `usable` where mounting is not allowed."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        self.usable, self.why = done.returncode == 0, done.stderr.strip()

    def fill(self) -> None:
        if not self.usable:
            return
        with (
            contextlib.suppress(OSError),
            (self.folder / "ballast").open("wb", buffering=0) as file,
        ):
            while True:
                disk = os.statvfs(self.folder)
                os.posix_fallocate(file.fileno(), 0, file.tell() + disk.f_bavail * disk.f_frsize)
                break

    def free(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def unmount(self) -> None:
        if self.usable:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)
