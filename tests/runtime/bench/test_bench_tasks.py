"""Tasks, experts, failures and counterfactuals, each over a few seeds; `slow` measures properly."""

from collections.abc import Iterator

import numpy as np
import pytest

from runtime.bench import (
    EVAL,
    EVALUATION_TASKS,
    FAILURES,
    TASKS,
    TRAIN,
    Goal,
    TaskSpec,
    World,
    make_expert,
    register,
    styles_for,
)
from runtime.bench.check import measure, run_episode
from runtime.bench.drafts import lift as lift_draft
from runtime.bench.goals import Reading
from runtime.bench.scene import Scene
from runtime.bench.skills import Skills
from runtime.bench.state import BenchState

pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def run(world: World, style: str = "expert", ticks: int = 300) -> Iterator[float]:
    """Play the scene to its end and yield progress after each tick."""
    expert = make_expert(world, 0, style)
    for _ in range(ticks):
        if expert.done:
            return
        world.command(expert.act())
        world.step(0.1)
        yield world.truth().progress


def test_there_are_enough_tasks_and_both_evaluation_tasks() -> None:
    assert len(TASKS) >= 12
    assert set(EVALUATION_TASKS) <= set(TASKS)
    assert all(set(task.failures) <= set(FAILURES) for task in TASKS.values())


@pytest.mark.parametrize("task", TASKS)
def test_experts_succeed_within_the_gates_limits(world: World, task: str) -> None:
    done = [run_episode(world, task, seed, TRAIN, "expert") for seed in range(3)]
    assert sum(o.success for o in done if o) >= 2
    assert max(o.peak_speed for o in done if o) <= 90.0
    assert max(o.peak_acceleration for o in done if o) <= 600.0


@pytest.mark.parametrize("task", EVALUATION_TASKS)
def test_evaluation_experts_are_quick(world: World, task: str) -> None:
    row = measure(world, task, "expert", EVAL, 6)
    assert row.successes >= 5
    assert row.median_s <= 9.0


@pytest.mark.parametrize("style", FAILURES)
def test_failures_do_not_succeed(world: World, style: str) -> None:
    outcomes = []
    for task in EVALUATION_TASKS:
        outcomes += [run_episode(world, task, seed, TRAIN, style) for seed in range(2)]
    ran = [o for o in outcomes if o is not None]
    assert ran
    assert sum(o.success for o in ran) == 0
    if style == "undo":
        assert any(o.ever for o in ran)


def test_progress_rises_to_one_and_falls_on_undo(world: World) -> None:
    world.reset("open_drawer", 0)
    rising = list(run(world))
    assert rising[0] < 0.2 and rising[-1] == 1.0
    assert np.diff(rising).min() > -0.1
    world.reset("open_drawer", 0)
    undone = list(run(world, "undo"))
    assert max(undone) == 1.0 and undone[-1] < 0.5
    assert world.truth().events[:2] == ("success", "undone")


def test_progress_falls_on_a_drop(world: World) -> None:
    world.reset("put_on", 1)
    track = list(run(world, "drop"))
    assert max(track) > 0.4 and track[-1] < 0.35
    assert not world.truth().success


def test_the_long_task_passes_its_stages_in_order(world: World) -> None:
    world.reset("store_in_drawer", 1, TRAIN)
    stages = [world.truth().stage for _ in run(world)]
    assert list(dict.fromkeys(stages)) == [0, 1, 2, 3]
    assert world.truth().success


def test_counterfactuals_know_what_is_true_of_the_scene(world: World) -> None:
    world.reset("open_drawer", 0)
    before = {text: (done, share) for text, done, share in world.counterfactuals(n=20)}
    assert before["pull the drawer open"] == (False, before["pull the drawer open"][1])
    shut = [v for k, v in before.items() if k in ("close the drawer", "shut the drawer")]
    shut += [v for k, v in before.items() if k == "push the drawer shut"]
    assert shut == [(True, 1.0)]
    list(run(world))
    after = {text: (done, share) for text, done, share in world.counterfactuals(n=20)}
    assert after.keys() == before.keys()
    assert after["pull the drawer open"] == (True, 1.0)
    closed = [v for k, v in after.items() if k.endswith("shut") or k.startswith(("close", "shut"))]
    assert closed and not closed[0][0] and closed[0][1] < 0.5


def test_counterfactuals_of_a_placement_name_other_things(world: World) -> None:
    scene = world.reset("put_on", 4)
    list(run(world))
    others = world.alternatives(n=30)
    kinds = {other.relation for other in others}
    assert {"target", "object", "verb", "absent", "paraphrase"} <= kinds
    for text, done, share in world.counterfactuals(n=30):
        assert 0.0 <= share <= 1.0
        wrong = text not in scene.paraphrases
        if wrong and text.startswith("put") and scene.goal.target not in text:
            assert not done


def test_styles_for_leaves_out_what_the_scene_has_no_room_for(world: World) -> None:
    for seed in range(8):
        scene = world.reset("open_drawer", seed)
        assert ("wrong_object" in styles_for(world)) == bool(scene.objects)
    with pytest.raises(ValueError, match="style is"):
        make_expert(world, 0, "sabotage")


def test_a_package_can_add_a_task(world: World) -> None:
    def evaluate(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
        near = max(0.0, 1.0 - float(np.linalg.norm(now.tip_m - now.objects[0].position_m)) / 0.3)
        return Reading(near > 0.75, near, 0)

    def script(skills: Skills, goal: Goal) -> Iterator[np.ndarray]:
        yield from skills.pick(goal.thing)

    spec = TaskSpec(
        "reach_test",
        lift_draft,
        script,
        ("idle",),
        phrases=lambda g: (f"reach the {g.thing}",),
        evaluate=evaluate,
    )
    register(spec)
    try:
        scene = world.reset("reach_test", 0, TRAIN)
        assert scene.instruction == f"reach the {scene.goal.thing}"
        list(run(world))
        assert world.truth().success
        with pytest.raises(ValueError, match="registered already"):
            register(spec)
    finally:
        del TASKS["reach_test"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_experts_succeed_nine_times_in_ten(world: World, task: str) -> None:
    episodes = 100 if task in EVALUATION_TASKS else 50
    split = EVAL if task in EVALUATION_TASKS else TRAIN
    assert measure(world, task, "expert", split, episodes).rate >= 0.9
