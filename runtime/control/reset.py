"""Between two episodes: the arm is brought back through the gate, somebody sets the scene.

Owns the moves and how they are paced; what is waited for is said on the board. The poses are checked against
the arm before anything moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.config import parse
from contracts.errors import ConfigError, DeviceError
from contracts.messages import GateBit
from contracts.specs import ActionSpec, is_gripper
from runtime.config import EpisodeSection
from runtime.control.robot import Robot
from runtime.gate.limits import GateLimits, inside_box
from runtime.operator.floor import Phase

Pose = tuple[float, ...]
Reset = tuple[str, list[Pose]]
"""A strategy and its poses."""
ARRIVED = 3.0
"""How far (deg or percent) a joint may stand from a pose that it was sent to: servos sag a little."""
SETTLE_S = 2.0
"""Without progress for so long, the arm is said not to reach its pose."""
_PROGRESS = 0.01
"""Of the step of a tick: less is none."""


class NotReached(DeviceError):
    """The arm answers, and does not come to the pose that it was sent to."""


def poses_of(section: EpisodeSection, spec: ActionSpec, limits: GateLimits) -> list[Reset]:
    """The strategies in order, each with its poses ("operator" has none). Raises `ConfigError` for a pose
    that this arm cannot take, or that the gate would not let it reach."""
    found: list[Reset] = []
    for strategy in section.resets:
        poses: list[Pose] = []
        if strategy == "home":
            poses = [_pose(section.home, spec, "episode.home")]
        elif strategy == "scripted":
            poses = read_poses(section.reset_file, spec)
        for number, pose in enumerate(poses, 1):
            if not inside_box(limits, pose):
                raise ConfigError(
                    f"episode.reset {strategy}: pose {number} is outside the workspace",
                    expected=f"x, y, z in {limits.box} m",
                    found=limits.points(pose) if limits.points else None,
                    remedy="choose another pose, or correct gate.workspace_*",
                )
        found.append((strategy, poses))
    return found


def read_poses(path: str, spec: ActionSpec) -> list[Pose]:
    """`poses:` of a YAML or JSON file: a list; a pose is a list of numbers or joint names with numbers, and a
    name that is left out keeps its value. Raises `ConfigError`."""
    if not path:
        raise ConfigError("episode.reset scripted has no poses", remedy="set episode.reset_file")
    try:
        listed = parse(Path(path).read_text(), path).get("poses")
    except OSError as error:
        raise ConfigError(f"can't read {path}", found=error.strerror) from error
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{path} holds no poses", expected="poses: [...]", found=listed)
    poses: list[Pose] = []
    for index, given in enumerate(listed):
        where, pose = f"{path}: pose {index + 1}", given
        if isinstance(pose, dict):
            short = tuple(name.removesuffix(".pos") for name in spec.names)
            pose = {str(name).removesuffix(".pos"): value for name, value in pose.items()}
            unknown = sorted(set(pose) - set(short))
            if unknown:
                raise ConfigError(
                    f"{where} names a joint that the arm lacks", expected=short, found=unknown
                )
            if not poses and len(pose) < len(short):
                raise ConfigError(f"{where}: the first pose names every joint", expected=short)
            before = poses[-1] if poses else (0.0,) * len(spec.names)
            values = [pose.get(name, old) for name, old in zip(short, before, strict=True)]
            poses.append(_pose(values, spec, where))
            continue
        poses.append(_pose(pose, spec, where))
    return poses


def _pose(values: object, spec: ActionSpec, where: str) -> Pose:
    if not isinstance(values, (list, tuple)) or len(values) != len(spec.names):
        raise ConfigError(where, expected=f"{len(spec.names)} numbers: {spec.names}", found=values)
    for name, value, low, high in zip(spec.names, values, spec.low, spec.high, strict=True):
        if not isinstance(value, (int, float)) or not low <= value <= high:
            raise ConfigError(f"{where}: {name}", expected=f"{low:g} to {high:g}", found=value)
    return tuple(float(value) for value in values)


def step_towards(now: Sequence[float], goal: Sequence[float], most: float) -> Pose:
    """A step on the straight line in joint space: all joints arrive together, none moves more than `most`."""
    far = max((abs(b - a) for a, b in zip(now, goal, strict=True)), default=0.0)
    share = 1.0 if far <= most else most / far
    return tuple(a + share * (b - a) for a, b in zip(now, goal, strict=True))


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    return max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)


def bring_back(
    robot: Robot, resets: Sequence[Reset], rest_until: Callable[[Callable[[], bool], float], bool]
) -> bool:
    """Do the strategies in order; True once the next episode may begin, or the last one is to be recorded
    again (`floor.ends`). False: stop. `rest_until(ready, patience_s)` ticks in hold."""
    floor, board = robot.floor, robot.board
    floor.ends = ""
    if resets:
        floor.enter(Phase.RESET)
    for strategy, poses in resets:
        board.reset_progress = 0.0
        if strategy == "operator":
            floor.wait_for_reset(True)
            rest_until(lambda: floor.reset_done or bool(floor.ends), math.inf)
            floor.wait_for_reset(False)
        else:
            _go(robot, poses)
        if robot.gate.faulted or floor.ends == "rerecord":
            break
    return not (board.stop_requested or robot.gate.faulted)


def _go(robot: Robot, poses: Sequence[Pose]) -> None:
    """Through these poses, slowly; a pause holds. Raises `DeviceError`."""
    floor, board = robot.floor, robot.board
    homing = Homing(robot, poses, robot.run.config.episode.reset_speed)
    while not (homing.done or board.stop_requested or floor.ends):
        floor.listen()
        homing.tick(hold=floor.paused)
        board.reset_progress = homing.progress
    robot.come_to_rest("the arm was brought back")


class Homing:
    """Moves along poses, one tick at a time; `done` once the arm stands at the last one."""

    def __init__(
        self,
        robot: Robot,
        poses: Sequence[Pose],
        speed: float,
        *,
        grippers: bool = True,
        what: str = "its reset pose",
    ) -> None:
        """`grippers` False: they may stand anywhere, as one does that holds something. `what`: the pose, for
        the message."""
        self._robot, self._poses, self._what = robot, list(poses), what
        names = robot.gate.arm.spec().names
        self._counted = [at for at, name in enumerate(names) if grippers or not is_gripper(name)]
        self._most = speed / robot.run.config.loop.rate_hz
        seen = robot.senses.observe(robot.clock.now_s())
        robot.gate.prepare(seen.joints, seen.state_age_s)
        self._wanted = robot.gate.state.position
        self._settle_ticks = max(1, round(SETTLE_S * robot.run.config.loop.rate_hz))
        lengths = [distance(a, b) for a, b in zip([self._wanted, *poses], poses, strict=False)]
        self._whole, self._left = sum(lengths), lengths
        self._nearest, self._waited = math.inf, 0
        self.done = not self._poses

    @property
    def progress(self) -> float:
        if not self._poses or self._whole <= 0.0:
            return 1.0
        ahead = distance(self._wanted, self._poses[0]) + sum(self._left[1:])
        return min(1.0, max(0.0, 1.0 - ahead / self._whole))

    def tick(self, *, hold: bool) -> None:
        """One command; over when the gate latches. Raises `NotReached` if the arm does not follow."""
        robot = self._robot
        lateness_s = robot.wake()
        seen = robot.senses.observe(robot.clock.now_s())
        wanted = None if hold else step_towards(self._wanted, self._poses[0], self._most)
        # Nobody looks through a camera here, and a lost one is told before the episode.
        verdict = robot.gate.command(wanted, seen.state_age_s, 0.0)
        robot.post(lateness_s)
        if robot.gate.faulted:
            self.done = True
            return
        # From where the gate let it come: what held it up must not be made good for in a rush.
        self._wanted = verdict.command
        if wanted is None or verdict.bits & GateBit.STALE:
            return
        ahead = distance(verdict.command, self._poses[0])
        stands, goal = seen.joints.positions.tolist(), self._poses[0]
        off = distance([stands[at] for at in self._counted], [goal[at] for at in self._counted])
        if ahead <= 1e-6 and off <= ARRIVED:
            self._poses.pop(0)
            self._left.pop(0)
            self._nearest, self._waited = math.inf, 0
            self.done = not self._poses
        elif ahead < self._nearest - self._most * _PROGRESS:
            self._nearest, self._waited = ahead, 0
        else:
            self._waited += 1
        if self._waited > self._settle_ticks:
            raise NotReached(
                f"the arm did not reach {self._what}",
                expected=f"within {ARRIVED:g}",
                found=f"{off:.1f} off" if math.isfinite(off) else "no reading",
                remedy="free the arm, or choose another pose",
            )
