"""Releases of the robot's own reward head: lessons from stored episodes, adaptation, publishing.

Owns which labels count and when; how a head learns is `trainer.rewards.adaptation`'s. It runs after the
policy's release is offered, so that a robot never waits for it. Nothing here is state but the publish_seq
(see `trainer.work`): lessons are made from the store again after a restart.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from contracts import config
from contracts.errors import ConfigError, EntracteError
from contracts.files.packages import load_package
from contracts.package import package_id
from contracts.weights import read_tensors
from trainer.config import AdaptationSection, TrainerConfig
from trainer.encoder import encodings_of
from trainer.interfaces import EpisodeKey, ScoredEpisode, Update
from trainer.publisher import Publisher
from trainer.rewards.adaptation import (
    AdaptationOptions,
    HeadAdaptation,
    Lesson,
    frame_rows,
    held_back,
    targets,
)
from trainer.rewards.demonstrations import read_demonstrations
from trainer.rewards.edge import EdgeReward

DEMONSTRATIONS = 20
Loader = Callable[[EpisodeKey], ScoredEpisode]
"""A stored episode as the trainer's own model judged it. Raises `EntracteError` or `OSError`."""


class RewardHeads:
    """One robot reward package that is adapted. Used by the worker thread."""

    def __init__(self, root: Path, settings: TrainerConfig, scored_by: str, above: int = 0) -> None:
        """`scored_by`: `model_id` of the trainer's reward model; `above`: number of the last head. Raises
        `EntracteError`: a package that is no edge model, a label that would be the package's own word,
        demonstrations that can't be read."""
        section: AdaptationSection = settings.adaptation
        folder = Path(section.package)
        self.options = config.convert(
            dict(section.options), AdaptationOptions, "adaptation.options"
        )
        package = load_package(folder)
        self._eye = EdgeReward(package=folder, options={"threads": settings.threads})
        if "model" in section.labels and scored_by == self._eye.model_id:
            raise ConfigError(
                "adaptation.labels",
                expected="operator, or a trainer's reward model other than the robot's",
                found="model, which is the same package here: it would learn from itself",
            )
        self._labels = section.labels
        self._adaptation = HeadAdaptation(package, self.options, settings.seed)
        self.package_id = package_id(package.manifest)
        self.publisher = Publisher(
            root / "releases",
            package.manifest,
            target="reward",
            robot_ids=settings.release.robot_ids,
            valid_s=settings.release.valid_s,
            keep=settings.release.keep,
            keep_mib=settings.release.keep_mib,
            above=max(settings.release.above, above),
            own=folder,
            encodings=encodings_of(settings.release),
        )
        self._waiting: OrderedDict[EpisodeKey, None] = OrderedDict()
        self._lessons: OrderedDict[EpisodeKey, Lesson] = OrderedDict()
        self._shown = [
            lesson for path in settings.demonstrations for lesson in self._show(Path(path))
        ]

    def note(self, key: EpisodeKey) -> None:
        """An episode of refinement is stored (and scored); it is read when its lesson is needed."""
        self._waiting[key] = None

    def learn(self, load: Loader, iteration: int) -> tuple[Update | None, dict[str, Any]]:
        """A new head, or None with the reason under "refused"; figures for the metrics either way."""
        started = time.monotonic()
        unreadable = 0
        fresh: dict[EpisodeKey, Lesson] = {}
        # The newest first: of a long store read again after a restart, no more than are remembered.
        while self._waiting and len(fresh) < self.options.episodes:
            key, _ = self._waiting.popitem()
            try:
                lesson = self._lesson(load(key))
            except (EntracteError, OSError):  # one episode without a camera costs itself alone
                unreadable += 1
                continue
            if lesson:
                fresh[key] = lesson
        self._waiting.clear()
        self._lessons.update(reversed(fresh.items()))
        while len(self._lessons) > self.options.episodes:
            self._lessons.popitem(last=False)
        lessons = list(self._lessons.values())
        in_use = None
        if self.publisher.newest_seq:
            in_use = read_tensors(self.publisher.load_weights(self.publisher.newest_seq))
        adapted = self._adaptation.adapt([*self._shown, *lessons], in_use, iteration)
        record = {
            "refused": adapted.refused,
            "successes": sum(lesson.success is True for lesson in lessons),
            "failures": sum(lesson.success is False for lesson in lessons),
            "unreadable": unreadable,
            "demonstrations": len(self._shown),
            "adapt_s": time.monotonic() - started,
            **adapted.figures,
        }
        if not adapted.tensors:
            return None, record
        return Update(adapted.tensors, 1, answers=adapted.answers), record

    def _lesson(self, scored: ScoredEpisode) -> Lesson | None:
        """None where nobody labelled it, or its instruction has words that the package doesn't know."""
        episode = scored.episode
        label = episode.end.operator_success if "operator" in self._labels else None
        by_model = "model" in self._labels
        judged = [s for s in scored.signals if not s.abstained] if by_model else []
        if (label is None and not judged) or self._adaptation.unknown(episode.instruction):
            return None
        rows = frame_rows(episode.steps, self.options.frames)
        process, completion = targets(rows, episode.steps, label, judged)
        success = scored.success if label is None and by_model else label
        cameras = self._eye.contract.cameras
        pictures = {camera: episode.frames(camera, rows) for camera in cameras}
        embeddings = torch.from_numpy(self._eye.embed(pictures))
        key = episode.key
        return self._adaptation.lesson(
            episode.instruction,
            embeddings,
            process,
            completion,
            success,
            held_back(key.robot_id, key.episode_seq, self.options.hold_back),
        )

    def _show(self, folder: Path) -> list[Lesson]:
        """Demonstrations are successes, trained on and never held back."""
        rate_hz = self._eye.contract.rate_hz
        out = []
        for said, front, wrist in read_demonstrations(folder, DEMONSTRATIONS, rate_hz):
            if self._adaptation.unknown(said):
                continue
            rows = frame_rows(len(front), self.options.frames)
            embeddings = torch.from_numpy(
                self._eye.embed({"front": front[rows], "wrist": wrist[rows]})
            )
            process, completion = targets(rows, len(front), True)
            out.append(self._adaptation.lesson(said, embeddings, process, completion, True))
        return out


def open_heads(root: Path, settings: TrainerConfig, scored_by: str, above: int = 0) -> RewardHeads:
    """Of the configured package; numbers begin above `above`. Raises `EntracteError`."""
    unknown = sorted(set(settings.adaptation.labels) - {"operator", "model"})
    if unknown or not settings.adaptation.labels:
        raise ConfigError(
            "adaptation.labels", expected="operator, model or both", found=unknown or "none"
        )
    try:
        return RewardHeads(root, settings, scored_by, above)
    except OSError as error:
        raise EntracteError(f"adaptation: {error}") from error
