"""Encodings of releases: bit-exact both ways, capped, and refused when they lie."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.encodings import BLOCK, MAX_ENCODED_BLOCK, decode, encode
from contracts.errors import ReleaseRejected

RNG = np.random.default_rng(0)


def there_and_back(data: bytes, base: bytes | None) -> bytes:
    return b"".join(bytes(part) for part in decode(b"".join(encode(data, base)), len(data), base))


def weights(words: int) -> np.ndarray:
    return RNG.standard_normal(words).astype(np.float32)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 4096, BLOCK - 1, BLOCK, BLOCK + 5, 2 * BLOCK + 2])
def test_every_size_comes_back_bit_for_bit(size: int) -> None:
    data, base = RNG.bytes(size), RNG.bytes(size)
    assert there_and_back(data, None) == data
    assert there_and_back(data, base) == data


@settings(deadline=None)
@given(st.binary(max_size=200), st.data())
def test_any_bits_come_back_nan_and_the_ends_of_the_range_too(
    data: bytes, more: st.DataObject
) -> None:
    extremes = b"\x00\x00\x00\x80\xff\xff\xff\x7f\x00\x00\xc0\x7f\xff\xff\xff\xff"
    base = more.draw(st.binary(min_size=len(data) + 16, max_size=len(data) + 16))
    assert there_and_back(extremes + data, base) == extremes + data


def test_small_steps_of_weights_take_fewer_bytes_than_the_weights_and_no_step_none() -> None:
    old = weights(200_000)
    new = (old * (1 + 1e-3 * weights(200_000))).astype(np.float32)
    whole = sum(map(len, encode(new.tobytes())))
    delta = sum(map(len, encode(new.tobytes(), old.tobytes())))
    assert delta < 0.8 * whole < 0.8 * new.nbytes
    assert sum(map(len, encode(old.tobytes(), old.tobytes()))) < 1000


def test_threads_give_the_same_bytes() -> None:
    data = RNG.bytes(3 * BLOCK + 1)
    with ThreadPoolExecutor(2) as pool:
        assert b"".join(encode(data, None, pool.map)) == b"".join(encode(data))


def refused(encoded: bytes, nbytes: int, base: bytes | None = None) -> str:
    with pytest.raises(ReleaseRejected) as caught:
        for _ in decode(encoded, nbytes, base):
            pass
    return caught.value.reason


def block(content: bytes, **options: bool) -> bytes:
    frame = zstandard.ZstdCompressor(**options).compress(content)
    return len(frame).to_bytes(4, "little") + frame


def test_each_lie_is_refused() -> None:
    data = weights(1000).tobytes()
    good = block(data)
    assert refused(good[:-1], 4000) == "encoding"  # truncated
    assert refused(good + b"x", 4000) == "encoding"  # more than the file
    assert refused(good, 3999) == "encoding"  # another size than was signed
    assert refused(good, 4001) == "encoding"
    assert refused(b"", 4000) == "encoding"
    assert refused(b"\xff\xff\xff\xff" + good[4:], 4000) == "encoding"
    assert refused(b"\x00\x00\x00\x00", 4000) == "encoding"
    assert refused(good[:8] + bytes([good[8] ^ 0xFF]) + good[9:], 4000) == "encoding"
    assert refused(block(data, write_content_size=False), 4000) == "encoding"
    two = zstandard.ZstdCompressor().compress(data) + b"y"
    assert refused(len(two).to_bytes(4, "little") + two, 4000) == "encoding"
    assert refused(good, 4000, base=data[:-4]) == "base"
    with pytest.raises(ReleaseRejected) as caught:
        list(encode(data, data[:-4]))
    assert caught.value.reason == "base"


def test_a_bomb_is_refused_before_it_unfolds() -> None:
    packer = zstandard.ZstdCompressor().compressobj(size=1 << 30)
    frame = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + packer.flush()
    bomb = len(frame).to_bytes(4, "little") + frame
    assert len(bomb) < MAX_ENCODED_BLOCK
    modest = bytearray(bomb)  # the same, but it says that it holds a block only
    assert zstandard.get_frame_parameters(frame).content_size == 1 << 30
    at = bomb.index((1 << 30).to_bytes(4, "little"))
    modest[at : at + 4] = BLOCK.to_bytes(4, "little")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(bomb, BLOCK) == "encoding"
    assert refused(bytes(modest), BLOCK) == "encoding"
    assert refused(bomb, 1 << 30) == "encoding", "a file of that size comes in blocks"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # kB


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 255), st.integers(0, 50))
def test_damage_is_refused_or_gives_as_many_bytes(at: int, value: int, cut: int) -> None:
    data = np.arange(500, dtype=np.float32).tobytes()
    encoded = bytearray(b"".join(encode(data)))
    encoded[at % len(encoded)] = value
    try:
        found = b"".join(map(bytes, decode(bytes(encoded[: len(encoded) - cut]), len(data))))
    except ReleaseRejected as error:
        assert error.reason == "encoding"
        return
    assert len(found) == len(data)
