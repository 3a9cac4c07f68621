"""The scorer with reward models that fail in every way there is: it abstains, says why, and goes on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart
from contracts.reward import RewardSignal
from contracts.specs import SO101_JOINTS, ActionSpec, CameraSpec, ObservationSpec
from trainer.interfaces import EpisodeKey, StoredEpisode
from trainer.scoring import Scorer
from trainer.store import read_scores, write_scores

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


def episode(seq: int, reason: str = "time_limit") -> StoredEpisode:
    session = SessionStart("r", "s", OBSERVATION, ACTION, "jpeg", "", "", "", "asap")
    start = EpisodeStart("r", "s", seq, "open the drawer", "t", "refine", 0, "", 0, "", seq, 0.0)
    columns = {"observation.state": np.zeros((STEPS, 6), np.float32)}
    end = EpisodeEnd(seq, STEPS, reason)
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


def _fraction(step: int) -> Any:
    return np.float32(step)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("timeout", lambda: time.sleep(0.4)),
        ("exception", _raise),
        ("exception", lambda: [RewardSignal(STEPS - 1, completion=math.inf)]),
        ("nan", lambda: [RewardSignal(STEPS - 1, process=math.nan, completion=math.nan)]),
        ("exception", lambda: [RewardSignal(_fraction(STEPS - 1), completion=0.9)]),
        ("unparsable", lambda: "ANSWER: maybe"),
        ("unparsable", lambda: [{"completion": 1.0}]),
        ("unparsable", list),
        ("unparsable", lambda: [RewardSignal(STEPS - 2, completion=0.9)]),
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


def test_the_end_of_a_call_that_takes_too_long_is_waited_for_but_not_for_ever() -> None:
    let_go = threading.Event()
    scorer = Scorer(Fails(let_go.wait), timeout_s=0.5)
    assert scorer.score(episode(0)).failure.startswith("timeout: no answer")
    scorer.settle()  # comes back, though the model does not
    assert "busy with an earlier call" in scorer.score(episode(1)).failure
    threading.Timer(0.2, let_go.set).start()
    scorer.settle()
    assert let_go.is_set() and scorer.score(episode(1)).success is True


class Says:
    """So much at the end of every episode."""

    model_id = "says"
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(self, completion: float) -> None:
        self._completion = completion

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        return [RewardSignal(episode.steps - 1, completion=self._completion)]


@pytest.mark.parametrize("reason", ["time_limit", "completed", "operator", "fault", "aborted"])
def test_an_episode_that_was_stopped_in_the_middle_is_no_failure(reason: str) -> None:
    """Ctrl-C, a torn log: that the task was not done says nothing of the policy. Where it was, it was."""
    found = {said: Scorer(Says(said), 10.0).score(episode(1, reason)) for said in (0.1, 0.9)}
    assert found[0.9].success is True
    assert found[0.1].success is (None if reason == "aborted" else False)
    assert not found[0.1].failure and not found[0.1].signals[0].abstained


class Numpys(Says):
    """The same in another library's numbers."""

    def __init__(self, completion: float, number: Callable[[float], Any]) -> None:
        super().__init__(completion)
        self._number = number

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        shares = tuple(self._number(share) for share in (0.0, 0.0, 0.25, 0.25, 0.5))
        completion = self._number(self._completion)
        step: Any = np.int64(episode.steps - 1)
        return [RewardSignal(step, completion=completion, score_distribution=shares)]


@pytest.mark.parametrize("number", [np.float32, np.float64, np.float16])
def test_numbers_of_another_library_are_written_as_what_they_are(
    tmp_path: Path, number: Callable[[float], Any]
) -> None:
    """They pass for Python's own until a file is written: the trainer ended at it, at every start again."""
    scored = Scorer(Numpys(0.75, number), 10.0).score(episode(1))
    assert scored.success is True and not scored.failure
    write_scores(tmp_path, scored)
    known = read_scores(tmp_path, scored.episode.key, "says")
    assert known is not None and repr(known[0]) == repr(list(scored.signals))
    assert known[0][0].completion == 0.75 and known[0][0].step == STEPS - 1
