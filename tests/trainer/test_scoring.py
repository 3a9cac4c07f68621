"""The scorer with reward models that fail in every way there is: it abstains, says why, and goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart
from contracts.reward import RewardSignal
from contracts.specs import SO101_JOINTS, ActionSpec, CameraSpec, ObservationSpec
from trainer.interfaces import EpisodeKey, StoredEpisode
from trainer.scoring import Scorer

UNITS = ("deg",) * 5 + ("percent",)
OBSERVATION = ObservationSpec((CameraSpec("front", 32, 24, 10.0),), SO101_JOINTS, UNITS)
ACTION = ActionSpec(
    SO101_JOINTS, UNITS, (-100.0,) * 5 + (0.0,), (100.0,) * 6, (90.0,) * 6, (600.0,) * 6, 10.0
)
STEPS = 8


class _NoPictures:
    def frames(self, camera: str, indices: Any = None) -> np.ndarray:
        raise AssertionError("not looked at here")

    depth = frames


def episode(seq: int) -> StoredEpisode:
    session = SessionStart("r", "s", OBSERVATION, ACTION, "jpeg", "", "", "", "asap")
    start = EpisodeStart("r", "s", seq, "open the drawer", "t", "refine", 0, "", 0, "", seq, 0.0)
    columns = {"observation.state": np.zeros((STEPS, 6), np.float32)}
    end = EpisodeEnd(seq, STEPS, "time_limit")
    key = EpisodeKey("r", "s", seq)
    return StoredEpisode(key, seq, session, start, end, columns, _NoPictures())


class Fails:
    """Fails on the first episode, judges the others."""

    model_id = "fails"
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(self, how: Callable[[], Any]) -> None:
        self._how = how

    def score_episode(self, episode: StoredEpisode) -> Any:
        if episode.key.episode_seq == 0:
            return self._how()
        return [RewardSignal(STEPS - 1, completion=0.9)]


def _raise() -> Any:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("timeout", lambda: time.sleep(0.4)),
        ("exception", _raise),
        ("exception", lambda: [RewardSignal(STEPS - 1, completion=math.inf)]),
        ("nan", lambda: [RewardSignal(STEPS - 1, process=math.nan, completion=math.nan)]),
        ("unparsable", lambda: "ANSWER: maybe"),
        ("unparsable", lambda: [{"completion": 1.0}]),
        ("unparsable", list),
    ],
)
def test_a_reward_model_that_fails_abstains_is_counted_and_the_next_episode_is_judged(
    kind: str, how: Callable[[], Any]
) -> None:
    scorer = Scorer(Fails(how), timeout_s=0.15)
    failed = scorer.score(episode(0))
    assert failed.success is None
    assert failed.failure.startswith(f"{kind}: ")
    (signal,) = failed.signals
    assert signal.abstained == failed.failure
    assert signal.step == STEPS - 1
    assert math.isnan(signal.completion) and math.isnan(signal.process)
    assert scorer.failures == {kind: 1}
    time.sleep(0.4 if kind == "timeout" else 0.0)
    assert scorer.score(episode(1)).success is True
