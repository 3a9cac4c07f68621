"""Episodes into the store: resumed, repeated, corrupted, hostile; and the store after a crash."""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny_robot import episode, session_start

from contracts import wire
from contracts.errors import WireError
from contracts.files import atomic
from contracts.files.dataset_reader import DatasetReader
from contracts.files.episode_log import EpisodeLogWriter, describe
from contracts.messages import EpisodeChunk, EpisodeOffer, EpisodeStored, EpisodeWait, EpisodeWant
from contracts.reward import RewardSignal, abstain
from runtime.link.spool import Spool
from runtime.link.uploads import Uploader
from trainer import receiver as receiver_module
from trainer import store as store_module
from trainer.dataset_episodes import stored_episodes
from trainer.interfaces import EpisodeKey, ScoredEpisode, StoredEpisode
from trainer.keeper import keep
from trainer.receiver import Receiver
from trainer.store import Store, stored_episode


def spooled(folder: Path, *seqs: int, steps: int = 6) -> Spool:
    spool = Spool(folder, 1 << 30)
    for seq in seqs:
        log = spool.begin("s1", seq)
        fill(log, seq, steps)
        spool.finished("s1", seq, log.finish())
    return spool


def fill(log: EpisodeLogWriter, seq: int, steps: int) -> None:
    log.append(wire.pack(session_start()))
    for parts in episode(seq, steps=steps):
        log.append(parts)


class Ends:
    """Uploader and receiver joined by hand; `lose` drops that many chunks on the way."""

    def __init__(self, spool: Spool, store: Store, lose: int = 0, max_bytes: int = 1 << 30) -> None:
        self.now, self.lose = 0.0, lose
        self.to_trainer: list[wire.Packet] = []
        self.uploader = Uploader(spool, "bench-0", self._send)
        inbox = store.root / "inbox"
        clock = lambda: self.now  # noqa: E731
        self.answers: list[object] = []
        self.receiver = Receiver(
            inbox,
            store.sha256_of,
            lambda *log: self.receiver.kept(log[0], log[2] if keep(store, *log) else None),
            lambda peer, answer: self.answers.append(answer),
            max_bytes,
            clock=clock,
        )

    def _send(self, parts: list) -> bool:
        packet = wire.unpack([bytes(part) for part in parts])
        if packet.data and self.lose:
            self.lose -= 1
        else:
            self.to_trainer.append(packet)
        return True

    def run(self, turns: int = 200) -> None:
        for _ in range(turns):
            self.now += 0.3
            self.uploader.tick(self.now)
            self.receiver.tick()
            while self.to_trainer or self.answers:
                while self.to_trainer:
                    packet = self.to_trainer.pop(0)
                    if isinstance(packet.message, EpisodeOffer):
                        self.receiver.on_offer(b"peer", packet.message)
                    else:
                        self.receiver.on_chunk(packet.message, packet)
                while self.answers:
                    answer = self.answers.pop(0)
                    if isinstance(answer, EpisodeWant):
                        self.uploader.on_want(answer, self.now)
                    elif isinstance(answer, EpisodeWait):
                        self.uploader.on_wait(answer, self.now)
                    else:
                        self.uploader.on_stored(answer, self.now)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(receiver_module, "CHUNK_BYTES", 5000)


@pytest.mark.parametrize("lose", [0, 1, 3, 9])
def test_each_episode_arrives_once_whatever_is_lost(tmp_path: Path, lose: int) -> None:
    spool, store = spooled(tmp_path / "spool", 4, 5, 6), Store(tmp_path / "store")
    Ends(spool, store, lose).run()
    assert [entry.episode_seq for entry in store.entries] == [4, 5, 6]
    assert spool.waiting == [] and list((tmp_path / "store" / "inbox").iterdir()) == []


