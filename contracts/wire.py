"""Wire format: a message header and raw buffers as separate parts. Owns the caps; never pickles.

Part 0 is msgpack: [version, header struct, buffer descriptors]. Parts 1.. are the buffers, in the order
of the descriptors. Everything about a buffer (name, codec, dtype, shape, size) is checked before a
byte of it is looked at. Pickle would run code of the sender; msgpack of plain types can't.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from contracts.errors import VersionMismatch, WireError
from contracts.messages import AnyMessage, Goodbye, Hello, Welcome

VERSION = 2
VERSIONS = (2, 2)
"""The lowest and the highest version that this end can use on a socket."""
HANDSHAKE_VERSION = 2
"""`Hello`, `Welcome` and `Goodbye` always carry this one, so that any two ends can tell each other theirs."""
OLDEST_ON_DISK = 1
"""Logs of so old a version are still read: messages only ever gained fields with defaults."""
ANSWERS = "answers"
"""A robot that knows `ReleaseManifest.answers`: to others the manifest goes without."""
FEATURES: tuple[str, ...] = ("delta", "zstd", ANSWERS)
"""What this end can do beyond its version's own, named in `Hello`: only what both ends name is used."""
MAX_PARTS = 32
MAX_HEADER_BYTES = 256 * 1024
MAX_BUFFER_BYTES = 64 * 1024 * 1024
MAX_RANK = 5
DTYPES = frozenset({"uint8", "uint16", "int32", "int64", "float16", "float32", "float64", "bool"})


class Buffer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Descriptor of one raw buffer. `codec` is "raw" or the id of a codec of `contracts.images`;
    `dtype` and `shape` are those of the decoded array."""

    name: str
    codec: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    version: int
    message: AnyMessage
    buffers: tuple[Buffer, ...] = ()


class _VersionOnly(msgspec.Struct, frozen=True, array_like=True):
    version: int


class Packet(msgspec.Struct, frozen=True):
    """A decoded message: the typed header and its checked buffers by name (memory not copied)."""

    message: AnyMessage
    descriptors: dict[str, Buffer]
    data: dict[str, memoryview]

    def array(self, name: str) -> np.ndarray:
        """The raw buffer `name` as an array of its declared dtype and shape (read-only view)."""
        descriptor = self.descriptors.get(name)
        if descriptor is None:
            raise WireError(f"no buffer '{name}' in this message", found=sorted(self.descriptors))
        if descriptor.codec != "raw":
            raise WireError(
                f"buffer '{name}' is encoded",
                expected="codec raw",
                found=descriptor.codec,
                remedy="decode it with contracts.images",
            )
        return np.frombuffer(self.data[name], dtype=descriptor.dtype).reshape(descriptor.shape)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)
_version_decoder = msgspec.msgpack.Decoder(_VersionOnly)


def raw(name: str, array: np.ndarray) -> tuple[Buffer, np.ndarray]:
    """Descriptor and contiguous data of an array that travels as it is."""
    array = np.ascontiguousarray(array)
    return Buffer(name, "raw", str(array.dtype), array.shape, array.nbytes), array


def encoded(
    name: str, codec: str, data: bytes, shape: tuple[int, ...], dtype: str
) -> tuple[Buffer, bytes]:
    """Descriptor and data of a compressed picture whose decoded array has `shape` and `dtype`."""
    return Buffer(name, codec, dtype, shape, len(data)), data


def pack(
    message: AnyMessage, buffers: Sequence[tuple[Buffer, bytes | np.ndarray]] = ()
) -> list[bytes | memoryview]:
    """Parts ready for `send_multipart` or for an episode log."""
    version = HANDSHAKE_VERSION if isinstance(message, Hello | Welcome | Goodbye) else VERSION
    header = _encoder.encode(Envelope(version, message, tuple(b for b, _ in buffers)))
    return [header, *(_bytes_of(data) for _, data in buffers)]


def _bytes_of(data: bytes | np.ndarray) -> bytes | memoryview:
    if isinstance(data, bytes):
        return data
    return data.data.cast("B") if data.size else b""


def unpack(parts: Sequence[bytes | memoryview], *, oldest: int = VERSION) -> Packet:
    """Typed message and buffers; `WireError` on anything unexpected, before any allocation. `oldest`: the
    lowest version taken; on a socket this end's own, from disk `OLDEST_ON_DISK`."""
    if not 1 <= len(parts) <= MAX_PARTS:
        raise WireError("wrong number of parts", expected=f"1 to {MAX_PARTS}", found=len(parts))
    header = parts[0]
    if len(header) > MAX_HEADER_BYTES:
        raise WireError(
            "header too large", expected=f"<= {MAX_HEADER_BYTES} bytes", found=len(header)
        )
    try:
        envelope = _decoder.decode(header)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise _explain(header, error) from error
    handshake = isinstance(envelope.message, Hello | Welcome | Goodbye)
    taken = (HANDSHAKE_VERSION,) if handshake else range(oldest, VERSION + 1)
    if envelope.version not in taken:
        raise _other_version(envelope.version)
    if len(envelope.buffers) != len(parts) - 1:
        raise WireError(
            "parts and buffer descriptors differ",
            expected=f"{len(envelope.buffers)} buffers",
            found=len(parts) - 1,
        )
    descriptors: dict[str, Buffer] = {}
    data: dict[str, memoryview] = {}
    for descriptor, part in zip(envelope.buffers, parts[1:], strict=True):
        check_buffer(descriptor, len(part))
        if descriptor.name in descriptors:
            raise WireError(f"buffer '{descriptor.name}' appears twice")
        descriptors[descriptor.name] = descriptor
        data[descriptor.name] = memoryview(part)
    return Packet(envelope.message, descriptors, data)


def check_buffer(descriptor: Buffer, size: int) -> None:
    """Raise `WireError` unless a buffer of `size` bytes can be what its descriptor says."""
    if descriptor.dtype not in DTYPES:
        raise WireError("dtype not allowed", expected=sorted(DTYPES), found=repr(descriptor.dtype))
    if len(descriptor.shape) > MAX_RANK or any(n < 0 for n in descriptor.shape):
        raise WireError(
            "bad shape", expected=f"rank <= {MAX_RANK}, no negative", found=descriptor.shape
        )
    if descriptor.nbytes != size:
        raise WireError(
            f"buffer '{descriptor.name}' has another size", expected=descriptor.nbytes, found=size
        )
    decoded = math.prod(descriptor.shape) * np.dtype(descriptor.dtype).itemsize
    # Counted without its zeros, too: an empty array may still have a side that numpy has no number for.
    sides = math.prod(max(1, n) for n in descriptor.shape)
    if max(decoded, size, sides) > MAX_BUFFER_BYTES:
        raise WireError(
            f"buffer '{descriptor.name}' too large",
            expected=f"<= {MAX_BUFFER_BYTES} bytes",
            found=max(decoded, size, sides),
        )
    if descriptor.codec == "raw" and decoded != size:
        raise WireError(
            f"buffer '{descriptor.name}': shape and size differ", expected=decoded, found=size
        )


def _explain(header: bytes | memoryview, error: Exception) -> WireError:
    try:
        version = _version_decoder.decode(header).version
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return WireError("header is not a message", found=str(error))
    if version != VERSION:
        return _other_version(version)
    return WireError("malformed message", found=str(error))


def _other_version(version: int) -> VersionMismatch:
    return VersionMismatch(
        "wire versions differ",
        expected=f"version {VERSION} (this end)",
        found=f"version {version} (other end)",
        remedy="install the same release of entracte on both ends",
    )
