"""Colour as video: what comes back, who needs whom, and what is refused before a decoder sees it."""

from __future__ import annotations

import itertools
import struct
import zlib

import numpy as np
import pytest

from contracts import live_video, nal_units
from contracts.images import ImageCodecError
from contracts.live_video import KEY_EVERY, Decoder, Encoder, MissingPicture

HEIGHT, WIDTH = 48, 64
SHAPE = (HEIGHT, WIDTH, 3)
HERE = [codec for codec in live_video.CODECS if live_video.encodes(codec)]
pytestmark = pytest.mark.skipif(not HERE, reason="this PyAV writes neither H.264 nor H.265")
each = pytest.mark.parametrize("codec", HERE)


def scene(at: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A bright block that moves over a smooth ground."""
    ramp = np.linspace(30, 170, width, dtype=np.float32)[None, :, None]
    picture = np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8).copy()
    picture[8:24, (4 + 2 * at) % max(1, width - 16) :][:, :12] = 230
    return picture


def film(codec: str, count: int, **more: bool) -> list[bytes]:
    encoder = Encoder(codec, SHAPE, 18)
    return [encoder.encode(scene(at), **more) for at in range(count)]


def error_of(found: np.ndarray, at: int) -> float:
    return float(np.abs(found.astype(int) - scene(at)).mean())


def sealed(data: bytes) -> bytes:
    """With the checksum that its bytes have now."""
    return struct.pack("<I", zlib.crc32(data[4:])) + data[4:]


@each
@pytest.mark.parametrize("size", [(16, 16), (24, 32), (98, 130), (480, 640)])
def test_pictures_come_back_one_for_one_and_those_that_follow_are_small(codec, size) -> None:
    encoder, decoder = Encoder(codec, (*size, 3), 12), Decoder()
    sizes = []
    for at in range(6):
        data = encoder.encode(scene(at, *size))
        found = decoder.decode(codec, data, (*size, 3))
        assert found.dtype == np.uint8 and found.shape == (*size, 3)
        assert np.abs(found.astype(int) - scene(at, *size)).mean() < 6.0
        sizes.append(len(data))
        assert live_video.follows(data) == (at > 0)
    assert max(sizes[1:]) < sizes[0]


@each
def test_a_group_has_a_stated_length_and_begins_where_it_is_told_to(codec) -> None:
    encoder = Encoder(codec, SHAPE, 18)
    told = {KEY_EVERY + 5}
    alone = [
        not live_video.follows(encoder.encode(scene(at), alone=at in told))
        for at in range(2 * KEY_EVERY + 10)
    ]
    found = [at for at, one in enumerate(alone) if one]
    assert found == [0, KEY_EVERY, KEY_EVERY + 5, 2 * KEY_EVERY + 5]


@each
def test_after_a_lost_picture_nothing_is_shown_until_one_stands_by_itself(codec) -> None:
    data, decoder = film(codec, 2 * KEY_EVERY), Decoder()
    shown = []
    for at, one in enumerate(data):
        if at == 3:
            continue
        try:
            assert error_of(decoder.decode(codec, one, SHAPE), at) < 6.0
            shown.append(at)
        except MissingPicture:
            pass
    assert shown == [0, 1, 2, *range(KEY_EVERY, 2 * KEY_EVERY)]


@each
def test_doubled_swapped_and_foreign_pictures_are_known_as_such(codec) -> None:
    one, other = film(codec, 5), film(codec, 5)
    for wrong in (one[1], one[3], other[2]):
        decoder = Decoder()
        decoder.decode(codec, one[0], SHAPE)
        decoder.decode(codec, one[1], SHAPE)
        with pytest.raises(MissingPicture):
            decoder.decode(codec, wrong, SHAPE)
        with pytest.raises(MissingPicture):
            decoder.decode(codec, one[2], SHAPE)
        assert error_of(decoder.decode(codec, other[0], SHAPE), 0) < 6.0
    with pytest.raises(MissingPicture, match="picture 0"):
        Decoder().decode(codec, one[1], SHAPE)


@each
def test_a_wrong_bit_is_an_error_and_never_a_wrong_picture(codec) -> None:
    data, rng = film(codec, 2), np.random.default_rng(0)
    for _ in range(50):
        decoder = Decoder()
        decoder.decode(codec, data[0], SHAPE)
        broken = bytearray(data[1])
        broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
        with pytest.raises(ImageCodecError):
            decoder.decode(codec, bytes(broken), SHAPE)
        with pytest.raises(MissingPicture):
            decoder.decode(codec, data[1], SHAPE)


@each
def test_another_size_than_declared_is_refused_before_a_decoder_is_made(codec, monkeypatch) -> None:
    data = film(codec, 1)[0]

    def never(_codec: str) -> None:
        raise AssertionError("a decoder was made for it")

    monkeypatch.setattr(live_video, "_reader", never)
    for shape in ((HEIGHT, WIDTH + 2, 3), (2 * HEIGHT, WIDTH, 3), (WIDTH, HEIGHT, 3)):
        with pytest.raises(ImageCodecError, match="another size"):
            Decoder().decode(codec, data, shape)


def header_bits(data: bytes, kind: int, codec: str) -> tuple[bytes, int]:
    unit = next(unit for found, unit in nal_units.units(codec, data[10:]) if found == kind)
    return unit, data.index(unit)


@pytest.mark.skipif("h264" not in HERE, reason="this PyAV writes no H.264")
@pytest.mark.parametrize("profile", [0, 88, 100, 110, 122, 244, 255])
def test_other_profiles_are_refused_by_name(profile) -> None:
    data = bytearray(film("h264", 1)[0])
    _, at = header_bits(bytes(data), 7, "h264")
    data[at + 1] = profile
    with pytest.raises(ImageCodecError, match=f"profile.*found {profile}"):
        Decoder().decode("h264", sealed(bytes(data)), SHAPE)


@pytest.mark.skipif("h264" not in HERE, reason="this PyAV writes no H.264")
def test_a_header_in_the_middle_of_a_group_is_refused() -> None:
    """It could change the size under a decoder that runs."""
    data, decoder = film("h264", 3), Decoder()
    decoder.decode("h264", data[0], SHAPE)
    smuggled = sealed(data[1][:10] + data[0][10:])
    with pytest.raises(ImageCodecError, match="units of h264"):
        decoder.decode("h264", smuggled, SHAPE)


@each
def test_what_is_no_picture_of_an_encoder_is_refused(codec) -> None:
    first = film(codec, 1)[0]
    body = first[10:]
    behind = sealed(first[:10] + b"x" + body)
    for wrong in (b"", first[:4], first[:10], first + b"\0" * 20_000, behind):
        with pytest.raises(ImageCodecError):
            Decoder().decode(codec, wrong, SHAPE)
    slices = b"\0\0\0\1" + nal_units.units(codec, body)[-1][1]
    for wrong in (slices, body + body, body + slices * 20, body[: len(body) - len(slices)]):
        with pytest.raises(ImageCodecError, match="units"):
            Decoder().decode(codec, sealed(first[:10] + wrong), SHAPE)
    late = struct.pack("<IIH", 0, 1, KEY_EVERY) + body
    with pytest.raises(ImageCodecError, match="corrupt"):
        Decoder().decode(codec, sealed(late), SHAPE)


@pytest.mark.parametrize(
    "shape", [(48, 63, 3), (47, 64, 3), (14, 64, 3), (1090, 1920, 3), (48, 64)]
)
def test_sizes_that_video_does_not_have_are_refused_at_both_ends(shape) -> None:
    assert not live_video.fits(shape)
    with pytest.raises(ImageCodecError, match=r"even sides.*link\.colour_codec: jpeg"):
        Encoder(HERE[0], shape, 18)
    with pytest.raises(ImageCodecError, match="can't be read"):
        Decoder().decode(HERE[0], film(HERE[0], 1)[0], shape)


def test_an_end_without_pyav_or_without_the_codec_says_so(monkeypatch) -> None:
    assert not live_video.encodes("av1") and not live_video.decodes("mjpeg")
    live_video._has.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    try:
        for codec, has in itertools.product(
            live_video.CODECS, (live_video.encodes, live_video.decodes)
        ):
            assert not has(codec)
        with pytest.raises(ImageCodecError, match="PyAV"):
            Encoder("h264", SHAPE, 18)
    finally:
        live_video._has.cache_clear()


def bits(*numbers: tuple[int, int] | int) -> str:
    """A bit string: (value, width) as it is, a plain number as an Exp-Golomb code."""
    found = ""
    for one in numbers:
        if isinstance(one, tuple):
            found += format(one[0], f"0{one[1]}b")
        else:
            code = format(one + 1, "b")
            found += "0" * (len(code) - 1) + code
    return found


def h264_picture(*, references: int = 1, frames: int = 1, crop: int = 0, order: int = 2) -> bytes:
    """A whole picture of 48x64 by its header, whose slice is nothing."""
    blocks = WIDTH // 16 - 1 + (crop + 15) // 16, HEIGHT // 16 - 1
    cropping = ((1, 1), 0, crop // 2, 0, 0) if crop else ((0, 1),)
    flags = (frames, 1), (1, 1)
    head = bits((66, 8), (0, 16), 0, 0, order, references, (0, 1), *blocks, *flags, *cropping)
    head += bits((0, 1), (1, 1))
    head += "0" * (-len(head) % 8)
    sps = b"\x67" + int(head, 2).to_bytes(len(head) // 8, "big")
    safe = sps.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")
    return b"".join(b"\0\0\0\1" + unit for unit in (safe, b"\x68\xce\x38", b"\x65\x88\x80"))


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ({}, ""),
        ({"crop": 32}, ""),
        ({"references": nal_units.MAX_REFERENCES}, ""),
        ({"references": nal_units.MAX_REFERENCES + 1}, "reference pictures"),
        ({"references": 2**31}, "reference pictures"),
        ({"frames": 0}, "fields"),
        ({"crop": 4096}, "cropping"),
        ({"order": 1}, "picture order"),
        ({"order": 2**32 - 2}, "picture order"),
    ],
)
def test_what_a_header_asks_of_a_decoder_is_bounded(asked, refused) -> None:
    data = h264_picture(**asked)
    if not refused:
        nal_units.check("h264", data, HEIGHT, WIDTH, alone=True)
        return
    with pytest.raises(ImageCodecError, match=refused):
        nal_units.check("h264", data, HEIGHT, WIDTH, alone=True)


def test_a_header_that_ends_too_soon_or_counts_without_end_is_refused() -> None:
    data = h264_picture()
    for cut in range(6, 10):
        short = data[:cut] + data[data.index(b"\0\0\0\1\x68") :]
        with pytest.raises(ImageCodecError):
            nal_units.check("h264", short, HEIGHT, WIDTH, alone=True)
    endless = b"\0\0\0\1\x67\x42\0\x1e" + b"\0\3" * 40 + data[data.index(b"\0\0\0\1\x68") :]
    with pytest.raises(ImageCodecError):
        nal_units.check("h264", endless, HEIGHT, WIDTH, alone=True)
