"""A release is judged by numbers before it acts: its engine answers the golden inputs as its weights did at
the trainer, or the robot keeps what it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from swap_robot import Robot, committed, nudged, package, robot, trainer

from contracts import answers
from contracts.answers import pack
from contracts.errors import ReleaseRejected
from contracts.files.packages import Package
from contracts.messages import ReleaseOffer, ReleaseOutcome, ReleaseQuery
from contracts.release import ReleaseManifest
from runtime.engines import Engine
from runtime.weights import swap_replay
from runtime.weights.swap import Swapper
from trainer.interfaces import Update
from trainer.publisher import Publisher

__all__ = ["package", "robot", "trainer"]
Tensors = dict[str, np.ndarray]
Spoil = Callable[[Tensors], Tensors]


@pytest.fixture(autouse=True)
def unsaid() -> Iterator[None]:
    """What is said once a process is said once a test."""
    swap_replay._say_unproven.cache_clear()
    yield
    swap_replay._say_unproven.cache_clear()


def answered(package: Package, tensors: Tensors) -> bytes:
    """What the trainer's network answers with these tensors: the tiny package's head in numpy."""
    found = []
    for case in package.golden["head"]:
        given = case.inputs
        centre = given["features"] @ tensors["head/mix"] + tensors["head/bias"]
        chunks = (given["noise"] * tensors["head/scale"] + centre).astype(np.float32)
        values = chunks.mean(axis=(1, 2), dtype=np.float32)
        found.append({"chunks": chunks, "values": values, "choice": np.zeros(1, np.int64)})
    return pack(found, [case.outputs for case in package.golden["head"]])


def push(robot: Robot, trainer: Publisher, tensors: Tensors, said: bytes) -> None:
    seq = trainer.prepare(Update(tensors, 3, answers=said), 1).publish_seq
    assert robot.fetch(trainer.commit(seq), trainer.load_weights(seq)) == []


def spoiling(monkeypatch: pytest.MonkeyPatch, engine: Engine, spoil: Spoil) -> None:
    """The engine's standbys get other weights than they are given, and say nothing: a refit that failed."""
    standby = type(engine).standby
    monkeypatch.setattr(
        type(engine), "standby", lambda self, weights: standby(self, spoil(dict(weights)))
    )


def rejected(robot: Robot, before: np.ndarray, words: str) -> ReleaseOutcome:
    """Refused for its answers, named and told; what acted acts on, and the release never will."""
    (outcome,) = robot.swapper.swap(episode_seq=1)
    assert outcome.outcome == "rejected" and words in outcome.reason, outcome.reason
    slots = robot.swapper.slots
    found = slots.find("quarantined")
    assert found is not None and found[1].publish_seq == outcome.publish_seq
    assert found[1].reason.startswith("answers: ") and words in found[1].reason
    assert outcome.report_id in {owed.report_id for owed in slots.state().owed}
    assert np.array_equal(robot.answer(), before)
    assert robot.swapper.swap(episode_seq=2) == []
    return outcome


def test_a_healthy_push_passes_and_says_nothing(
    robot: Robot, trainer: Publisher, capfd: pytest.CaptureFixture[str]
) -> None:
    before, tensors = robot.answer(), nudged(robot.package)
    push(robot, trainer, tensors, answered(robot.package, tensors))
    assert [o.outcome for o in robot.swapper.swap(episode_seq=1)] == ["swapped"]
    assert np.allclose(robot.answer(), before + 0.5, atol=1e-5)
    assert "golden" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        # Finite, near, and inside every bound: one number of 48 that is 3 % off.
        (lambda w: {**w, "head/mix": _times(w["head/mix"], 5, 1.03)}, "'chunks' on golden input 0"),
        # Two tensors' rows in one another's place.
        (
            lambda w: {**w, "head/mix": w["head/mix"][[1, 0, *range(2, 8)]].copy()},
            "'chunks' on golden",
        ),
        # One that a refit left as it was.
        (lambda w: {**w, "head/bias": w["head/bias"] - np.float32(0.5)}, "found 5.0e-01"),
    ],
)
def test_other_weights_than_were_signed_are_refused(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, words: str
) -> None:
    before, tensors = robot.answer(), nudged(robot.package)
    push(robot, trainer, tensors, answered(robot.package, tensors))
    with monkeypatch.context() as patched:
        spoiling(patched, robot.swapper.engine, spoil)
        outcome = rejected(robot, before, words)
    assert "as these weights did at the trainer" in outcome.reason
    assert robot.swapper.version == 0 and robot.swapper.tried == 1
    after = nudged(robot.package, 0.25)
    push(robot, trainer, after, answered(robot.package, after))
    assert [o.outcome for o in robot.swapper.swap(episode_seq=3)] == ["swapped"], (
        "the next is judged anew"
    )


