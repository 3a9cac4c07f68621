"""The two ends of a push on one machine: the trainer's publisher behind a socket, and a robot whose link is a
process of its own and whose control is the caller (the swapper, between two episodes).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import zmq

from contracts import wire
from contracts.errors import EntracteError
from contracts.files.packages import Package
from contracts.messages import Hello, ReleaseOffer, ReleaseQuery, ReleaseWant, Welcome
from contracts.sockets import open_socket
from runtime.board import Board
from runtime.config import LinkSection, PolicySection, RobotConfig, RobotSection
from runtime.engines import EngineOptions, open_engine
from runtime.ring import Ring
from runtime.run import Run, RunPlan, new_shm_dir
from runtime.weights.probation import Probation
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper
from runtime.weights.swap_checks import SwapLimits
from trainer.publisher import Publisher

PATIENCE_S = 120.0
LIMITS = SwapLimits(latency_s=10.0)  # the machine's load is not what is measured here


class TrainerEnd:
    """The trainer's socket for releases, in a thread."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._context = zmq.Context(io_threads=1)
        self._socket = open_socket(self._context, zmq.ROUTER, bind="tcp://127.0.0.1:0")
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._offers: list[ReleaseOffer] = []
        self._peers: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> TrainerEnd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()
        self._context.term()

    def offer(self, offer: ReleaseOffer) -> None:
        self._offers.append(offer)

    def _serve(self) -> None:
        while not self._stop.is_set():
            while self._offers:
                offer = self._offers.pop()
                for peer in self._peers:
                    self._socket.send_multipart([peer, *wire.pack(offer)])
            if not self._socket.poll(2):
                continue
            peer, *parts = self._socket.recv_multipart()
            self._peers.add(peer)
            message = wire.unpack(parts).message
            if isinstance(message, Hello):
                welcome = Welcome("bench", wire.VERSION, message.features)
                self._socket.send_multipart([peer, *wire.pack(welcome)])
            elif isinstance(message, ReleaseQuery):
                answer = self._publisher.answer_query(message, 0)
                self._socket.send_multipart([peer, *wire.pack(answer)])
            elif isinstance(message, ReleaseWant):
                self._socket.send_multipart([peer, *self._publisher.answer_want(message)])


def releases_from(address: str) -> LinkSection:
    """A link that only fetches them: nothing is streamed or spooled."""
    nobody = "tcp://127.0.0.1:9"
    return LinkSection(weights=address, frames=nobody, episodes=nobody, health=nobody)


class RobotEnd:
    """A run folder, a link process, and this process as its control."""

    def __init__(
        self,
        folder: Path,
        package: Package,
        link: LinkSection,
        options: EngineOptions,
        *,
        robot_id: str = "bench-0",
        ring_bytes: int = 1 << 20,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as leaving:
            shm_dir = new_shm_dir(f"push-{robot_id}-{time.monotonic_ns() % 10**9}")
            leaving.callback(shutil.rmtree, shm_dir, ignore_errors=True)
            self._run = Run(
                config=RobotConfig(
                    robot=RobotSection(id=robot_id),
                    policy=PolicySection(package=str(package.folder)),
                    link=link,
                ),
                plan=RunPlan(),
                run_dir=str(folder),
                shm_dir=str(shm_dir),
                session_id="push",
            )
            self._run.save()
            self._board = Board.create(self._run.board_path)
            self._ring = Ring.create(self._run.ring_path, ring_bytes)
            slots = SlotStore(self._run.slots_dir / "policy", package.package_id)
            engine = open_engine(package, "head", options)
            rules = Probation(unjudged=1)  # nobody judges here: one episode commits
            self._swapper = Swapper(
                "policy", slots, package, engine, robot_id=robot_id, limits=LIMITS, rules=rules
            )
            leaving.callback(self._swapper.close)
            self._process: subprocess.Popen[bytes] | None = None
            self._leaving = leaving.pop_all()

    def __enter__(self) -> RobotEnd:
        command = [sys.executable, "-m", "runtime.link.process", "--run-dir", self._run.run_dir]
        with self._leaving.pop_all() as leaving:
            self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            leaving.callback(self._end_link, self._process)
            self._wait("the link", lambda: bool(self._board.link_ready))
            self._leaving = leaving.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.close()

    @staticmethod
    def _end_link(process: subprocess.Popen[bytes]) -> None:
        process.kill()  # it would go on trying to upload what nobody takes
        process.wait()

    def take_key(self, key: Path) -> None:
        (Path(self._run.run_dir) / "trainer.pub").write_bytes(key.read_bytes())

    def wait_until_armed(self, seq: int) -> None:
        self._wait(f"release {seq}", lambda: self._board.staged_policy_seq >= seq)

    def make_ready(self) -> float:
        """As an episode that is under way has it done beside it; returns the seconds that it took."""
        begin_s = time.monotonic()
        self._swapper.look_ahead()
        self._wait("a release made ready", lambda: self._swapper.ready)
        return time.monotonic() - begin_s

    def swap(self, episode_seq: int) -> tuple[float, float]:
        """As control does between two episodes; the next one commits it. Returns for how long the robot
        could not act and, by the robot's own clock, the time from the offer to verified; seconds."""
        begin_s = time.monotonic()
        outcomes = self._swapper.swap(episode_seq)
        idle_s = time.monotonic() - begin_s
        if [outcome.outcome for outcome in outcomes] != ["swapped"]:
            raise EntracteError("the release was not taken", found=outcomes)
        self._swapper.settle()
        return idle_s, outcomes[0].verified_s

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert self._process is not None
            if time.monotonic() > give_up_s or self._process.poll() is not None:
                raise EntracteError(f"waited in vain for {what}")
            time.sleep(0.0005)
