"""What comes from the network: packets, pictures in them, and conversations with either end of the cable."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import msgspec
import numpy as np

from contracts import images, live_video, wire
from contracts.errors import EntracteError
from tests.faults.fuzz.examples import all_messages
from tests.faults.fuzz.mutation import (
    MAX_INPUT_BYTES,
    Mutator,
    Rng,
    frame,
    mutate_bytes,
    mutate_compressed,
    of_parts,
    of_tree,
    unframe,
)
from tests.faults.fuzz.target import Target, plain

header = of_tree(msgspec.msgpack.decode, msgspec.msgpack.encode)
packet = of_parts(header)
conversation = of_parts(packet, packet)
"""Framed packets, each of framed parts."""


def each(*calls: Callable[[], object]) -> None:
    """Every call, whatever the others raise; then the first typed error, if there was one."""
    errors = []
    for call in calls:
        try:
            call()
        except EntracteError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def picture_packet() -> bytes:
    """A step with colour and depth, encoded, and raw ones."""
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 255, (3, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    depth = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    jpeg, packed = images.encode_jpeg(rgb), images.encode_depth(depth)
    step = next(m for m in all_messages() if type(m).__name__ == "Step")
    buffers = [
        wire.encoded("front.colour", images.JPEG, jpeg, rgb.shape, "uint8"),
        wire.encoded("front.depth", images.DEPTH_VZS_ZSTD, packed, depth.shape, "uint16"),
        wire.raw("weights", rng.normal(size=(3, 5)).astype(np.float32)),
        wire.raw("nothing", np.empty((0, 3), np.uint8)),
    ]
    return frame(wire.pack(step, buffers))


def packet_seeds() -> list[bytes]:
    return [picture_packet(), *(frame(wire.pack(message)) for message in all_messages())]


def decode_packet(data: bytes) -> None:
    """As either end does, and as a reader of logs does; what was taken can be sent on."""
    parts = unframe(data)
    found = wire.unpack(parts)
    each(
        *(lambda name=name: decode_buffer(found, name) for name in found.descriptors),
        lambda: wire.unpack(wire.pack(found.message)),
        lambda: wire.unpack(parts, oldest=wire.OLDEST_ON_DISK),
    )


def decode_buffer(found: wire.Packet, name: str) -> np.ndarray:
    descriptor = found.descriptors[name]
    if descriptor.codec == "raw":
        return found.array(name)
    return images.decode(descriptor.codec, found.data[name], descriptor.shape)


def _jpeg_seeds() -> list[bytes]:
    data = unframe(picture_packet())[1]
    return [data, images.encode_jpeg(np.zeros((16, 16, 3), np.uint8), 50)]


def _depth_seeds() -> list[bytes]:
    """Height and width (u16 each), then the compressed picture."""
    data = unframe(picture_packet())[2]
    other = images.encode_depth(np.zeros((480, 640), np.uint16))
    return [
        (24 | 32 << 16).to_bytes(4, "little") + data,
        (480 | 640 << 16).to_bytes(4, "little") + other,
    ]


def decode_depth(data: bytes) -> None:
    shape = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")
    images.decode_depth(data[4:], shape)


def _depth_mutator(rng: Rng, data: bytes) -> bytes:
    """Half of the time what was compressed is changed, and compressed again."""
    if rng.random() < 0.5:
        return data[:4] + mutate_compressed(rng, data[4:])
    return mutate_bytes(rng, data)


FILM = (48, 64, 3)
_film = of_parts(mutate_bytes, mutate_bytes)


def _film_seeds() -> list[bytes]:
    """Framed pictures of one camera; the codec's place in `live_video.CODECS` is each one's first byte."""
    found = []
    for place, codec in enumerate(live_video.CODECS):
        if live_video.encodes(codec):
            encoder = live_video.Encoder(codec, FILM, 30)
            rng = np.random.default_rng(0)
            ground = np.kron(rng.integers(0, 255, (3, 4, 3), np.uint8), np.ones((16, 16, 1)))
            shots = [np.roll(ground.astype(np.uint8), at, axis=1) for at in range(4)]
            found.append(frame([bytes([place]) + encoder.encode(shot) for shot in shots]))
    return found or [frame([b"\0" * 11])]


def _film_mutator(rng: Rng, data: bytes) -> bytes:
    """Mostly with checksums made right again, so that parser and decoder are reached."""
    parts = unframe(_film(rng, data))
    if rng.random() < 0.9:
        parts = [part[:1] + zlib.crc32(part[5:]).to_bytes(4, "little") + part[5:] for part in parts]
    return frame(parts)[:MAX_INPUT_BYTES]


def decode_film(data: bytes) -> None:
    """As the trainer does, picture after picture by one decoder; a picture that comes out is whole."""
    decoder = live_video.Decoder()

    def show(part: bytes) -> None:
        codec = live_video.CODECS[part[0] % len(live_video.CODECS)] if part else "none"
        found = decoder.decode(codec, part[1:], FILM)
        assert found.shape == FILM and found.dtype == np.uint8

    each(*(lambda part=part: show(part) for part in unframe(data)))


# Conversations: framed packets, each of framed parts.


def converse(data: bytes, handle: Callable[[wire.Packet], object]) -> None:
    """Packet after packet; one that is refused does not keep the next from being handled."""
    each(*(lambda one=one: handle(wire.unpack(unframe(one))) for one in unframe(data)))


def targets() -> list[Target]:
    jpeg: Mutator = mutate_bytes
    return [
        Target("wire", packet_seeds, packet, plain(decode_packet), share=40, grows_mib=256),
        Target("jpeg", _jpeg_seeds, jpeg, plain(lambda d: void(images.decode_jpeg(d))), 8, 256),
        Target("depth", _depth_seeds, _depth_mutator, plain(decode_depth), 8, 256),
        Target("live-video", _film_seeds, _film_mutator, plain(decode_film), 8, 256),
    ]


def void(_: object) -> None:
    """For a call whose answer does not matter."""
