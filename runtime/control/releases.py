"""Releases between two episodes: what a person decided, the iteration's release, the swap, and what follows
from an episode's outcome. Owns when; whether is the swapper's, and everything on disk the slots'.
"""

from __future__ import annotations

import os
from functools import partial

import msgspec

from contracts.messages import ABORTED, EpisodeEnd, ReleaseOutcome
from runtime.board import Board
from runtime.control.judgement import Judgement
from runtime.control.resting import Resting
from runtime.control.robot import Robot
from runtime.models.policy import PolicyRunner
from runtime.models.reward import RewardRunner
from runtime.operator.floor import Phase
from runtime.run import Run
from runtime.weights.swap import Swapper

PROCESSORS = 4
"""Fewer, and what makes a release ready would take from the loop."""


class Releases:
    """Of both targets. Used in control's own thread, with the arm in hold and no inference under way."""

    def __init__(self, run: Run, board: Board, robot: Robot, resting: Resting) -> None:
        self._run, self._board, self._robot, self._resting = run, board, robot, resting
        self._reports = self._refused_seq = self._taken_at = 0
        self._late: list[int] = []
        """Ends of iterations, in episodes, at which the release had not come, since one that came in time."""
        self._staged: dict[str, int] = {}
        """What waited on disk at the start: the link may have looked before it was staged again."""
        for swapper in self._swappers():
            waiting = swapper.slots.find("staged")
            self._staged[swapper.target] = waiting[1].publish_seq if waiting else 0
            if self._looks_ahead(swapper.target):
                swapper.newest_staged = partial(self._newest_staged, swapper.target)

    def before(self, episode_seq: int) -> bool:
        """In hold: what a person wants, then wait for the iteration's release where the config says so, then
        swap. `episode_seq`: the first that would run with it. False: go no further."""
        iteration, board = self._run.config.iteration, self._board
        for swapper in self._swappers():
            for outcome in self._resting(lambda s=swapper: s.follow(episode_seq)):  # type: ignore[misc]
                self._tell(outcome)
        self.post_versions()
        tried = self._tried
        waited = iteration.wait_for_release and self._gave_an_iteration
        if waited and not self._wait():
            return False
        self._refused_seq = board.refused_policy_seq
        for swapper in self._swappers():
            if self._newest_staged(swapper.target) > swapper.tried:
                self._swap(swapper, episode_seq)
        self._count_from(board.episodes_done, waited, self._tried > tried)
        board.iteration_episode = (board.episodes_done - self._taken_at) % iteration.episodes
        return not board.stop_requested

    def take_last(self, episode_seq: int) -> None:
        """After the last iteration: its release goes through the same checks into its slot, so that an
        evaluation with `--slots` finds it."""
        if self._run.plan.purpose == "refine" and self._run.config.iteration.wait_for_release:
            self.before(episode_seq)

    def after(self, end: EpisodeEnd, judgement: Judgement) -> None:
        """An episode is over. `judgement`: what the reward engine made of it."""
        if self._run.plan.purpose != "refine" or end.reason == ABORTED:
            return
        label, fault = end.operator_success, ""
        success, agrees = judgement.of(end.reason), judgement.agrees(label, end.reason)
        reward = self._robot.reward
        head = reward.judge if reward and label is None else ""
        if label is not None:
            success = label
        if end.reason == "fault":
            success = agrees = None
            fault = end.detail or "fault"
        timed = not self._robot.clock.lockstep
        for swapper in self._swappers():
            settle = partial(swapper.settle, fault, success, timed=timed, head=head)
            if swapper.target == "reward":
                # It is success to say what a person or the bench says. To one that never says "complete",
                # every failure is one: no such episode commits it.
                settle = partial(
                    swapper.settle, fault, agrees, timed=timed, may_commit=bool(label and agrees)
                )
            outcome = self._resting(settle)
            if outcome is not None:
                self._tell(outcome)
        self.post_versions()

    def leave(self) -> None:
        """The run ends well: a trial under way goes on at the next start, and this was no failed attempt."""
        if self._run.plan.purpose == "refine":
            for swapper in self._swappers():
                swapper.slots.pause()

    def post_versions(self) -> None:
        self._board.policy_version = self._robot.policy_version
        self._board.reward_version = self._robot.reward_version

    def _swappers(self) -> list[Swapper]:
        policy: PolicyRunner | None = self._robot.policy
        reward = self._robot.reward
        found = [policy.swapper] if policy else []
        return found + ([reward.swapper] if isinstance(reward, RewardRunner) else [])

    def _looks_ahead(self, target: str) -> bool:
        config = self._run.config
        if config.iteration.ahead == "never" or self._robot.clock.lockstep:
            return False
        engine = config.policy.engine if target == "policy" else config.reward.engine
        spare = len(os.sched_getaffinity(0)) >= PROCESSORS
        return config.iteration.ahead == "always" or (engine == "onnxruntime" and spare)

    def _newest_staged(self, target: str) -> int:
        board = self._board
        known = board.staged_policy_seq if target == "policy" else board.staged_reward_seq
        return max(known, self._staged[target])

    @property
    def _gave_an_iteration(self) -> bool:
        """Whether the trainer has an iteration's episodes of this robot since the last release was taken, or
        refused. Not since the start: a trainer that had some by then, or lost one, would be behind or ahead
        of this robot in every iteration, and be waited for in vain."""
        done = self._board.episodes_done - self._taken_at
        return done > 0 and done % self._run.config.iteration.episodes == 0

    def _count_from(self, done: int, waited: bool, taken: bool) -> None:
        """A release that came late, once, was made of the iteration at whose end it was waited for, and the
        robot stays in step; at the second in a row the trainer counts otherwise, and is followed."""
        if taken:
            late_once = not waited and len(self._late) == 1
            self._taken_at = self._late[0] if late_once else done
            if not late_once:
                self._late.clear()
        elif waited:
            self._late = [*self._late[-1:], done]

    @property
    def _tried(self) -> int:
        # Not the active version: a release that was refused is still the newest that was staged.
        policy = self._robot.policy
        return max(policy.swapper.tried if policy else 0, self._refused_seq)

    def _wait(self) -> bool:
        """Rest until a release is ready or its time is out; False: go no further. Nothing is waited for
        while a person has pinned what acts."""
        board, policy = self._board, self._robot.policy
        if policy is not None and self._resting(lambda: policy.swapper.slots.state().pinned):
            return True
        tried = self._tried
        board.waiting_for_release = 1
        self._robot.floor.enter(Phase.RELEASE)
        try:
            return self._resting.until(
                lambda: max(board.staged_policy_seq, board.refused_policy_seq) > tried,
                self._run.config.iteration.release_timeout_s,
            )
        finally:
            board.waiting_for_release = 0

    def _swap(self, swapper: Swapper, episode_seq: int) -> None:
        for outcome in self._resting(lambda: swapper.swap(episode_seq)):
            self._tell(outcome)
        self.post_versions()

    def _tell(self, outcome: ReleaseOutcome) -> None:
        self._board.swaps_done += outcome.outcome == "swapped"
        self._board.swaps_rejected += outcome.outcome == "rejected"
        if not outcome.report_id:
            # Not owed by the slots. Named here: a link that is killed while it takes it over takes it again.
            self._reports += 1
            report_id = f"{self._run.session_id}.{self._reports}"
            outcome = msgspec.structs.replace(outcome, report_id=report_id)
        self._robot.stream.boundary(outcome)
