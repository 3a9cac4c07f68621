"""A short chaos run and the checks of its own parts; the long one is `python -m tests.faults.chaos`."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny_robot import episode, session_start

from contracts import wire
from contracts.files.episode_log import EpisodeLogWriter
from contracts.messages import Step
from tests.faults import chaos
from tests.faults.history import Written, check, digest
from tests.faults.proxy import ChaosNet, Faults

ACTION = np.ones(6, np.float32)


def test_a_short_run_under_everything_at_once_loses_repeats_and_mixes_nothing(
    tmp_path: Path,
) -> None:
    found = chaos.run(tmp_path, 60, 7, say=lambda line: None)
    assert found.problems == [], found.counts
    assert found.counts["episodes stored"] > 40
    assert sum(n for name, n in found.counts.items() if name.startswith("fault")) > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_so_does_a_longer_one(tmp_path: Path, seed: int) -> None:
    found = chaos.run(tmp_path, 400, seed, robots=3, say=lambda line: None)
    assert found.problems == [], found.counts


@pytest.mark.slow
def test_so_does_one_with_keys(tmp_path: Path) -> None:
    found = chaos.run(tmp_path, 200, 4, say=lambda line: None, curve=True)
    assert found.problems == [], found.counts
    assert found.counts["fault: flipped"]


# The checker finds what it is there for.


def store_of(folder: Path, *, change=lambda seq, packets: packets) -> tuple[Path, list[Written]]:
    """Three stored episodes of five steps, each changed on the way, and what was written."""
    written, lines = [], []
    for seq in range(3):
        key = ("bench-0", "s1", seq)
        packets = [wire.pack(session_start()), *episode(seq, steps=5)]
        one = Written(key, 0)
        for parts in packets:
            packet = wire.unpack(parts)
            if isinstance(packet.message, Step):
                one.steps.append(digest(packet))
        written.append(one)
        log = EpisodeLogWriter(folder / "logs" / f"bench-0__s1__{seq:08d}.elog")
        for parts in change(seq, packets):
            log.append(parts)
        log.finish()
        entry = {"robot_id": key[0], "session_id": key[1], "episode_seq": seq, "problem": ""}
        lines.append(entry)
    enter(folder, lines)
    return folder, written


def enter(folder: Path, lines: list[dict]) -> None:
    entries = [json.dumps({"arrival": at, **entry}) for at, entry in enumerate(lines)]
    (folder / "index.jsonl").write_text("\n".join(entries) + "\n")


def entries(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "arrival"} for entry in found]


def rules(folder: Path, written: list[Written], actions=None) -> set[str]:
    actions = {("bench-0", 0): ACTION} if actions is None else actions
    found = check(folder, written, actions, 1.0)
    return {problem.partition(":")[0] for problem in found.problems}


def with_step(index: int, **changes: object):
    """A change of that step in episode 1."""

    def change(seq: int, packets: list) -> list:
        if seq != 1:
            return packets
        packet = wire.unpack(packets[2 + index])
        message = msgspec.structs.replace(packet.message, **changes)
        buffers = [wire.raw(name, packet.array(name)) for name in packet.descriptors]
        return [*packets[: 2 + index], wire.pack(message, buffers), *packets[3 + index :]]

    return change


def test_a_clean_history_has_no_breach(tmp_path: Path) -> None:
    assert rules(*store_of(tmp_path)) == set()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda seq, packets: packets[:-2] + packets[-1:], "steps lost"),
        (lambda seq, packets: [*packets[:3], *packets[2:]], "steps duplicated or altered"),
        (
            lambda seq, packets: [*packets[:2], packets[3], packets[2], *packets[4:]],
            "steps out of order",
        ),
        (lambda seq, packets: packets[:-1], "torn"),
        (with_step(2, state=(0.0,) * 6), "steps duplicated or altered"),
        (with_step(2, policy_version=1), "mixed weights"),
        (with_step(2, action=(2.0,) * 6), "other weights acted"),
        (with_step(2, actuated_s=200.0), "stale command"),
    ],
)
def test_the_checker_finds_what_is_wrong_in_a_log(tmp_path: Path, change, rule: str) -> None:
    assert rule in rules(*store_of(tmp_path, change=change))


def test_the_checker_finds_what_is_wrong_in_the_index(tmp_path: Path) -> None:
    folder, written = store_of(tmp_path)
    first, second, third = entries(folder)
    for lines, rule in (
        ([first, third], "lost"),
        ([first, second, second, third], "duplicated"),
        ([first, third, second], "out of order"),
        ([first, second, {**third, "episode_seq": 9}], "foreign"),
    ):
        enter(folder, lines)
        assert rule in rules(folder, written)
    enter(folder, [first, second, third])
    assert rules(folder, written, actions={}) == {"never activated"}
    written[1].kept = False
    assert rules(folder, written) == {"unwanted"}


def test_the_last_line_says_what_was_not_lost_too(tmp_path: Path) -> None:
    assert chaos.in_short([]) == "lost 0, duplicated 0, out of order 0"
    folder, written = store_of(tmp_path)
    first, _, third = entries(folder)
    enter(folder, [first, third, third])
    found = check(folder, written, {("bench-0", 0): ACTION}, 1.0)
    assert chaos.in_short(found.problems) == "lost 1, duplicated 1, out of order 0"


# The proxy does what it says.


@pytest.fixture
def echo():
    """An address that answers every byte with itself."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    ends = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def serve() -> None:
        while not ends.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            connection.settimeout(None)
            threading.Thread(target=_quiet, args=(answer, connection), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    ends.set()
    thread.join()
    server.close()


def _quiet(answer, connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        answer(connection)


SENT = bytes(range(256)) * 2000


def through(address: str) -> bytes | None:
    """What came back of `SENT`, None after a reset."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    back = bytearray()
    # A reset is told to whichever of the two threads asks first, and to that one only.
    resets: list[ConnectionError] = []
    try:
        with socket.create_connection((host, int(port)), timeout=2.0) as connection:
            sender = threading.Thread(target=_send, args=(connection, resets))
            sender.start()
            while len(back) < len(SENT):
                data = connection.recv(65536)
                if not data:
                    break
                back += data
            sender.join()
    except ConnectionError:
        return None
    except TimeoutError:
        pass
    return None if resets else bytes(back)


def _send(connection: socket.socket, resets: list[ConnectionError]) -> None:
    try:
        connection.sendall(SENT)
    except ConnectionError as error:
        resets.append(error)
    except OSError:
        pass


def test_the_proxy_harms_bytes_as_it_is_told_and_else_not_one(echo: str) -> None:
    with ChaosNet(1) as net:
        wire = net.wire("echo", echo)
        assert through(wire.address) == SENT
        wire.faults = Faults(delay_s=0.01, jitter_s=0.02)
        assert through(wire.address) == SENT, "late, and in order"
        wire.faults = Faults(flip=1.0)
        flipped = through(wire.address)
        assert flipped is not None and len(flipped) == len(SENT) and flipped != SENT
        wire.faults = Faults(repeat=1.0)
        assert through(wire.address) not in (None, SENT)
        wire.faults = Faults(reset=1.0)
        assert through(wire.address) is None
        wire.faults = Faults(refuse=True)
        assert through(wire.address) is None
        wire.faults = Faults(truncate=1.0)
        assert len(through(wire.address) or b"") < len(SENT)
        wire.faults = Faults(black_hole=True)
        assert through(wire.address) == b""
        wire.faults = Faults()
        assert through(wire.address) == SENT
        for name in ("reset", "flipped", "repeated", "refused", "truncated"):
            assert net.counts[name], name


def test_the_same_seed_draws_the_same_faults(echo: str) -> None:
    draws = []
    for _ in range(2):
        with ChaosNet(3) as net:
            draws.append([net.wire("echo", echo).random.random() for _ in range(5)])
    assert draws[0] == draws[1]
