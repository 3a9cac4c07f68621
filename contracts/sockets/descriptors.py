"""What the kernel knows of libzmq's TCP connections, by their file descriptors. Owns none of them."""

from __future__ import annotations

import contextlib
import socket as tcp
import struct
from collections.abc import Iterator

_RECEIVED_AT = 128  # offsetof(struct tcp_info, tcpi_bytes_received), Linux 4.1 and later


@contextlib.contextmanager
def borrowed(descriptor: int) -> Iterator[tcp.socket]:
    """libzmq's own socket, not a duplicate: when no descriptor is left, some must be cut off all the same.
    Raises `OSError` where it is closed."""
    end = tcp.socket(tcp.AF_INET, tcp.SOCK_STREAM, fileno=descriptor)
    try:
        yield end
    finally:
        end.detach()


def peer_of(descriptor: int) -> object:
    """Address and port of the other end; None where it has gone."""
    with contextlib.suppress(OSError), borrowed(descriptor) as end:
        return end.getpeername()
    return None


def received(descriptor: int, address: object) -> int:
    """Bytes that the kernel took from the peer of that connection; 0 where it can't be told."""
    with (
        contextlib.suppress(OSError, struct.error, AttributeError),
        borrowed(descriptor) as end,
    ):
        if address is not None and end.getpeername() == address:
            info = end.getsockopt(tcp.IPPROTO_TCP, tcp.TCP_INFO, 256)
            return int(struct.unpack_from("=Q", info, _RECEIVED_AT)[0])
    return 0
