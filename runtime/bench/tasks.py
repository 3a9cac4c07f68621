"""The registry of tasks. A task says what stands on the table, what is asked, when it is done and
how an expert does it; a package of your own adds one through the entry point group TASK_GROUP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

import numpy as np

from runtime.bench import drafts, fixture_scripts, goals, language, scripts
from runtime.bench.goals import Reading
from runtime.bench.scene import Draft, Goal, Scene
from runtime.bench.split import EVALUATION_TASKS
from runtime.bench.state import BenchState

if TYPE_CHECKING:
    from runtime.bench.skills import Skills

TASK_GROUP = "entracte.tasks"

Script = Callable[["Skills", Goal], Iterator[np.ndarray]]

PLACE_FAILURES = (
    "wrong_object",
    "wrong_target",
    "drop",
    "miss_grasp",
    "near_miss",
    "knock",
    "stop_early",
    "undo",
    "idle",
    "random",
)
JOINT_FAILURES = (
    "wrong_object",
    "miss_grasp",
    "near_miss",
    "stop_early",
    "undo",
    "idle",
    "random",
)
# What is dropped or knocked off a plate is off the plate, and a push has nothing to drop.
TAKE_OFF_FAILURES = tuple(f for f in PLACE_FAILURES if f not in ("drop", "knock", "wrong_target"))
# Nor can a thing be picked up again from where it leans against a wall, to undo a push.
PUSH_FAILURES = tuple(f for f in PLACE_FAILURES if f not in ("drop", "undo"))
LIFT_FAILURES = tuple(f for f in PLACE_FAILURES if f != "wrong_target")
STORE_FAILURES = LIFT_FAILURES


class Task(Protocol):
    """What a task must offer.

    draft: draws the scene's contents; must respect the split. phrases: instruction, then
    paraphrases. evaluate: reads the goal (now, at reset). script: yields float[6] targets, one
    for each 0.1 s. failures: the styles of failures.py that make sense for it.
    """

    @property
    def name(self) -> str: ...
    @property
    def time_limit_s(self) -> float: ...
    @property
    def failures(self) -> tuple[str, ...]: ...
    def draft(self, rng: np.random.Generator, split: str) -> Draft: ...
    def phrases(self, goal: Goal) -> tuple[str, ...]: ...
    def evaluate(self, goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading: ...
    def script(self, skills: Skills, goal: Goal) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class TaskSpec:
    """A task put together from functions; see Task for what each does."""

    name: str
    draft: drafts.DraftMaker
    script: Script
    failures: tuple[str, ...]
    time_limit_s: float = 10.0
    phrases: Callable[[Goal], tuple[str, ...]] = language.phrases
    evaluate: goals.Evaluator = goals.evaluate

    @property
    def is_evaluation(self) -> bool:
        return self.name in EVALUATION_TASKS


class UnknownTask(ValueError):
    """A task that is not registered."""


TASKS: dict[str, Task] = {}


def register(task: Task) -> None:
    """Add a task.

    Raises:
        ValueError: the name is taken.
    """
    if task.name in TASKS:
        raise ValueError(f"a task named {task.name!r} is registered already")
    TASKS[task.name] = task


def find_task(name: str) -> Task:
    """The task of that name, from here or from an installed package.

    Raises:
        UnknownTask: naming the tasks there are.
    """
    if name not in TASKS:
        for entry in entry_points(group=TASK_GROUP):
            if entry.name == name:
                register(entry.load())
    if name not in TASKS:
        raise UnknownTask(f"no task is named {name!r}; there are {', '.join(sorted(TASKS))}")
    return TASKS[name]


for _spec in (
    TaskSpec("open_drawer", drafts.drawer("open"), fixture_scripts.work_joint, JOINT_FAILURES),
    TaskSpec("put_on", drafts.put_on, scripts.put, PLACE_FAILURES),
    TaskSpec("close_drawer", drafts.drawer("close"), fixture_scripts.work_joint, JOINT_FAILURES),
    TaskSpec("put_in", drafts.put_in, scripts.put, PLACE_FAILURES),
    TaskSpec("take_off", drafts.take_off, scripts.take_off, TAKE_OFF_FAILURES),
    TaskSpec("lift", drafts.lift, scripts.lift, LIFT_FAILURES),
    TaskSpec("stack", drafts.stack, scripts.put, PLACE_FAILURES),
    TaskSpec("push_to", drafts.push_to, scripts.push, PUSH_FAILURES),
    TaskSpec("open_tray", drafts.open_tray, fixture_scripts.work_joint, JOINT_FAILURES),
    TaskSpec("close_tray", drafts.close_tray, fixture_scripts.work_joint, JOINT_FAILURES),
    TaskSpec("open_lid", drafts.open_lid, fixture_scripts.work_joint, JOINT_FAILURES),
    TaskSpec("close_lid", drafts.close_lid, fixture_scripts.work_joint, JOINT_FAILURES),
    TaskSpec("press_button", drafts.press_button, fixture_scripts.press, JOINT_FAILURES),
    TaskSpec("turn_lever_left", drafts.turn_left, fixture_scripts.work_joint, JOINT_FAILURES),
    TaskSpec("turn_lever_right", drafts.turn_right, fixture_scripts.work_joint, JOINT_FAILURES),
    TaskSpec("store_in_drawer", drafts.drawer("store"), scripts.store, STORE_FAILURES, 25.0),
):
    register(_spec)
