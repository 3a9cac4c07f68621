"""From publishing refined weights to the acting head: the trainer's publisher, the real link, slots, swapper.

The link is a process of its own over loopback sockets; this process is the trainer's end (a thread that
answers as `robot-trainer serve` does) and control (the swapper, between two episodes), on one clock.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
import zmq

from benchmarks.machine import in_words, machine
from contracts import wire
from contracts.errors import EntracteError
from contracts.files.packages import Package, load_package
from contracts.messages import ReleaseOffer, ReleaseQuery, ReleaseWant
from contracts.sockets import open_socket
from runtime.board import Board
from runtime.config import LinkSection, PolicySection, RobotConfig, Run, RunPlan, new_shm_dir
from runtime.engines import EngineOptions, open_engine, survey
from runtime.ring import Ring
from runtime.slots import SlotStore
from runtime.swap import Swapper
from runtime.swap_checks import SwapLimits
from trainer.interfaces import Update
from trainer.publisher import PUBLIC_KEY_FILE, Publisher

PATIENCE_S = 30.0
LIMITS = SwapLimits(latency_s=10.0)  # the machine's load is not what is measured here


class Row(msgspec.Struct, frozen=True):
    """Milliseconds, medians. `publish`: number, sign and write the release; `armed`: from the offer to staged
    on the robot's disk; `swapped`: from armed to the head acting, all checks and the replay included;
    `whole`: from the refiner's arrays to acting (median), `longest` of all pushes."""

    engine: str
    absent: str = ""
    publish: float = 0.0
    armed: float = 0.0
    swapped: float = 0.0
    whole: float = 0.0
    longest: float = 0.0
    wire_bytes: int = 0


class Found(msgspec.Struct, frozen=True):
    """`package_bytes`: what a push would be without a head of its own."""

    package_id: str
    package_bytes: int
    weights_bytes: int
    pushes: int
    machine: dict[str, Any]
    rows: tuple[Row, ...]


def measure(
    folder: Path, pushes: int = 20, report: Callable[[str], None] = lambda line: None
) -> Found:
    """`pushes` releases to each engine that is present."""
    package = load_package(folder.resolve())
    rows = []
    for name, options in (
        ("onnxruntime (weights fed)", EngineOptions(swap="feed")),
        ("onnxruntime (new session)", EngineOptions(swap="session")),
        ("tensorrt (refit)", EngineOptions(kind="tensorrt")),
    ):
        report(f"pushing to {name}")
        try:
            survey.require(options)
            with tempfile.TemporaryDirectory(prefix="entracte-bench-") as scratch:
                rows.append(_push(name, package, options, pushes, Path(scratch)))
        except EntracteError as error:
            rows.append(Row(name, absent=str(error)))
    return Found(
        package_id=package.package_id,
        package_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        weights_bytes=sum(t.nbytes for t in package.refinable_weights().values()),
        pushes=pushes,
        machine=machine(),
        rows=tuple(rows),
    )


def _push(name: str, package: Package, options: EngineOptions, pushes: int, root: Path) -> Row:
    publisher = Publisher(root / "trainer" / "releases", package.manifest)
    spent: list[tuple[float, float, float]] = []
    with (
        TrainerEnd(publisher) as trainer,
        RobotEnd(root / "robot", package, trainer.address, options) as robot,
    ):
        robot.take_key(root / "trainer" / PUBLIC_KEY_FILE)
        for number in range(pushes + 1):
            update = Update(_moved(package, 1.0 + 1e-4 * (number + 1)), 0, {})
            begin_s = time.monotonic()
            seq = publisher.prepare(update, number).publish_seq
            trainer.offer(publisher.commit(seq))
            offered_s = time.monotonic()
            robot.wait_until_armed(seq)
            armed_s = time.monotonic()
            robot.swap(number)
            spent.append((offered_s - begin_s, armed_s - offered_s, time.monotonic() - armed_s))
        wire_bytes = publisher.bytes_sent // (pushes + 1)
    spent = spent[1:]  # the first waits for sockets to connect
    publish, armed, swapped = ([1e3 * each[i] for each in spent] for i in range(3))
    whole = [sum(each) for each in zip(publish, armed, swapped, strict=True)]
    return Row(
        engine=name,
        publish=statistics.median(publish),
        armed=statistics.median(armed),
        swapped=statistics.median(swapped),
        whole=statistics.median(whole),
        longest=max(whole),
        wire_bytes=wire_bytes,
    )


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
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
            if isinstance(message, ReleaseQuery):
                answer = self._publisher.answer_query(message, 0)
                self._socket.send_multipart([peer, *wire.pack(answer)])
            elif isinstance(message, ReleaseWant):
                self._socket.send_multipart([peer, *self._publisher.answer_want(message)])


