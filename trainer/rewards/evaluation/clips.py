"""The evaluation of video reward models on folders of clips, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.interfaces import VideoRewardModel
from trainer.rewards.data import load_clips, load_played
from trainer.rewards.demonstrations import read_demonstrations
from trainer.rewards.edge import EdgeReward
from trainer.rewards.evaluation.cases import Case, cases_of_clips, labelled
from trainer.rewards.evaluation.nearest import NOT_SHOWN, NearestReward
from trainer.rewards.evaluation.suite import Progress, TaskReport, evaluate_task
from trainer.rewards.holdout import refuse_evaluation, validation_part

DEMONSTRATIONS = 15
DEMONSTRATION_HZ = 10 / 3
MOST_FITTED, MOST_VALIDATION = 400, 200
TRAIN = "of the train split: whatever learned from these is flattered here"


def evaluate_clips(
    models: Mapping[str, VideoRewardModel],
    data: Sequence[Path],
    *,
    fit: Sequence[Path] = (),
    demonstrations: Sequence[Path] = (),
    tasks: Sequence[str] | None = None,
    limit: int = 0,
    with_robustness: bool = True,
    draws: int = 400,
    seed: int = 0,
    report: Progress | None = None,
) -> list[TaskReport]:
    """One report a task. `fit`: clips of the train split; the blind baselines are fitted on those of the
    task, and calibration uses the part that no shipped model learned from (`holdout`)."""
    clips = load_played(data, tasks) if data else []
    learned = load_clips(fit, tasks=tasks)
    refuse_evaluation(learned)
    eye = next((model for model in models.values() if isinstance(model, EdgeReward)), None)
    shown = [
        one
        for folder in demonstrations
        for one in read_demonstrations(folder, DEMONSTRATIONS, DEMONSTRATION_HZ)
    ]
    out = []
    for task in sorted({clip.record.task for clip in clips}):
        mine = [clip for clip in clips if clip.record.task == task]
        cases = cases_of_clips(mine)
        kept = [clip for clip in learned if clip.record.task == task]
        said = {case.instruction for case in cases}
        more: dict[str, VideoRewardModel] = {}
        bank = [(front, wrist) for text, front, wrist in shown if text in said]
        if eye is not None and bank:
            embedded = [eye.embed({"front": f, "wrist": w}) for f, w in bank]
            more[NearestReward.model_id] = NearestReward(eye.embed, eye.contract, embedded)
        notes = [TRAIN] if any(clip.record.split == "train" for clip in mine) else []
        if demonstrations and not more:
            notes.append(NOT_SHOWN)
        out.append(
            evaluate_task(
                task,
                models,
                cases[:limit] if limit else cases,
                labelled(_spread(cases_of_clips(kept), MOST_FITTED)),
                more_baselines=more,
                validation=_spread(cases_of_clips(validation_part(kept)), MOST_VALIDATION),
                with_robustness=with_robustness,
                draws=draws,
                seed=seed,
                report=report,
                note="; ".join(notes),
            )
        )
    return out


def _spread(items: list[Case], most: int) -> list[Case]:
    return items[:: max(1, -(-len(items) // most))]
