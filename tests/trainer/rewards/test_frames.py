"""Which frames a model is shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import EntracteError
from contracts.frames import FrameContract, Video


def video(frames: int, rate_hz: float = 10.0, cameras: tuple[str, ...] = ("front",)) -> Video:
    grey = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(grey, (frames, 6, 8, 3))
    return Video({c: images for c in cameras}, np.arange(frames) / rate_hz, np.arange(frames))


def test_roborewards_frames() -> None:
    # 2 fps, 4 to 8 frames, first and last always in (model card of RoboReward).
    chosen = FrameContract("spread", 2.0, 4, 8)
    assert chosen.choose(np.arange(26) / 10).tolist() == [0, 5, 10, 15, 20, 25]
    assert chosen.choose(np.arange(11) / 10).tolist() == [0, 3, 7, 10]
    assert len(chosen.choose(np.arange(200) / 10)) == 8
    assert chosen.choose(np.array([0.0])).tolist() == [0]


@given(st.integers(1, 300), st.sampled_from(["spread", "append", "ends", "last"]))
def test_the_last_frame_is_always_in(frames: int, layout: str) -> None:
    contract = FrameContract(layout, 2.0, 4, 8)  # type: ignore[arg-type]
    rows = contract.choose(np.arange(frames) / 10)
    assert rows[-1] == frames - 1
    assert (np.diff(rows) > 0).all()
    assert len(rows) <= 8
    if layout not in ("last",):
        assert rows[0] == 0


def test_a_longer_episode_only_adds() -> None:
    contract = FrameContract("append", 2.0, 1, 40)
    short, long = (contract.choose(np.arange(n) / 10) for n in (41, 81))
    assert long[: len(short)].tolist() == short.tolist()


def test_an_episode_too_long_keeps_its_start_and_its_newest() -> None:
    rows = FrameContract("append", 2.0, 1, 6).choose(np.arange(101) / 10)
    assert rows[0] == 0
    assert rows[-1] == 100
    assert len(rows) <= 6
    assert np.diff(rows[1:]).max() <= 5


def test_pictures_keep_their_shape_within_the_budget() -> None:
    contract = FrameContract(pixels=128 * 128, multiple=32)
    width, height = contract.size(640, 480)
    assert width * height <= 128 * 128
    assert width % 32 == height % 32 == 0
    assert FrameContract().size(640, 480) == (640, 480)


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(EntracteError, match="wrist"):
        FrameContract(cameras=("front", "wrist")).shown(video(5))


def test_times_that_go_back_are_refused() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(EntracteError, match="increasing"):
        Video({"front": images}, np.array([1.0, 0.5]), np.arange(2))
