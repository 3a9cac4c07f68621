"""What is dropped when the ring is full, what a reward engine's failures become, a person's label."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny_robot import session_start, step

from contracts import wire
from contracts.files.log_to_dataset import arrived
from contracts.files.step_table import StepTable
from contracts.messages import EpisodeEnd
from runtime.board import Board
from runtime.config import RewardSection
from runtime.frames import Frame, FrameSlots
from runtime.models.reward import RewardRunner
from runtime.recording.stream import Stream
from runtime.ring import Ring


def _frames(number: int) -> dict[str, Frame]:
    rgb = np.full((24, 32, 3), number, np.uint8)
    return {"front": Frame(rgb, None, float(number), float(number), number)}


def _stream(tmp_path: Path, board: Board, waits: bool) -> tuple[Stream, Ring]:
    ring = Ring.create(tmp_path / "ring", 12_000)
    stream = Stream(ring, board, waits=waits, depth=True, frames_every=1, idle=lambda: False)
    return stream, ring


def test_in_realtime_pictures_go_first_then_records_and_both_are_counted(tmp_path: Path) -> None:
    with Board.create(tmp_path / "board") as board:
        stream, ring = _stream(tmp_path, board, waits=False)
        for index in range(6):
            stream.step(step(index), _frames(index + 1))
        assert board.ring_frames_dropped > 0
        assert board.ring_records_dropped == 0  # room is kept for records
        for index in range(6, 30):
            stream.step(step(index), _frames(index + 1))
        assert board.ring_frames_dropped > board.ring_records_dropped > 0
        seen, with_pictures = [], 0
        while (parts := ring.pop()) is not None:
            packet = wire.unpack(parts)
            seen.append(packet.message.index)  # type: ignore[union-attr]
            with_pictures += bool(packet.data)
            del parts, packet
            ring.release()
        assert seen == sorted(seen)
        assert 0 < with_pictures < len(seen)
        assert len(seen) + board.ring_records_dropped == 30
        assert with_pictures + board.ring_frames_dropped == 30
        stream.boundary(EpisodeEnd(1, 30, "time_limit"))
        assert ring.waiting == 1
        ring.close()


def test_a_picture_travels_once(tmp_path: Path) -> None:
    with Board.create(tmp_path / "board") as board:
        stream, ring = _stream(tmp_path, board, waits=False)
        for index in range(3):
            stream.step(step(index), _frames(7))
        sizes = []
        while (parts := ring.pop()) is not None:
            sizes.append(len(parts))
            del parts
            ring.release()
        assert sizes == [2, 1, 1]
        ring.close()


def test_a_camera_at_half_rate_and_every_second_tick_send_every_picture(tmp_path: Path) -> None:
    """A picture that is new on a tick which sends none travels with the next one that does."""
    with Board.create(tmp_path / "board") as board:
        ring = Ring.create(tmp_path / "ring", 200_000)
        stream = Stream(ring, board, waits=False, depth=True, frames_every=2, idle=lambda: False)
        session = msgspec.structs.replace(session_start(), frames_every=2)
        table, sent = StepTable(session, "test"), 0
        for index in range(40):
            number = (index + 1) // 2
            seen = msgspec.structs.replace(step(index), captured_s={"front": float(number)})
            stream.step(seen, _frames(number))
            parts = ring.pop()
            assert parts is not None
            packet = wire.unpack(parts)
            sent += bool(packet.data)
            table.add(seen, arrived(packet))
            del parts, packet
            ring.release()
        assert (sent, table.lost, board.ring_frames_dropped) == (20, 0, 0)
        ring.close()


def test_newest_pictures_are_whole_and_in_order(tmp_path: Path) -> None:
    writer = FrameSlots.create(tmp_path / "frames", 24, 32, True)
    reader = FrameSlots.open(tmp_path / "frames")
    assert reader.newest(0.0) is None
    for number in range(1, 11):
        depth = np.full((24, 32), number, np.uint16)
        writer.write(np.full((24, 32, 3), number, np.uint8), depth, number / 10)
        frame = reader.newest(9.0)
        assert frame is not None
        assert (frame.number, frame.captured_s, frame.received_s) == (number, number / 10, 9.0)
        assert (frame.rgb == number).all()
        assert frame.depth is not None
        assert (frame.depth == number).all()


class _Engine:
    """Returns what it is told to."""

    def __init__(self, outputs: dict[str, Any]) -> None:
        self.outputs = outputs

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "error" in self.outputs:
            raise RuntimeError(self.outputs["error"])
        return {k: np.array([v], np.float32) for k, v in self.outputs.items()}


def _runner(head: dict[str, Any], end_after_s: float = 0.0, **settings: float) -> RewardRunner:
    manifest = SimpleNamespace(
        vocabulary=("drawer", "open", "the"),
        instruction_length=4,
        cameras=("front",),
        image_width=32,
        image_height=24,
    )
    engine = _Engine(head)
    swapper = SimpleNamespace(
        engine=engine,
        run=lambda inputs: engine.run(inputs),  # noqa: PLW0108  (tests replace it later)
        version=0,
        active=SimpleNamespace(settings=settings),
        remember=lambda inputs: None,
    )
    package: Any = SimpleNamespace(manifest=manifest, package_id="p")
    trunk: Any = _Engine({"embedding": 1.0})
    section = RewardSection(end_after_s=end_after_s)
    runner = RewardRunner(package, trunk, swapper, section, 10.0)  # type: ignore[arg-type]
    runner.begin_episode("open the drawer")
    return runner


GOOD = {"process": 0.5, "completion": 0.9, "contrastive": 0.1, "ground": 0.9}
PICTURES = {"front": np.zeros((24, 32, 3), np.uint8)}


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ({**GOOD, "process": math.nan}, "not finite"),
        ({**GOOD, "completion": math.inf}, "not finite"),
        ({**GOOD, "ground": 0.1}, "ground"),
        ({"error": "out of memory"}, "RuntimeError: out of memory"),
        ({"process": 0.5}, "KeyError"),
    ],
)
def test_whatever_goes_wrong_abstains_and_is_never_a_value(
    head: dict[str, Any], reason: str
) -> None:
    runner = _runner(head)
    remembered: list[Any] = []
    runner.swapper.remember = remembered.append  # type: ignore[method-assign]
    signal = runner.score(PICTURES, 3)
    assert reason in signal.abstained
    assert math.isnan(signal.process)
    assert math.isnan(signal.completion)
    # What made no finite answer would have the next release refused; what is merely strange may replay.
    assert len(remembered) == (reason == "ground")


def test_unknown_words_abstain() -> None:
    runner = _runner(GOOD)
    runner.begin_episode("open the fridge")
    assert "fridge" in runner.score(PICTURES, 0).abstained


def test_completion_is_sure_only_so_many_times_in_a_row_and_an_abstention_breaks_it() -> None:
    runner = _runner(GOOD, completion_threshold=0.8, completion_consecutive=2.0)
    sure = runner.score(PICTURES, 0)
    assert not runner.is_complete(sure)
    assert runner.is_complete(sure) and runner.is_sure
    runner.begin_episode("open the drawer")
    unsure = _runner({**GOOD, "ground": 0.0}).score(PICTURES, 0)
    assert [runner.is_complete(s) for s in (sure, unsure, sure, sure)] == [
        False,
        False,
        False,
        True,
    ]


def test_an_episode_goes_on_for_a_while_after_completion_became_sure() -> None:
    runner = _runner(GOOD, end_after_s=1.0, completion_threshold=0.8, completion_consecutive=2.0)
    sure = runner.score(PICTURES, 0)
    said = [runner.is_complete(sure) for _ in range(6)]
    assert runner.every == 3, "of 10 ticks a second, three scores"
    assert said == [False] * 4 + [True] * 2