def _times(tensor: np.ndarray, at: int, by: float) -> np.ndarray:
    changed = tensor.copy()
    changed.reshape(-1)[at] *= np.float32(by)
    return changed


def test_without_the_numbers_the_same_spoilt_engine_would_act(
    robot: Robot,
    trainer: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What the numbers are for; and releases without them are taken as before, which is said once."""
    spoiling(
        monkeypatch,
        robot.swapper.engine,
        lambda w: {**w, "head/mix": _times(w["head/mix"], 5, 1.03)},
    )
    for number in range(3):
        push(robot, trainer, nudged(robot.package, 0.1 * (number + 1)), b"")
        (*_, outcome) = robot.swapper.swap(number)
        assert outcome.outcome == "swapped" and outcome.publish_seq == number + 1
    said = capfd.readouterr().err
    assert said.count("golden inputs") == 1 and "the policy's releases do not say" in said


def test_an_engine_that_answers_no_number_is_refused(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tensors = robot.answer(), nudged(robot.package)
    push(robot, trainer, tensors, answered(robot.package, tensors))
    run, acting = type(robot.swapper.engine).run, robot.swapper.engine

    def spoilt(self: Engine, inputs: Tensors) -> Tensors:
        found = run(self, inputs)
        if self is acting:
            return found
        values = found["values"].copy()
        values[-1] = np.nan  # of a candidate that is not even chosen
        return {**found, "values": values}

    with monkeypatch.context() as patched:
        patched.setattr(type(acting), "run", spoilt)
        rejected(robot, before, "'values' on golden input 0: expected finite numbers, found NaN")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda said: said[:-1], "are not to this package's golden inputs: expected"),
        (lambda said: said + b"\0", "are not to this package's golden inputs: expected"),
        (
            lambda said: np.full(len(said) // 4, np.nan, "<f4").tobytes(),
            "finite numbers to compare with",
        ),
        (
            lambda said: (np.frombuffer(said, "<f4") * np.float32(1.01)).tobytes(),
            "on golden input 0",
        ),
    ],
)
def test_answers_that_are_not_these_weights_refuse_them(
    robot: Robot, trainer: Publisher, spoil: Callable[[bytes], bytes], words: str
) -> None:
    """A trainer's own mistake: it signs other tensors than it trained, or nonsense."""
    before, tensors = robot.answer(), nudged(robot.package)
    push(robot, trainer, tensors, spoil(answered(robot.package, tensors)))
    rejected(robot, before, words)


def test_tensors_released_under_one_anothers_names_are_refused(
    robot: Robot, trainer: Publisher
) -> None:
    """Signed, hashed, finite, of the right names and shapes, and not what the trainer computed with."""
    before, tensors = robot.answer(), nudged(robot.package)
    said = answered(robot.package, tensors)
    crossed = {**tensors, "head/mix": tensors["head/mix"][::-1].copy()}
    push(robot, trainer, crossed, said)
    rejected(robot, before, "'chunks' on golden input 0")


def test_how_near_is_decided_by_the_tolerance(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numpy and ONNX Runtime add up in another order: with no tolerance at all the same push is refused."""
    before, tensors = robot.answer(), nudged(robot.package)
    tensors["head/mix"] = tensors["head/mix"] * np.float32(1.0123)
    said = np.frombuffer(answered(robot.package, tensors), "<f4").copy()
    said[0] += np.float32(1e-4)
    with monkeypatch.context() as patched:
        patched.setattr(answers, "TOLERANCE", 1e-9)
        push(robot, trainer, tensors, said.tobytes())
        rejected(robot, before, "'chunks' on golden input 0")
    push(robot, trainer, tensors, said.tobytes())
    assert [o.outcome for o in robot.swapper.swap(episode_seq=3)] == ["swapped"]


def test_a_tolerance_that_is_none_refuses_the_release_and_not_the_robot(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tensors = robot.answer(), nudged(robot.package)
    wild = msgspec.structs.replace(robot.package.manifest, golden_tolerance={"head": 1e6})
    push(robot, trainer, tensors, answered(robot.package, tensors))
    monkeypatch.setattr(robot.swapper, "package", replace(robot.package, manifest=wild))
    (outcome,) = robot.swapper.swap(episode_seq=1)
    assert outcome.outcome == "rejected"
    assert "golden_tolerance of graph 'head': expected 0 to 0.5, found 1000000.0" in outcome.reason
    assert np.array_equal(robot.answer(), before)


def test_after_a_restart_the_numbers_are_still_there(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is loaded into a new engine, which is judged by what the slots kept of it."""
    tensors = nudged(robot.package)
    push(robot, trainer, tensors, answered(robot.package, tensors))
    robot.swapper.swap(episode_seq=1)
    committed(robot.swapper)
    sound = Robot(robot.folder, robot.package)
    sound.swapper.start()
    assert sound.swapper.version == 1
    again = Robot(robot.folder, robot.package)
    spoiling(
        monkeypatch,
        again.swapper.engine,
        lambda w: {**w, "head/mix": _times(w["head/mix"], 5, 1.03)},
    )
    notes = " ".join(again.swapper.start())
    assert "release 1 can't be loaded" in notes and "did at the trainer" in notes
    assert again.swapper.version == 0, "the package's own weights, which were proven"


def test_a_release_made_ready_beside_an_episode_is_judged_alike(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tensors = robot.answer(), nudged(robot.package)
    push(robot, trainer, tensors, answered(robot.package, tensors))
    swapper: Swapper = robot.swapper
    with monkeypatch.context() as patched:
        spoiling(
            patched, swapper.engine, lambda w: {**w, "head/mix": _times(w["head/mix"], 5, 1.03)}
        )
        swapper.look_ahead()
        assert swapper._ahead is not None and swapper._ahead.done.wait(60)
        assert isinstance(swapper._ahead.problem, ReleaseRejected)
        rejected(robot, before, "'chunks' on golden input 0")


def test_a_robot_that_knows_no_answers_is_offered_the_release_without(
    robot: Robot, trainer: Publisher
) -> None:
    """Its manifest type forbids fields that it does not know: they are left out, and the rest is signed."""
    tensors = nudged(robot.package)
    seq = trainer.prepare(
        Update(tensors, 3, answers=answered(robot.package, tensors)), 1
    ).publish_seq
    trainer.commit(seq)
    query = ReleaseQuery("bench-0", "policy", robot.package.package_id, 0)
    bare = trainer.answer_query(query, 1, "", ("delta", "zstd"))
    whole = trainer.answer_query(query, 1)
    assert isinstance(bare, ReleaseOffer) and isinstance(whole, ReleaseOffer)
    assert b'"answers"' in whole.manifest and b'"answers"' not in bare.manifest
    said, known = (msgspec.json.decode(o.manifest, type=ReleaseManifest) for o in (bare, whole))
    assert said == msgspec.structs.replace(known, answers=b"")
    assert robot.fetch(bare, trainer.load_weights(seq)) == [], "the signature is of what it got"
    assert [o.outcome for o in robot.swapper.swap(episode_seq=1)] == ["swapped"]
