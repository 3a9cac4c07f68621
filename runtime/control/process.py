"""The control process: runs the plan's episodes on the robot, swaps between them.

`python -m runtime.control.process --run-dir <dir>`. Exit codes: 0 done, 2 could not start (nothing moved),
3 a latched fault, 5 an emergency stop. The reason is one sentence on stderr and in <run>/control.exit.json.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from contracts import __version__
from contracts.errors import DeviceError, EntracteError
from contracts.files import atomic
from contracts.messages import (
    ABORTED,
    CameraPose,
    EpisodeEnd,
    EpisodeRerecord,
    EpisodeStart,
    SessionStart,
)
from contracts.specs import spec_hash
from runtime.board import Board, LoopState
from runtime.config import LoopSection
from runtime.control import realtime, taking
from runtime.control.diary import Diary
from runtime.control.ending import EXIT_CANNOT_START, leave_reason, say_stopped, stop_after
from runtime.control.episode import Episode
from runtime.control.releases import Releases
from runtime.control.reset import bring_back, poses_of
from runtime.control.resting import PAUSE_S, Resting
from runtime.control.robot import build
from runtime.control.room import Room
from runtime.control.scene import EpisodePlan, lockstep_slot_s
from runtime.gate.gate import OPERATOR_STOP
from runtime.operator.floor import Phase
from runtime.processes.claims import Claims
from runtime.run import LOOP_FILE, Run, run_of_process
from runtime.system.log import log_without_errors

FRESH_PICTURES_S = 5.0
LABEL_PATIENCE_S = 120.0


class Control:
    """Runs episodes until the plan is done, a stop is asked for, or a fault latches."""

    def __init__(self, run: Run, board: Board) -> None:
        self.run, self.board = run, board
        self._diary = Diary(run)
        self._granted: dict[str, str] = {}
        self._advance = 1
        self.robot = build(run, board)
        self._resting = Resting(self.robot)
        self._releases = Releases(run, board, self.robot, self._resting)
        self._room = Room(run, board, self.robot.floor, self._resting)
        self._resets = poses_of(run.config.episode, self.robot.action, self.robot.gate.limits)

    # -- running

    def execute(self) -> int:
        """All episodes of the plan; returns the exit code."""
        robot, board = self.robot, self.board
        robot.stream.boundary(self._session_start())
        self._releases.post_versions()
        wanted = self.run.config.loop
        if robot.clock.lockstep:  # no deadline: only what makes runs alike
            wanted = LoopSection(fifo=False, freeze_gc=wanted.freeze_gc)
        self._granted = realtime.ask(wanted)
        if not taking.take_arm(robot, self._resting):
            return self._leave()
        board.control_ready = 1
        for plan in self._plans():
            if not self._episode(plan):
                break
            self._resting(self._say_how_regular)
            self._resting(lambda: gc.collect(0))
        else:
            self._releases.take_last(self._diary.next_seq)
        return self._leave()

    def _leave(self) -> int:
        """The arm in hold; returns the exit code."""
        robot, board = self.robot, self.board
        if board.estop_requested:
            robot.gate.estop(OPERATOR_STOP)
        robot.floor.enter(Phase.ENDED)
        robot.gate.hold("the run is over")
        if robot.gate.faulted:
            code = say_stopped(robot, robot.gate.state.reason)
        else:
            code, board.loop_state = 0, LoopState.DONE
            with contextlib.suppress(OSError):  # a full disk: its trial counts as interrupted
                self._releases.leave()
        # From here on the watchdog waits for no tick: a disk may take longer than it does.
        self._say_how_regular()
        return code

    def _plans(self) -> Iterator[EpisodePlan]:
        plan, episode = self.run.plan, self.run.config.episode
        limit = plan.episodes
        if plan.purpose == "refine" and not limit:
            limit = self.run.config.iteration.count * self.run.config.iteration.episodes
        styles = [style for style in plan.style.split(",") if style] or [""]
        claims = Claims(Path(plan.claims), Path(self.run.run_dir).name) if plan.claims else None
        slot_s = lockstep_slot_s(episode.max_s) if plan.purpose == "evaluate" else 0.0
        done, end = plan.first, plan.first + limit
        while (not limit or done < end) and not self.board.stop_requested:
            if claims is not None and not claims.take(done):
                done += 1
                continue
            seq = max(self._diary.next_seq, done) if claims is None else done
            # Fixed seeds pair evaluations; refinement sees a fresh scene in every episode of its life.
            offset = seq if plan.purpose == "refine" else done
            seed, style = episode.seed_base + offset, styles[done % len(styles)]
            # Times, too, are an evaluation's own: which episodes came before, and where, changes none.
            at_s = done * slot_s
            yield EpisodePlan(seq, episode.task, seed, plan.purpose, style, at_s)
            done += self._advance  # 0: the same scene once more, under a number of its own

    def _episode(self, plan: EpisodePlan) -> bool:
        """One episode with what comes before and after it; False: go no further."""
        robot, board = self.robot, self.board
        self._advance = 1
        refines = plan.purpose == "refine"
        if not self._room.wait() or (refines and not self._releases.before(plan.episode_seq)):
            return False
        if not bring_back(robot, self._resets, self._resting.until):
            return False
        if robot.floor.ends == "rerecord":
            self._forget_last()
            return True
        robot.floor.enter(Phase.SETTING_UP)
        set_up = self._resting(lambda: robot.scene.set_up(plan), "setting the scene")
        instruction, shown_from_s = set_up
        robot.go_on_from(shown_from_s)
        if not self._see_scene(shown_from_s) or robot.gate.faulted:
            return False
        taking.prepare(robot)
        self._resting(lambda: self._diary.begin(plan.episode_seq))
        board.episode_seq, board.step = plan.episode_seq, 0
        started_s = time.monotonic()
        start = self._episode_start(plan, instruction)
        robot.stream.boundary(start)
        robot.floor.enter(Phase.RUNNING)
        episode = Episode(robot, plan, instruction)
        episode.run()
        end = self._finish(plan, episode)
        asks = self.run.config.episode.label == "keys" and robot.floor.label is None
        if asks and end.reason not in ("fault", ABORTED, "rerecord"):
            end = self._ask_label(end)
        robot.floor.enter(Phase.SETTING_UP)
        robot.stream.boundary(end)
        self._resting(lambda: self._diary.end(plan, start, end, time.monotonic() - started_s))
        robot.floor.may_rerecord = False
        if end.reason == "rerecord":
            self._advance = 0
            return True
        # What went to a trainer is there; a data set's last episode can be taken out again.
        robot.floor.may_rerecord = self.run.plan.sink == "dataset"
        robot.floor.count({0: False, 1: True}.get(board.last_success))
        self._releases.after(end, episode.judgement)
        board.episodes_done += 1
        return not robot.gate.faulted and end.reason not in (ABORTED, "fault")

    def _finish(self, plan: EpisodePlan, episode: Episode) -> EpisodeEnd:
        robot, floor = self.robot, self.robot.floor

        def over() -> tuple[EpisodeEnd, bool | None]:
            end = episode.report()
            return end, robot.scene.finish(plan, end.reason, end.steps, robot.policy_version)

        end, label = self._resting(over)
        # Only now: meanwhile a person may have labelled it, or wanted it once more, and was answered.
        if floor.label is not None and self.run.config.episode.label != "truth":
            label = floor.label
        if floor.ends == "rerecord" and end.reason not in ("fault", ABORTED):
            end = msgspec.structs.replace(end, reason="rerecord")
        known = label if label is not None else (end.reason == "completed" or None)
        self.board.last_success = -1 if known is None else int(known)
        return msgspec.structs.replace(end, operator_success=label)

    def _ask_label(self, end: EpisodeEnd) -> EpisodeEnd:
        """Rest until a person has labelled the episode, or leave it without a label."""
        board, floor = self.board, self.robot.floor
        floor.ends = ""
        floor.enter(Phase.LABEL)
        board.label_wanted = end.episode_seq + 1
        self._resting.until(lambda: bool(floor.ends), LABEL_PATIENCE_S)
        board.label_wanted = 0
        if floor.ends == "rerecord":
            return msgspec.structs.replace(end, reason="rerecord")
        board.last_success = -1 if floor.label is None else int(floor.label)
        return msgspec.structs.replace(end, operator_success=floor.label)

    def _forget_last(self) -> None:
        """The episode before this one is to be recorded again."""
        self.robot.floor.may_rerecord = False
        self.robot.stream.boundary(EpisodeRerecord(self.board.episode_seq))
        self.board.episodes_done -= 1
        self.robot.floor.count_back()
        self._advance = -1

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
                raise DeviceError(
                    f"no picture from camera '{missing[0]}'",
                    found=f"none in {FRESH_PICTURES_S:g} s",
                    remedy=f"see logs/camera-{missing[0]}.log",
                )
            if not robot.rest():
                return False
            if robot.clock.lockstep:
                time.sleep(PAUSE_S)

    # -- messages and files

    def _say_how_regular(self) -> None:
        found = {"granted": self._granted, **self.robot.periodicity.report()}
        path = Path(self.run.run_dir) / LOOP_FILE
        with contextlib.suppress(OSError):  # a full disk: the report goes without
            atomic.write_bytes(path, json.dumps(found, indent=1).encode())

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
            frames_every=config.recording.frames_every,
            extrinsics={
                name: CameraPose(camera.mount, camera.pose)
                for name, camera in config.cameras.items()
                if camera.pose
            },
            observation_hash=spec_hash(self.robot.observation),
            action_hash=spec_hash(self.robot.action),
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
            policy_seed=self.run.config.policy.seed if robot.policy else -1,
            explore_deg=self.run.config.policy.explore_deg if plan.purpose == "refine" else 0.0,
        )


def main() -> int:
    run = run_of_process("runtime.control.process")
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
        except Exception as error:  # a mistake of ours too must end in hold
            try:
                return stop_after(control.robot, error)
            finally:  # the arm comes first: what it takes to write a trace the watchdog does not wait for
                if not isinstance(error, EntracteError):
                    traceback.print_exception(error)
        finally:
            control.robot.close()


if __name__ == "__main__":
    log_without_errors()
    code = main()
    sys.stderr.flush()
    if threading.active_count() > 1:  # what hangs must not keep a process whose arm is in hold
        os._exit(code)
    sys.exit(code)
