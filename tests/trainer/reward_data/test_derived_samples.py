"""What is derived of a video is what it says it is: commands, scores, frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal, abstain
from trainer.reward_data import edits
from trainer.reward_data.commands import Command, paraphrases, parse
from trainer.reward_data.counterfactual import (
    Proposal,
    RuleProposer,
    RuleValidator,
    Scene,
    counterfactuals,
)
from trainer.reward_data.model_counterfactual import (
    ModelProposer,
    ModelValidator,
    RewardModelValidator,
)
from trainer.reward_data.readers import Mp4Pictures
from trainer.reward_data.recipe import recipe_from
from trainer.reward_data.record import Goal, SourceVideo, score_of
from trainer.reward_data.samples import Maker, Sample

GRAYS = [np.full((8, 8, 3), 20 * k, np.uint8) for k in range(6)]
RED_CUP = Scene(
    "put the red cup on the plate", 5, things=("green block",), places=("bowl", "dish", "sink")
)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("put carrot on plate", Command("put", "carrot", "on", "plate")),
        (
            "Put the cup from the counter or drying rack into the sink.",
            Command("put", "cup", "in", "sink"),
        ),
        ("set the blue cube down on a red tray", Command("put", "blue cube", "on", "red tray")),
        ("turn the lamp on", Command("turn on", "lamp")),
        (
            "move the apple to the left of the bowl",
            Command("move", "apple", "left of", "bowl", direction="left"),
        ),
        ("take the mug out of the drawer", Command("take", "mug", "out of", "drawer")),
        ("contemplate the drawer", None),
        ("open the drawer and close the box", None),
    ],
)
def test_a_command_is_read_or_refused_as_a_whole(text: str, command: Command | None) -> None:
    assert parse(text) == command


def test_paraphrases_say_the_same_and_not_in_the_same_words() -> None:
    for text in ("put carrot on plate", "pick up the red block", "shut the drawer"):
        ways = paraphrases(text)
        assert len(ways) >= 2 and len(set(ways)) == len(ways)
        for way in ways:
            said = parse(way.removeprefix("please ").removesuffix(", please"))
            assert said == parse(text), way
            assert way != text


def test_rules_order_scores_by_how_much_of_the_command_still_holds() -> None:
    found = counterfactuals(
        RED_CUP, [], 30, np.random.default_rng(0), RuleProposer(), RuleValidator()
    )
    scores = {(p.change, p.reward) for p in found}
    assert scores == {
        ("object", 1), ("opposite", 1), ("colour", 1), ("container", 2), ("relation", 3), ("compound", 3),
    }  # fmt: skip
    tasks = {p.task for p in found}
    assert "put the green block on the plate" in tasks
    assert "take the red cup off the plate" in tasks
    assert not any(t.endswith("on the dish") for t in tasks), "a dish is a plate"
    first_three = [p.reward for p in found[:3]]
    assert sorted(first_three) == [1, 2, 3], "scores take turns"


@pytest.mark.parametrize(
    ("task", "reward", "change", "why"),
    [
        ("place the red mug onto the plate", 1, "object", "the same in other words"),
        ("put the cup on the plate", 1, "colour", "the same in other words"),
        ("move the red cup", 1, "opposite", "the same in other words"),
        ("pick up the red cup", 1, "opposite", "the same in other words"),
        ("put the plate on the plate", 1, "object", "a thing beside itself"),
        ("open the red cup", 1, "opposite", "a red cup doesn't open"),
        ("put the green block on the plate", 3, "object", "score 3"),
        ("admire the red cup", 1, "model", "isn't understood"),
    ],
)
def test_the_validator_refuses_what_may_be_true_or_makes_no_sense(
    task: str, reward: int, change: str, why: str
) -> None:
    verdict = RuleValidator().validate(RED_CUP, [], Proposal(task, reward, change))
    assert not verdict.holds and why in verdict.reason


def test_a_video_that_did_not_succeed_bears_only_what_can_not_be_true_of_it() -> None:
    scene = Scene("put the red cup on the plate", 1, things=("green block",), places=("bowl",))
    found = counterfactuals(
        scene, [], 30, np.random.default_rng(0), RuleProposer(), RuleValidator()
    )
    assert found and {(p.change, p.reward) for p in found} <= {("object", 1), ("colour", 1)}


def test_edits_show_the_rows_that_they_say() -> None:
    rows = edits.resampled(31, 10.0, 5, 60.0)
    assert rows[0] == 0 and rows[-1] == 30 and len(rows) == 16
    assert len(edits.resampled(3000, 10.0, 5, 60.0)) == 301, "no longer than a minute"
    assert edits.clipped(rows, 0.4).tolist() == rows[:7].tolist()
    back = edits.rewound(rows, 0.8, 0.2)
    assert back[12] == rows[12] and back[-1] == rows[3] and (np.diff(back)[12:] < 0).all()
    assert len(edits.paused(rows, 0.5, 4)) == 20 and set(edits.paused(rows, 0.5, 4)) == set(rows)
    assert len(edits.at_speed(rows, 2.0)) == 9 and edits.at_speed(rows, 2.0)[-1] == 30
    assert edits.held(rows[:4], 16).tolist() == [*rows[:4], *[rows[3]] * 12]


def made_of(goal: Goal, *others: Goal, **derive: float) -> list[Sample]:
    counts = dict.fromkeys(
        ("counterfactuals", "clips", "near_misses", "rewinds", "pauses", "speeds", "paraphrases"), 0.0
    )  # fmt: skip
    tree = {
        "sources": [{"kind": "human", "path": "."}],
        "derive": {**counts, **derive},
    }
    video = SourceVideo("s", "s/1", "g", Mp4Pictures("unused"), 41, 10.0, (goal, *others), "none")
    words = (("spoon", "red cup"), ("plate", "sink"))
    maker = Maker(
        video,
        recipe_from(tree, Path("."), "test"),
        words,
        RuleProposer(),
        RuleValidator(),
        lambda rows: [],
    )
    return maker.samples()


def test_clips_of_a_success_score_by_the_declared_fractions() -> None:
    own, *clips = made_of(Goal(("open the drawer",), 5, "human"), clips=40)
    assert own.origin == "success" and own.derived_from == ""
    assert {clip.reward for clip in clips} == {1, 2, 3, 4}
    declared = recipe_from(
        {"sources": [{"kind": "human", "path": "."}]}, Path("."), "x"
    ).fractions.scores
    for clip in clips:
        low, high = declared[clip.reward - 1]
        assert low <= clip.how["fraction"] <= high
        assert clip.derived_from == own.sample_id and clip.label_origin == "declared fraction"
        assert clip.rows == own.rows[: len(clip.rows)]


def test_where_the_state_is_known_it_gives_the_score() -> None:
    progress = tuple(min(1.0, k / 20) for k in range(41))
    goal = Goal(("open the drawer",), 5, "state", progress, tuple(k >= 20 for k in range(41)))
    samples = made_of(goal, clips=20, rewinds=20, near_misses=3)
    derived = [s for s in samples if s.origin in ("clip", "rewind", "near_miss")]
    assert {s.origin for s in derived} == {"clip", "rewind", "near_miss"}
    for sample in derived:
        last = sample.rows[-1]
        assert sample.reward == score_of(progress[last], last >= 20)
        assert sample.label_origin == "state"
    miss = next(s for s in samples if s.origin == "near_miss")
    assert max(miss.rows) < 20 and len(miss.rows) == len(samples[0].rows), "stops short, as long"


def test_failures_stay_as_they_are_and_videos_without_a_label_give_nothing() -> None:
    failure = made_of(
        Goal(("open the drawer",), 3, "human"), clips=5, rewinds=5, pauses=2, counterfactuals=5
    )
    assert {s.origin for s in failure} == {"failure", "pause"}
    assert {s.reward for s in failure} == {3}
    assert made_of(Goal(("open the drawer",), None, "unknown"), clips=5, pauses=5) == []


def test_other_goals_of_the_source_are_the_counterfactuals_where_there_are_some() -> None:
    others = [Goal((f"push box {k}",), k, "state", meant=False) for k in (1, 1, 1, 2, 4)]
    samples = made_of(Goal(("open the drawer",), 5, "state"), *others, counterfactuals=3)
    assert sorted(s.reward for s in samples[1:]) == [1, 2, 4]
    assert all(s.origin == "counterfactual" and s.label_origin == "state" for s in samples[1:])


def test_a_language_model_describes_proposes_and_validates() -> None:
    asked: list[tuple[str, int]] = []

    def ask(prompt: str, pictures: object) -> str:
        asked.append((prompt, len(pictures)))  # type: ignore[arg-type]
        if prompt.startswith("These frames"):
            return "A red cup stands on a plate beside a sponge."
        if "Propose" in prompt:
            return 'Sure: [{"command": "wash the cup", "score": 1}, {"command": "fill it", "score": 2}]'
        return "Yes, that holds." if "wash" in prompt else "No: it was filled."

    found = counterfactuals(
        RED_CUP, GRAYS, 4, np.random.default_rng(0), ModelProposer(ask, ask), ModelValidator(ask)
    )
    assert found == [Proposal("wash the cup", 1, "model")]
    assert asked[0][1] == 4, "frames go to the one who describes"
    assert "beside a sponge" in asked[1][0], "the description goes to the one who proposes"


@pytest.mark.parametrize(
    "answer",
    [
        "I can't help with that.",
        '[{"command": "a", "score": 5}]',
        '[{"command": "a", "score": "1"}]',
        '[{"command": "a", "score": 3}, {"command": "b", "score": 1}]',
        "[1, 2",
    ],
)
def test_an_answer_that_can_not_be_read_proposes_nothing(answer: str) -> None:
    proposer = ModelProposer(lambda prompt, pictures: answer)
    assert proposer.propose(RED_CUP, GRAYS, np.random.default_rng(0)) == []


class LastFrameBrightness:
    """A reward model: the brighter the last frame, the further. It abstains on commands about time."""

    model_id = "brightness"
    contract = FrameContract()
    completion_threshold = 0.5
    completion_consecutive = 1

    def score(self, video: Video, instruction: str) -> RewardSignal:
        if "later" in instruction:
            return abstain(len(video) - 1, "no clock")
        bright = float(video.views["front"][-1].mean()) / 100
        return RewardSignal(step=len(video) - 1, process=bright)


def test_a_reward_model_validates_within_its_tolerance_and_refuses_where_it_abstains() -> None:
    validator = RewardModelValidator(LastFrameBrightness(), 5.0, tolerance=1.0)
    bright = [*GRAYS]  # the last is 100: process 1, score 5
    assert validator.validate(RED_CUP, bright, Proposal("a", 4, "model")).holds
    assert not validator.validate(RED_CUP, bright, Proposal("a", 3, "model")).holds
    assert not validator.validate(RED_CUP, bright, Proposal("do it later", 4, "model")).holds


def test_scores_of_progress_keep_five_for_what_is_done() -> None:
    percents = (0, 12, 13, 37, 38, 62, 63, 99, 100)
    assert [score_of(p / 100, p == 100) for p in percents] == [1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert score_of(1.0, False) == 4