def test_a_restart_of_the_trainer_resumes_in_the_middle(tmp_path: Path) -> None:
    spool, store = spooled(tmp_path / "spool", 1), Store(tmp_path / "store")
    first = Ends(spool, store)
    first.lose = 0
    first.uploader.tick(0.0)
    offer = first.to_trainer.pop().message
    first.receiver.on_offer(b"peer", offer)
    for want in first.answers[:2]:
        first.uploader.on_want(want, 0.0)
    for packet in first.to_trainer:
        first.receiver.on_chunk(packet.message, packet)
    again = Ends(spool, Store(tmp_path / "store"))
    again.receiver.on_offer(b"peer", offer)
    assert again.answers[0].offset == 10_000
    again.run()
    assert [entry.episode_seq for entry in Store(tmp_path / "store").entries] == [1]


def test_bytes_that_a_crash_spoiled_are_fetched_again(tmp_path: Path) -> None:
    spool, store = spooled(tmp_path / "spool", 1), Store(tmp_path / "store")
    ends = Ends(spool, store)
    key, sha256 = EpisodeKey("bench-0", "s1", 1), spool.waiting[0].log.sha256
    (store.root / "inbox" / f"{key}.{sha256[:8]}.part").write_bytes(b"\0" * 5000)
    ends.run()
    assert ends.receiver.corrupt == 1 and store.have(key)


def test_an_episode_that_is_too_large_does_not_hold_up_the_next(tmp_path: Path) -> None:
    """It stays on the robot's disk, set aside and said; one word of it may be a bit, three are not."""
    spool, store = spooled(tmp_path / "spool", 1, steps=60), Store(tmp_path / "store")
    (large,) = spool.waiting
    for seq in (2, 3):
        log = spool.begin("s1", seq)
        fill(log, seq, 6)
        spool.finished("s1", seq, log.finish())
    ends = Ends(spool, store, max_bytes=large.nbytes - 1)
    ends.run(1)
    assert len(spool.waiting) == 3 and "max_episode_mib" in ends.uploader.waits_for
    ends.run()
    assert [entry.episode_seq for entry in store.entries] == [2, 3] and spool.waiting == []
    ((aside, why),) = ends.uploader.aside.items()
    assert describe(aside).sha256 == large.log.sha256 and "max_episode_mib" in why
    assert ends.uploader.waits_for == "" and not list((store.root / "inbox").iterdir())


def test_an_episode_that_its_own_disk_spoiled_does_not_hold_up_the_next(tmp_path: Path) -> None:
    """Its hash is of what was written. It was sent again and again, and nothing after it."""
    spool, store = spooled(tmp_path / "spool", 1, 2, 3), Store(tmp_path / "store")
    path = spool.waiting[0].path
    with path.open("r+b") as file:
        file.seek(500)
        byte = file.read(1)[0]
        file.seek(500)
        file.write(bytes([byte ^ 1]))
    ends = Ends(spool, store)
    ends.run()
    assert [entry.episode_seq for entry in store.entries] == [2, 3] and spool.waiting == []
    ((aside, why),) = ends.uploader.aside.items()
    assert aside.exists() and "another hash" in why and ends.receiver.corrupt == 3
    assert not list((store.root / "inbox").iterdir())


def test_an_episode_that_is_stored_is_acknowledged_and_not_fetched(tmp_path: Path) -> None:
    spool, store = spooled(tmp_path / "spool", 1), Store(tmp_path / "store")
    item = spool.waiting[0]
    Ends(spool, store).run()
    offer = EpisodeOffer("bench-0", "s1", 1, item.log.nbytes, item.log.sha256)
    ends = Ends(spool, store)
    ends.receiver.on_offer(b"peer", offer)
    assert ends.answers == [EpisodeStored("s1", 1, item.log.sha256)]
    assert not spool.drop("s1", 1), "acknowledged twice is fine"


