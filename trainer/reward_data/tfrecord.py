"""TFRecord files and tf.train.Example messages without TensorFlow: lengths, checksums, three list kinds.

Formats: tensorflow/core/lib/io/record_writer.h (uint64 length, masked CRC32C of it, data, masked CRC32C)
and tensorflow/core/example/{example,feature}.proto. Everything read is checked against the file's size and
the caps below before it is believed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from contracts.errors import EntracteError

MAX_RECORD_BYTES = 1 << 30
MAX_FEATURES = 4096
MAX_VALUES = 10_000_000
POLYNOMIAL = 0x82F63B78
MASK_DELTA = 0xA282EAD8
LANES = 512
Values = list[bytes] | np.ndarray


class TfrecordError(EntracteError):
    """A TFRecord file or an Example in it that is cut off, corrupt or too large."""


@cache
def _table() -> np.ndarray:
    rows = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        rows = (rows >> 1) ^ np.where(rows & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return rows


@cache
def _after_zeros(count: int) -> tuple[list[int], ...]:
    """What `count` zero bytes make of a checksum state, as four tables of its four bytes."""
    table = _table()
    state = np.concatenate([np.arange(256, dtype=np.uint32) << (8 * byte) for byte in range(4)])
    for _ in range(count):
        state = table[state & 0xFF] ^ (state >> 8)
    return tuple(part.tolist() for part in state.reshape(4, 256))


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli) of `data`.

    A checksum is linear, so equal stretches are summed side by side (one numpy step a byte of a stretch)
    and joined by what the following stretches' length of zeros makes of each.
    """
    table = _table()
    body = np.frombuffer(data, np.uint8)
    length = len(body) // LANES
    state = 0xFFFFFFFF
    if length:
        lanes = body[: length * LANES].reshape(LANES, length).T
        sums = np.zeros(LANES, np.uint32)
        for column in lanes:
            sums = table[(sums ^ column) & 0xFF] ^ (sums >> 8)
        a, b, c, d = _after_zeros(length)
        for lane in sums.tolist():
            state = (
                a[state & 255] ^ b[state >> 8 & 255] ^ c[state >> 16 & 255] ^ d[state >> 24] ^ lane
            )
    plain = table.tolist()
    for byte in body[length * LANES :].tolist():
        state = plain[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """TFRecord's rotation of a checksum, so that one of data that holds checksums stays good."""
    return ((checksum >> 15 | checksum << 17) + MASK_DELTA) & 0xFFFFFFFF


def record_offsets(path: Path) -> list[int]:
    """Where each record begins. Lengths are checked, data are not read. Raises `TfrecordError`."""
    offsets, at, size = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            length = _length(file.read(12), path, at, size)
            offsets.append(at)
            at += 16 + length
    return offsets


def read_record(path: Path, offset: int) -> bytes:
    """Data of the record at `offset`, checksum checked. Raises `TfrecordError`."""
    with path.open("rb") as file:
        file.seek(offset)
        length = _length(file.read(12), path, offset, path.stat().st_size)
        data, tail = file.read(length), file.read(4)
    expected = struct.unpack("<I", tail)[0]
    found = masked(crc32c(data))
    if found != expected:
        raise TfrecordError(
            f"{path}: record at byte {offset} is corrupt",
            expected=f"checksum {expected:#010x}",
            found=f"{found:#010x}",
            remedy="fetch the file again",
        )
    return data


def _length(head: bytes, path: Path, at: int, size: int) -> int:
    where = f"{path}: record at byte {at}"
    if len(head) < 12:
        raise TfrecordError(where, expected="a header of 12 bytes", found=f"{len(head)} (cut off)")
    length, checksum = struct.unpack("<QI", head)
    if masked(crc32c(head[:8])) != checksum:
        raise TfrecordError(f"{where} has a corrupt length", remedy="is this a TFRecord file?")
    if length > MAX_RECORD_BYTES or at + 16 + length > size:
        room = min(MAX_RECORD_BYTES, size - at - 16)
        raise TfrecordError(where, expected=f"at most {room} bytes", found=length)
    return int(length)


def parse_example(data: bytes) -> dict[str, Values]:
    """Features of a tf.train.Example by name: list[bytes], float32[N] or int64[N].

    Raises `TfrecordError` on what is no Example or breaks a cap.
    """
    try:
        return dict(_features(memoryview(data)))
    except (IndexError, ValueError, struct.error) as error:
        raise TfrecordError("data are no tf.train.Example", found=str(error)) from error


def _features(data: memoryview) -> Iterator[tuple[str, Values]]:
    count = 0
    for number, features in _fields(data):
        if number != 1 or not isinstance(features, memoryview):
            continue
        for entry_number, entry in _fields(features):
            if entry_number != 1 or not isinstance(entry, memoryview):
                continue
            count += 1
            if count > MAX_FEATURES:
                raise ValueError(f"more than {MAX_FEATURES} features")
            pair = dict(_fields(entry))
            name, feature = pair.get(1, b""), pair.get(2, memoryview(b""))
            if not isinstance(name, int) and isinstance(feature, memoryview):
                yield bytes(name).decode(), _values(feature)


def _values(feature: memoryview) -> Values:
    for kind, body in _fields(feature):
        if not isinstance(body, memoryview):
            raise ValueError("a list that is a number")
        if kind == 1:
            return [bytes(v) for _, v in _fields(body) if not isinstance(v, int)]
        if kind == 2:
            parts = [np.frombuffer(v, "<f4") for _, v in _fields(body) if not isinstance(v, int)]
            return np.concatenate(parts) if parts else np.zeros(0, np.float32)
        if kind == 3:
            numbers: list[int] = []
            for _, value in _fields(body):
                numbers += [value] if isinstance(value, int) else _packed(value)
            return np.array(numbers, np.uint64).astype(np.int64)
    return []


def _packed(data: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        numbers.append(value)
        if len(numbers) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
    return numbers


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if length > len(data) - at:
            raise ValueError(f"a field of {length} bytes where {len(data) - at} are left")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ValueError("a number longer than 64 bits")
