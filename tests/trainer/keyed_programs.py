"""The real programs with keys: both ends' `enroll`, and a robot's key in the wrong hands. They run with
pickle, marshal and torch.load made to raise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import zmq
from daemon_bench import NO_PICKLE, Robot, Trainer

from contracts import wire
from contracts.files.keys import KeyStore, fingerprint
from contracts.messages import (
    Hello,
)
from contracts.sockets import Client, Pass, open_socket
from contracts.sockets.curve import new_pair

ROBOT = "bench-0"
PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained" / "policy-open_drawer"


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, NO_PICKLE, *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def command(*words: object) -> str:
    process = start(*words)
    said, complaint = process.communicate(timeout=90)
    assert process.returncode == 0, complaint
    return said


def code_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = re.search(r"code (\d{3}) (\d{3})", process.stdout.readline())
    assert found is not None
    return found[1] + found[2]


def asked(
    trainer_root: Path, robot: Path, *more: str, name: str = ROBOT
) -> tuple[subprocess.Popen[str], subprocess.Popen[str], str]:
    """Both ends' commands once they show the code, the trainer's first, and the code."""
    listens = ("--listen", "tcp://127.0.0.1:*", *more)
    there = start("trainer.app", "enroll", "--run-dir", trainer_root, *listens)
    assert there.stderr is not None
    address = there.stderr.readline().split()[-1]
    here = start("runtime.app", "enroll", address, "--run-dir", robot, "--set", f"robot.id={name}")
    code = code_of(here)
    assert code == code_of(there)
    return there, here, code


def enroll(trainer_root: Path, robot: Path, *more: str, name: str = ROBOT) -> None:
    """As two people do: one types y, the other gives the code in another terminal."""
    there, here, code = asked(trainer_root, robot, *more, name=name)
    there_said = command("trainer.app", "enroll", "--run-dir", trainer_root, "--yes-code", code)
    assert "the same" in there_said
    _, complaint = here.communicate("y\n", timeout=60)
    assert here.returncode == 0, complaint
    _, complaint = there.communicate(timeout=60)
    assert there.returncode == 0, complaint


def with_keys(robot: Robot) -> Robot:
    link = msgspec.structs.replace(robot.run.config.link, curve="always")
    config = msgspec.structs.replace(robot.run.config, link=link)
    robot.run = msgspec.structs.replace(robot.run, config=config)
    robot.run.save()
    return robot


def signs(root: Path) -> str:
    return fingerprint((root / "trainer.pub").read_text().strip())


class Insider:
    """An enrolled robot's key in the wrong hands: it says what it likes."""

    def __init__(self, trainer: Trainer, name: str) -> None:
        store = KeyStore(trainer.root / "keys")
        pair = new_pair()
        store.add(Pass(name=name, key=pair.public, enrolled_unix_s=1.0))
        self._keys = Client(pair, store.own().public)
        self._endpoints = trainer.endpoints
        self._context = zmq.Context()

    def connect(self, socket: str) -> zmq.Socket[bytes]:
        line = open_socket(
            self._context, zmq.DEALER, connect=self._endpoints[socket], security=self._keys
        )
        assert line.poll(20_000, zmq.POLLOUT), "not let in"
        return line

    def say(self, socket: str, *messages, answer: bool = True):
        with self.connect(socket) as line:
            for message in messages:
                line.send_multipart(wire.pack(message))
            if not answer:
                line.close(linger=2000)
                return None
            return wire.unpack(line.recv_multipart()).message if line.poll(20_000) else None


def answer(line: zmq.Socket[bytes]):
    """The next message."""
    assert line.poll(60_000)
    return wire.unpack(line.recv_multipart()).message


def hello(robot_id: str) -> Hello:
    return Hello(robot_id, "s9", wire.VERSIONS)