@pytest.mark.parametrize(
    "change",
    [
        {"robot_id": "../../etc"},
        {"robot_id": ""},
        {"robot_id": "a__b"},
        {"session_id": "x/y"},
        {"session_id": ".."},
        {"episode_seq": -1},
        {"episode_seq": 10**9},
        {"nbytes": 0},
        {"nbytes": -1},
        {"sha256": "../x"},
    ],
)
def test_offers_that_would_leave_the_inbox_are_refused(tmp_path: Path, change: dict) -> None:
    store = Store(tmp_path / "store")
    offer = msgspec.structs.replace(EpisodeOffer("r", "s", 1, 10, "0" * 64), **change)
    with pytest.raises(WireError):
        Ends(Spool(tmp_path / "spool", 1), store).receiver.on_offer(b"peer", offer)
    assert list((tmp_path / "store" / "inbox").iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "shape"), [("uint8", (1, 16)), ("uint8", ()), ("uint8", (4, 2, 2)), ("uint16", (8,))]
)
def test_a_chunk_that_is_not_plain_bytes_is_no_fault_of_the_disk(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    """A robot's own fault. The daemon took its disk for full, or ended."""
    spool, store = spooled(tmp_path / "spool", 1), Store(tmp_path / "store")
    ends = Ends(spool, store)
    ends.uploader.tick(0.0)
    ends.receiver.on_offer(b"peer", ends.to_trainer.pop().message)
    # Packed by hand: numpy makes of an array without sides one that has one.
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    descriptor = wire.Buffer("data", "raw", dtype, shape, nbytes)
    chunk = EpisodeChunk("bench-0", "s1", 1, 0)
    packet = wire.unpack(wire.pack(chunk, [(descriptor, bytes(nbytes))]))
    with pytest.raises(WireError, match="not plain bytes: expected uint8"):
        ends.receiver.on_chunk(chunk, packet)
    assert ends.receiver.received_bytes == 0
    ends.run()
    assert [entry.episode_seq for entry in store.entries] == [1]


def stored(tmp_path: Path, *seqs: int) -> Store:
    store = Store(tmp_path / "store")
    Ends(spooled(tmp_path / "spool", *seqs), store).run()
    return store


def test_a_torn_index_is_mended_from_the_logs(tmp_path: Path) -> None:
    store = stored(tmp_path, 1, 2, 3)
    path = store.root / "index.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = Store(store.root)
    assert [(e.arrival, e.episode_seq) for e in again.entries] == [(0, 1), (1, 2), (2, 3)]
    assert again.entries == Store(store.root).entries


@pytest.mark.parametrize("gone", [False, True])
def test_a_line_taken_out_of_the_index_costs_no_other_episode(tmp_path: Path, gone: bool) -> None:
    """As the error of a damaged one says; its log may have gone into the data set. What comes next had a
    number that the work had seen, and was never scored."""
    store = stored(tmp_path, 1, 2, 3)
    path = store.root / "index.jsonl"
    first, _, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + last)
    if gone:
        store.log_path(store.entries[1].key).unlink()
    again = Store(store.root)
    expected = [(0, 1), (2, 3), *([] if gone else [(3, 2)])]
    assert [(e.arrival, e.episode_seq) for e in again.entries] == expected
    known = again.entries[-1].arrival
    log = EpisodeLogWriter(tmp_path / "next")
    fill(log, 4, 2)
    again.accept(EpisodeKey("bench-0", "s1", 4), log.finish().path, "")
    for one in (again, Store(store.root)):
        assert [(e.arrival, e.episode_seq) for e in one.since(known + 1)] == [(known + 1, 4)]


def test_a_log_of_another_episode_is_stored_but_never_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    log = EpisodeLogWriter(tmp_path / "lie")
    fill(log, 8, 2)
    store.accept(EpisodeKey("bench-0", "s1", 7), log.finish().path, "")
    assert store.entries[0].purpose == "" and "another episode" in store.entries[0].problem


