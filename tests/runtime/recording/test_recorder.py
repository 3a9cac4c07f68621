"""The recorder: whole episodes and nothing else, and never at the loop's cost."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from recording_run import (
    begin,
    check_whole,
    colour,
    depth,
    end,
    one_step,
    packets,
    recorder_of,
    recording_run,
    session,
)
from tiny_robot import step

from contracts import wire
from contracts.errors import EntracteError
from contracts.files.dataset_reader import DatasetReader
from contracts.files.dataset_stream import PictureFile
from contracts.messages import EpisodeRerecord
from runtime.board import Board
from runtime.frames import Frame
from runtime.recording.recorder import Recorder
from runtime.recording.recorder import run as serve
from runtime.recording.stream import Stream
from runtime.ring import Ring


def take_all(recorder: Recorder, *records: object) -> None:
    for parts in records:
        recorder.take(parts)  # type: ignore[arg-type]


def rerecord(seq: int) -> list:
    return wire.pack(EpisodeRerecord(seq))


def test_an_episode_is_there_when_its_end_was_taken(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with (
        recording_run(tmp_path / "run", root) as run,
        Board.open(run.board_path) as board,
        recorder_of(run) as recorder,
    ):
        take_all(recorder, session())
        for seq in range(3):
            take_all(recorder, *packets(seq, steps=5 + seq))
            assert check_whole(root) == list(range(seq + 1))
            assert (board.recorder_kept, board.recorder_queue) == (seq + 1, 0)
    extra = DatasetReader(root).meta(1)["extra"]
    assert extra["start"]["episode_seq"] == 1 and extra["session"]["session_id"] == "s1"


def test_what_is_not_wanted_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with (
        recording_run(tmp_path / "run", root, keep="success") as run,
        recorder_of(run) as recorder,
    ):
        take_all(recorder, session(), *packets(0))
        size = sum(1 for _ in root.rglob("*"))
        steps = [one_step(1, i) for i in range(4)]
        for reason, success in (
            *((reason, True) for reason in ("aborted", "fault", "rerecord")),
            ("time_limit", None),
            ("time_limit", False),
        ):
            take_all(recorder, begin(1), *steps, end(1, 4, reason, success))
        take_all(recorder, begin(2), *steps[:2])  # no end: control died
        take_all(recorder, begin(3), end(3, 0))
        assert (recorder.kept, recorder.dropped) == (1, 7)
        assert "nobody said" in recorder.notes[0] and len(recorder.notes) == 2, "None is no failure"
        assert sum(1 for _ in root.rglob("*")) == size
    assert check_whole(root) == [0]


def test_the_operator_may_have_an_episode_again(tmp_path: Path) -> None:
    """While it is recorded, after it was stored, and not once another came after it."""
    root = tmp_path / "data"
    with recording_run(tmp_path / "run", root) as run, recorder_of(run) as recorder:
        take_all(recorder, session(), *packets(0), *packets(1))
        take_all(recorder, rerecord(1))
        assert check_whole(root) == [0]
        take_all(recorder, begin(2), one_step(2, 0), one_step(2, 1), rerecord(2), one_step(2, 2))
        take_all(recorder, end(2, 3), *packets(3), rerecord(0))
        assert "episode 0 can't be forgotten" in recorder.notes[-1]
        assert (recorder.kept, recorder.dropped) == (2, 2)
    assert check_whole(root) == [0, 3]


def test_steps_that_were_lost_are_told(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with recording_run(tmp_path / "run", root) as run, recorder_of(run) as recorder:
        take_all(recorder, session(), begin(0), *(one_step(0, i) for i in (0, 1, 4, 5)), end(0, 7))
        assert recorder.report()["steps_lost"] == 3
        assert recorder.notes == ["episode 0 lacks 3 of its 7 steps"]
    assert DatasetReader(root).meta(0)["extra"]["steps_lost"] == 3


def test_a_short_episode_that_a_full_ring_took_whole_ends_no_recording(tmp_path: Path) -> None:
    """No data set can hold one without a picture or a step; the others must not pay for it."""
    root = tmp_path / "data"
    with recording_run(tmp_path / "run", root) as run, recorder_of(run) as recorder:
        take_all(recorder, session(), *packets(0))
        take_all(recorder, begin(1), one_step(1, 0, pictures=False), end(1, 1))
        take_all(recorder, begin(2), end(2, 1), *packets(3, steps=1))
        assert (recorder.kept, recorder.dropped, recorder.unrecorded) == (2, 0, 2)
        assert "episode 1 came without any picture of observation.images.front" in recorder.notes[0]
    assert check_whole(root) == [0, 3] and not list(root.rglob("*.tmp"))


def test_where_no_picture_ever_comes_recording_ends(tmp_path: Path) -> None:
    with (
        recording_run(tmp_path / "run", tmp_path / "data") as run,
        recorder_of(run) as recorder,
        pytest.raises(EntracteError, match="expected 1"),
    ):
        take_all(recorder, session(), begin(0), one_step(0, 0, pictures=False), end(0, 1))


def test_an_episode_without_an_end_is_counted(tmp_path: Path) -> None:
    with recording_run(tmp_path / "run", tmp_path / "data") as run, recorder_of(run) as recorder:
        take_all(recorder, session(), *packets(0), begin(1), one_step(1, 0))
        recorder.close()
        assert (recorder.kept, recorder.dropped) == (1, 1)


def test_a_rate_that_no_data_set_has_is_refused(tmp_path: Path) -> None:
    """Rounded, every row's time would be wrong, and no policy could be imitated from it."""
    with (
        recording_run(tmp_path / "run", tmp_path / "data", "loop.rate_hz=12.5") as run,
        pytest.raises(
            EntracteError, match=r"expected a whole number.*found 12\.5; set loop\.rate_hz"
        ),
        recorder_of(run),
    ):
        pass
    assert not (tmp_path / "data").exists()


