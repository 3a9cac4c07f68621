"""How the shipped reward models are made and measured, from folders of clips: what the commands call."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from contracts.package import Provenance
from trainer.rewards import evaluate as measure
from trainer.rewards.data import Clip, load_clips, read_meta, trained_on
from trainer.rewards.demonstrations import (
    CONTEXT_FRAMES,
    Adapter,
    demonstration,
    kind_of,
    read_demonstrations,
    replayed,
    with_context,
)
from trainer.rewards.holdout import training_part, validation_part
from trainer.rewards.train_edge import (
    Edge,
    Progress,
    TrainSettings,
    calibrate,
    embed,
    embed_clip,
    fit_ground,
    keep_examples,
    load,
    score,
    train,
)

LICENCE = "Apache-2.0"
REPLAYED_CLIPS = 900
CALIBRATION_CLIPS = 500


def train_zero_shot(
    data: Sequence[Path],
    validation: Sequence[Path],
    settings: TrainSettings,
    report: Progress | None = None,
) -> tuple[Edge, dict[str, float]]:
    """Train, fit the ground, calibrate on kept-back pairs and fixtures; the model and its figures."""
    clips = load_clips(data)
    training = training_part(clips)
    kept = validation_part([*clips, *load_clips(validation)])
    edge = train(training, settings, report=report)
    edge.trained_on = trained_on(training)
    edge.fx = read_meta(data[0]).fx
    fit_ground(edge, ground_frames(edge, training))
    figures = calibrate(edge, _spread(kept, CALIBRATION_CLIPS), settings.false_positive_rate)
    keep_examples(edge, next(clip for clip in training if clip.record.rate_hz))
    edge.provenance = provenance([*data, *validation], settings.seed)
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
    settings: TrainSettings,
    report: Progress | None = None,
) -> tuple[Edge, dict[str, float]]:
    """The demo-conditioned model; calibrated on validation clips, each with successes of its own task
    (other pairs, other fixtures) as context, as the demonstrations are for the task at hand."""
    clips = load_clips(data)
    rng = np.random.default_rng(settings.seed)
    training, kept = training_part(clips), validation_part(clips)
    replay = replayed(edge, _spread(training, REPLAYED_CLIPS), rng)
    adapted = with_context(edge, CONTEXT_FRAMES * len(shown))
    examples = [demonstration(edge, *one) for one in shown]
    adapter = Adapter(adapted, examples, replay, settings.seed)
    adapter.run(settings, report)
    figures: dict[str, float] = {}
    for kind in adapter.kinds:
        if kind not in ("put_on", "open_drawer"):
            continue
        members = [replay[i] for i in adapter.by_kind[kind][: len(shown)]]
        vectors, times = adapter.context(members, adapted.shape.context)
        adapted.head.context.data.copy_(vectors)
        adapted.head.context_progress.data.copy_(times)
        mine = [clip for clip in kept if kind_of(clip) == kind]
        if len(mine) >= 20:
            found = calibrate(adapted, mine[:CALIBRATION_CLIPS], settings.false_positive_rate)
            figures |= {f"{kind} {name}": value for name, value in found.items()}
    adapter.set_context()
    adapted.settings["demonstrations"] = float(len(shown))
    adapted.provenance = provenance(data, settings.seed, "trunk of the base model; head adapted")
    return adapted, figures


def evaluate_all(
    model: Path | None,
    data: Sequence[Path],
    demonstrations: Path | None,
    tasks: Sequence[str] | None,
) -> Iterator[measure.Report]:
    """Reports of the model and of the baselines on every task of the clips."""
    clips = load_clips(data, tasks=tasks)
    edge = load(model) if model else None
    for task in sorted({clip.record.task for clip in clips}):
        mine = [clip for clip in clips if clip.record.task == task]
        yield measure.evaluate(measure.constant_scorer, mine, "constant", task)
        yield measure.evaluate(measure.clock_scorer, mine, "clock", task)
        if edge is None:
            continue
        if demonstrations:
            shown = read_demonstrations(demonstrations, 15, edge.settings["rate_hz"])
            bank = [embed(edge.trunk, front, wrist).numpy() for _, front, wrist in shown]
            nearest = measure.nearest_scorer(lambda clip: _embedded(edge, clip).numpy(), bank)
            yield measure.evaluate(nearest, mine, "nearest neighbour", task)
        yield measure.evaluate(
            lambda clip, said: score(edge, _embedded(edge, clip), said),
            mine,
            str(model.name if model else ""),
            task,
            threshold=edge.settings["completion_threshold"],
            consecutive=int(edge.settings["completion_consecutive"]),
        )


_CACHE: dict[int, tuple[Clip, torch.Tensor]] = {}


def _embedded(edge: Edge, clip: Clip) -> torch.Tensor:
    """Embeddings of the clip last asked for: a scorer is asked about one clip many times."""
    if id(clip) not in _CACHE:
        _CACHE.clear()
        _CACHE[id(clip)] = (clip, embed_clip(edge.trunk, clip))
    return _CACHE[id(clip)][1]


def provenance(data: Sequence[Path], seed: int, notes: str = "") -> Provenance:
    """How to make this model again: this command, and the commands that recorded its data."""
    recorded = "; ".join(read_meta(folder).command for folder in data)
    return Provenance(
        command=shlex.join(["robot-reward", *sys.argv[1:]]),
        seed=seed,
        data=recorded,
        licence=LICENCE,
        created_unix_s=float(int(time.time())),
        versions={name: version(name) for name in ("torch", "numpy", "opencv-python")},
        notes=notes,
    )


def _spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    """Up to `count` clips, evenly over the recording order (and so over the tasks)."""
    step = max(1, len(clips) // count)
    return list(clips[::step][:count])
