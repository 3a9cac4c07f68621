"""The robot that the control process drives: every part of it, and the tick's beginning and end.

`build` opens the parts, hardware last: everything that can be wrong is found before anything moves.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from contracts import __version__
from contracts.errors import DeviceError
from contracts.reward import RewardSignal
from contracts.specs import ActionSpec, ObservationSpec, require_compatible
from runtime.arms import degrees_of, open_arm
from runtime.blackbox.box import SECTIONS, BlackBox
from runtime.board import Board, Owner
from runtime.calibration import bind, own_calibration, require_bound
from runtime.cameras import open_cameras
from runtime.cautions import cautions
from runtime.config import LoopSection
from runtime.control import pacing
from runtime.control.clock import Clock, MonotonicClock, SimulatedClock
from runtime.control.inference import Lane, make_lane
from runtime.control.periodicity import Periodicity, Thresholds
from runtime.control.scene import Scene, open_scene
from runtime.control.senses import Senses
from runtime.gate.gate import Gate, GateLimits, limits_of
from runtime.models.policy import Inference, PolicyRunner, open_policy
from runtime.models.reward import Reward, open_reward
from runtime.operator.commands import DESKS
from runtime.operator.floor import Floor
from runtime.operator.window import Window
from runtime.preflight import check_chunk
from runtime.recording.stream import Stream
from runtime.ring import Ring
from runtime.run import Run
from runtime.standstill import Finding, Standstill
from runtime.teleoperation import KEYBOARD
from runtime.teleoperation.helm import Helm
from runtime.teleoperation.page import HandPage

_STATISTICS_EVERY = 15
WATCHDOG_SILENT_S = 1.0
"""A watchdog that is not heard of for longer (or for its own timeout, if that is more) is a fault."""
INFERENCE_PATIENCE_S = 20.0
"""How long the end of an episode waits for an inference under way."""
STOPPING_S = 10.0
"""How long any job may go on once the run is told to stop, or the gate is latched."""


@dataclass
class Robot:
    """Everything that a tick touches."""

    run: Run
    board: Board
    observation: ObservationSpec
    action: ActionSpec
    clock: Clock
    scene: Scene
    senses: Senses
    gate: Gate
    stream: Stream
    policy: PolicyRunner | None
    policy_lane: Lane[Inference]
    reward: Reward | None
    reward_lane: Lane[RewardSignal]
    pace: pacing.Pace
    floor: Floor
    helm: Helm
    show: Window
    periodicity: Periodicity
    box: BlackBox

    @property
    def policy_version(self) -> int:
        return self.policy.swapper.version if self.policy else 0

    @property
    def reward_version(self) -> int:
        return self.reward.swapper.version if self.reward and self.reward.swapper else 0

    def wake(self) -> float:
        """Wait for the next deadline and count the tick; returns the lateness in seconds."""
        clock, deadline_s = self.clock, self.pace.deadline_s
        while (
            not clock.lockstep
            and (wake_s := pacing.next_wake(self.pace, clock.now_s())) < deadline_s
        ):
            clock.wait_until(wake_s)
            self.board.beats += 1
        clock.wait_until(deadline_s)
        now_s = clock.now_s()
        self.pace, lateness_s = pacing.begin_tick(self.pace, now_s)
        self.periodicity.begin(now_s, lateness_s, self.pace.missed)
        self.box.begin(now_s, lateness_s)
        return lateness_s

    def post(self, lateness_s: float) -> None:
        """Let the other processes see that this loop lives, and how."""
        board = self.board
        board.tick_at_s = time.monotonic()
        board.lateness_s = lateness_s
        board.loop_state = self.gate.state.mode
        self._note()
        self.show.say(self.gate.state.reason)
        board.missed_ticks = self.pace.missed
        self.periodicity.end(self.clock.now_s())
        if self.pace.tick % _STATISTICS_EVERY == 0:
            self._post_statistics()
        board.tick += 1

    def _note(self) -> None:
        """This tick's row of the black box is complete."""
        board, box, state = self.board, self.box, self.gate.state
        if not box.judgement:
            box.judged(state.mode, 0, None, state.position)
        box.put(
            episode=board.episode_seq,
            step=board.step,
            policy_version=board.policy_version,
            reward_version=board.reward_version,
        )
        box.say(state.reason)
        box.commit()

    def _post_statistics(self) -> None:
        board, found = self.board, self.periodicity
        board.lateness_p99_s, board.loop_rate_hz = found.lateness_p99_s(), found.rate_hz()
        board.execution_p99_s, board.execution_max_s = (
            found.execution_p99_s(),
            found.execution.max_s,
        )
        board.loop_success_rate, board.period_std_s = found.success_rate, found.period_std_s()
        board.loop_health = int(found.health())

    def rest(self) -> bool:
        """A tick in hold between episodes. False: stop was asked for, or the arm was lost."""
        lateness_s = 0.0 if self.clock.lockstep else self.wake()
        self.floor.listen()
        kept = self.gate.rest()
        self.post(lateness_s)
        return kept and not self.board.stop_requested

    def go_on_from(self, now_s: float) -> None:
        """In lockstep: the scene that was just set begins at `now_s` on its clock, and nothing that happened
        before it is left over."""
        skipped_s = now_s - self.clock.now_s()
        if not isinstance(self.clock, SimulatedClock) or skipped_s <= 0.0:
            return
        self.clock.set_forward(now_s)
        self.periodicity.skip(skipped_s)
        self.pace = replace(self.pace, deadline_s=now_s + self.pace.period_s)
        self.senses.forget()

    def come_to_rest(self, reason: str) -> None:
        """Brake within limits, tick by tick, then hold: no episode ends with a jerk."""
        while self.gate.moving:
            lateness_s = self.wake()
            self.gate.brake()
            self.post(lateness_s)
        self.gate.hold(reason)

    def verify_stop(self) -> Finding:
        """Read back from a stopped arm whether it stands; takes little more than `gate.standstill_s`. Never
        raises."""
        stopped_s = self.clock.now_s()
        check = Standstill(self.action.names, stopped_s, self.run.config.gate.standstill_s)
        found: Finding | None = None
        while found is None:
            lateness_s = self.wake()
            try:
                joints = self.senses.joints()
                self.box.saw(joints, 0.0, 0.0, (math.nan,) * len(self.senses.cameras))
                found = check.add(joints)
            except DeviceError as error:
                found = check.lost(self.clock.now_s(), error)
            found = found or check.silent(self.clock.now_s() - stopped_s)
            self.gate.rest()
            self.post(lateness_s)
        self.board.still_at_s = found.still_at_s
        self.board.stop_check = int(found.check)
        return found

    def close(self) -> None:
        """The arm in hold, every device and engine closed; never raises."""
        for close in (
            self.gate.close,  # first: what follows may take its time
            self.policy_lane.close,
            self.reward_lane.close,
            self.senses.close,
            self.scene.close,
            lambda: self._close_runner(self.policy, self.policy_lane),
            lambda: self._close_runner(self.reward, self.reward_lane),
        ):
            try:
                close()
            except Exception as error:  # the rest must be closed whatever one of them does
                print(f"control: {error}", file=sys.stderr)

    def _close_runner(self, runner: PolicyRunner | Reward | None, lane: Lane[Any]) -> None:
        if runner and not lane.busy:  # never under an inference that hangs in it
            runner.close()

    def await_lanes(self) -> str:
        """Rest until no inference is under way. Returns which one hangs; empty if none does."""
        for what, lane in (("policy", self.policy_lane), ("reward", self.reward_lane)):
            from_s = time.monotonic()
            while not lane.drain():
                stopping = self.gate.faulted or self.board.stop_requested
                if time.monotonic() - from_s > (STOPPING_S if stopping else INFERENCE_PATIENCE_S):
                    return f"the {what}'s inference hangs"
                self.rest()
        return ""