def test_the_data_set_holds_each_episode_once_and_replaces_the_log(tmp_path: Path) -> None:
    store = stored(tmp_path, 1, 2)
    from_logs = [stored_episode(store.root, entry.key) for entry in store.entries]
    assert store.write_dataset(store.entries[0], keep_log=True)
    assert not store.write_dataset(store.entries[0], keep_log=True)
    again = Store(store.root)
    assert not again.write_dataset(again.entries[0], keep_log=False)
    assert again.write_dataset(again.entries[1], keep_log=False)
    assert list((store.root / "logs").iterdir()) == []
    reader = DatasetReader(store.root / "dataset" / "bench-0")
    assert reader.num_episodes == 2
    for entry, before, after in zip(again.entries, from_logs, stored_episodes(reader), strict=True):
        loaded = again.load(entry)
        assert loaded.key == after.key == before.key and loaded.end == before.end
        for name in before.columns:
            assert np.array_equal(loaded.columns[name], before.columns[name], equal_nan=True), name
        assert np.array_equal(loaded.pictures.depth("front"), before.pictures.depth("front"))
        grey, kept = (e.frames("front", [2]).mean(-1) for e in (before, loaded))
        assert np.abs(grey - kept).mean() < 6, "as good as the video's compression"


def test_pictures_of_episodes_that_wait_are_not_held_in_memory(tmp_path: Path, monkeypatch) -> None:
    """All of an iteration were, however large: a trainer that ran out of it did so at every start again."""
    store, read = stored(tmp_path, 1, 2), []

    def reading(*given) -> StoredEpisode:
        episode = stored_episode(*given)
        read.append(weakref.ref(episode.pictures))
        return episode

    monkeypatch.setattr(store_module, "stored_episode", reading)
    first, second = [store.load(entry) for entry in store.entries]
    gc.collect()
    assert [pictures() is None for pictures in read] == [True, False], "the last one's are there"
    expected = stored_episode(store.root, first.key).pictures
    for _ in range(2):
        assert np.array_equal(first.frames("front"), expected.frames("front"))
        assert np.array_equal(first.pictures.depth("front", [3]), expected.depth("front", [3]))
    assert len(read) == 3, "once in a row"

    before = second.frames("front", [2]).astype(int)
    assert store.write_dataset(store.entries[1], keep_log=False)
    assert len(first.frames("front")) == 6
    assert np.abs(second.frames("front", [2]) - before).mean() < 6, "the data set's, as video"
    store.log_path(first.key).unlink()
    with pytest.raises(WireError, match=f"pictures of episode {first.key} can't be read again"):
        first.frames("front", [0])


def test_scores_come_back_equal_for_the_same_model_only(tmp_path: Path) -> None:
    store = stored(tmp_path, 1)
    loaded = store.load(store.entries[0])
    signals = (RewardSignal(0, 0.1, 0.123456789, model_id="m"), abstain(5, "dark", "m"))
    store.save_scores(ScoredEpisode(loaded, signals, None, "m"))
    found, scores = store.load_scores(loaded.key, "m")
    assert scores.success is None
    assert [msgspec.json.encode(s) for s in found] == [msgspec.json.encode(s) for s in signals]
    assert store.load_scores(loaded.key, "other") is None


def no_room(path: Path, line: bytes, *, synced: bool = False) -> None:
    raise OSError(errno.ENOSPC, "no room")


