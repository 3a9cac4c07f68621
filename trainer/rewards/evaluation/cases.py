"""What reward models are measured on: episodes with known truth, whatever they were read from. Data only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.errors import EntracteError
from contracts.frames import Video
from trainer.rewards.data import CAMERAS, Clip


@dataclass(frozen=True)
class Case:
    """One episode under one instruction. `group`: the recording it came from (intervals resample these).

    `progress` float[N] in [0, 1] (NaN where unknown) and `success` bool[N] are of the video's frames;
    `wrong`: instructions that make sense in the scene and are not fulfilled at its end; `load` reads
    the pictures.
    """

    name: str
    group: str
    task: str
    instruction: str
    progress: np.ndarray
    success: np.ndarray
    load: Callable[[], Video]
    paraphrases: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Done at the end: a task that was undone is not done."""
        return bool(self.success[-1])


def cases_of_clips(clips: Sequence[Clip]) -> list[Case]:
    """The played clips (arranged scenes have no time) under their own instruction."""
    return [_case(number, clip) for number, clip in enumerate(clips) if clip.record.rate_hz]


def _case(number: int, clip: Clip) -> Case:
    record = clip.record
    own = record.goals[0]
    others = zip(record.goals[1:], clip.success[1:], strict=True)
    steps = np.arange(record.frames)

    def load() -> Video:
        views = {camera: clip.pictures(camera) for camera in CAMERAS}
        return Video(views, steps / record.rate_hz, steps)

    return Case(
        name=f"{record.split}/{record.task}/{number:04d} {record.style}",
        group=clip.recording,
        task=record.task,
        instruction=own.instructions[0],
        progress=clip.progress[0].astype(np.float64),
        success=clip.success[0],
        load=load,
        paraphrases=own.instructions[1:],
        wrong=tuple(goal.instructions[0] for goal, met in others if not met[-1]),
    )


@dataclass(frozen=True)
class Labelled:
    """One moment that a blind baseline is fitted on. `progress` in [0, 1]; `end`: an episode's last."""

    group: str
    instruction: str
    progress: float
    done: bool
    end: bool
    load: Callable[[], Video]


def labelled(cases: Sequence[Case], moments: int = 4) -> list[Labelled]:
    """`moments` of each case, evenly spread, the last always in."""
    out = []
    for case in cases:
        count = len(case.success)
        for row in np.unique(np.linspace(0, count - 1, moments).round().astype(int)).tolist():
            if np.isnan(case.progress[row]):
                continue
            out.append(
                Labelled(
                    case.group,
                    case.instruction,
                    float(case.progress[row]),
                    bool(case.success[row]),
                    end=row == count - 1,
                    load=_until(case, row),
                )
            )
    return out


def _until(case: Case, row: int) -> Callable[[], Video]:
    return lambda: case.load().until(row)


def refuse_overlap(fitted: Sequence[Labelled], measured: Sequence[Case]) -> None:
    """Raise `EntracteError` if a baseline was fitted on an episode that is measured."""
    both = {one.group for one in fitted} & {case.group for case in measured}
    if both:
        raise EntracteError(
            "blind baselines must not be fitted on what is measured",
            expected="other episodes",
            found=f"{len(both)} shared, e.g. {min(both)}",
            remedy="fit them on training clips",
        )
