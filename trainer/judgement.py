"""When a reward model's signals mean success. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from contracts.reward import RewardSignal


def judge(signals: Sequence[RewardSignal], threshold: float, consecutive: int) -> bool | None:
    """True if the episode's last `consecutive` completions are all >= `threshold`.

    The end decides, not the best moment: a task that was undone is not done. Signals without a
    completion (abstained) are skipped, except that an abstaining last signal gives None: who can't see
    the end can't label it. Fewer than `consecutive` completions in all count as what they are.
    """
    if not signals or math.isnan(signals[-1].completion):
        return None
    said = [s.completion for s in signals if not math.isnan(s.completion)]
    return all(value >= threshold for value in said[-max(1, consecutive) :])


def check_signals(signals: Sequence[RewardSignal], steps: int) -> str:
    """What is wrong with what a reward model returned for `steps` steps; "" if nothing is."""
    if not signals:
        return "no signals"
    last = -1
    for signal in signals:
        if not isinstance(signal, RewardSignal):
            return f"returned {type(signal).__name__}"
        if not 0 <= signal.step < steps:
            return f"step {signal.step} outside the episode of {steps} steps"
        if signal.step <= last:
            return "steps do not increase"
        last = signal.step
        values = (signal.process, signal.completion, signal.contrastive)
        if all(math.isnan(value) for value in values) and not signal.abstained:
            return f"NaN without a reason at step {signal.step}"
    # Who leaves out the end can't label it: an earlier moment is none.
    return "" if last == steps - 1 else f"the last step scored is {last} of {steps} steps"
