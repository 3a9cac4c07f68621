"""What another process of the robot wrote into shared memory: the ring of records, and the board."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts import wire
from contracts.errors import EntracteError
from runtime.board import Board, Owner
from runtime.ring import Ring
from tests.faults.fuzz.disk_targets import episode_packets
from tests.faults.fuzz.mutation import Rng, mutate_bytes
from tests.faults.fuzz.target import Feed, Target
from tests.faults.fuzz.wire_targets import each

CAPACITY = 8192
MOST_POPS = 64


def _ring_seeds() -> list[bytes]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "ring"
        with Ring.create(path, CAPACITY) as ring:
            for parts in episode_packets():
                assert ring.try_push(parts)
            for _ in range(2):
                assert ring.pop() is not None
                ring.release()
        return [path.read_bytes()]


def _mutate_words(rng: Rng, data: bytes) -> bytes:
    """Mostly one of the 8-byte words, nearly always at its place; sizes and counters lie there."""
    if rng.random() < 0.1 or len(data) < 8:
        return mutate_bytes(rng, data)
    found = bytearray(data)
    at = 8 * rng.randrange(len(data) // 8)
    old = int.from_bytes(data[at : at + 8], "little")
    near = (old + rng.choice((1, -1, 8, -8, 256, -256, 1 << 20, -(1 << 20)))) % (1 << 64)
    word = rng.choice(
        (near, near, 0, 1, (1 << 64) - 1, 1 << 62, (1 << 63) - 1, rng.getrandbits(64))
    )
    found[at : at + 8] = word.to_bytes(8, "little")
    return bytes(found)


@contextmanager
def _popping(folder: Path) -> Iterator[Feed]:
    path = folder / "ring"

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        with Ring.open(path) as ring:
            each(lambda: _pop_all(ring), lambda: ring.try_push([b"x" * 100]))

    yield feed


def _pop_all(ring: Ring) -> None:
    for _ in range(MOST_POPS):
        parts = ring.pop()
        if parts is None:
            return
        try:
            wire.unpack(parts)
        finally:
            del parts
            ring.release()


def _board_seeds() -> list[bytes]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "board"
        with Board.create(path) as board:
            board.tick, board.loop_state = 5, 2
            board.take_lease(Owner.CONTROL, 1.0, 5.0)
        return [path.read_bytes()]


@contextmanager
def _reading_board(folder: Path) -> Iterator[Feed]:
    path = folder / "board"

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        with Board.open(path) as board:
            epoch = board.lease_epoch
            # Whatever is on the page, the watchdog must be able to take the arm once the lease is old.
            try:
                board.take_lease(Owner.WATCHDOG, 1e18, 5.0)
            except EntracteError:
                assert board.lease_expiry_s >= 1e18
                raise
            assert board.lease_epoch != epoch and board.lease_owner == Owner.WATCHDOG

    yield feed


def targets() -> list[Target]:
    return [
        Target("ring", _ring_seeds, _mutate_words, _popping, 6),
        Target("board", _board_seeds, _mutate_words, _reading_board, 6),
    ]
