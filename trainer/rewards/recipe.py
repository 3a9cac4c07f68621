"""How the shipped reward models are made and measured, from folders of clips: what the commands call."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from contracts.language import words
from contracts.package import Provenance
from trainer.rewards import evaluate as measure
from trainer.rewards.data import CAMERAS, Clip, load_clips, load_played, read_meta, trained_on
from trainer.rewards.demonstrations import (
    CONTEXT_FRAMES,
    Adapter,
    demonstration,
    read_demonstrations,
    replayed,
    with_context,
)
from trainer.rewards.edge import EdgeReward
from trainer.rewards.holdout import check_kinds, training_part, validation_part, without_kinds
from trainer.rewards.train_edge import (
    Edge,
    Progress,
    TrainSettings,
    calibrate,
    embed_clip,
    fit_ground,
    keep_examples,
    train,
)

LICENCE = "Apache-2.0"
REPLAYED_CLIPS = 900
CALIBRATION_CLIPS = 500
NEAREST = "nearest neighbour"
Relabel = Callable[[Sequence[Clip]], list[Clip]]
"""Clips as training shall see them: their own labels, or a teacher's."""


def train_zero_shot(
    data: Sequence[Path],
    validation: Sequence[Path],
    settings: TrainSettings,
    report: Progress | None = None,
    relabel: Relabel = list,
    notes: str = "",
    without: Sequence[str] = (),
) -> tuple[Edge, dict[str, float]]:
    """Train, fit the ground, calibrate on kept-back pairs and fixtures; the model and its figures. `without`:
    kinds of goals that it shall know nothing of."""
    clips = load_clips(data)
    more = load_clips(validation)
    check_kinds([*clips, *more], without)
    clips, more = without_kinds(clips, without), without_kinds(more, without)
    training = relabel(training_part(clips))
    kept = relabel(_spread(played(validation_part([*clips, *more])), CALIBRATION_CLIPS))
    edge = train(training, settings, report=report)
    edge.trained_on = trained_on(training)
    edge.fx = read_meta(data[0]).fx
    fit_ground(edge, ground_frames(edge, training))
    figures = calibrate(edge, kept, settings.false_positive_rate)
    keep_examples(edge, next(clip for clip in training if clip.record.rate_hz))
    edge.provenance = provenance([*data, *validation], settings.seed, notes)
    return edge, figures


def ground_frames(edge: Edge, clips: Sequence[Clip]) -> torch.Tensor:
    """Embeddings of every sixth frame of every sixth clip."""
    parts = []
    for clip in clips[::6]:
        rows = range(0, clip.record.frames, 6)
        parts.append(embed_clip(edge.trunk, clip, rows))
    return torch.cat(parts)


def adapt_to(
    edge: Edge,
    shown: Sequence[tuple[str, np.ndarray, np.ndarray]],
    data: Sequence[Path],
    validation: Sequence[Path],
    settings: TrainSettings,
    report: Progress | None = None,
    without: Sequence[str] = (),
) -> tuple[Edge, dict[str, float]]:
    """The demo-conditioned model; calibrated on validation clips of the training task that is said most
    like it, with successes of that task (other pairs, other fixtures) as context, as the demonstrations are
    for the task at hand. `without`: kinds of goals that are not replayed, as they were not trained on."""
    clips, more = load_clips(data), load_clips(validation)
    check_kinds([*clips, *more], without)
    clips, more = without_kinds(clips, without), without_kinds(more, without)
    rng = np.random.default_rng(settings.seed)
    training = training_part(clips)
    kept = played(validation_part([*clips, *more]))
    replay = replayed(edge, _spread(training, REPLAYED_CLIPS), rng)
    said = [text for text, _, _ in shown]
    adapted = with_context(edge, CONTEXT_FRAMES * len(shown), said)
    adapted.trained_on["demonstrated"] = sorted(set(said))
    examples = [demonstration(adapted, *one) for one in shown]
    adapter = Adapter(adapted, examples, replay, settings.seed)
    adapter.run(settings, report)
    kind = nearest_kind(said, training, adapter.kinds)
    members = [replay[i] for i in adapter.by_kind[kind][: len(shown)]]
    vectors, times = adapter.context(members, adapted.shape.context)
    adapted.head.context.data.copy_(vectors)
    adapted.head.context_progress.data.copy_(times)
    # Of some tasks no fixture was kept back: then all that was, as the base model is calibrated.
    mine = [clip for clip in kept if clip.record.task == kind] or kept
    figures = calibrate(adapted, mine, settings.false_positive_rate)
    adapter.set_context()
    adapted.settings["demonstrations"] = float(len(shown))
    adapted.provenance = provenance(
        [*data, *validation], settings.seed, "trunk of the base model; head adapted"
    )
    return adapted, figures


