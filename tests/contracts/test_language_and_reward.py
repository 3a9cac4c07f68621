"""Tokens are stable; a reward signal can't hold a value that means something else."""

from __future__ import annotations

import math

import pytest

from contracts.language import PAD_ID, UNKNOWN_ID, build_vocabulary, encode, unknown_words
from contracts.reward import RewardSignal, abstain


def test_words_become_ids_and_unknown_ones_are_named() -> None:
    vocabulary = build_vocabulary(["Open the drawer.", "put the red cube"])
    tokens = encode("open the GREEN drawer!", vocabulary, 6)
    assert tokens.tolist()[4:] == [PAD_ID, PAD_ID]
    assert tokens[2] == UNKNOWN_ID
    assert unknown_words("open the green drawer", vocabulary) == ["green"]
    assert encode("the drawer open", vocabulary, 2).shape == (2,)


@pytest.mark.parametrize(
    "values",
    [{"process": 1.01}, {"completion": -0.1}, {"contrastive": 1.5}, {"process": math.inf}],
)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        RewardSignal(step=0, **values)


def test_abstaining_carries_a_reason_and_no_value() -> None:
    signal = abstain(3, "unknown word", "m")
    assert math.isnan(signal.process) and math.isnan(signal.completion)
    with pytest.raises(ValueError, match="abstains"):
        RewardSignal(step=0, process=0.5, abstained="why")
