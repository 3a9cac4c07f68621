"""One bit of one connection changes on its way, with keys: the robot's end connects again and delivers.

libzmq gives such a connection up for good, so that a robot delivered nothing until somebody started it anew.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_bench import Robot, Trainer, package, stored, trainer, wait
from keyed_programs import ROBOT, with_keys

from contracts.files.keys import KeyStore
from contracts.files.packages import Package
from contracts.sockets import Pass
from runtime.board import LinkState
from runtime.link.process import Link

__all__ = ["package", "trainer"]

NAMES = ("frames", "episodes", "weights", "health")


class Relay:
    """Passes bytes on; the next block of the trainer's after `flip` with one bit changed."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections, self._flips = 0, False
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def flip(self) -> None:
        """In a handshake too: on one socket the trainer never says anything else."""
        self._flips = True
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @property
    def flipped(self) -> bool:
        return not self._flips

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self.connections += 1
                self._ends = [near, far]
                for ends in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        with contextlib.suppress(OSError):
            said = 0
            while data := source.recv(65536):
                said += len(data)
                if back and self._flips and said > 64:  # the greeting, which is in clear
                    self._flips, at = False, len(data) - 1
                    data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def relays(trainer: Trainer) -> Iterator[dict[str, Relay]]:
    KeyStore(trainer.root / "keys").own(make=True)
    trainer.start(listen__curve="always")
    relays = {name: Relay(trainer.endpoints[name]) for name in NAMES}
    yield relays
    for relay in relays.values():
        relay.close()


def exchange(trainer: Trainer, folder: Path) -> None:
    there, here = KeyStore(trainer.root / "keys"), KeyStore(folder / "keys")
    there.add(Pass(name=ROBOT, key=here.own(make=True).public, enrolled_unix_s=1.0))
    here.add(Pass(name="trainer", key=there.own().public, enrolled_unix_s=1.0))


def test_every_connection_is_made_again_after_a_changed_bit(
    tmp_path: Path, package: Package, trainer: Trainer, relays: dict[str, Relay]
) -> None:
    folder = tmp_path / "robot"
    exchange(trainer, folder)
    trainer.endpoints = {name: relay.address for name, relay in relays.items()}
    robot = with_keys(Robot(folder, package, trainer, ROBOT))
    link = Link(robot.run, robot.board, robot.ring, dead_s=0.3)
    ends = threading.Event()

    def turn() -> None:
        while not ends.is_set():
            robot.board.tick += 1
            link.turn()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        wait("the greeting", lambda: robot.board.link_state == LinkState.WELCOME)
        for seq, (name, relay) in enumerate(relays.items()):
            wait("its connection", lambda r=relay: r.connections)
            relay.flip()
            wait(f"a flipped bit on {name}", lambda r=relay: r.flipped)
            before = relay.connections
            wait(f"another connection for {name}", lambda r=relay, n=before: r.connections > n)
            robot.play(seq, success=True)
            wait("the episode", lambda n=seq: (ROBOT, n) in stored(trainer))
        wait("the greeting", lambda: robot.board.link_state == LinkState.WELCOME)
    finally:
        ends.set()
        thread.join()
        link.close()
    assert stored(trainer) == [(ROBOT, seq) for seq in range(4)]
