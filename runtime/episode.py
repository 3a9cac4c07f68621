"""One episode of control: the tick, and what ends it.

Owns the order of a tick's sections and their timings. In the tick there is no socket but the arm's, no
log, no disk and no waiting for an inference. Calls go one way: control → episode → everything else.
"""

from __future__ import annotations

import math
import time

from contracts.errors import DeviceError
from contracts.messages import EpisodeEnd, GateBit, Step
from contracts.reward import RewardSignal
from runtime import pacing
from runtime.gate import Verdict
from runtime.history import History
from runtime.reward import Reward
from runtime.robot import Robot
from runtime.scene import EpisodePlan
from runtime.scheduler import NOTHING, Choice, Chunk, Scheduler
from runtime.senses import Observation

SECTIONS = ("wait", "observe", "infer", "gate", "reward", "record", "board")


class Episode:
    """Runs one episode from its first tick to `end`."""

    def __init__(self, robot: Robot, plan: EpisodePlan, instruction: str) -> None:
        self.robot, self.plan, self.instruction = robot, plan, instruction
        config = robot.run.config
        self._step = 0
        self._limit = max(1, round(config.episode.max_s * config.loop.rate_hz))
        self._end = ""
        self._detail = ""
        self._from_policy = robot.run.plan.driver == "policy"
        chunk_rate_hz = robot.policy.chunk.rate_hz if robot.policy else config.loop.rate_hz
        ratio = max(1, round(config.loop.rate_hz / chunk_rate_hz))
        self._scheduler = Scheduler(ratio, config.policy.execute_steps)
        observations = robot.policy.observations if robot.policy else 1
        self._history: History[Observation] = History(observations, ratio)
        self._started_s = math.nan
        self._last_signal: RewardSignal | None = None
        self._sections: dict[str, list[float]] = {name: [] for name in SECTIONS}
        self._lateness_s: list[float] = []
        self._missed_before = robot.pace.missed
        self._bits: dict[int, int] = {}
        self._mark_s = time.perf_counter()
        self._ends_on_completion = (
            config.reward.end_episode
            and plan.purpose == "refine"
            and config.episode.label != "truth"
        )
        # A recorded failure may pass through success on its way (undoing it, say).
        self._ends_when_told = plan.style in ("", "expert")

    def run(self) -> EpisodeEnd:
        """Tick until something ends the episode."""
        robot, board = self.robot, self.robot.board
        if robot.policy:
            explore = self.plan.purpose == "refine"
            robot.policy.begin_episode(self.instruction, abs(self.plan.seed), explore=explore)
        if robot.reward:
            robot.reward.begin_episode(self.instruction)
        robot.stream.begin_episode()
        self._scheduler.begin_episode()
        board.step = 0
        self._mark_s = time.perf_counter()
        while not self._end:
            self.tick()
        robot.gate.hold(self._end)
        robot.policy_lane.drain()
        robot.reward_lane.drain()
        return self._report()

    def tick(self) -> None:
        """Wake, observe, infer, act through the gate, score, record, say so."""
        lateness_s = self._wake()
        seen = self._observe()
        if seen is None:
            return
        wanted = self._infer(seen)
        verdict = self._act(wanted, seen)
        signal = self._score(seen)
        self._record(seen, wanted, verdict, signal, lateness_s)
        self._conclude(lateness_s)

    # -- the sections of a tick

    def _wake(self) -> float:
        lateness_s = self.robot.wake()
        self._lateness_s.append(lateness_s)
        self._mark("wait")
        return lateness_s

    def _observe(self) -> Observation | None:
        try:
            seen = self.robot.senses.observe(self.robot.clock.now_s())
        except DeviceError as error:
            self.robot.gate.fault(str(error))
            self._stop("fault", str(error))
            return None
        self._mark("observe")
        return seen

    def _infer(self, seen: Observation) -> Choice:
        """The action of this step, and an inference under way when one is due."""
        robot, step = self.robot, self._step
        if not self._from_policy:
            try:
                move = robot.scene.teleoperate()
            except DeviceError as error:
                self._stop("fault", str(error))
                return NOTHING
            if move.done:
                self._stop("completed", "the teleoperator was done")
            if move.success is not None:
                progress = min(max(move.progress, 0.0), 1.0)
                self._last_signal = RewardSignal(
                    step, progress, float(move.success), model_id="truth"
                )
            self._mark("infer")
            return Choice(move.targets)
        self._take_chunk()
        policy = robot.policy
        complete = len(seen.frames) == len(robot.senses.cameras)
        if complete:
            # Periods, not ticks: what a camera or the loop missed is time all the same.
            self._history.add(robot.pace.tick + robot.pace.missed, seen)
        if policy and self._scheduler.is_due(step) and not robot.policy_lane.busy:
            if complete:
                number = self._scheduler.asked(step)
                self._started_s = robot.clock.now_s()
                *earlier, (pictures, state) = [
                    (one.pictures(), one.joints.positions) for one in self._history.chosen()
                ]
                robot.policy_lane.submit(
                    lambda: policy.infer(pictures, state, number, earlier), step
                )
            self._take_chunk()  # latency 0 delivers within the tick
        choice = self._scheduler.choose(step)
        self._mark("infer")
        return choice

    def _take_chunk(self) -> None:
        done = self.robot.policy_lane.poll(self._step)
        if done is None:
            return
        if done.value is None:
            self.robot.gate.fault(f"policy: {done.error}")
            return
        number = self._scheduler.requests - 1
        self._scheduler.accept(Chunk(number, done.step, done.value.actions, self._started_s))

    def _act(self, wanted: Choice, seen: Observation) -> Verdict:
        gate, board = self.robot.gate, self.robot.board
        verdict = gate.command(wanted.action, seen.state_age_s, seen.frame_age_s)
        if verdict.bits:
            self._bits[verdict.bits] = self._bits.get(verdict.bits, 0) + 1
            if verdict.bits & ~GateBit.HELD:
                board.gate_interventions += 1
        if wanted.action is None:
            board.held_ticks += 1
        elif board.first_action_at_s == 0.0:
            board.first_action_at_s = time.monotonic()
        self._mark("gate")
        return verdict

    def _score(self, seen: Observation) -> RewardSignal | None:
        """A signal that arrived in this tick, and the next one under way when it is due."""
        robot, step, signal = self.robot, self._step, None
        reward = robot.reward
        if reward is not None:
            signal = self._take_signal(reward)
            if reward.is_due(step) and not robot.reward_lane.busy and seen.frames:
                pictures = seen.pictures()
                robot.reward_lane.submit(lambda: reward.score(pictures, step), step)
                signal = self._take_signal(reward) or signal
        elif self._last_signal is not None:
            signal, self._last_signal = self._last_signal, None
        if not math.isnan(progress := robot.scene.progress()):
            # A comparison run learns from the bench's verdict, whatever an engine beside it says.
            signal = RewardSignal(step, progress, model_id="truth")
        self._mark("reward")
        return signal

    def _take_signal(self, reward: Reward) -> RewardSignal | None:
        done = self.robot.reward_lane.poll(self._step)
        if done is None or done.value is None:
            return None
        signal, board = done.value, self.robot.board
        board.reward_process, board.reward_completion = signal.process, signal.completion
        board.reward_contrastive = signal.contrastive
        board.rewards_abstained += bool(signal.abstained)
        if reward.is_complete(signal) and self._ends_on_completion:
            self._stop("completed", f"completion {signal.completion:.2f} at step {signal.step}")
        return signal

    def _record(
        self,
        seen: Observation,
        wanted: Choice,
        verdict: Verdict,
        signal: RewardSignal | None,
        lateness_s: float,
    ) -> None:
        robot = self.robot
        message = Step(
            index=self._step,
            tick_s=seen.at_s,
            captured_s={name: frame.captured_s for name, frame in seen.frames.items()},
            received_s={name: frame.received_s for name, frame in seen.frames.items()},
            state_s=seen.joints.at_s,
            inference_started_s=self._started_s,
            actuated_s=robot.clock.now_s(),
            lateness_s=lateness_s,
            state=tuple(seen.joints.positions.tolist()),
            action=verdict.command,
            requested=wanted.action if wanted.action is not None else verdict.command,
            gate=verdict.bits,
            chunk=wanted.chunk,
            chunk_index=wanted.index,
            policy_version=robot.policy_version,
            reward_version=robot.reward_version,
            intervention=not self._from_policy,
            reward=signal,
        )
        robot.stream.step(message, dict(seen.frames))
        self._mark("record")

    def _conclude(self, lateness_s: float) -> None:
        robot = self.robot
        self._step += 1
        if robot.gate.faulted:
            self._stop("fault", robot.gate.state.reason)
        elif robot.board.stop_requested:
            self._stop("aborted", "stop was asked for")
        elif self._ends_when_told and robot.scene.finished():
            self._stop("completed", "success lasted")
        elif self._step >= self._limit:
            self._stop("time_limit", "")
        robot.board.step = self._step
        robot.post(lateness_s)
        self._mark("board")

    # -- the end

    def _stop(self, reason: str, detail: str) -> None:
        if not self._end or reason == "fault":
            self._end, self._detail = reason, detail

    def _mark(self, section: str) -> None:
        now_s = time.perf_counter()
        self._sections[section].append(now_s - self._mark_s)
        self._mark_s = now_s
        self.robot.board.beats += 1

    def _report(self) -> EpisodeEnd:
        timings: dict[str, float] = {}
        for name, values_s in (*self._sections.items(), ("lateness", self._lateness_s)):
            timings |= pacing.summary(values_s, name)
        if self._end == "fault":  # where the last tick's time went: the first thing to ask
            timings |= {f"last_{name}_s": v[-1] for name, v in self._sections.items() if v}
        timings["missed"] = float(self.robot.pace.missed - self._missed_before)
        timings["held"] = float(self._scheduler.held)
        timings["gate_changed"] = float(
            sum(count for bits, count in self._bits.items() if bits & ~GateBit.HELD)
        )
        return EpisodeEnd(
            episode_seq=self.plan.episode_seq,
            steps=self._step,
            reason=self._end,
            detail=self._detail,
            timings=timings,
        )
