"""The spool and the recorder where disks fill, clocks are set back and acknowledgements are wrong."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
import numpy as np
import pytest
from recording_run import one_step, packets, recording_run, session
from tiny_robot import episode, session_start

from contracts import wire
from contracts.errors import EntracteError
from contracts.files import atomic
from contracts.files.log_to_dataset import read_episode
from contracts.messages import EpisodeOffer, EpisodeStored, EpisodeWait, EpisodeWant, Step
from runtime.board import Board
from runtime.link import process as link
from runtime.link.episodes import Recorder, Stalled
from runtime.link.spool import Spool, SpoolFull
from runtime.link.uploads import REFUSED_TIMES, Uploader
from runtime.ring import Ring
from tests.faults.ends import SmallDisk


def recorder(folder: Path, *, waits: bool = True, max_bytes: int = 1 << 30) -> Recorder:
    made = Recorder(Spool(folder, max_bytes), None, 90, waits=waits)
    made.take(wire.unpack(wire.pack(session_start())))
    return made


def record(into: Recorder, *seqs: int, steps: int = 5) -> None:
    for seq in seqs:
        for parts in episode(seq, steps=steps):
            into.take(wire.unpack(parts))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk", 4)
    if not small.usable:
        pytest.skip(f"this user may not mount a small disk: {small.why}")
    yield small
    small.unmount()


def test_episodes_go_out_in_the_order_of_their_numbers_whatever_the_clock_did(
    tmp_path: Path,
) -> None:
    record(recorder(tmp_path), 8, 9, 10, 11)
    for number, path in enumerate(sorted(tmp_path.glob("*.elog"))):
        os.utime(path, (1e9 - number, 1e9 - number))
    assert [item.episode_seq for item in Spool(tmp_path, 1 << 30).waiting] == [8, 9, 10, 11]


def test_a_full_disk_is_waited_for_and_then_not_a_step_is_missing(
    disk: SmallDisk, tmp_path: Path
) -> None:
    """With the ring as the link uses it: at every record the disk is full once, then there is room."""
    into = recorder(disk.folder / "spool")
    ring = Ring.create(tmp_path / "ring", 1 << 20)
    stalls = 0
    for seq in (1, 2):
        for parts in episode(seq, steps=12):
            assert ring.try_push(parts)
            disk.fill()
            while (popped := ring.pop()) is not None:
                try:
                    into.take(wire.unpack(popped))
                except Stalled:
                    del popped
                    ring.put_back()
                    stalls += 1
                    disk.free()
                    continue
                del popped
                ring.release()
            disk.free()
    assert stalls > 5, "the disk was never full"
    assert ring.waiting == 0 and into.lost_records == into.unkept == 0
    ring.close()
    for item in into.spool.waiting:
        found = read_episode(item.path)
        assert (found.torn, found.steps_lost, found.lost) == ("", 0, 0)
        assert found.columns["observation.state"][:, 5].tolist() == list(range(12))
        assert item.log.sha256 == Spool(item.path.parent, 1).find("s1", item.episode_seq).log.sha256


def test_told_to_go_on_it_keeps_what_there_was_and_counts_the_episode(disk: SmallDisk) -> None:
    into = recorder(disk.folder / "spool", waits=False)
    packets = [wire.unpack(parts) for parts in episode(1, steps=40)]
    for packet in packets[:20]:
        into.take(packet)
    disk.fill()
    for packet in packets[20:]:
        into.take(packet)
    disk.free()
    assert into.unkept == 1 and into.lost_records > 0 and "disk" in into.error
    (item,) = into.spool.waiting
    found = read_episode(item.path)
    assert found.end.reason == "aborted" and len(found.columns["observation.state"]) >= 18
    record(into, 2)
    assert len(into.spool.waiting) == 2, "the next one is recorded again"


def test_told_to_go_on_a_full_disk_does_not_keep_it_from_beginning(disk: SmallDisk) -> None:
    """Nothing was taken from the ring, not even for those who watch, until there was room."""
    into = Recorder(Spool(disk.folder / "spool", 1 << 30), None, 90, waits=False)
    disk.fill()
    into.take(wire.unpack(wire.pack(session_start())))
    assert "No space" in into.error
    record(into, 1)
    assert (into.unkept, into.spool.waiting) == (1, [])
    disk.free()
    record(into, 2)
    assert [item.episode_seq for item in into.spool.waiting] == [2] and into.error == ""


def test_room_is_kept_for_one_more_episode_as_large_as_the_largest(tmp_path: Path) -> None:
    into = recorder(tmp_path)
    record(into, 1, steps=40)
    (large,) = into.spool.waiting
    small = Spool(tmp_path, 2 * large.nbytes)
    assert small.no_room() == ""
    small = Spool(tmp_path, 2 * large.nbytes - 1)
    assert "in 1 episodes" in small.no_room()
    with pytest.raises(SpoolFull, match="start the trainer"):
        small.begin("s1", 2)
    small.drop("s1", 1)
    assert small.no_room() == "", "an empty spool takes an episode of any size"
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert "stay free" in Spool(tmp_path, 1 << 40, 2 * free).no_room()


def test_an_episode_that_control_began_is_recorded_without_room_too(tmp_path: Path) -> None:
    """It had asked before the link knew; the arm is moving, and a stall would be in the midst of it."""
    into = recorder(tmp_path, max_bytes=1)
    record(into, 1, 2)
    assert into.spool.no_room() and len(into.spool.waiting) == 2
    into = recorder(tmp_path, waits=False, max_bytes=1)
    record(into, 3)
    assert len(into.spool.waiting) == 2 and into.unkept == 1 and "spool is full" in into.error


def test_an_episode_is_dropped_only_for_its_own_hash(tmp_path: Path) -> None:
    """One wrong word may be a bit; the same three times is another episode in its place: both are kept."""
    into = recorder(tmp_path)
    record(into, 1, 2)
    uploader = Uploader(into.spool, "bench-0", lambda parts: True)
    uploader.tick(0.0)
    for number in range(2 * REFUSED_TIMES):
        uploader.on_stored(EpisodeStored("s1", 1, f"{number:064x}"), 0.0)
    assert len(into.spool.waiting) == 2 and not uploader.aside
    for _ in range(REFUSED_TIMES):
        uploader.on_stored(EpisodeStored("s1", 1, "f" * 64), 0.0)
    (aside,) = uploader.aside
    assert read_episode(aside).start.episode_seq == 1
    (left,) = Spool(tmp_path, 1 << 30).waiting
    uploader.on_stored(EpisodeStored("s1", 2, left.log.sha256), 0.0)
    assert into.spool.waiting == [] and not left.path.exists()


def test_a_trainer_without_room_is_asked_less_often(tmp_path: Path) -> None:
    into = recorder(tmp_path)
    record(into, 1)
    sent: list[float] = []
    now_s = 0.0
    uploader = Uploader(into.spool, "bench-0", lambda parts: sent.append(now_s) or True)
    while now_s < 10.0:
        uploader.tick(now_s)
        if sent and sent[-1] == now_s:
            uploader.on_wait(EpisodeWait("s1", 1, "the disk is full"), now_s)
        now_s += 0.25
    assert sent == [0.0, 3.0, 6.0, 9.0] and uploader.waits_for == "the disk is full"


def unreadable(path: Path) -> None:
    """As a file on a failing disk is, for any user: reading it is an `OSError`."""
    path.unlink()
    path.mkdir()


def offered(uploader: Uploader, sent: list[list[bytes]], until_s: float = 20.0) -> list[int]:
    """What is offered, second by second, whatever is answered by nobody."""
    sent.clear()
    now_s = 0.0
    while now_s < until_s:
        uploader.tick(now_s)
        now_s += 0.25
    messages = [wire.unpack(parts).message for parts in sent]
    return [message.episode_seq for message in messages if isinstance(message, EpisodeOffer)]


def test_an_episode_that_the_disk_does_not_give_holds_up_no_other(tmp_path: Path) -> None:
    record(recorder(tmp_path), 1, 2)
    unreadable(tmp_path / "s1_00000001.elog")
    spool, sent = Spool(tmp_path, 1 << 30), []
    uploader = Uploader(
        spool, "bench-0", lambda parts: sent.append([bytes(p) for p in parts]) or True
    )
    assert set(offered(uploader, sent)) == {2}
    ((aside, why),) = uploader.aside.items()
    assert aside.exists() and "can't be read" in why and "Is a directory" in why
    assert [item.episode_seq for item in Spool(tmp_path, 1 << 30).waiting] == [2]


def test_one_that_can_not_be_read_when_it_is_wanted_is_read_anew_and_then_set_aside(
    tmp_path: Path,
) -> None:
    into = recorder(tmp_path)
    record(into, 1, 2)
    sent: list[list[bytes]] = []
    uploader = Uploader(
        into.spool, "bench-0", lambda parts: sent.append([bytes(p) for p in parts]) or True
    )
    uploader.tick(-5.0)
    unreadable(tmp_path / "s1_00000001.elog")
    for offset in (0, 100, 200, 300):  # as many as may be under way: one failure of the disk
        with pytest.raises(OSError, match="directory"):
            uploader.on_want(EpisodeWant("s1", 1, offset, 100), -5.0)
    assert not uploader.aside
    assert set(offered(uploader, sent)) == {2}
    assert [path.name for path in uploader.aside] == ["s1_00000001.elog.aside"]


def test_an_empty_log_holds_up_no_other(tmp_path: Path) -> None:
    """As a crash of some file systems leaves it. The trainer has nothing to ask for of it."""
    record(recorder(tmp_path), 1, 2)
    (tmp_path / "s1_00000001.elog").write_bytes(b"")
    sent: list[list[bytes]] = []
    uploader = Uploader(
        Spool(tmp_path, 1 << 30),
        "bench-0",
        lambda parts: sent.append([bytes(p) for p in parts]) or True,
    )
    assert set(offered(uploader, sent)) == {2}
    assert list(uploader.aside.values()) == ["it is empty"]


def test_a_log_that_lost_its_end_is_offered_as_it_is_now(tmp_path: Path) -> None:
    into = recorder(tmp_path)
    record(into, 1)
    sent: list[list[bytes]] = []
    uploader = Uploader(
        into.spool, "bench-0", lambda parts: sent.append([bytes(p) for p in parts]) or True
    )
    uploader.tick(0.0)
    (whole,) = into.spool.waiting
    os.truncate(whole.path, 100)
    with pytest.raises(OSError, match="lost its end"):
        uploader.on_want(EpisodeWant("s1", 1, 100, 100), 0.0)
    uploader.tick(2.0)
    offers = [wire.unpack(parts).message for parts in sent]
    assert [offer.nbytes for offer in offers] == [whole.nbytes, 100]
    assert offers[0].sha256 != offers[1].sha256


def test_where_the_disk_gives_no_new_name_either_the_next_start_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(recorder(tmp_path), 1, 2)
    path = tmp_path / "s1_00000001.elog"
    unreadable(path)

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    sent: list[list[bytes]] = []
    uploader = Uploader(
        Spool(tmp_path, 1 << 30), "bench-0", lambda parts: sent.append(list(parts)) or True
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", read_only)
        assert set(offered(uploader, sent)) == {2} and list(uploader.aside) == [path]
    assert [item.episode_seq for item in Spool(tmp_path, 1 << 30).waiting] == [1, 2]


def test_an_interrupted_log_that_can_not_be_read_ends_no_start(tmp_path: Path) -> None:
    (tmp_path / "s1_00000001.elog.part").mkdir(parents=True)
    into = recorder(tmp_path)
    record(into, 2)
    assert [item.episode_seq for item in into.spool.waiting] == [2]
    ((part, why),) = into.spool.aside.items()
    assert part.name == "s1_00000001.elog.part" and part.exists() and "can't be read" in why


def test_an_episode_of_an_earlier_start_is_hashed_beside_the_loop(tmp_path: Path) -> None:
    record(recorder(tmp_path), 1)
    begun: list[tuple[Callable[[], None], Future[None]]] = []

    def beside(work: Callable[[], None]) -> Future[None]:
        begun.append((work, Future()))
        return begun[-1][1]

    spool, sent = Spool(tmp_path, 1 << 30), []
    uploader = Uploader(
        spool, "bench-0", lambda parts: sent.append([bytes(p) for p in parts]) or True, beside
    )
    assert offered(uploader, sent) == [] and len(begun) == 1 and not spool.waiting[0].is_read
    ((work, future),) = begun
    work()
    future.set_result(None)
    assert set(offered(uploader, sent)) == {1} and len(begun) == 1
    (item,) = spool.waiting
    uploader.on_stored(EpisodeStored("s1", 1, item.log.sha256), 30.0)
    assert spool.waiting == []


def test_going_on_with_a_large_log_takes_no_more_memory_than_one_of_its_steps(
    tmp_path: Path,
) -> None:
    """A link that was killed starts again beside an arm that moves, on a machine with little to spare."""
    log = Spool(tmp_path, 1 << 30).begin("s1", 1)
    log.append(wire.pack(session_start()))
    packets = [wire.unpack(parts) for parts in episode(1, steps=40)]
    large = np.zeros((512, 512, 3), np.uint8)
    for packet in packets[:-1]:
        with_picture = isinstance(packet.message, Step)
        log.append(
            wire.pack(packet.message, [wire.raw("front.colour", large)] if with_picture else ())
        )
    size = log.nbytes
    del log
    tracemalloc.start()
    try:
        into = Recorder(Spool(tmp_path, 1 << 30), None, 90)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8 * large.nbytes < size / 4
    into.take(packets[20])
    into.take(packets[-1])
    (item,) = into.spool.waiting
    found = read_episode(item.path)
    assert found.columns["observation.state"][:, 5].tolist() == list(range(40))
    assert (found.torn, found.end.steps) == ("", 40)


def test_an_end_that_the_disk_interrupts_is_offered_again_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has its name already, and only its folder's sync fails: the second attempt ended the link."""
    into = recorder(tmp_path)
    *packets, end = [wire.unpack(parts) for parts in episode(1, steps=3)]
    for packet in packets:
        into.take(packet)
    sync, failures = atomic.sync, [OSError(28, "No space left on device")] * 2

    def failing(path: Path) -> None:
        if failures:
            raise failures.pop()
        sync(path)

    monkeypatch.setattr(atomic, "sync", failing)
    for _ in range(2):
        with pytest.raises(Stalled):
            into.take(end)
    into.take(end)
    (item,) = into.spool.waiting
    assert read_episode(item.path).torn == "" and into.unkept == 0


def test_a_link_that_gives_up_what_is_in_the_ring_says_so(
    disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended with the code of one that had kept everything."""
    monkeypatch.setattr(link, "DRAIN_S", 0.5)
    nobody = [f"link.{name}=tcp://127.0.0.1:9" for name in ("frames", "episodes", "weights")]
    overrides = (*nobody, "link.health=tcp://127.0.0.1:9", "link.spool_min_free_mib=0")
    with recording_run(disk.folder / "run", tmp_path / "data", *overrides) as made:
        run = msgspec.structs.replace(made, plan=msgspec.structs.replace(made.plan, sink="link"))
        with Board.open(run.board_path) as board, Ring.open(run.ring_path) as ring:
            working = link.Link(run, board, ring)
            try:
                *under_way, last = packets(0)
                for parts in (session(), *under_way):
                    assert ring.try_push(parts)
                while ring.waiting:
                    working.turn()
                disk.fill()
                assert ring.try_push(one_step(0, 6)) and ring.try_push(last)
                working.stop()
                with pytest.raises(EntracteError, match="lost: found 2 records that the spool"):
                    working.run()
            finally:
                working.close()
        disk.free()
        (kept,) = run.spool_dir.glob("*.elog*")
        assert kept.stat().st_size > 0
