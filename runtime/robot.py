"""The robot that the control process drives: every part of it, and the tick's beginning and end.

`build` opens the parts, hardware last: everything that can be wrong is found before anything moves.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from contracts.reward import RewardSignal
from contracts.specs import ActionSpec, ObservationSpec, require_compatible
from runtime import pacing
from runtime.arms import open_arm
from runtime.board import Board, Owner
from runtime.cameras import open_cameras
from runtime.clock import Clock, MonotonicClock, SimulatedClock
from runtime.config import Run
from runtime.gate import Gate, limits_of
from runtime.inference import Lane, make_lane
from runtime.policy import Inference, PolicyRunner, open_policy
from runtime.preflight import check_rates
from runtime.reward import Reward, open_reward
from runtime.ring import Ring
from runtime.scene import Scene, open_scene
from runtime.senses import Senses
from runtime.stream import Stream

_STATISTICS_EVERY = 15


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
    window: pacing.LatenessWindow = field(default_factory=pacing.LatenessWindow)

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
        self.window.add(now_s, lateness_s)
        return lateness_s

    def post(self, lateness_s: float) -> None:
        """Let the other processes see that this loop lives, and how."""
        board = self.board
        board.tick_at_s = time.monotonic()
        board.lateness_s = lateness_s
        board.loop_state = self.gate.state.mode
        board.missed_ticks = self.pace.missed
        if self.pace.tick % _STATISTICS_EVERY == 0:
            board.lateness_p99_s = self.window.p99_s()
            board.loop_rate_hz = self.window.rate_hz()
        board.tick += 1

    def rest(self) -> bool:
        """A tick in hold between episodes. False: stop was asked for, or the arm was lost."""
        lateness_s = 0.0 if self.clock.lockstep else self.wake()
        kept = self.gate.rest()
        self.post(lateness_s)
        return kept and not self.board.stop_requested

    def close(self) -> None:
        """The arm in hold, every device and engine closed; never raises."""
        for close in (
            self.policy_lane.close,
            self.reward_lane.close,
            self.gate.close,
            self.senses.close,
            self.scene.close,
            # After the lanes, which nothing is in flight in then, and after what moves.
            *(runner.close for runner in (self.policy, self.reward) if runner),
        ):
            try:
                close()
            except Exception as error:  # the rest must be closed whatever one of them does
                print(f"control: {error}", file=sys.stderr)


def build(run: Run, board: Board) -> Robot:
    """The robot of a run. Raises `EntracteError` where a part is missing or doesn't fit another."""
    config = run.config
    driven = run.plan.driver == "policy"
    policy = open_policy(run) if driven else None
    reward = open_reward(run) if driven else None
    if policy:
        check_rates(config.loop.rate_hz, policy.chunk.rate_hz)
    _start(run, policy, reward)
    arm = open_arm(run, "control")
    senses = Senses(open_cameras(run), arm)
    action = arm.spec()
    observation = senses.spec(action)
    _check_packages(policy, reward, observation, action)
    scene = open_scene(run)
    lockstep = config.pace == "asap"
    clock: Clock = (
        SimulatedClock(scene.advance, scene.advance(0.0)) if lockstep else MonotonicClock()
    )
    ring = None if run.plan.sink == "none" else Ring.open(run.ring_path)
    limits = limits_of(action, config.gate, config.loop.rate_hz)
    latency = config.loop.inference_latency_ticks
    robot = Robot(
        run,
        board,
        observation,
        action,
        clock,
        scene,
        senses,
        Gate(arm, limits, board, Owner.CONTROL, config.loop.lease_s),
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
    )
    return robot


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
    policy: PolicyRunner | None,
    reward: Reward | None,
    observation: ObservationSpec,
    action: ActionSpec,
) -> None:
    for runner, what in ((policy, "policy"), (reward, "reward model")):
        if runner is not None:
            manifest = runner.manifest
            require_compatible(
                manifest.observation,
                manifest.action or action,
                observation,
                action,
                f"the {what} {runner.package.folder}",
            )
