"""`robot-bench intruders`: what it takes for good."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.intruders import KINDS, Found

FOUND = Found(
    rate_hz=30.0,
    ticks={"quiet": 300, "attacked": 300},
    p50_s={"quiet": 0.0, "attacked": 0.0},
    p99_s={"quiet": 0.0, "attacked": 0.0005},
    missed={"quiet": 0, "attacked": 0},
    asked=1000,
    within=1000,
    seen={name: 10 for seen, _ in KINDS.values() for name in seen},
    refused={names[0]: 100 for _, names in KINDS.values()},
    strangers_heard=(),
    episodes=2,
    stored=2,
    machine={},
)


def test_all_attempts_in_counted_ticks_and_each_refused_and_counted_is_good() -> None:
    assert FOUND.good


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_not_counted_or_was_not_tried_is_not_good(kind: str) -> None:
    seen, refused = KINDS[kind]
    for changes in (
        {"refused": {**FOUND.refused, refused[0]: 9}},
        {"seen": {**FOUND.seen, **dict.fromkeys(seen, 0)}},
    ):
        assert not msgspec.structs.replace(FOUND, **changes).good


@pytest.mark.parametrize(
    "changes",
    [
        {"within": 999},
        {"stored": 1},
        {"strangers_heard": ("x",)},
        {"p99_s": {"quiet": 0.0, "attacked": 0.0011}},
    ],
    ids=str,
)
def test_an_attack_beside_the_counted_ticks_proves_nothing(changes: dict) -> None:
    assert not msgspec.structs.replace(FOUND, **changes).good
