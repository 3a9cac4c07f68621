"""What plugins hand over, in Python's own numbers: those of numpy and torch pass for them until a file is
written, and then what they are in can't be written or read. Pure.
"""

from __future__ import annotations

import dataclasses
import math
import operator

import msgspec

from contracts.errors import EntracteError, some_of
from contracts.reward import RewardSignal
from trainer.interfaces import Update

MOST_SAMPLES = 1 << 16
"""Candidate chunks of a release: more than any robot draws."""


def plain_signal(signal: RewardSignal) -> RewardSignal:
    """Raises `TypeError` or `ValueError` for what is no number."""
    return msgspec.structs.replace(
        signal,
        step=int(operator.index(signal.step)),
        process=float(signal.process),
        completion=float(signal.completion),
        contrastive=float(signal.contrastive),
        score_distribution=tuple(float(share) for share in signal.score_distribution),
        uncertainty=float(signal.uncertainty),
        model_id=str(signal.model_id),
        causal=bool(signal.causal),
        abstained=str(signal.abstained),
        staleness_s=float(signal.staleness_s),
    )


def plain_update(update: Update) -> Update:
    """Raises `EntracteError` for a setting that is not finite or a number of candidates that no robot draws:
    the release could not be read again. `TypeError` or `ValueError` for what is no number."""
    samples = int(operator.index(update.samples))
    settings = {str(name): float(value) for name, value in update.settings.items()}
    wrong = [f"'{name}' is {value}" for name, value in settings.items() if not math.isfinite(value)]
    if not 0 <= samples <= MOST_SAMPLES:
        wrong.append(f"samples is {samples}")
    if wrong:
        expected = f"finite settings, 0 to {MOST_SAMPLES} samples"
        raise EntracteError(
            "the update can't be released", expected=expected, found=some_of(wrong, 3)
        )
    metrics = {str(name): float(value) for name, value in update.metrics.items()}
    return dataclasses.replace(update, samples=samples, metrics=metrics, settings=settings)