def test_another_robots_data_set_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with recording_run(tmp_path / "a", root) as run, recorder_of(run) as recorder:
        take_all(recorder, session(), *packets(0))
    before = sorted(root.rglob("*"))
    with (
        recording_run(tmp_path / "b", root, "recording.depth=false") as run,
        recorder_of(run) as recorder,
        pytest.raises(EntracteError, match=r"another robot.*observation\.depth\.front"),
    ):
        take_all(recorder, session(), *packets(1))
    assert sorted(root.rglob("*")) == before


def test_slow_encoders_cost_pictures_not_steps_nor_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ring of few pictures before an encoder ten times too slow: each loss is counted, and every row says
    when the picture that it shows was taken."""
    real, root, steps = PictureFile.add, tmp_path / "data", 150

    def slow(self: PictureFile, frame: np.ndarray) -> None:
        time.sleep(0.02)
        real(self, frame)

    monkeypatch.setattr(PictureFile, "add", slow)
    with recording_run(tmp_path / "run", root, "recording.queue_frames=2") as run:
        run.ring_path.unlink()
        ring = Ring.create(run.ring_path, 40 * colour(0, 0).nbytes)
        with Board.open(run.board_path) as board, Ring.open(run.ring_path) as other:
            recorder, stop = Recorder(run, board), threading.Event()
            thread = threading.Thread(target=serve, args=(recorder, other, stop))
            thread.start()
            stream = Stream(ring, board, waits=False, depth=True, frames_every=1, idle=lambda: True)
            for parts in (session(), begin(0)):
                stream.boundary(wire.unpack(parts).message)
            stream.begin_episode()
            taken_s = []
            for index in range(steps):
                message = step(index)
                captured_s = message.captured_s["front"]
                frame = Frame(
                    colour(0, index), depth(0, index), captured_s, captured_s + 0.001, index
                )
                began_s = time.perf_counter()
                stream.step(message, {"front": frame})
                taken_s.append(time.perf_counter() - began_s)
                time.sleep(0.002)
            dropped = board.ring_frames_dropped
            stream.boundary(wire.unpack(end(0, steps)).message)
            stop.set()
            thread.join()
            assert board.recorder_dropped == dropped > 20 and board.ring_records_dropped == 0
            recorder.close()
        ring.close()
    assert np.median(taken_s) < 0.01, "the tick waited for an encoder"
    reader = DatasetReader(root)
    columns = reader.episode(0)
    assert columns["observation.state"][:, 5].tolist() == list(range(steps))
    assert reader.meta(0)["extra"]["pictures_lost"] == dropped
    shown = np.rint((columns["time.capture.front"] - 100.0) / 0.1).astype(int)
    assert (shown <= np.arange(steps)).all() and len(set(shown)) == steps - dropped
    stored = reader.depth(0, "observation.depth.front")
    assert np.array_equal(stored, np.stack([depth(0, index) for index in shown]))


def test_little_is_left_to_do_at_the_end_of_a_long_episode(tmp_path: Path) -> None:
    """Pictures are encoded as they come: what waits is bounded by the queues, what is done is on disk."""
    root, steps = tmp_path / "data", 400
    with (
        recording_run(tmp_path / "run", root) as run,
        Board.open(run.board_path) as board,
        recorder_of(run) as recorder,
    ):
        take_all(recorder, session(), begin(0))
        most = 0
        for index in range(steps):
            take_all(recorder, one_step(0, index))
            most = max(most, board.recorder_queue)
        queues = 2 * run.config.recording.queue_frames
        assert most <= queues
        (growing,) = root.glob("depth/*/*/.*.tmp")
        assert growing.stat().st_size > (steps - queues - 20) * depth(0, 0).nbytes
        take_all(recorder, end(0, steps))
    assert check_whole(root) == [0]
