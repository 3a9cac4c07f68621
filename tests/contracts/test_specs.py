"""A policy for another robot is refused with every difference named."""

from __future__ import annotations

import msgspec
import pytest

from contracts.errors import SpecMismatch
from contracts.specs import (
    SO101_JOINTS,
    ActionSpec,
    CameraSpec,
    ObservationSpec,
    require_compatible,
    spec_hash,
)


def action(**changes: object) -> ActionSpec:
    spec = ActionSpec(
        names=SO101_JOINTS,
        units=("deg",) * 5 + ("percent",),
        low=(-100.0,) * 5 + (0.0,),
        high=(100.0,) * 6,
        max_velocity=(90.0,) * 6,
        max_acceleration=(600.0,) * 6,
        rate_hz=10.0,
    )
    return msgspec.structs.replace(spec, **changes)


def observation(**changes: object) -> ObservationSpec:
    spec = ObservationSpec(
        cameras=(
            CameraSpec("front", 128, 96, 10.0, fx=93.0, fy=93.0, cx=64.0, cy=48.0),
            CameraSpec("wrist", 128, 96, 10.0, fx=93.0, fy=93.0, cx=64.0, cy=48.0),
        ),
        state_names=SO101_JOINTS,
        state_units=("deg",) * 5 + ("percent",),
    )
    return msgspec.structs.replace(spec, **changes)


def test_the_same_robot_is_fine() -> None:
    require_compatible(observation(), action(), observation(), action(), "the policy")


def test_a_larger_picture_of_the_same_shape_is_fine() -> None:
    full = tuple(
        CameraSpec(name, 640, 480, 30.0, fx=465.0, fy=465.0, cx=320.0, cy=240.0)
        for name in ("front", "wrist", "extra")
    )
    require_compatible(observation(), action(), observation(cameras=full), action(), "the policy")


@pytest.mark.parametrize(
    ("offered_observation", "offered_action", "named"),
    [
        (observation(), action(names=("a", "b")), "action names"),
        (observation(), action(units=("rad",) * 6), "action units"),
        (observation(), action(high=(50.0,) * 6), "range of shoulder_pan.pos"),
        (observation(state_names=("x",)), action(), "state names"),
        (observation(state_units=("rad",) * 6), action(), "state units"),
        (observation(cameras=observation().cameras[:1]), action(), "'wrist' is missing"),
        (
            observation(
                cameras=(
                    CameraSpec("front", 100, 100, 10.0),
                    observation().cameras[1],
                )
            ),
            action(),
            "aspect ratio",
        ),
        (
            observation(
                cameras=(
                    CameraSpec("front", 128, 96, 10.0, fx=120.0, fy=120.0),
                    observation().cameras[1],
                )
            ),
            action(),
            "field of view",
        ),
    ],
)
def test_each_difference_is_named(
    offered_observation: ObservationSpec, offered_action: ActionSpec, named: str
) -> None:
    with pytest.raises(SpecMismatch, match=named):
        require_compatible(
            observation(), action(), offered_observation, offered_action, "the policy"
        )


def test_hash_follows_content() -> None:
    assert spec_hash(action()) == spec_hash(action())
    assert spec_hash(action()) != spec_hash(action(rate_hz=20.0))
