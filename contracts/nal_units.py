"""H.264 and H.265 as they lie in a stream (Annex B): units, and what their sequence headers ask of a decoder.

Pure. A library's decoder allocates what a header says, so the header is read here first. Taken are only the
headers that `contracts.live_video` writes: 4:2:0, 8 bits, no interlacing, few reference pictures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from contracts.images import ImageCodecError

MAX_UNITS = 16
"""In one picture: its headers, and slices."""
MAX_REFERENCES = 4
MAX_CROPPED_PX = 63
"""Codecs code whole blocks, of at most 64 pixels a side; what is beyond the picture is cropped away."""
_START = re.compile(b"\x00{2,}\x01")
_PROFILES_H264 = (66, 77)  # Baseline and Main: 4:2:0 of 8 bits is all that they have
_MAIN_HEVC = 1


@dataclass(frozen=True)
class Layout:
    """Unit types of a codec. `headers` come before the slices of a picture that stands by itself, each once
    and in that order; `sizes` is the one with the picture's size."""

    headers: tuple[int, ...]
    sizes: int
    alone: frozenset[int]
    predicted: frozenset[int]
    told: frozenset[int]
    """What says nothing about pixels, and is left out: delimiters, supplemental information."""


LAYOUTS = {
    "h264": Layout((7, 8), 7, frozenset({5}), frozenset({1}), frozenset({6, 9})),
    "hevc": Layout(
        (32, 33, 34), 33, frozenset({19, 20}), frozenset({0, 1}), frozenset({35, 39, 40})
    ),
}


def units(codec: str, data: bytes) -> list[tuple[int, bytes]]:
    """(type, unit without its start code) of every unit. Raises `ImageCodecError`."""
    starts = list(_START.finditer(data))
    if not starts or starts[0].start() != 0 or len(starts) > MAX_UNITS:
        raise _bad("units of a picture", f"1 to {MAX_UNITS}, from the first byte on", len(starts))
    ends = [start.start() for start in starts[1:]] + [len(data)]
    found = []
    for start, end in zip(starts, ends, strict=True):
        unit = data[start.end() : end]
        if len(unit) < 3 or unit[0] & 0x80:
            raise _bad("a unit", "a whole unit header", unit[:2].hex())
        found.append((unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63, unit))
    return found


def check(codec: str, data: bytes, height: int, width: int, *, alone: bool) -> None:
    """Raise `ImageCodecError` unless `data` is one picture of that size, with headers exactly where it stands
    by itself (`alone`)."""
    layout, found = LAYOUTS[codec], units(codec, data)
    kinds = tuple(kind for kind, _ in found)
    headers = layout.headers if alone else ()
    slices, allowed = kinds[len(headers) :], layout.alone if alone else layout.predicted
    if kinds[: len(headers)] != headers or not slices or not allowed.issuperset(slices):
        raise _bad(f"units of {codec}", f"{headers} and some of {sorted(allowed)}", kinds)
    for kind, unit in found[: len(headers)]:
        if kind == layout.sizes:
            size = _size_h264(unit) if codec == "h264" else _size_hevc(unit)
            if size != (height, width):
                raise _bad(f"{codec} of another size than declared", (height, width), size)


def _size_h264(unit: bytes) -> tuple[int, int]:
    """(height, width); ITU-T H.264 7.3.2.1.1."""
    bits = _Bits(unit[1:])
    profile = bits.take(8)
    if profile not in _PROFILES_H264:
        raise _bad("H.264 profile", _PROFILES_H264, profile)
    bits.take(16)  # constraints, level
    bits.number()  # its id
    bits.number()  # bits of frame numbers
    order = bits.number()
    if order == 0:
        bits.number()
    elif order != 2:
        raise _bad("H.264 picture order", "0 or 2", order)
    _check_references(bits.number())
    bits.take(1)
    width, height = 16 * (bits.number() + 1), 16 * (bits.number() + 1)
    if not bits.take(1):
        raise _bad("H.264 fields", "whole frames", "interlaced")
    bits.take(1)
    return _cropped(bits, height, width)


def _size_hevc(unit: bytes) -> tuple[int, int]:
    """(height, width); ITU-T H.265 7.3.2.2.1 and 7.3.3."""
    bits = _Bits(unit[2:])
    bits.take(4)
    if layers := bits.take(3):
        raise _bad("H.265 sub-layers", 1, layers + 1)
    bits.take(4)  # nesting, profile space, tier
    if (profile := bits.take(5)) != _MAIN_HEVC:
        raise _bad("H.265 profile", "Main", profile)
    bits.take(32 + 48 + 8)  # compatibility, constraints, level
    bits.number()  # its id
    if (chroma := bits.number()) != 1:
        raise _bad("H.265 chroma", "4:2:0", chroma)
    width, height = bits.number(), bits.number()
    size = _cropped(bits, height, width)
    depths = bits.number(), bits.number()
    if depths != (0, 0):
        raise _bad("H.265 bits", "8 and 8", tuple(depth + 8 for depth in depths))
    bits.number()  # bits of picture order counts
    bits.take(1)
    _check_references(bits.number())
    return size


def _cropped(bits: _Bits, height: int, width: int) -> tuple[int, int]:
    """What is left of the coded size; cropping counts in pixels of the halved chroma."""
    if not bits.take(1):
        return height, width
    left, right, top, bottom = (2 * bits.number() for _ in range(4))
    if max(left + right, top + bottom) > MAX_CROPPED_PX:
        raise _bad("cropping", f"<= {MAX_CROPPED_PX} px", (left + right, top + bottom))
    return height - top - bottom, width - left - right


def _check_references(count: int) -> None:
    if count > MAX_REFERENCES:
        raise _bad("reference pictures", f"<= {MAX_REFERENCES}", count)


class _Bits:
    """Reads a unit bit by bit, without the bytes that keep start codes out of it."""

    def __init__(self, payload: bytes) -> None:
        plain = payload[:256].replace(b"\x00\x00\x03", b"\x00\x00")
        self._all, self._left = int.from_bytes(plain, "big"), 8 * len(plain)

    def take(self, count: int) -> int:
        if count > self._left:
            raise _bad("a header", "its end", "the end of the data")
        self._left -= count
        return self._all >> self._left & ((1 << count) - 1)

    def number(self) -> int:
        """An unsigned Exp-Golomb code."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 31:
                raise _bad("a number in a header", "at most 32 bits", "more")
        return (1 << zeros) - 1 + self.take(zeros)


def _bad(what: str, expected: object, found: object) -> ImageCodecError:
    return ImageCodecError(f"unusable video: {what}", expected=expected, found=found)
