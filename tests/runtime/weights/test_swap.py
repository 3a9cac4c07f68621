"""From an offer to the active engine: what is refused at which door, and that the active one stays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
from swap_robot import Robot, committed, forged, nudged, package, release, robot, trainer
from tiny_package import head_inputs, make_package

from contracts import wire
from contracts.errors import ReleaseRejected, WireError
from contracts.files.packages import Package, safetensors_bytes
from contracts.messages import (
    ReleaseChunk,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
)
from contracts.package import TensorSpec
from runtime.engines import Engine
from runtime.weights.slots import SlotStore
from runtime.weights.swap_checks import MOST_CANDIDATES, SwapLimits, check_outputs, with_candidates
from trainer.publisher import KEY_FILE, PUBLIC_KEY_FILE, Publisher

__all__ = ["package", "robot", "trainer"]


def test_a_release_takes_effect_at_the_boundary(robot: Robot, trainer: Publisher) -> None:
    before = robot.answer()
    assert robot.fetch(*release(trainer, nudged(robot.package))) == []
    assert robot.staged == [1] and np.array_equal(robot.answer(), before)
    outcomes = robot.swapper.swap(episode_seq=11)
    assert [(o.outcome, o.publish_seq, o.episode_seq) for o in outcomes] == [("swapped", 1, 11)]
    assert 0 < outcomes[0].verified_s <= outcomes[0].staged_s <= outcomes[0].swapped_s < 5
    assert outcomes[0].bytes_on_wire == len(trainer.load_weights(1))
    assert np.allclose(robot.answer(), before + 0.5, atol=1e-5) and robot.swapper.version == 1
    committed(robot.swapper)
    assert robot.swapper.settle(success=True) is None


def test_a_restart_starts_from_the_committed_release(robot: Robot, trainer: Publisher) -> None:
    robot.fetch(*release(trainer, nudged(robot.package)))
    robot.swapper.swap(0)
    committed(robot.swapper)
    robot.fetch(*release(trainer, nudged(robot.package, 1.0)))
    robot.swapper.swap(1)
    answer = robot.answer()
    again = Robot(robot.folder, robot.package)
    again.swapper.start()
    assert again.swapper.version == 1, "what was on probation is tried again, not started from"
    again.swapper.swap(2)
    assert again.swapper.version == 2 and np.array_equal(again.answer(), answer)


def test_a_fault_on_probation_rolls_back(robot: Robot, trainer: Publisher) -> None:
    before = robot.answer()
    robot.fetch(*release(trainer, nudged(robot.package)))
    robot.swapper.swap(0)
    outcome = robot.swapper.settle(fault="non-finite command")
    assert (outcome.outcome, outcome.reason) == ("rolled_back", "non-finite command")
    assert robot.swapper.version == 0 and np.array_equal(robot.answer(), before)


def rejected(robot: Robot, outcomes: list[ReleaseOutcome], words: str) -> None:
    """One rejection that says why; nothing staged, nothing swapped, the active one as before."""
    assert [o.outcome for o in outcomes] == ["rejected"] and words in outcomes[0].reason
    assert math.isnan(outcomes[0].swapped_s)
    assert robot.swapper.swap(1) == [] and robot.swapper.version == 0
    golden = robot.package.golden["head"][0]
    found = robot.swapper.engine.run(golden.inputs)["chunks"]
    assert np.allclose(found, golden.outputs["chunks"], atol=1e-5)


def test_unsigned_is_refused_before_a_byte_is_fetched(robot: Robot, trainer: Publisher) -> None:
    offer, data = release(trainer, nudged(robot.package))
    rejected(robot, robot.fetch(msgspec.structs.replace(offer, signature=b"\0" * 64), data), "sign")
    assert robot.said(ReleaseWant) == [] and robot.fetcher.rejected == 1
    robot.fetch(msgspec.structs.replace(offer, signature=b"\0" * 64), data)
    assert robot.fetcher.rejected == 1, "the same offer again is not news"


def test_without_the_trainers_key_nothing_is_accepted(robot: Robot, trainer: Publisher) -> None:
    (robot.folder / PUBLIC_KEY_FILE).unlink()
    rejected(robot, robot.fetch(*release(trainer, nudged(robot.package))), "public key")


def test_a_replayed_release_is_refused(robot: Robot, trainer: Publisher) -> None:
    first = release(trainer, nudged(robot.package))
    robot.fetch(*first)
    robot.fetch(*release(trainer, nudged(robot.package, 1.0)))
    outcomes = robot.fetch(*first)
    assert [o.outcome for o in outcomes] == ["rejected"] and "increase" in outcomes[0].reason
    again = Robot(robot.folder, robot.package)
    assert "increase" in again.fetch(*first)[0].reason
    robot.swapper.swap(0)
    assert robot.swapper.version == 2


def test_the_second_answer_to_the_same_question_is_no_replay(
    robot: Robot, trainer: Publisher
) -> None:
    """Asked again while the first answer was under way, the trainer offers the same release twice."""
    offer, data = release(trainer, nudged(robot.package))
    robot.fetch(offer, data)
    wanted = len(robot.said(ReleaseWant))
    assert robot.fetch(offer, data) == [] and len(robot.said(ReleaseWant)) == wanted
    robot.swapper.swap(0)
    assert robot.fetch(offer, data) == [] and robot.fetcher.rejected == 0
    assert robot.swapper.version == 1 and robot.staged == [1]


def test_a_truncated_weight_file_is_refused(robot: Robot, tmp_path: Path) -> None:
    data = safetensors_bytes(nudged(robot.package))[:-8]
    offer = forged(tmp_path / "trainer", robot.package, data)
    rejected(robot, robot.fetch(offer, data), "not sound")


def test_bytes_changed_on_the_way_are_refused(robot: Robot, trainer: Publisher) -> None:
    offer, data = release(trainer, nudged(robot.package))
    rejected(robot, robot.fetch(offer, data[:-1] + b"\x01"), "signed ones")


def test_nan_weights_are_refused(robot: Robot, tmp_path: Path) -> None:
    tensors = nudged(robot.package)
    tensors["head/mix"][0, 0] = np.nan
    data = safetensors_bytes(tensors)
    rejected(robot, robot.fetch(forged(tmp_path / "trainer", robot.package, data), data), "NaN")


def test_killed_while_it_refuses_the_same_is_told_again(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, data = release(trainer, nudged(robot.package))
    data = data[:-1] + b"\x01"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SlotStore, "quarantine", killed)
        with pytest.raises(KeyboardInterrupt):
            robot.fetch(offer, data)
    again = Robot(robot.folder, robot.package)
    rejected(again, again.fetch(offer, data), "signed ones")
    before, after = robot.said(ReleaseOutcome), again.said(ReleaseOutcome)
    assert [o.report_id for o in before] == [o.report_id for o in after] == ["s1.policy-1"]
    assert again.swapper.slots.find("quarantined") is not None


def test_another_shape_is_refused(robot: Robot, tmp_path: Path) -> None:
    tensors = {**nudged(robot.package), "head/bias": np.zeros(7, np.float32)}
    data = safetensors_bytes(tensors)
    offer = forged(tmp_path / "trainer", robot.package, data)
    rejected(robot, robot.fetch(offer, data), "head/bias")


def test_frozen_tensors_are_refused(robot: Robot, tmp_path: Path) -> None:
    tensors = {**nudged(robot.package), "trunk/wide": robot.package.weights["trunk/wide"]}
    data = safetensors_bytes(tensors)
    offer = forged(tmp_path / "trainer", robot.package, data)
    rejected(robot, robot.fetch(offer, data), "not refinable")
    changed = (*robot.package.manifest.refinable[:2],)
    offer = forged(tmp_path / "trainer", robot.package, data, tensors=changed, publish_seq=2)
    assert "refinable ones" in robot.fetch(offer, data)[0].reason


def quarantined(robot: Robot, words: str) -> None:
    before = robot.answer()
    outcomes = robot.swapper.swap(1)
    assert [o.outcome for o in outcomes] == ["rejected"] and words in outcomes[0].reason
    assert robot.swapper.version == 0 and np.array_equal(robot.answer(), before)
    assert robot.swapper.slots.find("quarantined") is not None
    assert robot.swapper.swap(2) == [], "it is not tried again"
    assert robot.swapper.tried == 1, "what comes next is above it"


def test_weights_far_from_the_packages_own_are_refused(robot: Robot, trainer: Publisher) -> None:
    robot.fetch(*release(trainer, nudged(robot.package, 1e4)))
    quarantined(robot, "moved too far")


def test_actions_outside_the_limits_are_refused(robot: Robot, trainer: Publisher) -> None:
    robot.fetch(*release(trainer, nudged(robot.package, 160.0)))
    robot.swapper.limits = SwapLimits(norm_change=1e9, latency_s=1.0)
    quarantined(robot, "outside its limits")


def test_a_policy_that_changes_too_much_is_refused(robot: Robot, trainer: Publisher) -> None:
    robot.fetch(*release(trainer, nudged(robot.package, 20.0)))
    robot.swapper.limits = SwapLimits(output_change=0.01, latency_s=1.0)
    quarantined(robot, "change by")


def test_recorded_observations_are_replayed_too(robot: Robot, trainer: Publisher) -> None:
    inputs = head_inputs(np.random.default_rng(3))
    inputs["features"] *= 200  # far outside what golden.npz holds: only this one breaks the limit
    tensors = nudged(robot.package)
    tensors["head/mix"] *= np.float32(1.5)
    robot.fetch(*release(trainer, tensors))
    for _ in range(60):
        robot.swapper.remember(inputs)
    quarantined(robot, "replay of 52 observations")


def test_a_slow_engine_is_refused(robot: Robot, trainer: Publisher) -> None:
    robot.fetch(*release(trainer, nudged(robot.package)))
    robot.swapper.limits = SwapLimits(latency_s=0.0, latency_ratio=0.0)
    quarantined(robot, "ms (p90)")


def drawing(robot: Robot, folder: Path, samples: int) -> None:
    data = safetensors_bytes(nudged(robot.package))
    robot.fetch(forged(folder / "trainer", robot.package, data, samples=samples), data)


@pytest.mark.parametrize("samples", [-1, MOST_CANDIDATES + 1])
def test_a_number_of_candidates_out_of_bounds_is_refused(
    robot: Robot, trainer: Publisher, tmp_path: Path, samples: int
) -> None:
    drawing(robot, tmp_path, samples)
    quarantined(robot, f"expected 0 to {MOST_CANDIDATES}, found {samples}")


def test_candidates_that_a_head_never_draws_are_refused(package: Package) -> None:
    chunk, seen = package.manifest.chunk, package.golden["head"][0].inputs
    one = (TensorSpec("noise", "float32", (1, 4, 6)),)
    for inputs in (one, ()):
        assert with_candidates(chunk, inputs, seen, 0) is None
        assert with_candidates(chunk, inputs, seen, 1) is None
        with pytest.raises(ReleaseRejected, match="expected 1 or 0, found 4"):
            with_candidates(chunk, inputs, seen, 4)
    drawn = with_candidates(chunk, package.manifest.graph("head").inputs, seen, 5)
    assert drawn is not None and drawn["noise"].shape == (5, 4, 6)
    assert drawn["noise"].dtype == np.float32 and drawn["features"] is seen["features"]


@dataclass
class SlowForMany:
    """An engine that takes long over more than three candidates, and none over 20."""

    engine: Engine
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs, self.outputs, self.close = (
            self.engine.inputs,
            self.engine.outputs,
            self.engine.close,
        )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.seen.append(len(inputs["noise"]))
        if self.seen[-1] > 20:
            raise RuntimeError("outside the built profile")
        if self.seen[-1] > 3:
            time.sleep(0.1)
        return self.engine.run(inputs)

    def standby(self, weights: Mapping[str, np.ndarray]) -> SlowForMany:
        return SlowForMany(self.engine.standby(weights))


@pytest.mark.parametrize(
    ("samples", "why"), [(2, ""), (4, "ms (p90)"), (21, "21 candidates: found outside the built")]
)
def test_a_releases_own_number_of_candidates_is_tried_before_it_acts(
    robot: Robot, trainer: Publisher, tmp_path: Path, samples: int, why: str
) -> None:
    engine = SlowForMany(robot.swapper.engine)
    robot.swapper.active.engine = engine
    robot.swapper.limits = SwapLimits(latency_s=0.05)
    drawing(robot, tmp_path, samples)
    if why:
        quarantined(robot, why)
    else:
        assert [o.outcome for o in robot.swapper.swap(1)] == ["swapped"]
        assert isinstance(robot.swapper.engine, SlowForMany)
        assert robot.swapper.engine.seen[-1] == 2, "the last to be let go of what is bound"


@pytest.mark.parametrize(("samples", "limit_s"), [(4, 0.05), (2, 0.0)])
def test_the_engine_that_acts_runs_no_candidates_of_one_that_is_too_slow(
    robot: Robot, trainer: Publisher, tmp_path: Path, samples: int, limit_s: float
) -> None:
    """Too slow for them, or before: the loop's own inference would have to wait for those runs."""
    engine = SlowForMany(robot.swapper.engine)
    robot.swapper.active.engine = engine
    robot.swapper.limits = SwapLimits(latency_s=limit_s, latency_ratio=0.0)
    drawing(robot, tmp_path, samples)
    quarantined(robot, "ms (p90)")
    assert engine.seen and samples not in engine.seen