def build(run: Run, board: Board) -> Robot:
    """The robot of a run. Raises `EntracteError` where a part is missing or doesn't fit another."""
    config = run.config
    calibration = own_calibration(config.calibration, config.robot.id)
    driven = run.plan.driver == "policy"
    policy = open_policy(run) if driven else None
    reward = open_reward(run) if driven else None
    if policy:
        check_chunk(config, policy.chunk)
    _start(run, policy, reward)
    arm = open_arm(run, "control")
    senses = Senses(open_cameras(run), arm, config)
    action = arm.spec()
    observation = bind(senses.spec(action), calibration)
    _check_packages(run, policy, reward, observation, action)
    scene = open_scene(run)
    lockstep = config.pace == "asap"
    clock: Clock = (
        SimulatedClock(scene.advance, scene.advance(0.0)) if lockstep else MonotonicClock()
    )
    ring = None if run.plan.sink == "none" else Ring.open(run.ring_path)
    limits = limits_of(action, config.gate, config.loop.rate_hz, degrees_of(arm))
    board.cautions = int(cautions(config, run.plan.purpose, action, limits))
    latency = config.loop.inference_latency_ticks
    person_drives = run.plan.driver == "person"
    can_take_over = bool(config.operator.teleoperator)
    floor = Floor(board, can_take_over=can_take_over, person_drives=person_drives)
    if person_drives and config.operator.teleoperator != KEYBOARD:
        floor.wants_helm = "device"
    pages = {desk: HandPage.create(run.hand_path(desk), len(action.names)) for desk in DESKS}
    robot = Robot(
        run,
        board,
        observation,
        action,
        clock,
        scene,
        senses,
        Gate(
            arm,
            limits,
            board,
            Owner.CONTROL,
            config.loop.lease_s,
            now=clock.now_s,
            watchdog_silent_s=max(WATCHDOG_SILENT_S, config.loop.watchdog_timeout_s),
        ),
        Stream(
            ring,
            board,
            waits=lockstep,
            depth=config.recording.depth,
            frames_every=config.recording.frames_every,
            idle=lambda: robot.rest() or not board.stop_requested,
        ),
        policy,
        make_lane(lockstep, latency, "policy"),
        reward,
        make_lane(lockstep, latency, "reward"),
        pacing.start(config.loop.rate_hz, clock.now_s()),
        floor,
        Helm(floor, pages, config.operator, action, config.loop.rate_hz),
        Window.create(run.window_path, action, config.loop.rate_hz),
        Periodicity(config.loop.rate_hz, _thresholds(config.loop)),
        _black_box(run, action, limits, tuple(senses.cameras), policy),
    )
    return robot


