"""What the robot's own reward engine made of an evaluation, from its recording and the shipped threshold.

Evaluations are never scored by the trainer; where an engine ran in them, this is the judgement that
is held against the truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import EntracteError
from contracts.files.packages import read_manifest
from trainer.report.rows import Judgement


def threshold(config: Mapping[str, Any]) -> float:
    """Of completion, in the reward package that a robot's config names; NaN where there is none."""
    folder = config.get("reward", {}).get("package", "")
    try:
        settings = read_manifest(Path(folder)).settings if folder else {}
    except EntracteError:
        return math.nan
    return settings.get("completion_threshold", math.nan)


def judgement(columns: Mapping[str, np.ndarray], limit: float) -> Judgement:
    """The verdict on the episode's last score; abstained where there is none of its end.

    One score decides, however often in a row the package wants to be sure: an evaluation is over soon
    after the truth says success, before the engine could say it again.
    """
    completion = np.asarray(columns.get("reward.completion", ()), np.float64).reshape(-1)
    process = np.asarray(columns.get("reward.process", ()), np.float64).reshape(-1)
    scored = np.flatnonzero(np.isfinite(completion))
    if not len(scored):
        return Judgement()
    # Scores lie where they arrived, which shifts by a tick or two: the middle gap, not the smallest.
    every = int(np.median(np.diff(scored))) if len(scored) > 1 else len(completion)
    last = scored[-1]
    if len(completion) - 1 - last >= 2 * every:
        return Judgement()
    return Judgement(bool(completion[last] >= limit), float(completion[last]), float(process[last]))
