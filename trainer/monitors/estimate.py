"""True success from many verdicts of a reward model and few labels: prediction-powered inference. Pure.

Angelopoulos, Bates, Fannjiang, Jordan, Zrnic, "Prediction-powered inference", Science 382, 2023, with the
weight on the predictions of PPI++ (Angelopoulos, Duchi, Zrnic, arXiv 2311.01453) and labels drawn with
unequal probabilities (Horvitz and Thompson, JASA 47, 1952; Zrnic and Candès, arXiv 2403.03208).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from trainer.report.statistics import CONFIDENCE, Estimate

LEAST_LABELS = 2


def prediction_powered(
    scores: np.ndarray, labels: np.ndarray, chances: np.ndarray, confidence: float = CONFIDENCE
) -> Estimate:
    """Rate of true success of the policies behind these episodes, with a normal interval.

    `scores` float64[N] in [0, 1]: what the reward says; however wrong, it costs width alone. `labels`
    float64[N]: 0 or 1, NaN where nobody labelled. `chances` float64[N] in (0, 1]: how likely each episode was
    to be labelled, whoever drew it knowing its scores but not its truth. NaN below `LEAST_LABELS` labels.
    """
    labelled = np.isfinite(labels)
    count = len(scores)
    if labelled.sum() < LEAST_LABELS:
        return Estimate(math.nan, math.nan, math.nan, count)
    if not ((chances > 0) & (chances <= 1)).all():
        raise ValueError("chances must be in (0, 1]")
    weights = np.where(labelled, 1.0 / chances, 0.0)
    true = weights * np.where(labelled, labels, 0.0)
    said = scores * (1.0 - weights)
    # Mean 0 over the draws: adding any multiple of it changes the width, never the mean.
    spread = float(np.var(said))
    shared = float(np.mean((true - true.mean()) * (said - said.mean())))
    tuned = -shared / spread if spread > 0 else 0.0
    each = true + min(max(tuned, 0.0), 1.0) * said
    value = float(each.mean())
    # A dozen labels without one surprise would give an interval of nearly no width: as Agresti and Coull
    # (The American Statistician 52, 1998) add successes and failures, one surprise of each kind is added.
    surprises = 2.0 * float((weights[labelled] ** 2).mean())
    error = math.sqrt(float(((each - value) ** 2).sum()) + surprises) / count
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    low, middle, high = (min(max(x, 0.0), 1.0) for x in (value - half, value, value + half))
    return Estimate(middle, low, high, count)
