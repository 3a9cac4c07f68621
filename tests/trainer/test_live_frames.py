"""Live pictures at the trainer: the newest few, video in its order, and what a slow eye still sees."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_robot import episode, pictures, step

from contracts import images, live_video, wire
from contracts.images import ImageCodecError
from contracts.live_video import KEY_EVERY, Encoder
from contracts.messages import EpisodeStart
from runtime.link.pictures import encode_step
from trainer.live_frames import LIVE_WAITING, MAX_DECODERS, LiveFrames

PEER = b"robot"
SHAPE = (24, 32, 3)
START = wire.unpack(next(iter(episode(1))))
video = pytest.mark.skipif(
    not live_video.encodes("h264"), reason="this PyAV writes no H.264 (libx264)"
)


def shot(encoder: Encoder | None, index: int) -> wire.Packet:
    """A step with its colour as video, or as JPEG without an encoder."""
    raw = wire.unpack(wire.pack(step(index), pictures(index, 0)))
    if encoder is None:
        return wire.unpack(encode_step(raw, 95))
    data = encoder.encode(raw.array("front.colour"))
    buffer = wire.encoded("front.colour", encoder.codec, data, SHAPE, "uint8")
    return wire.unpack([bytes(part) for part in wire.pack(step(index), [buffer])])


def frames(*peers: bytes) -> LiveFrames:
    live = LiveFrames(True)
    for peer in peers or (PEER,):
        assert isinstance(START.message, EpisodeStart)
        live.take(peer, START)
    return live


def looked(live: LiveFrames) -> list[int]:
    """Steps that are shown until nothing waits; their pictures are what they should be."""
    found = []
    while (seen := live.next()) is not None:
        truth = pictures(seen[1], 0)[0][1]
        assert np.abs(seen[2]["front"].astype(int) - truth).mean() < 4
        found.append(seen[1])
    return found


@video
def test_a_quick_eye_sees_every_picture() -> None:
    live, encoder = frames(), Encoder("h264", SHAPE, 12)
    seen = []
    for index in range(KEY_EVERY + 10):
        live.take(PEER, shot(encoder, index))
        if index % 4 == 3:
            seen += looked(live)
    assert seen == list(range(KEY_EVERY + 10)) and live.undecodable == live.skipped == 0


@video
def test_a_slow_eye_sees_pictures_that_stand_by_themselves_and_never_a_wrong_one() -> None:
    live, encoder = frames(), Encoder("h264", SHAPE, 12)
    seen = []
    for index in range(4 * KEY_EVERY):
        live.take(PEER, shot(encoder, index))
        if index % 25 == 24:
            found = live.next()
            assert found is not None, "a whole picture always waits"
            assert index - found[1] < KEY_EVERY + LIVE_WAITING, "and no old one"
            seen.append(found[1])
    assert all(one % KEY_EVERY == 0 for one in seen[1:]) and len(set(seen)) == len(seen)
    assert live.skipped > 0


@video
def test_lost_on_the_way_is_counted_and_over_with_the_next_group() -> None:
    live, encoder = frames(), Encoder("h264", SHAPE, 12)
    seen = []
    for index in range(2 * KEY_EVERY):
        packet = shot(encoder, index)
        if index != 5:
            live.take(PEER, packet)
        seen += looked(live)
    assert seen == [*range(5), *range(KEY_EVERY, 2 * KEY_EVERY)]
    assert live.undecodable == KEY_EVERY - 6


@video
def test_connections_have_decoders_of_their_own_and_few() -> None:
    """The same robot connected anew is another peer: what the old connection read says nothing to it."""
    live, encoder = frames(b"old", b"new"), Encoder("h264", SHAPE, 12)
    live.take(b"old", shot(encoder, 0))
    assert looked(live) == [0]
    live.take(b"new", shot(encoder, 1))
    assert looked(live) == [] and live.undecodable == 1
    for number in range(MAX_DECODERS + 5):
        peer = b"%d" % number
        live.take(peer, START)
        live.take(peer, shot(Encoder("h264", SHAPE, 12), 0))
        assert looked(live) == [0]
    assert len(live._decoders) == MAX_DECODERS


@video
def test_damaged_video_is_an_error_that_the_next_group_ends() -> None:
    live, encoder = frames(), Encoder("h264", SHAPE, 12)
    packet = shot(encoder, 0)
    broken = bytearray(packet.data["front.colour"])
    broken[-1] ^= 1
    buffer = wire.encoded("front.colour", "h264", bytes(broken), SHAPE, "uint8")
    live.take(PEER, wire.unpack([bytes(p) for p in wire.pack(step(0), [buffer])]))
    with pytest.raises(ImageCodecError, match="corrupt"):
        live.next()
    live.take(PEER, shot(encoder, 1))
    assert looked(live) == []
    live.take(PEER, shot(Encoder("h264", SHAPE, 12), 2))
    assert looked(live) == [2]


def test_of_jpegs_the_newest_are_kept_as_before() -> None:
    live = frames()
    for index in range(20):
        live.take(PEER, shot(None, index))
    assert looked(live) == list(range(20 - LIVE_WAITING, 20)) and live.skipped == 20 - LIVE_WAITING
    assert not LiveFrames(False) and images.JPEG not in live_video.CODECS
