"""What chunks are drawn with, and that an episode tells it."""

from __future__ import annotations

import msgspec
import numpy as np

from contracts import wire
from contracts.draws import chunk_noise, chunk_offset
from contracts.messages import EpisodeStart

UNITS = ("deg", "deg", "percent")
START = EpisodeStart("r", "s", 1, "open", "t", "refine", 0, "p", 0, "q", 7, 1.0, 3, 2.5)


def test_the_first_candidate_is_the_same_whatever_is_drawn_beside_it() -> None:
    alone, many = (chunk_noise((3, 7), 4, (n, 5, 3), 0.5) for n in (1, 16))
    assert alone.dtype == np.float32
    np.testing.assert_array_equal(alone[0], many[0])
    assert not np.array_equal(alone, chunk_noise((3, 8), 4, (1, 5, 3), 0.5))
    assert not np.array_equal(alone, chunk_noise((3, 7), 5, (1, 5, 3), 0.5))


def test_only_degrees_are_explored_and_apart_from_the_noise() -> None:
    drawn = np.array([chunk_offset((3, 7), n, 2.0, UNITS) for n in range(400)])
    assert not drawn[:, 2].any()
    assert 1.7 < drawn[:, :2].std() < 2.3 and abs(drawn[:, :2].mean()) < 0.3
    assert not chunk_offset((3, 7), 1, 0.0, UNITS).any()
    noise = chunk_noise((3, 7), 1, (3,), 1.0)
    assert not np.allclose(noise[:2], chunk_offset((3, 7), 1, 1.0, UNITS)[:2])


def test_a_start_tells_the_draws_and_an_older_one_that_it_does_not() -> None:
    assert wire.unpack(wire.pack(START)).message == START
    told = msgspec.to_builtins(START)
    older = {name: told[name] for name in told if name not in ("policy_seed", "explore_deg")}
    packed = msgspec.msgpack.encode([wire.OLDEST_ON_DISK, older])
    found = wire.unpack([packed], oldest=wire.OLDEST_ON_DISK).message
    assert found == msgspec.structs.replace(START, policy_seed=-1, explore_deg=0.0)