def test_what_the_logs_take_is_known_without_looking_at_each(tmp_path: Path, monkeypatch) -> None:
    """Once a second it is asked for, with tens of thousands of them, by the thread that answers robots."""
    store = stored(tmp_path, 1, 2, 3)
    logs = store.root / "logs"

    def on_disk() -> int:
        return sum(path.stat().st_size for path in (*logs.iterdir(), *inbox.iterdir()))

    inbox = store.root / "inbox"
    (inbox / "under-way.part").write_bytes(b"x" * 1000)
    assert store.log_bytes == Store(store.root).log_bytes == on_disk() > 1000
    key = EpisodeKey("bench-0", "s1", 3)
    assert store.write_dataset(store.entry(key), keep_log=False)
    assert not store.write_dataset(store.entry(key), keep_log=False)
    again = Store(store.root)
    for full in (True, False):
        log = EpisodeLogWriter(inbox / "whole")
        fill(log, 4, 3)
        log.finish()
        with monkeypatch.context() as patched, contextlib.suppress(OSError):
            if full:  # after the log was moved: it is offered again
                patched.setattr(atomic, "append_line", no_room)
            again.accept(EpisodeKey("bench-0", "s1", 4), inbox / "whole", "")
        assert again.log_bytes == on_disk()
    assert again.have(EpisodeKey("bench-0", "s1", 4))
    walk = Path.iterdir

    def only_the_inbox(folder: Path) -> Iterator[Path]:
        assert folder == inbox
        yield from walk(folder)
        yield inbox / "stored-meanwhile"

    monkeypatch.setattr(Path, "iterdir", only_the_inbox)
    assert again.log_bytes > 1000


def test_episodes_since_one_are_those_and_no_others(tmp_path: Path) -> None:
    store = stored(tmp_path, 1, 2, 3)
    for one in (store, Store(store.root)):
        assert [[e.episode_seq for e in one.since(n)] for n in range(5)] == [
            [1, 2, 3],
            [2, 3],
            [3],
            [],
            [],
        ]
        assert one.since(0) == one.entries


def test_parts_of_logs_that_nobody_offers_any_more_are_removed(tmp_path: Path) -> None:
    """They counted against store.max_mib for ever. What is under way stays, whatever its age says."""
    spool, store = spooled(tmp_path / "spool", 1), Store(tmp_path / "store")
    ends = Ends(spool, store)
    ends.uploader.tick(0.0)
    offer = ends.to_trainer.pop().message
    ends.receiver.on_offer(b"peer", offer)
    ends.uploader.on_want(ends.answers.pop(0), 0.0)
    packet = ends.to_trainer.pop()
    ends.receiver.on_chunk(packet.message, packet)
    inbox = store.root / "inbox"
    (under_way,) = inbox.iterdir()
    fresh = inbox / "gone__s1__00000002.00000000.part"
    old = inbox / "gone__s1__00000001.00000000.part"
    week_s = time.time() - receiver_module.KEPT_S
    for path, written_s in ((under_way, week_s - 60), (fresh, week_s + 600), (old, week_s - 60)):
        path.touch()
        os.utime(path, (written_s, written_s))
    ends.receiver.tick()
    assert set(inbox.iterdir()) == {under_way, fresh}
    os.utime(fresh, (1.0, 1.0))
    ends.receiver.tick()
    assert fresh.exists(), "looked at once in a while"
    ends.now += receiver_module.SWEEP_S
    ends.receiver.tick()
    assert not fresh.exists()
    ends.run()
    assert [entry.episode_seq for entry in store.entries] == [1]


def test_an_inbox_that_the_disk_does_not_list_ends_nothing(tmp_path: Path) -> None:
    ends = Ends(spooled(tmp_path / "spool", 1), Store(tmp_path / "store"))
    inbox = tmp_path / "store" / "inbox"
    inbox.rmdir()
    ends.receiver.tick()
    inbox.mkdir()
    ends.run()
    assert [entry.episode_seq for entry in Store(tmp_path / "store").entries] == [1]


def test_a_full_spool_refuses_new_episodes_and_keeps_the_old(tmp_path: Path) -> None:
    spool = spooled(tmp_path / "spool", 1)
    small = Spool(tmp_path / "spool", 10)
    with pytest.raises(Exception, match="spool is full"):
        small.begin("s1", 2)
    assert [item.log for item in small.waiting] == [item.log for item in spool.waiting]
