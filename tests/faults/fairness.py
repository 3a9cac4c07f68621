"""`python -m tests.faults.fairness`: what modest robots get of one trainer, alone and beside a greedy one.

The real daemon over loopback, storing only. Modest robots upload one small episode after the other, and beat;
the greedy one has large episodes, offers ten at a time and sends all of it twice. Ratios are of one run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import zmq
from tiny_package import make_package

from contracts import wire
from contracts.files.packages import Package
from contracts.messages import (
    EpisodeChunk,
    EpisodeOffer,
    EpisodeStored,
    EpisodeWant,
    Heartbeat,
    HeartbeatEcho,
    Hello,
)
from contracts.sockets import open_socket
from tests.faults.ends import TrainerEnd, wait

SMALL_BYTES, LARGE_BYTES = 256 * 1024, 64 * 1024 * 1024
BEAT_S = 0.1
WARM_UP_S = 2.0


class Uploads(threading.Thread):
    """One robot on the episodes and health sockets. `greedy`: large episodes, ten offers at a time, and every
    chunk once more than it was asked for."""

    def __init__(self, name: str, endpoints: dict[str, str], greedy: bool = False) -> None:
        super().__init__(name=name, daemon=True)
        self._greedy, self._endpoints = greedy, endpoints
        self._data = np.random.default_rng(0).integers(
            0, 256, LARGE_BYTES if greedy else SMALL_BYTES, np.uint8
        )
        self._sha256 = _sha256(self._data)
        self.stop = threading.Event()
        self.stored = self.sent_bytes = 0
        self.echo_s: list[float] = []

    def run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        episodes = open_socket(context, zmq.DEALER, connect=self._endpoints["episodes"])
        health = open_socket(context, zmq.DEALER, connect=self._endpoints["health"])
        episodes.send_multipart(wire.pack(Hello(self.name, "s1", wire.VERSIONS)))
        offered_s, beat_s, seq = 0.0, 0.0, 0
        while not self.stop.is_set():
            now_s = time.monotonic()
            if now_s - offered_s > 1.0:
                for ahead in range(10 if self._greedy else 1):
                    self._offer(episodes, seq + ahead)
                offered_s = now_s
            if now_s - beat_s > BEAT_S:
                beat_s = now_s
                beat = Heartbeat(self.name, "s1", 1, "hold", 0, 0, 1.0, 0.0, 0, 0, 0, now_s)
                parts = wire.pack(beat)
                _try(lambda parts=parts: health.send_multipart(parts, zmq.NOBLOCK))
            while health.poll(0):
                echo = wire.unpack(health.recv_multipart()).message
                if isinstance(echo, HeartbeatEcho):
                    self.echo_s.append(time.monotonic() - echo.sent_s)
            if not episodes.poll(2):
                continue
            message = wire.unpack(episodes.recv_multipart()).message
            if isinstance(message, EpisodeWant):
                self._answer(episodes, message)
            elif isinstance(message, EpisodeStored) and message.episode_seq >= seq:
                self.stored, seq = self.stored + 1, message.episode_seq + 1
                self._offer(episodes, seq)
                offered_s = now_s
        episodes.close(linger=0)
        health.close(linger=0)
        context.term()

    def _offer(self, socket: zmq.Socket[bytes], seq: int) -> None:
        offer = EpisodeOffer(self.name, "s1", seq, self._data.nbytes, self._sha256)
        _try(lambda: socket.send_multipart(wire.pack(offer), zmq.NOBLOCK))

    def _answer(self, socket: zmq.Socket[bytes], want: EpisodeWant) -> None:
        part = self._data[want.offset : want.offset + want.length]
        chunk = EpisodeChunk(self.name, "s1", want.episode_seq, want.offset)
        parts = wire.pack(chunk, [wire.raw("data", part)])
        for _ in range(2 if self._greedy else 1):
            if _try(lambda: socket.send_multipart(parts, zmq.NOBLOCK)):
                self.sent_bytes += part.nbytes


def measure(folder: Path, package: Package, seconds: float, robots: int) -> dict[str, object]:
    """Three spells on one trainer: without the greedy robot, with it, and without it again."""
    trainer = TrainerEnd(folder, package, 10, {"refiner.kind": "''", "reward.purposes": "[]"})
    spells = []
    try:
        for number, greedy in enumerate((False, True, False)):
            spells.append(_spell(trainer, seconds, robots, greedy, f"{number}"))
    finally:
        trainer.process.kill()
    alone = [spells[0]["modest_mib_per_s"], spells[2]["modest_mib_per_s"]]
    return {
        "robots": robots,
        "seconds": seconds,
        "alone": [spells[0], spells[2]],
        "beside": spells[1],
        "share_kept": spells[1]["modest_mib_per_s"] / statistics.mean(alone),
        "least_over_most": spells[1]["least_over_most"],
    }


def _spell(
    trainer: TrainerEnd, seconds: float, robots: int, greedy: bool, mark: str
) -> dict[str, float]:
    modest = [Uploads(f"modest-{mark}-{n}", trainer.endpoints) for n in range(robots)]
    command = [sys.executable, "-m", "tests.faults.fairness", "--greedy", f"greedy-{mark}"]
    command += ["--endpoints", json.dumps(trainer.endpoints)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True) if greedy else None
    for robot in modest:
        robot.start()
    wait("an episode of every robot", lambda: all(robot.stored for robot in modest))
    time.sleep(WARM_UP_S)
    before = [robot.stored for robot in modest]
    began = [len(robot.echo_s) for robot in modest]
    time.sleep(seconds)
    each = [
        (robot.stored - number) * SMALL_BYTES / seconds / 2**20
        for robot, number in zip(modest, before, strict=True)
    ]
    for robot in modest:
        robot.stop.set()
    for robot in modest:
        robot.join()
    greedy_bytes = 0.0
    if other is not None:
        other.terminate()
        greedy_bytes = float(other.communicate()[0] or "nan")
    echoes = [
        echo for robot, number in zip(modest, began, strict=True) for echo in robot.echo_s[number:]
    ]
    return {
        "modest_mib_per_s": statistics.mean(each),
        "least_over_most": min(each) / max(each) if max(each) else 0.0,
        "greedy_mib_per_s": greedy_bytes,
        "echo_p50_ms": 1e3 * float(np.percentile(echoes, 50)) if echoes else float("nan"),
        "echo_p99_ms": 1e3 * float(np.percentile(echoes, 99)) if echoes else float("nan"),
    }


def _try(send: Callable[[], object]) -> bool:
    try:
        send()
    except zmq.Again:
        return False
    return True


def _sha256(data: np.ndarray) -> str:
    return hashlib.sha256(data.data).hexdigest()


def _be_greedy(name: str, endpoints: dict[str, str]) -> int:
    """In a process of its own, so that what it costs here is not counted; says its MiB/s at the end."""
    robot = Uploads(name, endpoints, greedy=True)
    signal.signal(signal.SIGTERM, lambda *_: robot.stop.set())
    started_s = time.monotonic()
    robot.start()
    robot.stop.wait()
    print(robot.sent_bytes / (time.monotonic() - started_s) / 2**20)
    robot.join()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults.fairness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--greedy", default="", help=argparse.SUPPRESS)
    parser.add_argument("--endpoints", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.greedy:
        return _be_greedy(options.greedy, options.endpoints)
    with tempfile.TemporaryDirectory(prefix="entracte-fairness-") as scratch:
        root = Path(scratch) / "trainer"
        root.mkdir()
        package = make_package(Path(scratch) / "package")
        print(json.dumps(measure(root, package, options.seconds, options.robots), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
