"""One episode of control: the tick, and what ends it.

Owns the order of a tick's sections and their timings. In the tick there is no socket but the arm's, no
log, no disk and no waiting for an inference. Calls go one way: control → episode → everything else.
"""

from __future__ import annotations

import math
import time

from contracts.errors import DeviceError
from contracts.messages import ABORTED, EpisodeEnd, GateBit, Step
from contracts.reward import RewardSignal
from runtime.blackbox.box import SECTIONS
from runtime.control import pacing
from runtime.control.ending import words_of
from runtime.control.ensemble import Ensemble
from runtime.control.history import History
from runtime.control.judgement import Judgement
from runtime.control.robot import Robot
from runtime.control.scene import EpisodePlan
from runtime.control.scheduler import NOTHING, Choice, Chunk, Scheduler
from runtime.control.senses import Observation
from runtime.gate.gate import Origin, Verdict
from runtime.models.reward import Reward

_PAUSE_S = 0.002


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
        self._scheduler = Scheduler(ratio, config.policy.execute_steps, _ensemble(robot, ratio))
        observations = robot.policy.observations if robot.policy else 1
        self._history: History[Observation] = History(observations, ratio)
        self._started_s, self._lag, self._acted_s = math.nan, 0.0, math.nan
        self._rate_hz, self._action_latency_s = config.loop.rate_hz, config.arm.action_latency_s
        self._last_signal: RewardSignal | None = None
        self.judgement = Judgement()
        self._sections: dict[str, list[float]] = {name: [] for name in SECTIONS}
        self._lateness_s: list[float] = []
        self._missed_before, self._missed_paused = robot.pace.missed, 0
        self._bits: dict[int, int] = {}
        self._mark_s = time.perf_counter()
        self._ends_on_completion = (
            config.reward.end_episode
            and plan.purpose == "refine"
            and config.episode.label != "truth"
        )
        # A recorded failure may pass through success on its way (undoing it, say).
        self._ends_when_told = plan.style in ("", "expert")

    def run(self) -> None:
        """Tick until something ends the episode, and until the arm stands."""
        robot = self.robot
        if robot.policy:
            explore = self.plan.purpose == "refine"
            robot.policy.begin_episode(self.instruction, abs(self.plan.seed), explore=explore)
        if robot.reward:
            robot.reward.begin_episode(self.instruction)
        robot.gate.begin_episode(self.plan.episode_seq, robot.policy_version)
        robot.stream.begin_episode()
        self._scheduler.begin_episode()
        robot.helm.begin_episode()
        self._mark_s = time.perf_counter()
        while not self._end:
            if robot.floor.paused:
                self._pause()
            else:
                self.tick()
        robot.come_to_rest(self._end)
        if hangs := robot.await_lanes():
            self._stop("fault", hangs)
        elif robot.gate.faulted:  # while it waited
            self._stop("fault", robot.gate.state.reason)

    def tick(self) -> None:
        """Wake, observe, infer, act through the gate, score, record, say so."""
        lateness_s = self._wake()
        seen = self._observe()
        if seen is None:
            self.robot.gate.brake()
            return
        wanted = self._infer(seen)
        verdict = self._act(wanted, seen)
        signal = self._score(seen, verdict)
        self._record(seen, wanted, verdict, signal, lateness_s)
        self._conclude(lateness_s)

    def _pause(self) -> None:
        """A tick in hold with the episode's clock standing: nothing is inferred, scored or recorded, and only
        a person ends it. In lockstep no time passes at all."""
        robot = self.robot
        lateness_s, missed = 0.0, robot.pace.missed
        if robot.clock.lockstep:
            robot.gate.rest()
            time.sleep(_PAUSE_S)
        else:
            lateness_s = robot.wake()
            try:
                age_s = robot.clock.now_s() - robot.senses.joints().at_s
            except DeviceError as error:
                robot.gate.fault(str(error))
                age_s = 0.0
            robot.gate.command(None, age_s, 0.0)
        self._missed_paused += robot.pace.missed - missed
        robot.floor.listen()
        self._end_if_told()
        if not robot.floor.paused:
            self._start_afresh()
        robot.post(lateness_s)
        self._mark_s = time.perf_counter()  # no section of a tick

    def _start_afresh(self) -> None:
        """What was inferred from what was seen before now is not carried out any more."""
        self._scheduler.forget(self._step)
        self._history.clear()
        self.robot.helm.start_afresh()

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
            self._stop("fault", str(error))
            return None
        self._mark("observe")
        return seen

    def _infer(self, seen: Observation) -> Choice:
        choice = self._choose(seen)
        self._mark("infer")
        return choice

    def _choose(self, seen: Observation) -> Choice:
        """The action of this step, and an inference under way when one is due."""
        robot, step = self.robot, self._step
        if (by_hand := robot.helm.steer(robot.gate.state.position)) is not None:
            return by_hand
        if robot.helm.returned:
            robot.helm.returned = False
            self._start_afresh()
        if robot.run.plan.driver == "person":
            return NOTHING  # nobody has the arm in hand yet
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
            return Choice(move.targets)
        self._take_chunk()
        policy = robot.policy
        if seen.complete:
            # Periods, not ticks: what a camera or the loop missed is time all the same.
            self._history.add(robot.pace.tick + robot.pace.missed, seen)
        if policy and self._scheduler.is_due(step) and not robot.policy_lane.busy:
            if seen.complete:
                number = self._scheduler.asked(step)
                self._started_s = robot.clock.now_s()
                self._lag = (seen.at_s - seen.true_s + self._action_latency_s) * self._rate_hz
                *earlier, (pictures, state) = [
                    (one.pictures(), one.posture.positions) for one in self._history.chosen()
                ]
                underway = self._scheduler.underway(step, self._lag)
                robot.policy_lane.submit(
                    lambda: policy.infer(pictures, state, number, earlier, underway), step
                )
            self._take_chunk()  # latency 0 delivers within the tick
        return robot.helm.ease(self._scheduler.choose(step))

    def _take_chunk(self) -> None:
        done = self.robot.policy_lane.poll(self._step)
        if done is None:
            return
        if done.value is None:
            self.robot.gate.fault(f"policy: {words_of(done.error) if done.error else 'no chunk'}")
            return
        number = self._scheduler.requests - 1
        origin = Origin(self.plan.episode_seq, done.value.version, number, self._started_s)
        made = done.value
        chunk = Chunk(
            number, done.step, made.actions, self._started_s, self._lag, origin, made.plain
        )
        self._scheduler.accept(chunk, self._step)

    def _act(self, wanted: Choice, seen: Observation) -> Verdict:
        gate, board = self.robot.gate, self.robot.board
        verdict = gate.command(
            wanted.action, seen.state_age_s, seen.frame_age_s, wanted.origin, seen.at_s
        )
        self._acted_s = self.robot.clock.now_s()
        self._note(wanted, seen, verdict)
        if verdict.bits & GateBit.STALE:
            # Nor is what was inferred from old pictures carried out once there are newer ones.
            self._scheduler.forget(self._step + 1)
            self._history.clear()
        if verdict.bits & GateBit.HELD:
            self.robot.helm.start_afresh()
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

    def _note(self, wanted: Choice, seen: Observation, verdict: Verdict) -> None:
        """For the black box, as soon as the arm has its command."""
        box, frames = self.robot.box, seen.frames
        box.saw(
            seen.joints,
            seen.state_age_s,
            seen.frame_age_s,
            [f.captured_s if (f := frames.get(n)) else math.nan for n in self.robot.senses.cameras],
        )
        box.judged(self.robot.gate.state.mode, verdict.bits, wanted.action, verdict.command)
        if (origin := wanted.origin) is not None:
            box.put(
                chunk=wanted.chunk,
                chunk_index=wanted.index,
                action_episode=origin.episode,
                action_version=origin.policy_version,
                observed_s=origin.observed_s,
            )
        box.commit()

    def _score(self, seen: Observation, verdict: Verdict) -> RewardSignal | None:
        """A signal that arrived in this tick, and the next one under way when it is due."""
        robot, step, signal = self.robot, self._step, None
        reward = robot.reward
        if reward is not None:
            signal = self._take_signal(reward)
            # The same picture again and again would make one mistake a sure completion.
            fresh = seen.frames and not verdict.bits & GateBit.STALE
            if reward.is_due(step) and not robot.reward_lane.busy and fresh:
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
        complete = reward.is_complete(signal)
        self.judgement.scored(signal, complete, reward.is_sure)
        if complete and self._ends_on_completion:
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
        self.judgement.helped(robot.helm.intervening)
        message = Step(
            index=self._step,
            tick_s=seen.at_s,
            captured_s={name: frame.captured_s for name, frame in seen.frames.items()},
            received_s={name: frame.received_s for name, frame in seen.frames.items()},
            state_s=seen.posture.at_s,
            inference_started_s=wanted.origin.observed_s if wanted.origin else math.nan,
            actuated_s=self._acted_s,
            lateness_s=lateness_s,
            state=tuple(seen.posture.positions.tolist()),
            action=verdict.command,
            requested=_requested(wanted, verdict),
            gate=verdict.bits,
            chunk=wanted.chunk,
            chunk_index=wanted.index,
            policy_version=robot.policy_version,
            reward_version=robot.reward_version,
            intervention=robot.helm.intervening or not self._from_policy,
            reward=signal,
        )
        robot.stream.step(message, dict(seen.frames))
        robot.show.show(self._row(message), message.state, message.action, message.requested)
        self._mark("record")

    def _row(self, step: Step) -> tuple[float, ...]:
        """What a viewer is shown of a tick (`runtime.operator.window.Row`)."""
        signal = step.reward
        scores = (
            (math.nan,) * 3
            if signal is None
            else (signal.process, signal.completion, signal.contrastive)
        )
        mode = float(self.robot.gate.state.mode)
        known = (step.tick_s, float(self.plan.episode_seq), float(step.index), mode)
        return (*known, float(step.gate), step.lateness_s, *scores, float(step.intervention))

    def _conclude(self, lateness_s: float) -> None:
        robot = self.robot
        self._step += 1
        robot.floor.listen()
        if self._end_if_told():
            pass
        elif self._ends_when_told and robot.scene.finished():
            self._stop("completed", "success lasted")
        elif self._elapsed_periods() >= self._limit:
            self._stop("time_limit", "")
        robot.board.step = self._step
        robot.post(lateness_s)
        self._mark("board")

    def _elapsed_periods(self) -> int:
        """Of the episode's own time: steps, and what the loop missed outside pauses."""
        return self._step + self.robot.pace.missed - self._missed_before - self._missed_paused

    # -- the end

    def _end_if_told(self) -> bool:
        """By a fault or by a person."""
        robot = self.robot
        if robot.gate.faulted:
            self._stop("fault", robot.gate.state.reason)
        elif robot.board.stop_requested:
            self._stop(ABORTED, "stop was asked for")
        elif robot.floor.ends:
            self._stop(robot.floor.ends, "")
        return bool(self._end)

    def _stop(self, reason: str, detail: str) -> None:
        """A fault is latched as well, and braked for by the gate's next command."""
        if reason == "fault":
            self.robot.gate.fault(detail)
        if not self._end or reason == "fault":
            self._end, self._detail = reason, detail

    def _mark(self, section: str) -> None:
        now_s = time.perf_counter()
        self._sections[section].append(now_s - self._mark_s)
        self.robot.box.took(section, now_s - self._mark_s)
        self._mark_s = now_s
        self.robot.board.beats += 1

    def report(self) -> EpisodeEnd:
        """How it ended. Of a long episode that takes longer than the watchdog waits for a tick."""
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


def _requested(wanted: Choice, verdict: Verdict) -> tuple[float, ...]:
    """What was asked for, as it is recorded and shown: of another arity there is nothing to compare."""
    action = wanted.action
    fits = action is not None and len(action) == len(verdict.command)
    return tuple(action) if action is not None and fits else verdict.command


def _ensemble(robot: Robot, ratio: int) -> Ensemble | None:
    """Room for as many chunks as can reach one step, where the configuration averages over them."""
    section = robot.run.config.policy
    if robot.policy is None or section.chunks != "ensemble":
        return None
    length, joints = robot.policy.chunk.length, len(robot.action.names)
    return Ensemble(
        length // section.execute_steps + 1, length, joints, ratio, section.ensemble_decay
    )
