"""The episode log: whole, torn at every byte, corrupt, oversized; and its way into a data set."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_robot import episode, session_start

from contracts import wire
from contracts.errors import WireError
from contracts.files.dataset_reader import DatasetReader
from contracts.files.episode_log import EpisodeLogReader, EpisodeLogWriter, describe
from contracts.files.log_to_dataset import append, create_dataset, read_episode
from contracts.messages import EpisodeEnd


def write(path: Path, steps: int = 5) -> Path:
    log = EpisodeLogWriter(path)
    log.append(wire.pack(session_start()))
    for parts in episode(3, steps=steps):
        log.append(parts)
    assert not path.exists(), "an unfinished log must not have its final name"
    found = log.finish()
    data = path.read_bytes()
    assert (found.nbytes, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert describe(path) == found
    assert list(path.parent.iterdir()) == [path]
    return path


def test_packets_come_back_in_order(tmp_path: Path) -> None:
    reader = EpisodeLogReader(write(tmp_path / "a.elog"))
    sent = [wire.pack(session_start()), *episode(3, steps=5)]
    found = list(reader)
    assert [[bytes(p) for p in parts] for parts in sent] == found
    assert reader.torn == "" and reader.good_bytes == reader.path.stat().st_size


def test_a_log_torn_anywhere_gives_what_came_before_and_says_so(tmp_path: Path) -> None:
    data = write(tmp_path / "a.elog", steps=2).read_bytes()
    whole = list(EpisodeLogReader(tmp_path / "a.elog"))
    torn = tmp_path / "b.elog"
    for size in [*range(8, 400), *range(400, len(data), 97)]:
        torn.write_bytes(data[:size])
        reader = EpisodeLogReader(torn)
        found = list(reader)
        assert found == whole[: len(found)]
        assert bool(reader.torn) == (reader.good_bytes != size)


def test_a_flipped_bit_ends_the_reading_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.elog")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    reader = EpisodeLogReader(path)
    assert 0 < len(list(reader)) < 7 and "corrupt" in reader.torn


@pytest.mark.parametrize("size", [0, 2**31, 2**32 - 1])
def test_a_frame_that_claims_too_much_is_not_read(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "a.elog")
    path.write_bytes(path.read_bytes() + struct.pack("<II", size, 0) + b"x" * 64)
    reader = EpisodeLogReader(path)
    assert len(list(reader)) == 8 and "cap" in reader.torn


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.elog"
    path.write_bytes(b"not a log at all")
    with pytest.raises(WireError, match="not an episode log"):
        list(EpisodeLogReader(path))


def test_the_writer_refuses_what_the_reader_would(tmp_path: Path) -> None:
    log = EpisodeLogWriter(tmp_path / "a.elog")
    with pytest.raises(WireError):
        log.append([b""] * (wire.MAX_PARTS + 1))
    with pytest.raises(WireError):
        log.append([b"\0" * (wire.MAX_BUFFER_BYTES + 1)])
    log.abandon()
    assert list(tmp_path.iterdir()) == []


def test_columns_and_pictures(tmp_path: Path) -> None:
    found = read_episode(write(tmp_path / "a.elog"))
    assert (found.start.episode_seq, found.end.reason, found.torn) == (3, "time_limit", "")
    assert found.columns["observation.state"].shape == (5, 6)
    assert found.columns["observation.state"][:, 5].tolist() == [0, 1, 2, 3, 4]
    assert found.pictures.frames("front", [0, -1]).shape == (2, 24, 32, 3)
    assert found.pictures.depth("front", [4])[0, 0, 0] == 504
    assert found.lost == 0


def test_a_torn_episode_ends_as_aborted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.elog")
    path.write_bytes(path.read_bytes()[:-300])
    found = read_episode(path)
    assert found.end.reason == "aborted" and found.torn
    assert len(found.columns["action"]) == found.end.steps < 5


def test_lost_pictures_repeat_the_one_before(tmp_path: Path) -> None:
    log = EpisodeLogWriter(tmp_path / "a.elog")
    log.append(wire.pack(session_start()))
    for index, parts in enumerate(episode(3, steps=5)):
        if index in (1, 3):
            message = wire.unpack(parts).message
            log.append(wire.pack(message))
        else:
            log.append(parts)
    log.finish()
    found = read_episode(tmp_path / "a.elog")
    depth = found.pictures.depth("front")[:, 0, 0].tolist()
    assert depth == [501, 501, 501, 503, 504] and found.lost == 2


def test_records_out_of_place_are_refused(tmp_path: Path) -> None:
    for order in ([0, 2, 1], [1, 0], [0, 0], [0, 1, 3, 3], [0, 1, 4, 2]):
        packets = [wire.pack(session_start()), *episode(3, steps=2)]
        log = EpisodeLogWriter(tmp_path / "a.elog")
        for index in order:
            log.append(packets[index])
        log.append(wire.pack(EpisodeEnd(3, 2, "time_limit")))
        log.finish()
        with pytest.raises(WireError):
            read_episode(tmp_path / "a.elog")


def test_into_a_data_set_and_back(tmp_path: Path) -> None:
    logged = read_episode(write(tmp_path / "a.elog", steps=6))
    with create_dataset(tmp_path / "data", logged) as writer:
        assert append(writer, logged, {"arrival": 0}) == 0
        assert append(writer, logged, {"arrival": 1}) == 1
    reader = DatasetReader(tmp_path / "data")
    assert (reader.num_episodes, reader.fps) == (2, 10)
    columns = reader.episode(1)
    for name in ("observation.state", "action", "policy_version", "time.capture.front"):
        assert np.array_equal(columns[name], logged.columns[name])
    assert np.array_equal(
        reader.depth(1, "observation.depth.front"), logged.pictures.depth("front")
    )
    assert reader.meta(1)["extra"]["start"]["episode_seq"] == 3


def begun(path: Path) -> EpisodeLogWriter:
    log = EpisodeLogWriter(path)
    for parts in (wire.pack(session_start()), *episode(3, steps=5)):
        log.append(parts)
    return log


class Counted(io.FileIO):
    """How many bytes were written since it was opened."""

    written = 0

    def write(self, data: bytes) -> int:
        self.written += len(data)
        return super().write(data)


@pytest.mark.parametrize("step", range(3))
def test_a_finish_that_the_disk_interrupts_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """At its sync, its new name and the sync of its folder."""
    log = begun(tmp_path / "a.elog")
    calls = 0

    def failing(real: Callable[..., None]) -> Callable[..., None]:
        def call(*what: object) -> None:
            nonlocal calls
            calls += 1
            if calls == step + 1:
                raise OSError(errno.EIO, "Input/output error")
            real(*what)

        return call

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(os, "replace", failing(os.replace))
    with pytest.raises(OSError, match="Input/output"):
        log.finish()
    found = log.finish()
    assert found == log.finish() == describe(tmp_path / "a.elog")
    reader = EpisodeLogReader(found.path)
    assert len(list(reader)) == 8 and reader.torn == ""
    assert list(tmp_path.iterdir()) == [found.path]


@pytest.mark.parametrize("lost", [False, True])
def test_a_sync_that_failed_is_not_believed_when_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """The system calls pages written that it could not write: all are written again before the next sync.
    `lost`: it has let go of one by then, so that the file reads as zeros there."""
    log = begun(tmp_path / "a.elog")
    log._file.close()
    log._file = file = Counted(log.part, "r+b")
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if lost:
            os.pwrite(descriptor, bytes(64), log.nbytes // 2)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as bad, pytest.raises(OSError, match="Input/output"):
        bad.setattr(os, "fsync", failing)
        log.finish()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda d: (synced.append(file.written), fsync(d))[1])
    found = log.finish()
    assert synced[0] == log.nbytes, "synced without being written again"
    assert found == describe(tmp_path / "a.elog"), "what is said of it is what is there"
    reader = EpisodeLogReader(found.path)
    assert (len(list(reader)) == 8, reader.torn == "") == (not lost, not lost)
