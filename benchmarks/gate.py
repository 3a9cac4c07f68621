"""Random and adversarial commands through the gate, against a recording arm: what reached it, at what cost.

The arm does what it is told and keeps the last four targets, from which every limit is checked anew, by
finite differences and without the gate's own formulas. The gate is the real one.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from contracts.specs import ActionSpec
from runtime.arms import ArmState
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board, LoopState, Owner
from runtime.config import GateSection
from runtime.control.pacing import percentile
from runtime.gate.gate import Gate, Origin, limits_of
from runtime.gate.limits import GateLimits

HOME = (0.0, -58.0, 60.0, 62.0, 0.0, 60.0)
SETTINGS: tuple[tuple[str, GateSection], ...] = (
    ("as the arm allows", GateSection()),
    ("jerk", GateSection(jerk_time_s=0.05)),
    ("margins", GateSection(soft_margin=6.0)),
    ("jerk, margins, slow", GateSection(jerk_time_s=0.08, soft_margin=5.0, velocity_scale=0.5)),
    (
        "all, small box",
        GateSection(
            jerk_time_s=0.05,
            soft_margins={"elbow_flex.pos": 15.0, "gripper.pos": 8.0},
            acceleration_scale=0.6,
            workspace_x_m=(-0.06, 0.30),
            workspace_y_m=(-0.15, 0.15),
            workspace_z_m=(0.0, 0.25),
        ),
    ),
)
RATES_HZ = (10.0, 30.0, 50.0, 100.0)
KINDS = ("jumps", "ends", "drift", "edge", "reverse", "smooth", "tiny", "huge", "floor")
POISONS = (math.nan, math.inf, -math.inf)


class RecordingArm:
    """Ideal: it is where it was last told to be. `breaches` says what it should not have been told."""

    def __init__(self, limits: GateLimits) -> None:
        self.limits, self.written = limits, 0
        self.written_this_tick = (
            math.nan
        )  # until somebody says where a tick begins, by setting it to 0
        self.breaches: list[str] = []
        self.poses: list[tuple[float, ...]] = []

    def start(self, pose: tuple[float, ...]) -> None:
        self.poses = [pose] * 4

    def spec(self) -> ActionSpec:
        return SO101_ACTION

    def take(self, epoch: int) -> None:
        pass

    def enable(self) -> None:
        pass

    def read(self) -> ArmState:
        return ArmState(np.array(self.poses[-1], np.float64), 0.0)

    def write(self, targets: np.ndarray) -> bool:
        self.written += 1
        self.written_this_tick += 1
        if self.written_this_tick > 1:
            self.breaches.append("two commands in one tick")
        self.poses = [*self.poses[1:], tuple(float(value) for value in targets)]
        self.breaches += breaches(self.limits, self.poses)
        return True

    def hold(self) -> None:
        self.poses = [self.poses[-1]] * 4

    def close(self) -> None:
        pass


def breaches(limits: GateLimits, poses: list[tuple[float, ...]]) -> list[str]:
    """Every limit that the newest of four successive commands does not keep."""
    dt, found = limits.period_s, []
    new = poses[-1]
    if len(new) != len(limits.low) or not all(map(math.isfinite, new)):
        return [f"no command: {new}"]
    for joint, track in enumerate(zip(*poses, strict=True)):
        v = [(b - a) / dt for a, b in pairwise(track)]
        a = [(y - x) / dt for x, y in pairwise(v)]
        jerk = (a[1] - a[0]) / dt
        low, high = limits.low[joint], limits.high[joint]
        if not low - 1e-6 <= new[joint] <= high + 1e-6:
            found.append(f"joint {joint} at {new[joint]}")
        if abs(v[-1]) > limits.velocity[joint] + 2e-6 / dt * 1e-2 + 1e-5:
            found.append(f"joint {joint} velocity {v[-1]}")
        if abs(a[-1]) > limits.acceleration[joint] * (1 + 1e-9) + 4e-6 / dt:
            found.append(f"joint {joint} acceleration {a[-1]}")
        if limits.jerk and abs(jerk) > limits.jerk[joint] * (1 + 1e-6) + 1e-8 / dt**3:
            found.append(f"joint {joint} jerk {jerk}")
        room = high - track[-2] if v[-1] > 0 else track[-2] - low
        if limits.margin and room < limits.margin[joint]:
            most = limits.velocity[joint] * max(0.1, room / limits.margin[joint])
            if abs(v[-1]) > most + 1e-6 / dt:
                found.append(f"joint {joint} velocity {v[-1]} with {room} left of its margin")
    assert limits.points is not None
    for point in limits.points(new):
        for value, (low, high) in zip(point, limits.box, strict=True):
            if not low - 1e-9 <= value <= high + 1e-9:
                found.append(f"workspace: {point}")
    return found


def commands(rng: random.Random, limits: GateLimits, arm: RecordingArm) -> Iterator[list[float]]:
    """Requests without end: a kind for a while, then another one. Finite, six of them."""
    n = len(limits.low)
    while True:
        kind = rng.choice(KINDS)
        goal = [rng.uniform(a - 40, b + 40) for a, b in zip(limits.low, limits.high, strict=True)]
        phase = rng.uniform(0, 6.28)
        for k in range(rng.randint(1, 60)):
            last, before = arm.poses[-1], arm.poses[-2]
            step = [v * limits.period_s for v in limits.velocity]
            if kind == "jumps":
                yield [rng.uniform(-400, 400) for _ in range(n)]
            elif kind == "ends":
                yield [rng.choice((a, b, b + 1e-7, a - 1e-7)) for a, b in _ends(limits)]
            elif kind == "drift":
                yield goal
            elif kind == "edge":  # just what the next tick may do, or a hair more
                yield [p + rng.choice((-1, 1)) * s * (1 + 1e-7) for p, s in _pairs(last, step)]
            elif kind == "reverse":
                yield [p - (p - q) * 50 for p, q in _pairs(last, before)]
            elif kind == "smooth":
                swing = math.sin(phase + 2.0 * k * limits.period_s)
                yield [h + 0.4 * swing * (g - h) for h, g in _pairs(HOME, goal)]
            elif kind == "tiny":
                yield [p + rng.choice((0.0, -0.0, 1e-12, -1e-9, 5e-324)) for p in last]
            elif kind == "huge":
                yield [rng.choice((1e308, -1e308, 1e17, -1e17, 1e-308)) for _ in range(n)]
            else:  # down into the table
                yield [last[0], last[1] + step[1], last[2] + step[2], *last[3:]]


def _ends(limits: GateLimits) -> Iterator[tuple[float, float]]:
    return zip(limits.low, limits.high, strict=True)


def _pairs(a: Any, b: Any) -> Iterator[tuple[float, float]]:
    return zip(a, b, strict=True)


@dataclass
class Tally:
    """`wrong`: what must never be; empty is the only good answer."""

    asked: int = 0
    written: int = 0
    poisoned: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    cost_s: list[float] = field(default_factory=list)


def walk(section: GateSection, rate_hz: float, asked: int, seed: int) -> Tally:
    """`asked` commands through one gate after another; each latched one is asked again, then replaced."""
    rng, limits, tally = random.Random(seed), limits_of(SO101_ACTION, section, rate_hz), Tally()
    with tempfile.TemporaryDirectory() as folder:
        board = Board.create(Path(folder) / "board")
        while tally.asked < asked and not tally.wrong:
            arm = RecordingArm(limits)
            board.estop_requested = 0
            gate = _armed(arm, limits, board)
            _one_life(rng, gate, arm, board, tally, asked)
            tally.written += arm.written
            tally.refused += gate.refusals
            tally.wrong += arm.breaches
            board.release_lease(Owner.CONTROL)
        board.close()
    return tally


def _armed(arm: RecordingArm, limits: GateLimits, board: Board) -> Gate:
    gate = Gate(arm, limits, board, Owner.CONTROL, 60.0)
    arm.start(HOME)
    gate.prepare(arm.read())
    arm.start(gate.state.position)
    gate.take_arm()
    gate.begin_episode(7, 3)
    return gate


def _one_life(
    rng: random.Random, gate: Gate, arm: RecordingArm, board: Board, tally: Tally, asked: int
) -> None:
    """From arming to a fault or an emergency stop, and some ticks beyond."""
    for number, request in enumerate(commands(rng, gate.limits, arm)):
        if tally.asked >= asked:
            return
        tally.asked += 1
        drawn = rng.random()
        state_age_s = 9.0 if drawn < 0.01 else 0.0
        origin = Origin(7 if drawn < 0.98 else 6, 3 if drawn < 0.99 else 2, number // 8)
        wanted: list[float] | None = request if drawn > 0.02 else None
        poison = ""
        if drawn > 0.9995:
            wanted, poison = [*request[:5], rng.choice(POISONS)], "not finite"
        elif drawn > 0.999:
            wanted, poison = request[: rng.randint(0, 5)] + [0.0] * rng.choice((0, 9)), "arity"
        elif drawn > 0.9988:
            board.estop_requested = 1
        arm.written_this_tick = 0
        if 0.998 < drawn < 0.9985:
            gate.fault("found elsewhere")
        started_s = time.thread_time()
        verdict = gate.command(wanted, state_age_s, 0.0, origin, 0.0)
        tally.cost_s.append(time.thread_time() - started_s)
        if poison and len(wanted or ()) == len(gate.limits.low) and poison == "arity":
            poison = ""
        tally.poisoned += bool(poison)
        if poison and not (verdict.fault and gate.faulted):
            tally.wrong.append(f"{poison} was no fault: {wanted}")
        if arm.breaches:
            tally.wrong.append(f"after {wanted} in {gate.state.mode.name}")
            return
        if gate.faulted:
            _stay_latched(rng, gate, arm, tally)
            return


def _stay_latched(rng: random.Random, gate: Gate, arm: RecordingArm, tally: Tally) -> None:
    """Ask on: a fault brakes to standstill and stays there, an emergency stop moves no more."""
    mode, stopped = gate.state.mode, arm.poses[-1]
    for _ in range(1000):
        arm.written_this_tick = 0
        gate.command([rng.uniform(-100, 100) for _ in arm.poses[-1]], 0.0, 0.0)
        if not gate.moving:
            break
    resting, written = arm.poses[-1], arm.written
    for _ in range(3):
        gate.command(list(HOME), 0.0, 0.0)
    if arm.written != written or arm.poses[-1] != resting or gate.state.mode is not mode:
        tally.wrong.append(f"moved after {mode.name}")
    if mode is LoopState.ESTOP and resting != stopped:
        tally.wrong.append("moved on after an emergency stop")


def measure(total: int, seed: int) -> dict[str, Any]:
    """`total` commands, spread over settings and rates; the cost of a tick by setting and rate."""
    rows = []
    combinations = [(name, section, rate) for name, section in SETTINGS for rate in RATES_HZ]
    each = math.ceil(total / len(combinations))
    for number, (name, section, rate_hz) in enumerate(combinations):
        tally = walk(section, rate_hz, each, seed + number)
        cost = sorted(tally.cost_s)
        rows.append(
            {
                "setting": name,
                "rate_hz": rate_hz,
                "commands": tally.asked,
                "written": tally.written,
                "poisoned": tally.poisoned,
                "refused": tally.refused,
                "wrong": tally.wrong[:5],
                "cost_p50_us": round(1e6 * percentile(cost, 0.5), 1),
                "cost_p99_us": round(1e6 * percentile(cost, 0.99), 1),
            }
        )
    return {"seed": seed, "commands": sum(row["commands"] for row in rows), "rows": rows}


def table(found: dict[str, Any]) -> str:
    head = f"{'limits':22}{'Hz':>5}{'commands':>10}{'reached the arm':>17}{'poisoned':>10}"
    lines = [head + f"{'refused':>9}{'wrong':>7}{'tick p50 us':>13}{'p99 us':>8}"]
    lines += [
        f"{row['setting']:22}{row['rate_hz']:5.0f}{row['commands']:10d}{row['written']:17d}"
        f"{row['poisoned']:10d}{row['refused']:9d}{len(row['wrong']):7d}{row['cost_p50_us']:13.1f}"
        f"{row['cost_p99_us']:8.1f}"
        for row in found["rows"]
    ]
    wrong = [said for row in found["rows"] for said in row["wrong"]]
    verdict = "none outside any limit" if not wrong else f"WRONG: {wrong[:3]}"
    return "\n".join([*lines, f"{found['commands']} commands, seed {found['seed']}: {verdict}"])
