"""The wire: round trip of every message, every cap, other versions, and random damage."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_robot import pictures, session_start, step

from contracts import wire
from contracts.errors import WireError
from contracts.messages import (
    AnyMessage,
    CameraPose,
    EpisodeChunk,
    EpisodeEnd,
    EpisodeOffer,
    EpisodeRerecord,
    EpisodeStart,
    EpisodeStored,
    EpisodeWait,
    EpisodeWant,
    Goodbye,
    Heartbeat,
    HeartbeatEcho,
    Hello,
    KeyStatement,
    NextKey,
    NextKeyStored,
    OutcomeStored,
    ReleaseChunk,
    ReleaseEncoding,
    ReleaseNone,
    ReleaseOffer,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
    RobotKey,
    RobotKeyStored,
    TrainerKeys,
    Welcome,
)
from contracts.reward import RewardSignal

MESSAGES: list[AnyMessage] = [
    msgspec.structs.replace(
        session_start(), extrinsics={"front": CameraPose("hand", (0.0,) * 16)}, action_hash="a"
    ),
    EpisodeStart("r", "s", 1, "open", "open-drawer", "refine", 0, "p", 0, "q", 7, 1.0),
    step(3),
    msgspec.structs.replace(
        step(3),
        reward=RewardSignal(3, 0.5, 0.25, -1.0, uncertainty=0.1, model_id="m", staleness_s=0.2),
    ),
    EpisodeEnd(1, 10, "completed", True, "", {"p99": 0.001}),
    Heartbeat("r", "s", 1, "running", 2, 3, 30.0, 0.001, 4, 5, 6),
    EpisodeOffer("r", "s", 1, 100, "0" * 64),
    EpisodeWant("s", 1, 0, 100),
    EpisodeChunk("r", "s", 1, 0),
    EpisodeStored("s", 1),
    EpisodeWait("s", 1, "disk full"),
    ReleaseQuery("r", "policy", "p", 0),
    ReleaseNone("policy", 1, "refining"),
    EpisodeRerecord(3),
    ReleaseOffer("policy", b"{}", b"x" * 64, (ReleaseEncoding("zstd", "", 9, "0" * 64),)),
    ReleaseWant("r", "policy", 1, 0, 100),
    ReleaseChunk("policy", 1, 0),
    ReleaseOutcome("r", "policy", 1, "swapped", "", 2, 100, 0.1, 0.2, 0.3, "s.1"),
    OutcomeStored("s.1"),
    Hello("r", "s", wire.VERSIONS, ("zstd",), "0.1"),
    Welcome("t", wire.VERSION, ("zstd",), "0.1"),
    Goodbye("version", "speak another", wire.VERSIONS),
    HeartbeatEcho("r", 1.0, 2.0, 3.0),
    TrainerKeys((KeyStatement(b"{}", b"x" * 64, b"y" * 64),)),
    RobotKey("r", "z" * 40),
    RobotKeyStored("z" * 40),
    NextKey(b"{}", b"x" * 64),
    NextKeyStored("r", "z" * 40),
]


def header(message: AnyMessage, *buffers: object, version: int = wire.VERSION) -> bytes:
    return msgspec.msgpack.encode([version, message, list(buffers)])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_comes_back_equal(message: AnyMessage) -> None:
    assert wire.unpack(wire.pack(message)).message == message


def test_an_older_log_is_read_from_disk_and_not_from_a_socket() -> None:
    old = msgspec.msgpack.encode(
        [1, {"kind": "episode_stored", "session_id": "s", "episode_seq": 1}]
    )
    assert wire.unpack([old], oldest=wire.OLDEST_ON_DISK).message == EpisodeStored("s", 1)
    with pytest.raises(WireError, match=r"version 2 \(this end\).*version 1 \(other end\)"):
        wire.unpack([old])


def test_nan_rewards_survive() -> None:
    message = msgspec.structs.replace(step(0), reward=RewardSignal(0, abstained="dark"))
    reward = wire.unpack(wire.pack(message)).message.reward
    assert reward.abstained == "dark" and math.isnan(reward.process)


def test_every_message_of_the_union_is_tested() -> None:
    assert {type(m) for m in MESSAGES} == set(AnyMessage.__args__)  # type: ignore[attr-defined]


def test_buffers_come_back_as_they_were() -> None:
    for buffer, array in pictures(1, 2):
        packet = wire.unpack(wire.pack(step(1), [(buffer, array)]))
        assert np.array_equal(packet.array(buffer.name), array)
    empty = np.zeros((0, 3), np.float32)
    assert wire.unpack(wire.pack(step(1), [wire.raw("e", empty)])).array("e").shape == (0, 3)


def test_an_encoded_buffer_is_not_given_out_as_an_array() -> None:
    packet = wire.unpack(wire.pack(step(0), [wire.encoded("c", "jpeg", b"xx", (4, 4, 3), "uint8")]))
    with pytest.raises(WireError, match="encoded"):
        packet.array("c")
    with pytest.raises(WireError, match="no buffer"):
        packet.array("d")


def buffer(**changes: object) -> list[object]:
    fields = {"name": "b", "codec": "raw", "dtype": "uint8", "shape": [4], "nbytes": 4, **changes}
    return list(fields.values())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "number of parts"),
        ([b"x"] * (wire.MAX_PARTS + 1), "number of parts"),
        ([b"\0" * (wire.MAX_HEADER_BYTES + 1)], "header too large"),
        ([b""], "not a message"),
        ([b"\xc1\xc1"], "not a message"),
        ([header(MESSAGES[5], version=1)], "versions differ"),
        ([header(MESSAGES[5], version=3)], "versions differ"),
        ([msgspec.msgpack.encode([9, {"kind": "unheard of"}, []])], "versions differ"),
        ([msgspec.msgpack.encode([2, {"kind": "unheard of"}, []])], "malformed"),
        ([msgspec.msgpack.encode([2, {"kind": "episode_stored"}, []])], "malformed"),
        ([header(MESSAGES[5], buffer())], "parts and buffer"),
        ([header(MESSAGES[5]), b"1234"], "parts and buffer"),
        ([header(MESSAGES[5], buffer(dtype="|O")), b"1234"], "dtype not allowed"),
        ([header(MESSAGES[5], buffer(dtype="complex64")), b"1234"], "dtype not allowed"),
        ([header(MESSAGES[5], buffer(shape=[-4])), b"1234"], "bad shape"),
        ([header(MESSAGES[5], buffer(shape=[1] * 6)), b"1234"], "bad shape"),
        ([header(MESSAGES[5], buffer(nbytes=5)), b"1234"], "another size"),
        ([header(MESSAGES[5], buffer(shape=[5])), b"1234"], "shape and size differ"),
        ([header(MESSAGES[5], buffer(shape=[2**40], codec="jpeg")), b"1234"], "too large"),
        ([header(MESSAGES[5], buffer(), buffer()), b"1234", b"1234"], "twice"),
        ([header(MESSAGES[5], [*buffer(), "more"]), b"1234"], "malformed"),
    ],
)
def test_what_breaks_a_cap_is_refused(parts: list[bytes], words: str) -> None:
    with pytest.raises(WireError, match=words):
        wire.unpack(parts)


def test_a_huge_claim_allocates_nothing() -> None:
    claim = buffer(shape=[2**62, 2**62], codec="jpeg")
    with pytest.raises(WireError):
        wire.unpack([header(MESSAGES[5], claim), b"1234"])


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(MESSAGES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 3),
)
def test_damage_is_a_wire_error_or_another_valid_message(
    message: AnyMessage, flips: list[tuple[int, int]], cut: int
) -> None:
    parts = [bytearray(part) for part in wire.pack(message, [wire.raw("d", np.arange(4.0))])]
    for at, value in flips:
        parts[0][at % len(parts[0])] = value
    damaged = [bytes(part) for part in parts]
    damaged[0] = damaged[0][: len(damaged[0]) - cut]
    try:
        packet = wire.unpack(damaged)
    except WireError:
        return
    assert isinstance(packet.message, AnyMessage.__args__)  # type: ignore[attr-defined]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_noise_is_a_wire_error(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        wire.unpack(parts)
