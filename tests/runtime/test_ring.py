"""The ring: order, content, wrap, refusal when full, across processes, and a consumer that comes back."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robots import config

from contracts.errors import EntracteError
from runtime.frames import FrameSlots
from runtime.ring import _POPPED_WORD, _PUSHED_WORD, Ring, RingError
from runtime.run import Run, RunPlan


def test_records_come_out_as_they_went_in_across_many_wraps(tmp_path: Path) -> None:
    with Ring.create(tmp_path / "ring", 1000) as writer, Ring.open(tmp_path / "ring") as reader:
        for number in range(500):
            parts = [bytes([number % 256]) * (number % 97), b"", str(number).encode()]
            assert writer.try_push(parts)
            found = reader.pop()
            assert found is not None
            assert [bytes(part) for part in found] == parts
            del found
            reader.release()
        assert reader.pop() is None


def test_between_a_record_and_its_count_a_lock_is_let_go_of_and_taken_again(tmp_path: Path) -> None:
    """Nothing passes that on aarch64, where one taking and letting go may be passed from both sides; on
    another machine the order itself would show nothing."""
    done: list[str] = []

    class Lock:
        def __enter__(self) -> None:
            done.append("taken")

        def __exit__(self, *_: object) -> None:
            done.append("let go")

    with Ring.create(tmp_path / "ring", 1000) as ring:
        ring._barrier._lock = Lock()  # type: ignore[assignment]
        assert ring.try_push([b"x"])
        assert ring.pop() is not None
        ring.release()
    assert done == ["taken", "let go", "taken", "let go"] * 3


def test_memory_that_is_not_there_is_found_missing_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has 64 MiB of it; written to later, what is missing would end the process."""
    for made in (
        lambda path: Ring.create(path, 1 << 20).close(),
        lambda path: FrameSlots.create(path, 480, 640, True),
    ):
        made(tmp_path / "there")
        assert (tmp_path / "there").stat().st_blocks * 512 >= 1 << 20

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            with pytest.raises(EntracteError, match=r"no room for .* MiB .*--shm-size"):
                made(tmp_path / "missing")


def test_a_ring_takes_the_pictures_of_a_tick_however_seldom_they_are_recorded(
    tmp_path: Path,
) -> None:
    large = ["cameras.front.width=640", "cameras.front.height=480", "cameras.wrist.width=640"]
    large += ["cameras.wrist.height=480", "recording.frames_every=30", "recording.ring_s=0.1"]
    run = Run(config(*large), RunPlan(), str(tmp_path), str(tmp_path), "test")
    pictures = [bytes(640 * 480 * each) for each in (3, 2, 3, 2)]
    with Ring.create(tmp_path / "ring", run.ring_bytes()) as ring:
        assert ring.try_push([b"a step" * 200, *pictures])


def test_a_full_ring_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    with Ring.create(tmp_path / "ring", 1024) as ring:
        pushed = 0
        while ring.try_push([bytes([pushed]) * 100]):
            pushed += 1
        assert 3 < pushed < 10
        for number in range(pushed):
            found = ring.pop()
            assert found is not None
            assert bytes(found[0]) == bytes([number]) * 100
            del found
            ring.release()
        assert ring.try_push([b"again"])


def test_a_record_that_can_never_fit_says_so(tmp_path: Path) -> None:
    with Ring.create(tmp_path / "ring", 1024) as ring, pytest.raises(RingError, match="ring_s"):
        ring.try_push([b"x" * 2000])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.binary(max_size=60), min_size=1, max_size=5))))
def test_any_interleaving_is_fifo(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[bool, list[bytes]]]
) -> None:
    with Ring.create(tmp_path_factory.mktemp("ring") / "ring", 1024) as ring:
        waiting: list[list[bytes]] = []
        for push, parts in script:
            if push:
                if ring.try_push(parts):
                    waiting.append(parts)
                continue
            found = ring.pop()
            assert (found is None) == (not waiting)
            if found is not None:
                assert [bytes(part) for part in found] == waiting.pop(0)
                del found
                ring.release()
        assert ring.waiting == len(waiting)


_PRODUCER = """
import sys, hashlib
from pathlib import Path
from runtime.ring import Ring
ring = Ring.open(Path(sys.argv[1]))
for number in range(3000):
    parts = [number.to_bytes(8, "little"), hashlib.sha256(str(number).encode()).digest() * (number % 50)]
    while not ring.try_push(parts):
        pass
"""


def test_across_processes_nothing_is_lost_or_torn(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    ring = Ring.create(path, 1 << 14)
    producer = subprocess.Popen([sys.executable, "-c", _PRODUCER, str(path)])
    number = 0
    while number < 3000:
        if number == 1500:  # a consumer that dies and comes back goes on where it was
            ring.close()
            ring = Ring.open(path)
        found = ring.pop()
        if found is None:
            assert producer.poll() in (None, 0)
            continue
        assert int.from_bytes(found[0], "little") == number
        assert bytes(found[1]) == hashlib.sha256(str(number).encode()).digest() * (number % 50)
        del found
        ring.release()
        number += 1
    assert producer.wait(10) == 0
    ring.close()


def test_a_writer_killed_in_a_push_leaves_nothing_that_waits(tmp_path: Path) -> None:
    with Ring.create(tmp_path / "ring", 1000) as ring:
        for _ in range(2):
            assert ring.try_push([b"whole"])
        ring._header[_PUSHED_WORD] += 1  # the third was counted, and here SIGKILL
        for _ in range(2):
            assert ring.waiting and ring.pop() is not None
            ring.release()
        assert ring.pop() is None and ring.waiting == ring.used == 0


def test_a_reader_killed_anywhere_in_a_release_leaves_a_ring_that_goes_on(tmp_path: Path) -> None:
    """Counted and not yet given back, it is read once more; across wraps, and where it is the only one."""
    path = tmp_path / "ring"
    ring = Ring.create(path, 1000)
    number = 0
    for turn in range(200):
        pushed = 1 + turn % 3
        for _ in range(pushed):
            assert ring.try_push([str(number).encode() * 20])
            number += 1
        reader = Ring.open(path)
        while (found := reader.pop()) is not None:
            last = bytes(found[0])
            del found
            if reader.waiting == 1 + turn // 3 % pushed:
                reader._header[_POPPED_WORD] += 1  # and here SIGKILL
                break
            reader.release()
        after = Ring.open(path)
        read = []
        while (found := after.pop()) is not None:
            read.append(bytes(found[0]))
            del found
            after.release()
        assert read[0] == last and read[-1] == str(number - 1).encode() * 20
        assert after.waiting == after.used == 0
        reader.close()
        after.close()
    ring.close()
