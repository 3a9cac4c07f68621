"""The control process: runs the plan's episodes on the robot, swaps between them.

`python -m runtime.control --run-dir <dir>`. Exit codes: 0 done, 2 could not start (nothing moved),
3 a latched fault. The reason is one sentence on stderr and in <run>/control.exit.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from contracts import __version__
from contracts.errors import DeviceError, EntracteError
from contracts.messages import EpisodeEnd, EpisodeStart, ReleaseOutcome, SessionStart
from runtime import pacing
from runtime.board import Board, LoopState
from runtime.config import Run
from runtime.diary import Diary
from runtime.episode import Episode
from runtime.keys import FAILURE, SUCCESS
from runtime.priority import run_first
from runtime.robot import build
from runtime.scene import EpisodePlan
from runtime.swap import Swapper

T = TypeVar("T")
EXIT_CANNOT_START, EXIT_FAULT = 2, 3
FRESH_PICTURES_S = 5.0
LABEL_PATIENCE_S = 120.0
_RESTING_PAUSE_S = 0.002


class Control:
    """Runs episodes until the plan is done, a stop is asked for, or a fault latches."""

    def __init__(self, run: Run, board: Board) -> None:
        self.run, self.board = run, board
        self._diary = Diary(run)
        self._reports = self._refused_seq = 0
        self.robot = build(run, board)

    # -- running

    def execute(self) -> int:
        """All episodes of the plan; returns the exit code."""
        robot, board = self.robot, self.board
        robot.stream.boundary(self._session_start())
        self._post_versions()
        # A full collection over everything imported would stop the loop for tens of milliseconds.
        gc.collect()
        gc.freeze()
        gc.disable()
        if not robot.clock.lockstep:
            run_first()
        robot.gate.prepare(robot.senses.observe(robot.clock.now_s()).joints)
        robot.pace = pacing.start(self.run.config.loop.rate_hz, robot.clock.now_s())
        robot.post(0.0)
        robot.gate.take_arm()  # from here on the watchdog watches
        board.control_ready = 1
        for plan in self._plans():
            if not self._episode(plan):
                break
            self._resting(lambda: gc.collect(0))
        else:
            self._take_last_release()
        faulted = robot.gate.faulted
        robot.gate.hold("the run is over")
        board.loop_state = LoopState.FAULT if faulted else LoopState.DONE
        if faulted:
            leave_reason(self.run, EXIT_FAULT, robot.gate.state.reason)
        return EXIT_FAULT if faulted else 0

    def _plans(self) -> Iterator[EpisodePlan]:
        plan, episode = self.run.plan, self.run.config.episode
        limit = plan.episodes
        if plan.purpose == "refine" and not limit:
            limit = self.run.config.iteration.count * self.run.config.iteration.episodes
        styles = [style for style in plan.style.split(",") if style] or [""]
        done = 0
        while (not limit or done < limit) and not self.board.stop_requested:
            seq = self._diary.next_seq
            # Fixed seeds pair evaluations; refinement sees a fresh scene in every episode of its life.
            offset = seq if plan.purpose == "refine" else done
            seed = episode.seed_base + offset
            yield EpisodePlan(seq, episode.task, seed, plan.purpose, styles[done % len(styles)])
            done += 1

    def _episode(self, plan: EpisodePlan) -> bool:
        """One episode with what comes before and after it; False: go no further."""
        robot, board = self.robot, self.board
        if plan.purpose == "refine" and not self._boundary(plan):
            return False
        instruction, shown_from_s = self._resting(lambda: robot.scene.set_up(plan))
        if not self._see_scene(shown_from_s):
            return False
        robot.gate.prepare(robot.senses.observe(robot.clock.now_s()).joints)
        self._resting(lambda: self._diary.begin(plan.episode_seq))
        board.episode_seq = plan.episode_seq
        started_s = time.monotonic()
        start = self._episode_start(plan, instruction)
        robot.stream.boundary(start)
        end = Episode(robot, plan, instruction).run()
        end = self._resting(lambda: self._finish(plan, end))
        if self.run.config.episode.label == "keys" and end.reason not in ("fault", "aborted"):
            end = self._ask_label(end)
        robot.stream.boundary(end)
        self._resting(lambda: self._diary.end(plan, start, end, time.monotonic() - started_s))
        self._settle(end)
        board.episodes_done += 1
        return not robot.gate.faulted and end.reason != "aborted"

    def _finish(self, plan: EpisodePlan, end: EpisodeEnd) -> EpisodeEnd:
        label = self.robot.scene.finish(plan, end.reason, end.steps, self.robot.policy_version)
        known = label if label is not None else (end.reason == "completed" or None)
        self.board.last_success = -1 if known is None else int(known)
        return msgspec.structs.replace(end, operator_success=label)

    def _ask_label(self, end: EpisodeEnd) -> EpisodeEnd:
        """Rest until a person has labelled the episode, or leave it without a label."""
        board = self.board
        board.operator_label, board.label_wanted = 0, end.episode_seq + 1
        self._rest_until(lambda: board.operator_label != 0, LABEL_PATIENCE_S)
        board.label_wanted = 0
        label = {SUCCESS: True, FAILURE: False}.get(board.operator_label)
        board.last_success = -1 if label is None else int(label)
        return msgspec.structs.replace(end, operator_success=label)

    def _see_scene(self, shown_from_s: float) -> bool:
        """Rest until every camera shows the new scene. Raises `DeviceError` if one doesn't."""
        robot = self.robot
        give_up_s = time.monotonic() + FRESH_PICTURES_S
        while True:
            seen = robot.senses.observe(robot.clock.now_s())
            missing = [
                name
                for name in robot.senses.cameras
                if name not in seen.frames or seen.frames[name].captured_s < shown_from_s
            ]
            if not missing:
                return True
            if time.monotonic() > give_up_s:
                raise DeviceError(f"no picture from camera '{missing[0]}'", found="none in 5 s")
            if not robot.rest():
                return False
            if robot.clock.lockstep:
                time.sleep(_RESTING_PAUSE_S)

    # -- between episodes

    def _boundary(self, plan: EpisodePlan) -> bool:
        """In hold: wait for the iteration's release where the config says so, then swap. False: stop."""
        iteration = self.run.config.iteration
        done = self.board.episodes_done
        self.board.iteration_episode = done % iteration.episodes
        if iteration.wait_for_release and done and done % iteration.episodes == 0:
            # Not the active version: a release that was refused is still the newest that was staged.
            tried = self.robot.policy.swapper.tried if self.robot.policy else 0
            tried = max(tried, self._refused_seq)
            board = self.board
            if not self._wait_for(
                lambda: max(board.staged_policy_seq, board.refused_policy_seq) > tried
            ):
                return False
            self._refused_seq = board.refused_policy_seq
        for runner, staged in (
            (self.robot.policy, self.board.staged_policy_seq),
            (self.robot.reward, self.board.staged_reward_seq),
        ):
            if runner is not None and runner.swapper and staged > runner.swapper.tried:
                self._swap(runner.swapper, plan.episode_seq)
        return not self.board.stop_requested

    def _take_last_release(self) -> None:
        """After the last iteration: its release goes through the same checks into its slot, so that an
        evaluation with `--slots` finds it."""
        plan, iteration = self.run.plan, self.run.config.iteration
        whole = self.board.episodes_done % iteration.episodes == 0
        if plan.purpose == "refine" and whole and iteration.wait_for_release:
            episode = self.run.config.episode
            self._boundary(EpisodePlan(self._diary.next_seq, episode.task, -1, plan.purpose))

    def _wait_for(self, ready: Callable[[], bool]) -> bool:
        """Rest until a release is ready or its time is out; False: go no further."""
        self.board.waiting_for_release = 1
        try:
            return self._rest_until(ready, self.run.config.iteration.release_timeout_s)
        finally:
            self.board.waiting_for_release = 0

    def _rest_until(self, ready: Callable[[], bool], patience_s: float) -> bool:
        """Tick in hold until ready or out of patience (wall time); False: stop was asked for, or the
        arm was lost."""
        give_up_s = time.monotonic() + patience_s
        while not ready() and time.monotonic() < give_up_s:
            if not self.robot.rest():
                return False
            if self.robot.clock.lockstep:
                time.sleep(_RESTING_PAUSE_S)
        return True

    def _swap(self, swapper: Swapper, episode_seq: int) -> None:
        for outcome in self._resting(lambda: swapper.swap(episode_seq)):
            self._tell(outcome)
        self._post_versions()

    def _settle(self, end: EpisodeEnd) -> None:
        if self.run.plan.purpose != "refine":
            return
        fault = end.detail if end.reason == "fault" else ""
        for runner in (self.robot.policy, self.robot.reward):
            if runner is not None and runner.swapper:
                outcome = self._resting(lambda s=runner.swapper: s.settle(fault))  # type: ignore[misc]
                if outcome is not None:
                    self._tell(outcome)
        self._post_versions()

    def _tell(self, outcome: ReleaseOutcome) -> None:
        self.board.swaps_done += outcome.outcome == "swapped"
        self.board.swaps_rejected += outcome.outcome == "rejected"
        # Named here: a link that is killed while it takes the report over takes it again.
        self._reports += 1
        report_id = f"{self.run.session_id}.{self._reports}"
        self.robot.stream.boundary(msgspec.structs.replace(outcome, report_id=report_id))

    def _post_versions(self) -> None:
        self.board.policy_version = self.robot.policy_version
        self.board.reward_version = self.robot.reward_version

    def _resting(self, job: Callable[[], T]) -> T:
        """Do something slow while the loop goes on ticking in hold (in lockstep no time passes)."""
        if self.robot.clock.lockstep:
            result = job()
            self.robot.rest()
            return result
        results: list[T] = []
        errors: list[Exception] = []

        def work() -> None:
            try:
                results.append(job())
            except Exception as error:  # raised again below, in the loop's own thread
                errors.append(error)

        thread = threading.Thread(target=work, name="boundary", daemon=True)
        thread.start()
        while thread.is_alive():
            self.robot.rest()
        if errors:
            raise errors[0]
        return results[0]

    # -- messages and files

    def _session_start(self) -> SessionStart:
        config = self.run.config
        return SessionStart(
            robot_id=config.robot.id,
            session_id=self.run.session_id,
            observation=self.robot.observation,
            action=self.robot.action,
            colour_codec="raw",
            depth_codec="raw",
            config_hash=config.config_hash,
            software_version=__version__,
            pace=config.pace,
            loop_rate_hz=config.loop.rate_hz,
        )

    def _episode_start(self, plan: EpisodePlan, instruction: str) -> EpisodeStart:
        robot = self.robot
        return EpisodeStart(
            robot_id=self.run.config.robot.id,
            session_id=self.run.session_id,
            episode_seq=plan.episode_seq,
            instruction=instruction,
            task=plan.task,
            purpose=plan.purpose,
            policy_version=robot.policy_version,
            policy_id=robot.policy.package.package_id if robot.policy else self.run.plan.driver,
            reward_version=robot.reward_version,
            reward_id=robot.reward.package.package_id if robot.reward else "",
            scene_seed=plan.seed,
            started_at_unix_s=time.time(),
        )


def leave_reason(run: Run, code: int, what: str) -> None:
    """Leave the reason where the supervisor finds it."""
    path = Path(run.run_dir) / "control.exit.json"
    path.write_text(json.dumps({"code": code, "what": what}))
    print(f"control: {what}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="runtime.control", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    run = Run.load(parser.parse_args().run_dir)
    sys.setswitchinterval(0.0005)  # a worker thread may keep the loop waiting no longer than this
    with Board.open(run.board_path) as board:

        def stop(_number: int, _frame: Any) -> None:
            board.stop_requested = 1

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            control = Control(run, board)
        except EntracteError as error:
            board.loop_state = LoopState.FAULT
            leave_reason(run, EXIT_CANNOT_START, str(error))
            return EXIT_CANNOT_START
        try:
            return control.execute()
        except EntracteError as error:
            control.robot.gate.fault(str(error))
            board.loop_state = LoopState.FAULT
            leave_reason(run, EXIT_FAULT, str(error))
            return EXIT_FAULT
        finally:
            control.robot.close()


if __name__ == "__main__":
    sys.exit(main())
