"""Releases that no sound trainer would sign, offered to a whole running robot: it goes on as it was.

The test is the trainer: its key is the enrolled one, so that only the content can be what is refused.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from robots import policy_package
from serving import ENVIRONMENT, SOCKETS, robot_command

from contracts import wire
from contracts.files.packages import Package, safetensors_bytes
from contracts.messages import (
    CameraPose,
    EpisodeOffer,
    EpisodeStored,
    Hello,
    OutcomeStored,
    ReleaseChunk,
    ReleaseNone,
    ReleaseOffer,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
    SessionStart,
    Welcome,
)
from contracts.release import ReleaseManifest, sign
from contracts.specs import spec_hash

POSE = (0.0, -1.0, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return policy_package(tmp_path_factory.mktemp("package") / "policy")


class Forger:
    """A trainer that stores episodes unread and offers `data` as release 1 after two of them."""

    def __init__(self, package: Package, data: bytes) -> None:
        key = Ed25519PrivateKey.generate()
        self.public_key = key.public_key().public_bytes_raw().hex()
        manifest = ReleaseManifest(
            "policy", package.package_id, 1, 0, 1, "", hashlib.sha256(data).hexdigest(), len(data),
            package.manifest.refinable, 3, (), "", 0.0, 1e12, "t",
        )  # fmt: skip
        self._offer, self._data = ReleaseOffer("policy", *sign(manifest, key)), data
        self.stored: list[int] = []
        self.outcomes: list[ReleaseOutcome] = []
        self._context = zmq.Context()
        self._sockets = {name: self._context.socket(zmq.ROUTER) for name in SOCKETS}
        self.endpoints = {}
        for name, socket in self._sockets.items():
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            self.endpoints[name] = f"tcp://127.0.0.1:{port}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _serve(self) -> None:
        while not self._stop.wait(0.002):
            for name in ("episodes", "weights"):
                while self._sockets[name].poll(0):
                    peer, *parts = self._sockets[name].recv_multipart()
                    answer = self._answer(wire.unpack(parts).message)
                    self._sockets[name].send_multipart([peer, *answer])

    def _answer(self, message: object) -> list[bytes | memoryview]:
        if isinstance(message, Hello):
            return wire.pack(Welcome("t", wire.VERSION))
        if isinstance(message, EpisodeOffer):
            if message.episode_seq not in self.stored:
                self.stored.append(message.episode_seq)
            return wire.pack(EpisodeStored(message.session_id, message.episode_seq))
        if isinstance(message, ReleaseQuery):
            new = len(self.stored) >= 2 and message.have_seq < 1
            return wire.pack(self._offer if new else ReleaseNone("policy", 0))
        if isinstance(message, ReleaseWant):
            part = self._data[message.offset : message.offset + message.length]
            chunk = ReleaseChunk("policy", 1, message.offset)
            return wire.pack(chunk, [wire.raw("data", np.frombuffer(part, np.uint8))])
        assert isinstance(message, ReleaseOutcome)
        self.outcomes.append(message)
        return wire.pack(OutcomeStored(message.report_id))


def weights(package: Package, value: float) -> bytes:
    tensors = {name: np.array(tensor) for name, tensor in package.refinable_weights().items()}
    tensors["head/bias"][0] = value
    return safetensors_bytes(tensors)


@pytest.fixture(params=["nan", "truncated", "far"])
def forger(request: pytest.FixtureRequest, package: Package) -> Iterator[tuple[Forger, str]]:
    data, words = {
        "nan": (weights(package, float("nan")), "holds NaN"),
        "truncated": (weights(package, 5.0)[:-9], "not sound"),
        "far": (weights(package, 1e9), "moved too far"),
    }[request.param]
    forger = Forger(package, data)
    yield forger, words
    forger.close()


def test_a_wrong_release_is_refused_and_the_active_weights_stay(
    tmp_path: Path, package: Package, forger: tuple[Forger, str]
) -> None:
    trainer, words = forger
    robot = tmp_path / "robot"
    robot.mkdir()
    (robot / "trainer.pub").write_text(trainer.public_key)
    command = robot_command(
        *(robot, package.folder, trainer.endpoints, "episode.max_s=1.0", "iteration.episodes=2"),
        *("iteration.release_timeout_s=60", "recording.depth=false"),
        f"cameras.front.pose={list(POSE)}",
    )
    done = subprocess.run(
        [*command, "--episodes", "3"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=45,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["episodes"], report["policy_version"], report["watchdog"]) == (3, 0, "none")
    assert [o.outcome for o in trainer.outcomes] == ["rejected"]
    assert words in trainer.outcomes[0].reason and trainer.outcomes[0].publish_seq == 1
    session = wire.unpack([(robot / "spool/session.wire").read_bytes()]).message
    assert isinstance(session, SessionStart)
    assert session.extrinsics == {"front": CameraPose("world", POSE)}
    assert session.observation_hash == spec_hash(session.observation)
    assert session.action_hash == spec_hash(session.action) != session.observation_hash
    rows = [json.loads(line) for line in (robot / "episodes.jsonl").read_text().splitlines()]
    assert [row["policy_version"] for row in rows] == [0, 0, 0]
    state = json.loads((robot / "slots/policy/state.json").read_text())
    found = sorted(slot["state"] for slot in state["slots"].values())
    assert found == [*["idle"] * 4, "quarantined"]