def _thresholds(section: LoopSection) -> Thresholds:
    return Thresholds(
        section.period_warn, section.period_error, section.execution_warn, section.execution_error
    )


def _black_box(
    run: Run,
    action: ActionSpec,
    limits: GateLimits,
    cameras: tuple[str, ...],
    policy: PolicyRunner | None,
) -> BlackBox:
    config = run.config
    about = {
        "session_id": run.session_id,
        "robot_id": config.robot.id,
        "software_version": __version__,
        "config_hash": config.config_hash,
        "policy_id": policy.package.package_id if policy else run.plan.driver,
        "pace": config.pace,
        "rate_hz": config.loop.rate_hz,
        "units": action.units,
        "limits": {
            name: getattr(limits, name)
            for name in ("low", "high", "velocity", "acceleration", "jerk", "margin", "box")
        },
    }
    rate_hz = config.loop.rate_hz
    return BlackBox(run.blackbox_path, rate_hz, action.names, cameras, SECTIONS, about)


def _start(run: Run, policy: PolicyRunner | None, reward: Reward | None) -> None:
    """What the slots hold becomes active (in refinement), and every engine runs once off the clock."""
    notes: list[str] = []
    for runner in (policy, reward):
        if runner and runner.swapper and run.plan.purpose == "refine":
            notes += runner.swapper.start()
    for runner in (policy, reward):
        if runner:
            runner.warm_up(run)
    for note in notes:
        print(f"control: {note}", file=sys.stderr)


def _check_packages(
    run: Run,
    policy: PolicyRunner | None,
    reward: Reward | None,
    observation: ObservationSpec,
    action: ActionSpec,
) -> None:
    for runner, what in ((policy, "policy"), (reward, "reward model")):
        if runner is not None:
            manifest, named = runner.manifest, f"the {what} {runner.package.folder}"
            require_compatible(
                manifest.observation, manifest.action or action, observation, action, named
            )
            bound_to, config = manifest.observation.calibration_id, run.config
            require_bound(bound_to, config.calibration, config.robot.id, named)
