"""A vision-language reward model beside the loop: the episode's frames so far, one score at each moment due.

Owns the frames that it keeps and the rule that ends an episode. Scoring itself is `runtime.models.vlm`'s. Its
weights are fixed: no release reaches it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np

from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.frames import Video
from contracts.package import PackageManifest
from contracts.pictures import prepare
from contracts.reward import RewardSignal, abstain
from runtime.config import RewardSection
from runtime.engines import EngineOptions
from runtime.models.policy import blank_pictures
from runtime.models.vlm import VlmScorer, open_scorer, require_size
from runtime.run import Run

_MOST_KEPT = 1024
"""Frames of an episode; of a longer one every other is dropped, again and again."""
_MOST_BYTES = 1 << 30
"""Of those frames: of large pictures fewer are kept."""


class VlmRunner:
    """`score` runs in a lane, one at a time; `is_complete` in the loop."""

    swapper = None

    def __init__(
        self, package: Package, scorer: VlmScorer, section: RewardSection, loop_rate_hz: float
    ) -> None:
        self.package = package
        self._scorer, self._spec, self._loop_rate_hz = scorer, scorer.spec, loop_rate_hz
        self._camera = package.manifest.cameras[0]
        rate_hz = section.rate_hz or max(asked.frames.rate_hz for asked in self._spec.questions)
        self.every = max(1, round(loop_rate_hz / rate_hz))
        """Ticks between two scores. What is looked at are the frames of these moments."""
        self._more = round(section.end_after_s * loop_rate_hz / self.every)
        picture = self._spec.picture
        size = picture.height * picture.width * 3
        self._most = min(_MOST_KEPT, _MOST_BYTES // size) // 2 * 2
        self._frames = np.zeros((self._most, picture.height, picture.width, 3), np.uint8)
        self._steps: list[int] = []
        self._instruction = ""
        self._said: set[str] = set()
        self._sure = 0

    @property
    def manifest(self) -> PackageManifest:
        return self.package.manifest

    @property
    def model_id(self) -> str:
        return self._scorer.model_id

    @property
    def judge(self) -> str:
        """Names what says which episodes succeed: always the same."""
        return self.model_id

    def begin_episode(self, instruction: str) -> None:
        """Says on stderr when it will abstain from all of it."""
        self._instruction = instruction
        why = self._scorer.unasked(instruction)
        if why and instruction not in self._said:  # once each, and before the episode's first tick
            self._said.add(instruction)
            print(f"control: the reward model abstains throughout: {why}", file=sys.stderr)
        self._steps = []
        self._sure = 0

    def is_due(self, step: int) -> bool:
        return step % self.every == 0

    def score(self, pictures: Mapping[str, np.ndarray], step: int) -> RewardSignal:
        """The signals of one moment of the episode; moments come in order. Never raises."""
        if self._camera not in pictures:
            return abstain(step, f"no picture of camera '{self._camera}'", self.model_id)
        try:
            video = self._seen_until(pictures[self._camera], step)
        except Exception as error:  # whatever is wrong with a picture, it is no score
            why = f"no moment of the video: {type(error).__name__}: {error}"
            return abstain(step, why, self.model_id)
        return self._scorer.score(video, self._instruction)

    def is_complete(self, signal: RewardSignal) -> bool:
        """Whether completion is sure and has been for `end_after_s`; call once for each score, in order."""
        # NaN (abstained) compares False: an abstention breaks the row.
        sure = signal.completion >= self._spec.completion_threshold
        self._sure = self._sure + 1 if sure else 0
        return self._sure >= max(1, self._spec.completion_consecutive) + self._more

    @property
    def is_sure(self) -> bool:
        """Whether completion was above its threshold in the newest score."""
        return self._sure > 0

    def warm_up(self, run: Run) -> None:
        """Every question once about nothing, off the clock. Raises `PackageError` where there is no answer:
        a model that could only ever abstain is known before the arm moves."""
        blank = blank_pictures(run, (self._camera,))[self._camera]
        video = Video({self._camera: np.stack([blank] * 2)}, np.arange(2.0), np.arange(2))
        for asked in self._spec.questions:
            require_size(self._spec, asked, blank.shape[1], blank.shape[0])
            for row in self._scorer.log_probabilities(asked, video, self._spec.instructions[0]):
                if not np.isfinite(row).all():
                    raise PackageError(f"the logits of {self.package.folder} are not finite")

    def close(self) -> None:
        self._scorer.close()

    def _seen_until(self, picture: np.ndarray, step: int) -> Video:
        """The episode's frames with this one; keeps it."""
        if len(self._steps) == self._most:
            self._frames[: self._most // 2] = self._frames[::2].copy()
            self._steps = self._steps[::2]
        kept = len(self._steps)
        self._frames[kept] = prepare(picture, self._spec.picture)
        steps = np.array([*self._steps, step], np.int64)
        seen = {self._camera: self._frames[: kept + 1]}
        video = Video(seen, (steps - steps[0]) / self._loop_rate_hz, steps)
        self._steps.append(step)  # only now: one that does not fit must not spoil those after it
        return video


def open_vlm(run: Run, package: Package, options: EngineOptions) -> VlmRunner:
    """Raises `EntracteError`."""
    scorer = open_scorer(package, options)
    try:
        return VlmRunner(package, scorer, run.config.reward, run.config.loop.rate_hz)
    except BaseException:
        scorer.close()
        raise