class RobotEnd:
    """A run folder, a link process, and this process as its control."""

    def __init__(
        self, folder: Path, package: Package, address: str, options: EngineOptions
    ) -> None:
        folder.mkdir(parents=True)
        nobody = "tcp://127.0.0.1:9"  # nothing is streamed or spooled
        self._run = Run(
            config=RobotConfig(
                policy=PolicySection(package=str(package.folder)),
                link=LinkSection(weights=address, frames=nobody, episodes=nobody, health=nobody),
            ),
            plan=RunPlan(),
            run_dir=str(folder),
            shm_dir=str(new_shm_dir(f"push-{time.monotonic_ns() % 10**9}")),
            session_id="push",
        )
        self._run.save()
        self._board = Board.create(self._run.board_path)
        self._ring = Ring.create(self._run.ring_path, 1 << 20)
        slots = SlotStore(self._run.slots_dir / "policy", package.package_id)
        engine = open_engine(package, "head", options)
        robot_id = self._run.config.robot.id
        self._swapper = Swapper("policy", slots, package, engine, robot_id=robot_id, limits=LIMITS)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RobotEnd:
        command = [sys.executable, "-m", "runtime.link", "--run-dir", self._run.run_dir]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._wait("the link", lambda: bool(self._board.link_ready))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()  # it would go on trying to upload what nobody takes
        self._process.wait()
        self._swapper.close()
        for path in sorted(Path(self._run.shm_dir).iterdir()):
            path.unlink()
        Path(self._run.shm_dir).rmdir()

    def take_key(self, key: Path) -> None:
        (Path(self._run.run_dir) / "trainer.pub").write_bytes(key.read_bytes())

    def wait_until_armed(self, seq: int) -> None:
        self._wait(f"release {seq}", lambda: self._board.staged_policy_seq >= seq)

    def swap(self, episode_seq: int) -> None:
        """As control does between two episodes; the next one commits it."""
        outcomes = self._swapper.swap(episode_seq)
        if [outcome.outcome for outcome in outcomes] != ["swapped"]:
            raise EntracteError("the release was not taken", found=outcomes)
        self._swapper.settle()

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert self._process is not None
            if time.monotonic() > give_up_s or self._process.poll() is not None:
                raise EntracteError(f"waited in vain for {what}")
            time.sleep(0.0005)


def _moved(package: Package, by: float) -> dict[str, np.ndarray]:
    return {n: t * np.asarray(by, t.dtype) for n, t in package.refinable_weights().items()}


def table(found: Found) -> str:
    """Markdown, for a terminal and for docs/results."""
    lines = [
        "| engine | publish (ms) | offer to armed | armed to swapped | whole, median | longest | "
        "MB on the wire |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found.rows:
        if row.absent:
            lines.append(f"| {row.engine} | absent: {row.absent} | | | | | |")
            continue
        numbers = (row.publish, row.armed, row.swapped, row.whole, row.longest)
        cells = " | ".join(f"{number:.1f}" for number in numbers)
        lines.append(f"| {row.engine} | {cells} | {row.wire_bytes / 1e6:.2f} |")
    lines += [
        "",
        f"Medians of {found.pushes} pushes of {found.weights_bytes / 1e6:.2f} MB of refinable weights (the "
        f"whole package: {found.package_bytes / 1e6:.2f} MB), over loopback. Machine: "
        f"{in_words(found.machine)}.",
    ]
    return "\n".join(lines)