def test_a_slot_that_rotted_on_disk_is_refused(robot: Robot, trainer: Publisher) -> None:
    robot.fetch(*release(trainer, nudged(robot.package)))
    path = robot.swapper.slots.weights_path(robot.swapper.slots.find("staged")[0])
    path.write_bytes(path.read_bytes()[:-1] + b"\x02")
    quarantined(robot, "signed ones")


def test_a_fetch_resumes_after_lost_chunks_and_a_restart(
    robot: Robot, trainer: Publisher, monkeypatch
) -> None:
    monkeypatch.setattr("runtime.link.releases.CHUNK_BYTES", 64)
    offer, data = release(trainer, nudged(robot.package))
    robot.fetcher.on_offer(offer)
    for want in robot.said(ReleaseWant)[:2]:
        robot.serve(want, data)
    again = Robot(robot.folder, robot.package)
    assert again.fetch(offer, data) == [] and again.staged == [1]
    assert again.said(ReleaseWant)[0].offset == 128
    assert again.fetcher.bytes_fetched == len(data) - 128


@pytest.mark.parametrize("shape", [(1, 16), ()])
def test_a_chunk_that_is_not_plain_bytes_is_refused(
    robot: Robot, trainer: Publisher, shape: tuple[int, ...]
) -> None:
    offer, data = release(trainer, nudged(robot.package))
    robot.fetcher.on_offer(offer)
    chunk, nbytes = ReleaseChunk("policy", 1, 0), math.prod(shape)
    # Packed by hand: numpy makes of an array without sides one that has one.
    descriptor = wire.Buffer("data", "raw", "uint8", shape, nbytes)
    packet = wire.unpack(wire.pack(chunk, [(descriptor, data[:nbytes])]))
    with pytest.raises(WireError, match="not plain bytes"):
        robot.fetcher.on_chunk(chunk, packet)
    robot.serve(robot.said(ReleaseWant)[0], data)
    assert robot.staged == [1]


