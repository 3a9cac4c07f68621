"""What plugins hand over, in Python's own numbers: those of numpy and torch pass for them until a file is
written, and then what they are in can't be written or read. Pure.
"""

from __future__ import annotations

import operator

import msgspec

from contracts.reward import RewardSignal


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
