"""Which frames a model is shown, and at which moments of a stored episode it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import EntracteError
from contracts.frames import FrameContract, Video
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart
from contracts.reward import RewardSignal
from contracts.specs import SO101_JOINTS, ActionSpec, CameraSpec, ObservationSpec
from trainer.interfaces import EpisodeKey, StoredEpisode
from trainer.judgement import judge
from trainer.rewards.episodes import OnEpisodes, end_rows, score_moments


def video(frames: int, rate_hz: float = 10.0, cameras: tuple[str, ...] = ("front",)) -> Video:
    grey = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(grey, (frames, 6, 8, 3))
    return Video({c: images for c in cameras}, np.arange(frames) / rate_hz, np.arange(frames))


class _Pictures:
    def __init__(self, of: Video) -> None:
        self._of = of

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        return self._of.views[camera][list(range(len(self._of)) if indices is None else indices)]

    def depth(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        raise AssertionError("no depth here")


def stored(of: Video, rate_hz: float) -> StoredEpisode:
    units = ("deg",) * 5 + ("percent",)
    eyes = ObservationSpec((CameraSpec("front", 8, 6, rate_hz),), SO101_JOINTS, units)
    most = (90.0,) * 6
    arm = ActionSpec(SO101_JOINTS, units, (-90.0,) * 6, most, most, (600.0,) * 6, rate_hz)
    session = SessionStart("r", "s", eyes, arm, "jpeg", "", "", "", "asap")
    start = EpisodeStart("r", "s", 0, "lift", "t", "refine", 0, "", 0, "", 0, 0.0)
    columns = {"observation.state": np.zeros((len(of), 6), np.float32)}
    end = EpisodeEnd(0, len(of), "time_limit")
    return StoredEpisode(EpisodeKey("r", "s", 0), 0, session, start, end, columns, _Pictures(of))


class Looks:
    """Remembers what it was shown of each moment; done from `done_s` on."""

    model_id = "looks"
    completion_threshold = 0.5

    def __init__(self, contract: FrameContract, consecutive: int = 1, done_s: float = 0.0) -> None:
        self.contract, self.completion_consecutive = contract, consecutive
        self._done_s = done_s
        self.shown: dict[int, list[int]] = {}

    def score(self, video: Video, instruction: str) -> RewardSignal:
        step = int(video.steps[-1])
        self.shown[step] = self.contract.shown(video).steps.tolist()
        return RewardSignal(step, completion=float(video.times_s[-1] >= self._done_s))


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


@given(
    st.integers(1, 150),
    st.sampled_from([1.5, 7.0, 10.0, 30.0]),
    st.sampled_from(["spread", "append", "ends", "last"]),
    st.sampled_from([0.0, 1.0]),
    st.integers(1, 3),
)
def test_a_stored_episode_is_shown_as_its_whole_video_is(
    frames: int, rate_hz: float, layout: str, scores_per_s: float, consecutive: int
) -> None:
    whole = video(frames, rate_hz)
    model = Looks(FrameContract(layout, 2.0, 4, 8), consecutive)  # type: ignore[arg-type]
    signals = OnEpisodes(model, scores_per_s).score_episode(stored(whole, rate_hz))
    assert [signal.step for signal in signals] == list(model.shown)
    asked, model.shown = model.shown, {}
    score_moments(model, whole, "lift", sorted(asked))
    assert asked == model.shown


@pytest.mark.parametrize("scores_per_s", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("consecutive", [1, 2, 3, 5, 6])
def test_a_verdict_of_several_moments_is_that_of_the_whole_video(
    consecutive: int, scores_per_s: float
) -> None:
    whole = video(101)  # ten seconds, done in the last two: five moments at 2 Hz
    model = Looks(FrameContract("spread", 2.0, 4, 8), consecutive, done_s=8.0)
    signals = OnEpisodes(model, scores_per_s).score_episode(stored(whole, 10.0))
    ends = score_moments(model, whole, "lift", end_rows(model, whole.times_s))
    assert judge(ends, 0.5, consecutive) is (consecutive < 6)
    assert judge(signals, 0.5, consecutive) is (consecutive < 6)


def test_times_that_go_back_are_refused() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(EntracteError, match="increasing"):
        Video({"front": images}, np.array([1.0, 0.5]), np.arange(2))
