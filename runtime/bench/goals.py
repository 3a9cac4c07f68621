"""Whether a goal is met in a state, and how far it is: pure functions, one per kind of goal.

Progress is a potential of the state alone: a share for reaching what is handled, the rest for how
far that thing has come. It falls when a thing is dropped or a success undone; time plays no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runtime.bench.catalog import ContainerType, FixtureType
from runtime.bench.scene import Goal, Placed, Scene
from runtime.bench.state import BenchState, ObjectState

AT_REST_M_S = 0.03
OPEN_FROM = {"drawer": 0.75, "tray": 0.75, "lid": 0.60}
CLOSED_BELOW = {"drawer": 0.08, "tray": 0.08, "lid": 0.06}
LIFTED_M = 0.05
TOUCHING_GAP_M = 0.018
REACH_SHARE = 0.25


@dataclass(frozen=True)
class Reading:
    """met: the goal's condition holds now; progress in [0, 1]; stage: ordered stages done now."""

    met: bool
    progress: float
    stage: int


Evaluator = Callable[[Goal, BenchState, BenchState, Scene], Reading]


def evaluate(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    """Read `goal` in state `now`; `start` is the state at reset and sets the scale of distances.

    Raises:
        KeyError: a kind of goal that no evaluator is registered for.
    """
    return EVALUATORS[goal.kind](goal, now, start, scene)


def is_resting_in(thing: ObjectState, container: Placed) -> bool:
    """The thing lies on or in the container, whether or not the hand still holds it."""
    kind = container.type
    assert isinstance(kind, ContainerType)
    if _outside(thing, container) > 0.0:
        return False
    slack = 0.010 if kind.wall_m == 0.0 else max(0.012, kind.wall_m * 0.8)
    return kind.floor_m - 0.004 < thing.bottom_m < kind.floor_m + slack


def is_in_drawer(thing: ObjectState, fixture: Placed, opened: float) -> bool:
    """The thing's centre is inside the drawer's box, below the housing's top."""
    kind = fixture.type
    assert isinstance(kind, FixtureType)
    x, y = in_frame(fixture, thing.position_m)
    x += opened * kind.travel
    inside = 0.0 < x < kind.depth_m and abs(y) < kind.width_m / 2
    return inside and thing.bottom_m < 0.6 * kind.height_m


def in_frame(place: Placed, point_m: np.ndarray) -> tuple[float, float]:
    """A world point's x, y in the frame of something on the table."""
    dx, dy = float(point_m[0]) - place.x_m, float(point_m[1]) - place.y_m
    c, s = math.cos(place.yaw_rad), math.sin(place.yaw_rad)
    return c * dx + s * dy, -s * dx + c * dy


def _met(progress: float, met: bool) -> Reading:
    return Reading(met, 1.0 if met else min(max(progress, 0.0), 0.97), int(met))


def _outside(thing: ObjectState, container: Placed) -> float:
    """How far the thing's centre is outside the container's rim (negative: inside), metres."""
    kind = container.type
    assert isinstance(kind, ContainerType)
    x, y = in_frame(container, thing.position_m)
    across = math.hypot(x, y) if kind.is_round else max(abs(x), abs(y))
    return across - kind.half_m


def _find(goal_name: str, state: BenchState, scene: Scene) -> ObjectState:
    return state.objects[scene.object_index(goal_name)]


def _reach(now: BenchState, start: BenchState, what: np.ndarray, what_then: np.ndarray) -> float:
    """How much of the hand's initial distance to the thing is gone, in [0, 1]."""
    then = max(float(np.linalg.norm(start.tip_m - what_then)), 0.08)
    left = max(float(np.linalg.norm(now.tip_m - what)) - 0.015, 0.0)
    return min(max(1.0 - left / then, 0.0), 1.0)


def _xy(a: np.ndarray, b: np.ndarray) -> float:
    return math.hypot(float(a[0] - b[0]), float(a[1] - b[1]))


def _carry(thing: ObjectState, then: ObjectState, target_xy: np.ndarray, reach: float) -> float:
    """Progress of a pick-and-place before the thing is where it belongs: 0 .. 0.85."""
    if not thing.held:
        return REACH_SHARE * reach
    lift = min(max((float(thing.position_m[2]) - float(then.position_m[2])) / 0.05, 0.0), 1.0)
    whole = max(_xy(then.position_m, target_xy), 0.05)
    come = min(max(1.0 - _xy(thing.position_m, target_xy) / whole, 0.0), 1.0)
    return 0.35 + 0.10 * lift + 0.40 * come


def _place(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    thing, then = _find(goal.thing, now, scene), _find(goal.thing, start, scene)
    container = scene.container(goal.target)
    there = is_resting_in(thing, container)
    if there and not thing.held:
        return _met(0.95, thing.speed_m_s < AT_REST_M_S)
    if there:
        return _met(0.88, False)
    reach = _reach(now, start, thing.position_m, then.position_m)
    return _met(_carry(thing, then, np.array([container.x_m, container.y_m]), reach), False)


def _take_off(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    thing, then = _find(goal.thing, now, scene), _find(goal.thing, start, scene)
    clear = _outside(thing, scene.container(goal.target)) - 0.005
    if clear > 0.0 and thing.bottom_m < 0.008 and not thing.held:
        return _met(0.95, thing.speed_m_s < AT_REST_M_S)
    if thing.held:
        lift = min(max((thing.bottom_m - then.bottom_m) / 0.04, 0.0), 1.0)
        away = min(max(1.0 + clear / 0.06, 0.0), 1.0)
        return _met(0.35 + 0.15 * lift + 0.35 * away, False)
    return _met(REACH_SHARE * _reach(now, start, thing.position_m, then.position_m), False)


def _lift(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    thing, then = _find(goal.thing, now, scene), _find(goal.thing, start, scene)
    if not thing.held:
        return _met(0.3 * _reach(now, start, thing.position_m, then.position_m), False)
    height = thing.bottom_m - then.bottom_m
    return _met(0.4 + 0.55 * min(max(height / LIFTED_M, 0.0), 1.0), height >= LIFTED_M)


def _stack(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    thing, then = _find(goal.thing, now, scene), _find(goal.thing, start, scene)
    base = _find(goal.target, now, scene)
    top = float(base.position_m[2]) + base.half_height_m
    apart = _xy(thing.position_m, base.position_m)
    there = apart < base.type.footprint_m and abs(thing.bottom_m - top) < 0.006
    if there and not thing.held:
        return _met(0.95, thing.speed_m_s < AT_REST_M_S)
    if there:
        return _met(0.88, False)
    reach = _reach(now, start, thing.position_m, then.position_m)
    return _met(_carry(thing, then, base.position_m, reach), False)


def _push(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    thing, then = _find(goal.thing, now, scene), _find(goal.thing, start, scene)
    gap, gap_then = push_gap_m(goal, now, scene), push_gap_m(goal, start, scene)
    on_table = thing.bottom_m < 0.008
    come = 1.0 - max(gap, 0.0) / max(gap_then, 0.02)
    met = on_table and gap < TOUCHING_GAP_M and thing.speed_m_s < AT_REST_M_S
    reach = _reach(now, start, thing.position_m, then.position_m)
    share = REACH_SHARE * reach + (1.0 - REACH_SHARE) * max(come, 0.0) * on_table
    return _met(share, met and not thing.held)


def push_gap_m(goal: Goal, state: BenchState, scene: Scene) -> float:
    """Free space between the thing and what it is pushed to, metres; negative: it overlaps."""
    thing = _find(goal.thing, state, scene)
    if goal.target in scene.container_names:
        place = scene.container(goal.target)
        ahead = np.array([place.x_m, place.y_m, 0.0]) - thing.position_m
        return _outside(thing, place) - _half_along(thing, ahead)
    other = _find(goal.target, state, scene)
    ahead = other.position_m - thing.position_m
    halves = _half_along(thing, ahead) + _half_along(other, ahead)
    return _xy(thing.position_m, other.position_m) - halves


def _half_along(thing: ObjectState, direction: np.ndarray) -> float:
    """How far the thing reaches from its middle in a horizontal direction, metres."""
    if thing.type.shape in ("ball", "cylinder"):
        return thing.type.half_m[0]
    flat = np.array([direction[0], direction[1], 0.0])
    flat /= max(float(np.linalg.norm(flat)), 1e-6)
    return float(np.abs(flat @ thing.rotation) @ np.array(thing.type.half_m))


def _joint(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    if scene.fixture is None or not isinstance(scene.fixture.type, FixtureType):
        return Reading(False, 0.0, 0)
    kind = scene.fixture.type.kind
    upwards = goal.kind in ("open", "turn_right")
    if goal.kind in ("open", "close"):
        aim = (OPEN_FROM if upwards else CLOSED_BELOW)[kind]
    else:
        aim = 0.8 if upwards else 0.2

    def left(state: BenchState) -> float:
        """How far the joint still has to go."""
        return max(0.0, aim - state.fixture_open if upwards else state.fixture_open - aim)

    # Where it was done at the start, undoing is measured against the whole way.
    whole = left(start) if left(start) > 0.05 else (aim if upwards else 1.0 - aim)
    met = left(now) == 0.0
    come = max(0.0, 1.0 - left(now) / whole)
    reach = max(_reach(now, start, now.handle_m, start.handle_m), come)
    return _met(REACH_SHARE * reach + (1.0 - REACH_SHARE) * come, met)


def _press(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    reach = _reach(now, start, now.handle_m, start.handle_m)
    return _met(0.6 * reach + 0.35 * min(now.fixture_open / 0.7, 1.0), now.lit)


def _store(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    """Open the drawer, put the thing in, close it: three ordered stages of a third each."""
    assert scene.fixture is not None
    thing, then = _find(goal.thing, now, scene), _find(goal.thing, start, scene)
    opened = min(now.fixture_open / OPEN_FROM["drawer"], 1.0)
    inside = is_in_drawer(thing, scene.fixture, now.fixture_open)
    if inside and not thing.held:
        closed = now.fixture_open <= CLOSED_BELOW["drawer"]
        progress = 2 / 3 + (1.0 - min(now.fixture_open, 1.0)) * 0.30
        return Reading(closed, 1.0 if closed else progress, 3 if closed else 2)
    reach = max(_reach(now, start, now.handle_m, start.handle_m), opened)
    progress = (REACH_SHARE * reach + (1.0 - REACH_SHARE) * opened) / 3.0
    # Carrying counts as far as there is an open drawer to carry to.
    middle = drawer_middle(scene.fixture, now.fixture_open)
    to_thing = _reach(now, start, thing.position_m, then.position_m)
    progress += opened**2 * _carry(thing, then, middle, to_thing) / 3.0
    return Reading(False, progress, int(now.fixture_open >= OPEN_FROM["drawer"]))


def drawer_middle(fixture: Placed, opened: float) -> np.ndarray:
    """World x, y of the middle of the part of the drawer that is in the open, float64[2]."""
    kind = fixture.type
    assert isinstance(kind, FixtureType)
    x = -opened * kind.travel / 2.0 - 0.002
    c, s = math.cos(fixture.yaw_rad), math.sin(fixture.yaw_rad)
    return np.array([fixture.x_m + c * x, fixture.y_m + s * x])


EVALUATORS: dict[str, Evaluator] = {
    "on": _place,
    "in": _place,
    "off": _take_off,
    "lift": _lift,
    "stack": _stack,
    "push": _push,
    "open": _joint,
    "close": _joint,
    "turn_left": _joint,
    "turn_right": _joint,
    "press": _press,
    "store": _store,
}
