"""Mutations: of bytes, of trees (what msgpack, JSON and YAML hold), and of framed parts. Seeded, no state.

A mutator takes `(rng, data)` and gives other data. Mutations of a tree keep the format around it sound
(lengths, checksums), so that what is deep in a decoder is reached too; those of bytes break it anywhere.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import zstandard

from contracts.errors import EntracteError

Rng: TypeAlias = random.Random
Mutator: TypeAlias = Callable[[Rng, bytes], bytes]

MAX_INPUT_BYTES = 256 * 1024
_WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
_LEAVES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 32, 64, 255, 2**31, 2**32, 2**53, -(2**63), 2**63 - 1, 2**63, 2**64 - 1),
    *(0.0, -0.0, 1e-320, 1e300, -1e300, 3.5, math.nan, math.inf, -math.inf),
    *(True, False, None, "", "a", "\0", "../../x", "/etc/passwd", "é" * 40, "x" * 5000, "\ud7ff"),
    *(b"", b"\0" * 8, [], [0, 2**62], [0, 2**40, 2**40], {}, [[]], {"": {}}, [0] * 200),
)


def mutate_bytes(rng: Rng, data: bytes) -> bytes:
    """One to four changes: bits, bytes, integers of every width and order, cuts, copies, insertions."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change_bytes(rng, found)
    return bytes(found[:MAX_INPUT_BYTES])


def _change_bytes(rng: Rng, data: bytearray) -> None:
    size = len(data)
    kind = rng.randrange(9) if size else 8
    at = rng.randrange(size) if size else 0
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
    elif kind == 2:
        width, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
        word = (rng.choice(_WORDS) + rng.choice((0, 0, 1, -1))) % (1 << 8 * width)
        data[at : at + width] = word.to_bytes(width, order)  # type: ignore[arg-type]
    elif kind == 3:
        width, order = rng.choice((1, 2, 4)), rng.choice(("little", "big"))
        word = int.from_bytes(data[at : at + width], order) + rng.choice((1, -1, 16, -16))  # type: ignore[arg-type]
        data[at : at + width] = (word % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        del data[at : at + rng.randint(1, 32)]
    elif kind == 6:
        data[at:at] = data[rng.randrange(size) :][: rng.randint(1, 64)]
    elif kind == 7:
        begin = rng.randrange(size)
        data[at : at + 16] = data[begin : begin + 16]
    else:
        data[at:at] = rng.randbytes(rng.randint(1, 24))


def mutate_tree(rng: Rng, tree: Any) -> Any:
    """The same tree with one to three nodes replaced, nudged, removed, doubled, swapped, nested, renamed."""
    tree = _copied(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _change_tree(rng, tree)
    return tree


def _copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_copied(value) for value in tree]
    return tree


def _change_tree(rng: Rng, tree: Any) -> Any:
    """Walks down at random, so that what lies near the root is changed as often as the many leaves."""
    holder, key, node = None, None, tree
    while isinstance(node, dict | list) and node and rng.random() < 0.85:
        holder = node
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node = node[key]
    if holder is None:
        return _other(rng, tree)
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, _copied(node))
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "kind", f"{key}x", "__metadata__"))] = node
    elif kind == 2:
        other = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        holder[key], holder[other] = holder[other], node
    elif kind == 3:
        for _ in range(rng.choice((1, 2, 2000))):
            node = [node]
        holder[key] = node
    else:
        holder[key] = _other(rng, node)
    return tree


def _other(rng: Rng, node: Any) -> Any:
    """Something of the same kind half of the time, else anything."""
    same = rng.random() < 0.5
    if same and isinstance(node, bool):
        return not node
    if same and isinstance(node, int):
        return max(-(2**63), min(2**64 - 1, node + rng.choice((1, -1, 7, -100, 2**31, node))))
    if same and isinstance(node, float):
        return node * rng.choice((-1.0, 0.5, 1e30)) + rng.choice((0.0, 1.0, -1e-9))
    if same and isinstance(node, str):
        at = rng.randint(0, len(node))
        return (
            node[:at]
            + rng.choice(("", "0", "é", "\0", "/", "..", " "))
            + node[at + rng.randint(0, 2) :]
        )
    if same and isinstance(node, bytes):
        return mutate_bytes(rng, node)
    return _copied(rng.choice(_LEAVES))


def mutate_compressed(rng: Rng, frame: bytes) -> bytes:
    """What a zstd frame holds is changed and compressed again; of an unsound frame its own bytes."""
    try:
        if zstandard.frame_content_size(frame) <= MAX_INPUT_BYTES:
            raw = zstandard.ZstdDecompressor().decompress(frame, max_output_size=MAX_INPUT_BYTES)
            return zstandard.ZstdCompressor(level=1).compress(mutate_bytes(rng, raw))
    except zstandard.ZstdError:
        pass
    return mutate_bytes(rng, frame)


def of_tree(
    decode: Callable[[bytes], Any], encode: Callable[[Any], bytes], share: float = 0.75
) -> Mutator:
    """`share` of the mutations are the tree's, the rest the bytes', as all are where the data can't be
    decoded (mutated before) or the mutated tree not encoded."""

    def mutate(rng: Rng, data: bytes) -> bytes:
        if rng.random() < share:
            try:
                return encode(mutate_tree(rng, decode(data)))[:MAX_INPUT_BYTES]
            except (ValueError, TypeError, OverflowError, RecursionError, EntracteError):
                pass
        return mutate_bytes(rng, data)

    return mutate


def frame(parts: Sequence[bytes | memoryview]) -> bytes:
    """Parts as one input: their number (u8), their lengths (u32), the parts; as in an episode log."""
    sizes = [len(part) for part in parts]
    return struct.pack(f"<B{len(sizes)}I", len(sizes), *sizes) + b"".join(map(bytes, parts))


def unframe(data: bytes) -> list[bytes]:
    """Whatever the bytes hold, as parts: lengths that do not fit give short parts."""
    count = data[0] if data else 0
    head = 1 + 4 * count
    sizes = [int.from_bytes(data[at : at + 4], "little") for at in range(1, head, 4)]
    parts, at = [], head
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return parts


def of_parts(first: Mutator, others: Mutator = mutate_bytes) -> Mutator:
    """Mutates framed parts: mostly the first, now and then another, their number, or the frame itself."""

    def mutate(rng: Rng, data: bytes) -> bytes:
        parts = unframe(data)
        kind = rng.random()
        if not parts or kind < 0.03:
            return mutate_bytes(rng, data)
        if kind < 0.75:
            parts[0] = first(rng, parts[0])
        if kind > 0.6 and len(parts) > 1:
            at = rng.randrange(1, len(parts))
            parts[at] = others(rng, parts[at])
        if kind > 0.92:
            _change_parts(rng, parts)
        return frame(parts)[:MAX_INPUT_BYTES]

    return mutate


def _change_parts(rng: Rng, parts: list[bytes]) -> None:
    at = rng.randrange(len(parts))
    if rng.random() < 0.5:
        del parts[at]
    else:
        parts[at:at] = [parts[rng.randrange(len(parts))]] * rng.choice((1, 1, 40))
        del parts[255:]
