"""A TCP proxy that misbehaves on purpose: late, slow, silent, cut, reset, with bits turned and bytes twice.

Owns one event loop in a thread and any number of proxies on it. Knows no protocol: only bytes. What it does
is drawn from a seeded generator; `counts` says how often each fault was really done.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass

BLOCK_BYTES = 64 * 1024
WAITING_BLOCKS = 16
"""Blocks of one direction that may be under way: bounds memory, and lets a slow wire push back."""
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Faults:
    """What a connection suffers. Rates are per block of up to 64 KiB read; delays are in seconds.

    `black_hole`: connections stay open and nothing passes. `refuse`: connections are reset at once, the open
    ones too. `reset`, `truncate` end the connection (RST; some bytes of the block and then FIN). `flip` turns
    one bit, `repeat` sends some bytes of the block twice.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    black_hole: bool = False
    refuse: bool = False
    reset: float = 0.0
    truncate: float = 0.0
    flip: float = 0.0
    repeat: float = 0.0


CALM = Faults()


class Wire:
    """One proxied address. `faults` may be replaced from any thread at any time."""

    def __init__(self, name: str, target: tuple[str, int], seed: str) -> None:
        self.name, self.target = name, target
        self.faults = CALM
        self.address = ""
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._pairs: set[_Pair] = set()

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=BLOCK_BYTES)
        self.address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if self.faults.refuse:
            self.counts["refused"] += 1
            _reset(back)
            return
        try:
            far, forth = await asyncio.open_connection(*self.target, limit=BLOCK_BYTES)
        except OSError:
            _reset(back)
            return
        self.counts["connections"] += 1
        pair = _Pair(self, back, forth)
        self._pairs.add(pair)
        try:
            await asyncio.gather(pair.pump(near, forth), pair.pump(far, back))
        finally:
            pair.close()
            self._pairs.discard(pair)

    def cut(self) -> None:
        """Reset every open connection (on the loop's thread)."""
        for pair in list(self._pairs):
            self.counts["reset"] += 1
            pair.reset()


class _Pair:
    """Both directions of one connection."""

    def __init__(self, wire: Wire, *ends: asyncio.StreamWriter) -> None:
        self._wire, self._ends = wire, ends
        self._open = True

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Read ahead into a short queue; each block leaves when it is due, in order."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_BLOCKS)
        reader = asyncio.ensure_future(self._read(source, queue))
        try:
            while self._open:
                due_s, data = await queue.get()
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                while self._wire.faults.black_hole and self._open:
                    await asyncio.sleep(0.02)
                if not data or not self._open or not await self._write(data, sink):
                    break
        except OSError:
            pass
        finally:
            reader.cancel()
            self.close()

    async def _read(
        self, source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        free_s = 0.0
        while True:
            try:
                data = await source.read(BLOCK_BYTES)
            except OSError:
                data = b""
            faults, now_s = self._wire.faults, time.monotonic()
            late_s = faults.delay_s + faults.jitter_s * self._wire.random.random()
            free_s = max(free_s, now_s + late_s)
            if faults.bytes_per_s:
                free_s += len(data) / faults.bytes_per_s
            await queue.put((free_s, data))
            if not data:
                return

    async def _write(self, data: bytes, sink: asyncio.StreamWriter) -> bool:
        """The block as the faults leave it; False when the connection ends with it."""
        faults, draw, counts = self._wire.faults, self._wire.random, self._wire.counts
        if draw.random() < faults.reset:
            counts["reset"] += 1
            self.reset()
            return False
        if cut := draw.random() < faults.truncate:
            counts["truncated"] += 1
            data = data[: draw.randrange(len(data))]
        if data and draw.random() < faults.flip:
            counts["flipped"] += 1
            at = draw.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
        if data and draw.random() < faults.repeat:
            counts["repeated"] += 1
            low, high = sorted(draw.randrange(len(data) + 1) for _ in range(2))
            data = data[:high] + data[low:high] + data[high:]
        counts["bytes"] += len(data)
        sink.write(data)
        await sink.drain()
        return not cut

    def reset(self) -> None:
        self._open = False
        for end in self._ends:
            _reset(end)

    def close(self) -> None:
        self._open = False
        for end in self._ends:
            with contextlib.suppress(OSError, RuntimeError):
                end.close()


class ChaosNet:
    """`with ChaosNet(seed) as net: net.wire("episodes", "tcp://127.0.0.1:5702").address`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos", daemon=True)
        self.wires: dict[str, Wire] = {}

    def __enter__(self) -> ChaosNet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            for wire in self.wires.values():
                wire.cut()
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(timeout=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wire(self, name: str, target: str) -> Wire:
        """A new proxy to `target` (tcp://host:port); `address` is what to connect to."""
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        wire = Wire(name, (host, int(port)), f"{self._seed}:{name}")
        asyncio.run_coroutine_threadsafe(wire.serve(), self._loop).result(timeout=30)
        self.wires[name] = wire
        return wire

    def calm(self) -> None:
        """No faults from here on."""
        for wire in self.wires.values():
            wire.faults = CALM

    def cut(self, name: str) -> None:
        """Reset the open connections of one wire."""
        self._loop.call_soon_threadsafe(self.wires[name].cut)

    @property
    def counts(self) -> Counter[str]:
        """Faults done so far, of all wires."""
        return sum((wire.counts for wire in self.wires.values()), Counter())


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST: unsent bytes are thrown away and the other end gets an error."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with contextlib.suppress(OSError, RuntimeError):
        writer.transport.abort()