def nearest_kind(said: Sequence[str], clips: Sequence[Clip], kinds: Sequence[str]) -> str:
    """The task of `kinds` whose instructions share most words with these."""
    target = [set(words(text)) for text in said]

    def likeness(kind: str) -> float:
        found = [
            set(words(clip.record.goals[0].instructions[0]))
            for clip in clips
            if clip.record.task == kind
        ]
        return float(np.mean([len(a & b) / len(a | b) for a in target for b in found]))

    return max(kinds, key=likeness)


def evaluate_all(
    packages: Sequence[Path],
    data: Sequence[Path],
    demonstrations: Sequence[Path],
    tasks: Sequence[str] | None,
) -> Iterator[measure.Report]:
    """Reports of reward packages, as the daemon would run them, and of the baselines on every task of the
    clips. The nearest-neighbour baseline uses the first package's trunk and those of the demonstrations
    whose instruction the task's clips say."""
    clips = load_played(data, tasks)
    models = [(path.name, EdgeReward(package=path)) for path in packages]
    shown = [one for folder in demonstrations for one in read_demonstrations(folder, 15, 10 / 3)]
    for task in sorted({clip.record.task for clip in clips}):
        mine = [clip for clip in clips if clip.record.task == task]
        said = {clip.record.goals[0].instructions[0] for clip in mine}
        yield measure.evaluate(measure.constant_scorer, mine, "constant", task)
        yield measure.evaluate(measure.clock_scorer, mine, "clock", task)
        bank = [(front, wrist) for text, front, wrist in shown if text in said]
        if models and bank:
            eye = models[0][1]
            embedded = [eye.embed({"front": f, "wrist": w}) for f, w in bank]
            nearest = measure.nearest_scorer(partial(_embed_clip, eye), embedded)
            yield measure.evaluate(nearest, mine, NEAREST, task)
        for name, model in models:
            yield measure.evaluate(
                _package_scorer(model),
                mine,
                name,
                task,
                threshold=model.completion_threshold,
                consecutive=model.completion_consecutive,
            )


def _embed_clip(model: EdgeReward, clip: Clip) -> np.ndarray:
    return model.embed(_pictures(clip))


def _pictures(clip: Clip) -> dict[str, np.ndarray]:
    return {camera: clip.pictures(camera) for camera in CAMERAS}


def _package_scorer(model: EdgeReward) -> measure.Scorer:
    """Embeds a clip once for all the instructions it is asked about. An abstention is NaN."""
    last: list[tuple[Clip, np.ndarray]] = []

    def signals(clip: Clip, said: str) -> measure.Signals:
        if not last or last[0][0] is not clip:
            last[:] = [(clip, model.embed(_pictures(clip)))]
        found = model.score_embeddings(said, last[0][1], range(clip.record.frames), measure.LAG)
        return {
            name: np.array([getattr(signal, name) for signal in found])
            for name in ("process", "completion", "contrastive")
        }

    return signals


def provenance(data: Sequence[Path], seed: int, notes: str = "") -> Provenance:
    """How to make this model again: this command, and the commands that recorded its data."""
    recorded = "; ".join(read_meta(folder).command for folder in data)
    return Provenance(
        # Folders by name alone: where they lay on this machine is nobody's business.
        command=shlex.join(
            ["robot-reward", *(Path(a).name if "/" in a else a for a in sys.argv[1:])]
        ),
        seed=seed,
        data=recorded,
        licence=LICENCE,
        created_unix_s=float(int(time.time())),
        versions={name: version(name) for name in ("torch", "numpy", "opencv-python")},
        notes=notes,
    )


def played(clips: Sequence[Clip]) -> list[Clip]:
    """Episodes only: arranged scenes are full of cases on the edge that no hand brings about, and a
    threshold set on them would miss successes."""
    return [clip for clip in clips if clip.record.rate_hz]


def _spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    """Up to `count` clips, evenly over the recording order (and so over the tasks)."""
    step = max(1, len(clips) // count)
    return list(clips[::step][:count])
