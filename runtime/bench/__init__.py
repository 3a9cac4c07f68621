"""The simulated bench: an SO-101 on a table, two RGB-D cameras, tasks, experts and failures.

`World` is the whole of it; a server process wraps it. Imports MuJoCo when a World is made."""

from runtime.bench.arm import JOINT_NAMES
from runtime.bench.backend import SimulationUnavailable
from runtime.bench.experts import FAILURES, Expert, make_expert, styles_for
from runtime.bench.render import CAMERAS, Intrinsics
from runtime.bench.scene import Goal, RandomisationConfig, Scene
from runtime.bench.split import EVAL, EVALUATION_TASKS, SPLITS, TRAIN
from runtime.bench.state import Truth
from runtime.bench.tasks import TASKS, Task, TaskSpec, UnknownTask, register
from runtime.bench.world import BadCommand, NotReset, World, WorldConfig

__all__ = [
    "CAMERAS",
    "EVAL",
    "EVALUATION_TASKS",
    "FAILURES",
    "JOINT_NAMES",
    "SPLITS",
    "TASKS",
    "TRAIN",
    "BadCommand",
    "Expert",
    "Goal",
    "Intrinsics",
    "NotReset",
    "RandomisationConfig",
    "Scene",
    "SimulationUnavailable",
    "Task",
    "TaskSpec",
    "Truth",
    "UnknownTask",
    "World",
    "WorldConfig",
    "make_expert",
    "register",
    "styles_for",
]
