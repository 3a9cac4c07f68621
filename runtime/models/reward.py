"""The reward model on the robot: scores what the cameras see, at its own rate, beside the loop.

Owns the episode's first and earlier embeddings and the rule that ends an episode: completion above its
threshold so many times in a row. Whatever goes wrong abstains; nothing becomes a value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np

from contracts.files.packages import Package
from contracts.language import encode, unknown_words
from contracts.reward import RewardSignal, abstain
from runtime.config import RewardSection
from runtime.engines import Engine, options_of
from runtime.models.opening import open_package, open_parts
from runtime.models.policy import blank_pictures, images_for
from runtime.models.vlm_reward import VlmRunner, open_vlm
from runtime.run import Run
from runtime.weights.swap import Swapper


class RewardRunner:
    """`score` runs in a lane, one at a time; `is_complete` in the loop."""

    def __init__(
        self,
        package: Package,
        trunk: Engine,
        swapper: Swapper,
        section: RewardSection,
        loop_rate_hz: float,
    ) -> None:
        self.package, self.swapper = package, swapper
        self.manifest = package.manifest
        self._trunk, self._section = trunk, section
        rate_hz = section.rate_hz or self._setting("rate_hz", 3.0)
        self.every = max(1, round(loop_rate_hz / rate_hz))
        """Ticks between two scores."""
        self._more = round(section.end_after_s * loop_rate_hz / self.every)
        self._lag = max(1, round(self._setting("earlier_s", 2.0) * loop_rate_hz / self.every))
        self._tokens = np.zeros((1, self.manifest.instruction_length), np.int64)
        self._unknown: list[str] = []
        self._embeddings: list[np.ndarray] = []
        self._sure = 0

    @property
    def model_id(self) -> str:
        return f"{self.package.package_id}:{self.swapper.version}"

    @property
    def judge(self) -> str:
        """Names what says which episodes succeed: these weights with these thresholds, whatever number they
        came under."""
        head = self.swapper.active
        said = [self.package.package_id, head.weights_id, sorted(head.settings.items())]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def begin_episode(self, instruction: str) -> None:
        length = self.manifest.instruction_length
        self._tokens = encode(instruction, self.manifest.vocabulary, length)[None]
        self._unknown = unknown_words(instruction, self.manifest.vocabulary)
        self._embeddings = []
        self._sure = 0

    def is_due(self, step: int) -> bool:
        return step % self.every == 0

    def score(self, pictures: Mapping[str, np.ndarray], step: int) -> RewardSignal:
        """The three signals of one moment; the first call of an episode sets its first picture."""
        if self._unknown:
            return abstain(step, f"unknown words: {', '.join(self._unknown)}", self.model_id)
        try:
            return self._score(pictures, step)
        except Exception as error:  # whatever an engine raises, it is no score
            return abstain(
                step, f"the model failed: {type(error).__name__}: {error}", self.model_id
            )

    def is_complete(self, signal: RewardSignal) -> bool:
        """Whether completion is sure and has been for `end_after_s`; call once for each score, in order."""
        threshold = self._setting("completion_threshold", 0.5)
        # NaN (abstained) compares False: an abstention breaks the row.
        self._sure = self._sure + 1 if signal.completion >= threshold else 0
        wanted = max(1, round(self._setting("completion_consecutive", 1.0)))
        return self._sure >= wanted + self._more

    @property
    def is_sure(self) -> bool:
        """Whether completion was above its threshold in the newest score."""
        return self._sure > 0

    def warm_up(self, run: Run) -> None:
        """Two scores on nothing, off the clock."""
        blank = blank_pictures(run, self.manifest.cameras)
        for step in range(2):
            self._score(blank, step)
        self._embeddings = []

    def close(self) -> None:
        self.swapper.close()
        self._trunk.close()

    def _score(self, pictures: Mapping[str, np.ndarray], step: int) -> RewardSignal:
        size = (self.manifest.image_width, self.manifest.image_height)
        images = images_for(pictures, self.manifest.cameras, size)
        current = self._trunk.run(images)["embedding"].copy()  # kept for the whole episode
        self._embeddings.append(current)
        earlier = self._embeddings[max(0, len(self._embeddings) - 1 - self._lag)]
        inputs = {
            "first": self._embeddings[0],
            "earlier": earlier,
            "current": current,
            "tokens": self._tokens,
        }
        out = self.swapper.run(inputs)
        names = ("process", "completion", "contrastive", "ground")
        values = {name: float(np.asarray(out[name]).reshape(-1)[0]) for name in names}
        if not np.isfinite(list(values.values())).all():
            return abstain(step, "the model's output is not finite", self.model_id)
        # Only now: a sound release would be refused for what it is shown of a fault.
        self.swapper.remember(inputs)
        threshold = self._setting("ground_threshold", 0.5)
        if values["ground"] < threshold:
            why = f"outside the model's ground ({values['ground']:.2f} < {threshold:.2f})"
            return abstain(step, why, self.model_id)
        return RewardSignal(
            step=step,
            process=min(max(values["process"], 0.0), 1.0),
            completion=min(max(values["completion"], 0.0), 1.0),
            contrastive=min(max(values["contrastive"], -1.0), 1.0),
            uncertainty=min(max(1.0 - values["ground"], 0.0), 1.0),
            model_id=self.model_id,
        )

    def _setting(self, name: str, default: float) -> float:
        return float(self.swapper.active.settings.get(name, default))


Reward = RewardRunner | VlmRunner


def open_reward(run: Run) -> Reward | None:
    """The configured reward package; None where the config names none. Raises `EntracteError`."""
    section = run.config.reward
    if not section.package:
        return None
    package = open_package(section.package, "reward", "vlm")
    options = options_of(section)
    if package.manifest.model == "vlm":
        return open_vlm(run, package, options)
    with ExitStack() as opened:
        trunk, swapper = open_parts(opened, run, "reward", package, options)
        runner = RewardRunner(package, trunk, swapper, section, run.config.loop.rate_hz)
        opened.pop_all()
    return runner