def test_silence_leads_to_a_new_query(robot: Robot, trainer: Publisher) -> None:
    offer, data = release(trainer, nudged(robot.package))
    robot.lose = 100
    robot.fetch(offer, data)
    robot.fetcher.tick(1e9)
    assert robot.said(ReleaseQuery)[-1].have_seq == 0
    robot.lose = 0
    assert robot.fetch(offer, data) == [] and robot.staged == [1]


def test_the_private_key_is_the_owners_alone(tmp_path: Path, trainer: Publisher) -> None:
    assert (tmp_path / "trainer" / KEY_FILE).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("off", "refused"), [(0.02, False), (5.0, True)])
def test_a_joint_that_stood_still_in_the_data_may_tremble_and_not_wander(
    off: float, refused: bool, tmp_path: Path
) -> None:
    """Range 0: as a share of it every rounding would be endless."""
    manifest = make_package(tmp_path / "package").manifest
    assert manifest.action is not None
    still = msgspec.structs.replace(
        manifest.action,
        low=(3.0, *manifest.action.low[1:]),
        high=(3.0, *manifest.action.high[1:]),
    )
    assert still.spans == (1.0, 200.0, 200.0, 200.0, 200.0, 100.0)
    chunks = np.full((1, 4, 6), 3.0, np.float32)
    problems = check_outputs(
        msgspec.structs.replace(manifest, action=still),
        [{"chunks": chunks}],
        [{"chunks": chunks + np.float32(off)}],
        SwapLimits(),
    )
    assert bool(problems) == refused, problems


def test_an_engine_that_nothing_leads_back_to_any_more_is_closed(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every commit the one committed before; one that holds what no collector frees was kept for good."""
    closed: list[int] = []
    for number in (1, 2, 3):
        robot.fetch(*release(trainer, nudged(robot.package, 0.1 * number)))
        robot.swapper.swap(number)
        engine, close = robot.swapper.engine, robot.swapper.engine.close

        def noted(number: int = number, close: Callable[[], None] = close) -> None:
            closed.append(number)
            close()

        monkeypatch.setattr(engine, "close", noted)
        assert closed == list(range(1, number - 1)), "a roll-back leads to it"
        committed(robot.swapper)
        assert closed == list(range(1, number))
    robot.swapper.close()
    assert closed == [1, 2, 3]
