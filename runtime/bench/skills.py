"""What a scripted hand can do: go, grip, pick, put down. Generators, one joint target a tick.

Skills read the bench's true state, so that a missed grasp is seen and tried again. Their variety
(heights, speeds, pauses, small errors that they then correct) is what a policy imitated from them
sees; `Fault` is where they fail on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.bench import arm, motion
from runtime.bench.arm import TipPose
from runtime.bench.state import BenchState, ObjectState

if TYPE_CHECKING:
    from runtime.bench.world import World

Motion = Iterator[np.ndarray]

JAW_M = 2.0 * arm.FINGER_TRAVEL_M


@dataclass(frozen=True)
class Fault:
    """How a script goes wrong. kind: "" (it does not), "drop", "miss_grasp" or "near_miss"."""

    kind: str = ""


class Skills:
    """One episode's hand. q: the last joint target, float64[6] deg and %."""

    def __init__(
        self, world: World, rng: np.random.Generator, noise: float = 1.0, fault: Fault = Fault()
    ) -> None:
        self.world = world
        self.rng = rng
        self.noise = noise
        self.fault = fault
        self.q = world.positions().astype(float)
        self.speed = float(1.0 - noise * rng.uniform(0.0, 0.20))
        self.pitch_deg = float(86.0 - noise * rng.uniform(0.0, 9.0))
        self.hover_m = float(0.052 + noise * rng.uniform(-0.010, 0.016))

    @property
    def state(self) -> BenchState:
        return self.world.state()

    def object(self, name: str) -> ObjectState:
        return self.state.objects[self.world.scene.object_index(name)]

    def jitter(self, spread_m: float) -> np.ndarray:
        """float64[2], uniform in +-spread."""
        return self.noise * self.rng.uniform(-spread_m, spread_m, 2)

    # -- moving ----------------------------------------------------------------------------

    def _emit(self, rows: np.ndarray) -> Motion:
        for row in rows:
            self.q = row
            yield row.copy()

    def emit_one(self, target: np.ndarray) -> Motion:
        """One tick towards a joint target of the script's own making."""
        yield from self._emit(target[None, :])

    def move(
        self, pose: TipPose, gripper_pct: float | None = None, roll_near: float = 0.0
    ) -> Motion:
        """Joint-space move to a pose."""
        jaw = self.q[5] if gripper_pct is None else gripper_pct
        end = arm.inverse(pose, jaw, roll_near)
        yield from self._emit(motion.joint_move(self.q, end, self.speed))

    def straight(self, pose: TipPose, speed: float = 1.0) -> Motion:
        """Move with the fingertips on a line, from where they were told to be last."""
        start = arm.forward(self.q)

        def path(share: float) -> TipPose:
            x, y, z = start.xyz + share * (pose.xyz - start.xyz)
            turn = arm.wrap_half_turn(pose.closing_yaw_deg - start.closing_yaw_deg)
            return TipPose(
                x,
                y,
                z,
                start.pitch_deg + share * (pose.pitch_deg - start.pitch_deg),
                start.closing_yaw_deg + share * turn,
            )

        rows = motion.traced_move(self.q, path, float(self.q[5]), self.speed * speed)
        yield from self._emit(rows)

    def grip(self, percent: float, settle_s: float = 0.1) -> Motion:
        """Open or close the jaw, then give it time to arrive."""
        end = self.q.copy()
        end[5] = min(max(percent, 0.0), 100.0)
        yield from self._emit(motion.joint_move(self.q, end, 1.0))
        yield from self.wait(settle_s)

    def wait(self, seconds: float) -> Motion:
        for _ in range(round(seconds / motion.TICK_S)):
            yield self.q.copy()

    def pause(self) -> Motion:
        """Now and then a moment of standing still, as people do."""
        if self.rng.random() < 0.15 * self.noise:
            yield from self.wait(float(self.rng.uniform(0.1, 0.4)))

    def retreat(self, height_m: float) -> Motion:
        """Straight up from the last pose, as far as the arm reaches."""
        here = arm.forward(self.q)
        for rise in np.linspace(height_m, 0.01, 8):
            try:
                pose = TipPose(
                    here.x_m, here.y_m, here.z_m + rise, here.pitch_deg, here.closing_yaw_deg
                )
                arm.inverse(pose, 0.0, float(self.q[4]))
            except arm.Unreachable:
                continue
            yield from self.straight(pose)
            return

    def rise_to(self, z_m: float) -> Motion:
        """Up to a height at the same place, leaning the hand where it must."""
        here = arm.forward(self.q)
        for z in np.arange(z_m, here.z_m, -0.008):
            try:
                pitch = self.stance(
                    [(here.x_m, here.y_m, float(z))], here.closing_yaw_deg, float(self.q[4])
                )
            except arm.Unreachable:
                continue
            yield from self.straight(
                TipPose(here.x_m, here.y_m, float(z), pitch, here.closing_yaw_deg)
            )
            return

    def withdraw(self, length_m: float) -> Motion:
        """Back along the hand's own direction."""
        here = arm.forward(self.q)
        lean = math.radians(here.pitch_deg)
        radius = math.hypot(here.x_m, here.y_m)
        for length in np.linspace(length_m, 0.01, 6):
            share = 1.0 - length * math.cos(lean) / radius
            x, y, z = here.x_m * share, here.y_m * share, here.z_m + length * math.sin(lean)
            for pitch in np.arange(here.pitch_deg, 25.0, -6.0):
                try:
                    yield from self.straight(TipPose(x, y, z, float(pitch), here.closing_yaw_deg))
                except arm.Unreachable:
                    continue
                return

    def home(self) -> Motion:
        """Back towards the rest pose, the jaw as it is."""
        end = arm.HOME_DEG + self.noise * self.rng.uniform(-5.0, 5.0, 6)
        end[5] = self.q[5]
        yield from self._emit(motion.joint_move(self.q, end, self.speed))

    # -- choosing a stance -----------------------------------------------------------------

    def stance(
        self,
        points_m: Sequence[Sequence[float] | np.ndarray],
        closing_yaw_deg: float,
        roll_near: float = 0.0,
    ) -> float:
        """The steepest pitch, near this hand's own, from which all points can be reached, deg.

        Raises:
            arm.Unreachable: there is none.
        """
        down = np.arange(self.pitch_deg, 28.0, -3.0)
        up = np.arange(self.pitch_deg + 3.0, 104.0, 3.0)
        for pitch in (*down, *up):
            try:
                for x, y, z in points_m:
                    arm.inverse(TipPose(x, y, z, float(pitch), closing_yaw_deg), 0.0, roll_near)
            except arm.Unreachable:
                continue
            return float(pitch)
        raise arm.Unreachable(f"no pitch reaches {[tuple(np.round(p, 3)) for p in points_m]}")

    def _hover_stance(
        self, point: np.ndarray, yaw_deg: float, roll_near: float = 0.0
    ) -> tuple[float, float]:
        """(pitch, hover height) for approaching a point from above."""
        height = self.hover_m
        while True:
            try:
                above = (point[0], point[1], point[2] + height)
                return self.stance([above, point], yaw_deg, roll_near), height
            except arm.Unreachable:
                height -= 0.008
                if height < 0.02:
                    raise

    def grasp_yaw_deg(self, thing: ObjectState) -> float:
        """World heading of the jaw's closing line that fits the thing with the least roll."""
        x, y = float(thing.position_m[0]), float(thing.position_m[1])
        straight_deg = math.degrees(math.atan2(y, x)) + 90.0
        kind = thing.type
        if kind.shape == "block":
            # Close across the block's shortest horizontal axis, however it lies.
            flat = [k for k in range(3) if abs(thing.rotation[2, k]) < 0.7]
            axis = thing.rotation[:, min(flat, key=lambda k: kind.half_m[k])]
            return math.degrees(math.atan2(axis[1], axis[0]))
        upright = abs(float(thing.rotation[2, 2])) > 0.7
        if kind.shape == "cylinder" and not upright:
            axis = thing.rotation[:, 2]
            return math.degrees(math.atan2(axis[1], axis[0])) + 90.0
        if kind.shape == "cube":
            axis = thing.rotation[:, 0] if abs(thing.rotation[2, 0]) < 0.7 else thing.rotation[:, 1]
            edge = math.degrees(math.atan2(axis[1], axis[0]))
            return straight_deg + ((edge - straight_deg + 45.0) % 90.0 - 45.0)
        return straight_deg + self.noise * float(self.rng.uniform(-12.0, 12.0))

    # -- handling things -------------------------------------------------------------------

    def pick(self, name: str, tries: int = 3) -> Motion:
        """Grasp a thing where it is now. Afterwards state.objects[...].held says whether it did."""
        kind = self.object(name).type
        closed = max(0.0, kind.grasp_width_m / JAW_M * 100.0 - 20.0)
        spare = 6.0 * self.noise * float(self.rng.random())
        opened = min(98.0, (kind.grasp_width_m + 0.030) / JAW_M * 100.0 + spare)
        if self.object(name).held:  # taken over from a hand that holds it
            yield from self.grip(closed, 0.1)
            return
        aside = self._miss_offset() if self.fault.kind == "miss_grasp" else np.zeros(2)
        for attempt in range(tries):
            thing = self.object(name)
            yaw = self.grasp_yaw_deg(thing)
            low = max(0.011, float(thing.position_m[2]) - 0.006)
            spot = np.array([*(thing.position_m[:2] + aside + self.jitter(0.002)), low])
            pitch, height = self._hover_stance(spot, yaw)
            off = self.jitter(0.010)
            above = TipPose(spot[0] + off[0], spot[1] + off[1], low + height, pitch, yaw)
            if attempt > 0:
                yield from self.grip(opened, 0.0)
            try:
                yield from self.move(above, opened)
            except arm.Unreachable:
                yield from self.move(TipPose(spot[0], spot[1], low + height, pitch, yaw), opened)
            yield from self.pause()
            yield from self.straight(TipPose(spot[0], spot[1], low, pitch, yaw), 0.8)
            yield from self.grip(closed, 0.1)
            if self.fault.kind == "miss_grasp" or self.object(name).held:
                return
            yield from self.grip(opened, 0.0)
            yield from self.retreat(height)

    def _miss_offset(self) -> np.ndarray:
        """Past the thing by more than the jaw takes in, towards the base or beyond the thing."""
        tip = self.state.tip_m[:2]
        outward = tip / max(float(np.linalg.norm(tip)), 1e-6)
        return outward * float(self.rng.choice([-1.0, 1.0])) * float(self.rng.uniform(0.034, 0.042))

    def carry(
        self,
        name: str,
        target_xy: np.ndarray,
        bottom_m: float,
        yaw_deg: float | None = None,
        clear_m: float = 0.0,
    ) -> Motion:
        """Take the thing in hand to target_xy and lower its bottom to bottom_m.

        clear_m: the bottom is at least this high when it comes in over the target.
        """
        thing = self.object(name)
        offset = thing.position_m - self.state.tip_m if thing.held else np.zeros(3)
        below = thing.half_height_m - float(offset[2]) if thing.held else thing.half_height_m
        here = arm.forward(self.q)
        goal_xy = np.array(target_xy)
        yaw = here.closing_yaw_deg if yaw_deg is None else yaw_deg
        turn = 0.0
        if yaw_deg is None:
            # Keep the wrist: the hand turns with the pan joint, and the thing with the hand.
            pan = math.atan2(goal_xy[1], goal_xy[0]) - math.atan2(here.y_m, here.x_m)
            yaw, turn = yaw + math.degrees(pan), pan
        c, s = math.cos(turn), math.sin(turn)
        spot = np.array(
            [
                goal_xy[0] - (c * offset[0] - s * offset[1]),
                goal_xy[1] - (s * offset[0] + c * offset[1]),
                bottom_m + below + 0.003,
            ]
        )
        roll = float(self.q[4])
        pitch, height = self._hover_stance(spot, yaw, roll)
        if clear_m > bottom_m:
            height = max(height, clear_m - bottom_m)
            pitch = self.stance([(*spot[:2], spot[2] + height), spot], yaw, roll)
            yield from self.rise_to(spot[2] + height)
        off = self.jitter(0.008)
        over = TipPose(spot[0] + off[0], spot[1] + off[1], spot[2] + height, pitch, yaw)
        if self.fault.kind == "drop":
            yield from self._drop_on_the_way(over, roll)
            return
        try:
            yield from self.move(over, roll_near=roll)
        except arm.Unreachable:
            over = TipPose(spot[0], spot[1], spot[2] + height, pitch, yaw)
            yield from self.move(over, roll_near=roll)
        yield from self.pause()
        yield from self.straight(TipPose(spot[0], spot[1], spot[2], pitch, yaw), 0.85)

    def _drop_on_the_way(self, over: TipPose, roll: float) -> Motion:
        end = arm.inverse(over, float(self.q[5]), roll)
        rows = motion.joint_move(self.q, end, self.speed)
        yield from self._emit(rows[: max(1, int(len(rows) * self.rng.uniform(0.25, 0.5)))])
        yield from self.grip(90.0)

    def release(self, by_pct: float = 26.0, backwards: bool = False) -> Motion:
        """Open the jaw enough to let go, then rise, or withdraw the way the hand points."""
        yield from self.grip(
            float(self.state.gripper_pct) + by_pct + 5.0 * self.noise * self.rng.random()
        )
        yield from self.withdraw(0.05) if backwards else self.retreat(self.hover_m)
