"""Scores episodes and survives the reward model: an exception, NaN or timeout abstains and is counted.

Owns the thread that the model runs in; nothing else calls the model.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts import registry
from contracts.messages import ABORTED
from contracts.reward import RewardSignal, abstain
from trainer.config import TrainerConfig
from trainer.interfaces import LiveRewardModel, RewardModel, ScoredEpisode, StoredEpisode
from trainer.judgement import check_signals, judge
from trainer.plain import plain_signal

PATIENCE = 10
"""Timeouts that a call may take before nobody waits for its end any more."""


def open_model(
    config: TrainerConfig, name: str, package: str, options: Mapping[str, Any]
) -> RewardModel:
    """The model of that name in the group `entracte.reward_models`. Raises `EntracteError`."""
    factory = registry.load("reward_models", name)
    model: RewardModel = factory(
        package=Path(package) if package else None,
        demonstrations=[Path(path) for path in config.demonstrations],
        options=options,
        seed=config.seed,
    )
    return model


class _Call:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.function, self.done = function, threading.Event()
        self.since_s = time.monotonic()
        self.result: Any = None
        self.error: BaseException | None = None


class Scorer:
    """One reward model and the thread it runs in. Used by one thread."""

    def __init__(self, model: RewardModel, timeout_s: float) -> None:
        self.model, self._timeout_s = model, timeout_s
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._stuck: _Call | None = None
        self.failures: Counter[str] = Counter()
        """Failed scorings by what happened: "exception", "nan", "unparsable", "timeout"."""
        threading.Thread(target=self._serve, name="reward", daemon=True).start()

    def score(self, episode: StoredEpisode) -> ScoredEpisode:
        """Never raises for what the model did."""
        started = time.monotonic()
        failure, signals = "", []
        try:
            signals = self._call(lambda: list(self.model.score_episode(episode)))
            problem = check_signals(signals, episode.steps)
            if problem:
                failure = f"{'nan' if problem.startswith('NaN') else 'unparsable'}: {problem}"
            else:
                signals = [plain_signal(signal) for signal in signals]
        except TimeoutError as error:
            failure = f"timeout: {error}"
        except Exception as error:  # whatever a user's model raises, the daemon goes on
            failure = f"exception: {type(error).__name__}: {error}"
        if failure:
            self.failures[failure.partition(":")[0]] += 1
            signals = [abstain(episode.steps - 1, failure, self.model.model_id)]
        return self.judged(episode, signals, failure, time.monotonic() - started)

    def judged(
        self,
        episode: StoredEpisode,
        signals: Sequence[RewardSignal],
        failure: str = "",
        scoring_s: float = 0.0,
    ) -> ScoredEpisode:
        """Signals (just computed or kept from before a restart) as a scored episode. One that was stopped
        before it was done has no label: it is not known what it would have come to."""
        model = self.model
        success = judge(signals, model.completion_threshold, model.completion_consecutive)
        if not success and episode.end.reason == ABORTED:
            success = None
        return ScoredEpisode(episode, tuple(signals), success, model.model_id, failure, scoring_s)

    @property
    def watches(self) -> bool:
        """Whether the model wants frames of running episodes."""
        return isinstance(self.model, LiveRewardModel)

    def watch(self, instruction: str, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Show the model a frame of a running episode, if it wants any; failures are counted only."""
        model = self.model
        if not isinstance(model, LiveRewardModel):
            return
        try:
            self._call(lambda: model.watch(instruction, step, images))
        except Exception:
            self.failures["live"] += 1

    def settle(self) -> None:
        """Wait for the end of a call that went on beyond its timeout, since until then no other is answered:
        `PATIENCE` timeouts in all and, where that was not enough, one more each time."""
        if self._stuck is not None:
            left_s = self._stuck.since_s + PATIENCE * self._timeout_s - time.monotonic()
            self._stuck.done.wait(max(self._timeout_s, left_s))

    def _call(self, function: Callable[[], Any]) -> Any:
        if self._stuck is not None:
            if not self._stuck.done.is_set():
                raise TimeoutError("the model is still busy with an earlier call")
            self._stuck = None
        call = _Call(function)
        self._calls.put(call)
        if not call.done.wait(self._timeout_s):
            self._stuck = call
            raise TimeoutError(f"no answer within {self._timeout_s:g} s")
        if call.error is not None:
            raise call.error
        return call.result

    def _serve(self) -> None:
        while True:
            call = self._calls.get()
            try:
                call.result = call.function()
            except BaseException as error:  # handed over to the caller
                call.error = error
            finally:
                call.done.set()
