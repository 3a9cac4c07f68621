"""The second opinion on every episode: the robot's own reward as it was recorded, or another reward model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

from contracts.files.packages import read_manifest
from contracts.package import package_id
from trainer.config import TrainerConfig
from trainer.interfaces import ScoredEpisode, StoredEpisode
from trainer.report import engine
from trainer.scoring import Scorer, open_model

ROBOT = "robot"
EVEN = 0.5


class SecondOpinion(Protocol):
    name: str
    """For people."""

    def of(self, episode: StoredEpisode) -> tuple[bool | None, float | None]:
        """(success, completion at the end in [0, 1]), None where it can't say."""
        ...


def open_second(config: TrainerConfig) -> SecondOpinion | None:
    """As configured; None for nobody. Raises `EntracteError`."""
    section = config.monitors.second
    if not section.model:
        return None
    if section.model == ROBOT:
        return RobotsOwn(config)
    return OtherModel(config)


class RobotsOwn:
    """What the robot's reward engine said while it acted; no trainer can change that afterwards. A head that
    was taught by the reward model would only repeat it: of such an episode the package as it was shipped is
    asked, here, which no adaptation changes. It abstains where the robot ran the reward model's package."""

    name = "the robot's own reward"

    def __init__(self, config: TrainerConfig) -> None:
        section, ours = config.monitors.second, config.reward
        adaptation = config.adaptation
        self._threshold = section.threshold
        if not self._threshold:
            adapted = adaptation.package
            settings = read_manifest(Path(adapted)).settings if adapted else {}
            self._threshold = settings.get("completion_threshold", EVEN)
        self._same = ""
        """Package that would only agree with itself."""
        if ours.model == "edge" and ours.package:
            self._same = package_id(read_manifest(Path(ours.package)))
        self._untaught: Scorer | None = None
        """The package without what our releases taught its head."""
        if adaptation.package and "model" in adaptation.labels:
            model = open_model(config, "edge", adaptation.package, {"threads": config.threads})
            self._untaught = Scorer(model, ours.timeout_s)

    def of(self, episode: StoredEpisode) -> tuple[bool | None, float | None]:
        if self._same and episode.start.reward_id == self._same:
            return None, None
        if self._untaught is not None and episode.start.reward_version > 0:
            _, completion = said(self._untaught.score(episode))
            return None if completion is None else completion >= self._threshold, completion
        found = engine.judgement(episode.columns, self._threshold)
        if found.success is None:
            return None, None
        return found.success, found.completion


class OtherModel:
    """Another reward model, asked about every episode; a failure of it abstains."""

    def __init__(self, config: TrainerConfig) -> None:
        section = config.monitors.second
        model = open_model(config, section.model, section.package, section.options)
        self._scorer = Scorer(model, config.reward.timeout_s)
        self.name = f"the second reward model ({section.model})"

    def of(self, episode: StoredEpisode) -> tuple[bool | None, float | None]:
        return said(self._scorer.score(episode))


def said(scored: ScoredEpisode) -> tuple[bool | None, float | None]:
    """(success, completion at the end) of a scored episode, None where the model abstained."""
    completion = scored.signals[-1].completion if scored.signals else math.nan
    return scored.success, None if math.isnan(completion) else completion
