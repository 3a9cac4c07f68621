"""Instructions: how goals are said, and which other goals the same scene could have been given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.bench import split as split_rule
from runtime.bench.catalog import OBJECT_COLOURS, ContainerType, FixtureType, ObjectType
from runtime.bench.scene import Goal, Scene

# The first form is the instruction, the others are its paraphrases.
_FORMS: dict[str, tuple[str, ...]] = {
    "on": (
        "put the {a} on the {b}",
        "place the {a} on the {b}",
        "move the {a} onto the {b}",
        "set the {a} down on the {b}",
    ),
    "in": (
        "put the {a} in the {b}",
        "place the {a} in the {b}",
        "move the {a} into the {b}",
        "drop the {a} into the {b}",
    ),
    "off": (
        "take the {a} off the {b}",
        "remove the {a} from the {b}",
        "move the {a} off the {b}",
    ),
    "lift": ("lift the {a}", "pick up the {a}", "raise the {a}"),
    "stack": ("stack the {a} on the {b}", "put the {a} on top of the {b}"),
    "push": (
        "push the {a} to the {b}",
        "slide the {a} to the {b}",
        "push the {a} against the {b}",
    ),
    "open": ("open the {a}", "pull the {a} open", "slide the {a} out"),
    "open lid": ("open the {a}", "lift the {a} open", "flip the {a} up"),
    "close": ("close the {a}", "push the {a} shut", "shut the {a}"),
    "press": ("press the {a}", "push the {a} down", "switch on the {a}"),
    "turn_left": ("turn the {a} to the left", "rotate the {a} left", "move the {a} to the left"),
    "turn_right": (
        "turn the {a} to the right",
        "rotate the {a} right",
        "move the {a} to the right",
    ),
    "store": (
        "open the {b}, put the {a} in it and close it",
        "store the {a} in the {b} and close it",
        "put the {a} away in the {b}",
    ),
}

_ANTONYM = {
    "open": "close",
    "close": "open",
    "turn_left": "turn_right",
    "turn_right": "turn_left",
    "on": "off",
    "in": "off",
}


def phrases(goal: Goal) -> tuple[str, ...]:
    """The instruction for a goal, then its paraphrases."""
    kind = "open lid" if goal.kind == "open" and goal.thing.endswith("lid") else goal.kind
    return tuple(form.format(a=goal.thing, b=goal.target) for form in _FORMS[kind])


@dataclass(frozen=True)
class Alternative:
    """Another instruction for the same scene. relation: how it differs from the true one:
    "object", "target", "verb", "antonym", "absent", or "paraphrase" for the same goal."""

    instruction: str
    goal: Goal
    relation: str


def alternatives(scene: Scene, rng: np.random.Generator, n: int) -> list[Alternative]:
    """Up to n wrong instructions for this scene, then all paraphrases of the true one.

    The nearest kinds come first in the draw (antonym, other object, other target). Equal rng
    states give equal lists at any time of an episode: the state has no part in the choice.
    """
    pool = [(goal, _relation(scene.goal, goal)) for goal in possible_goals(scene)]
    pool = [(g, r) for g, r in pool if g != scene.goal]
    absent = _absent_goal(scene, rng)
    if absent is not None:
        pool.append((absent, "absent"))
    if not pool:
        return [Alternative(text, scene.goal, "paraphrase") for text in scene.paraphrases]
    near = {"antonym": 4.0, "object": 3.0, "target": 3.0, "verb": 1.0, "absent": 1.5}
    weight = np.array([near[r] for _, r in pool])
    # Many goals of one relation share its weight, so that each relation gets its turn.
    for relation in near:
        same = np.array([r == relation for _, r in pool], dtype=bool)
        if same.any():
            weight[same] /= same.sum() ** 0.7
    count = min(n, len(pool))
    chosen = rng.choice(len(pool), size=count, replace=False, p=weight / weight.sum())
    out = []
    for k in chosen:
        goal, relation = pool[int(k)]
        forms = phrases(goal)
        out.append(Alternative(forms[int(rng.integers(len(forms)))], goal, relation))
    out += [Alternative(text, scene.goal, "paraphrase") for text in scene.paraphrases]
    return out


def possible_goals(scene: Scene) -> list[Goal]:
    """Every goal that makes sense in the scene, the true one among them."""
    goals: list[Goal] = []
    resting = {scene.goal.thing: scene.goal.target} if scene.goal.kind == "off" else {}
    for thing in scene.object_names:
        goals.append(Goal("lift", thing))
        for place in scene.containers:
            assert isinstance(place.type, ContainerType)
            on_it = resting.get(thing) == place.name
            goals.append(Goal("off" if on_it else place.type.relation, thing, place.name))
            if on_it:
                goals.append(Goal(place.type.relation, thing, place.name))
            else:
                goals.append(Goal("push", thing, place.name))
        for other in scene.objects:
            assert isinstance(other.type, ObjectType)
            if other.name == thing:
                continue
            goals.append(Goal("push", thing, other.name))
            if other.type.shape != "ball" and not thing.endswith("ball"):
                goals.append(Goal("stack", thing, other.name))
    goals += _fixture_goals(scene)
    if scene.split == split_rule.TRAIN:
        goals = [g for g in goals if not split_rule.is_reserved_pair(g.thing, g.target)]
    return goals


def _fixture_goals(scene: Scene) -> list[Goal]:
    if scene.fixture is None:
        return []
    kind = scene.fixture.type
    assert isinstance(kind, FixtureType)
    name = fixture_name(kind, scene)
    if kind.kind == "button":
        return [Goal("press", name)]
    if kind.kind == "lever":
        return [Goal("turn_left", name), Goal("turn_right", name)]
    goals = [Goal("open", name), Goal("close", name)]
    if kind.kind == "drawer":
        goals += [Goal("store", thing, name) for thing in scene.object_names]
    return goals


def fixture_name(kind: FixtureType, scene: Scene) -> str:
    """How the scene's own goal names its fixture, else the catalogue's name."""
    for said in (scene.goal.thing, scene.goal.target):
        if said.split(" ")[-1:] == [kind.kind]:
            return said
    return kind.name


def _relation(true: Goal, other: Goal) -> str:
    if _ANTONYM.get(true.kind) == other.kind and true.thing == other.thing:
        return "antonym"
    if _ANTONYM.get(other.kind) == true.kind and true.thing == other.thing:
        return "antonym"
    if true.kind == other.kind or {true.kind, other.kind} == {"on", "in"}:
        return "object" if true.thing != other.thing else "target"
    return "verb"


def _absent_goal(scene: Scene, rng: np.random.Generator) -> Goal | None:
    """The true goal with a thing that is not in the scene, or None where none fits."""
    words = scene.goal.thing.split(" ")
    if len(words) != 2 or scene.goal.thing not in scene.object_names:
        return None
    shape, present = words[1], scene.object_names
    names = [f"{colour} {shape}" for colour in OBJECT_COLOURS]
    free = [
        name
        for name in names
        if name not in present and not split_rule.is_reserved_pair(name, scene.goal.target)
    ]
    if not free:
        return None
    return Goal(scene.goal.kind, free[int(rng.integers(len(free)))], scene.goal.target)
