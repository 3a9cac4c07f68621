"""What people ask for, on the bench with the real processes: each command ends in what it says."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from people import Person, expert, robot, rows, ticks
from robots import policy_package, until

from contracts.files.dataset_reader import DatasetReader
from runtime.arms.sim import SimArm
from runtime.board import LoopState
from runtime.operator.commands import Answer, Command
from runtime.operator.floor import Flag, Phase, read_outcomes, read_phase
from runtime.run import RunPlan
from runtime.teleoperation.page import JOG, LEADER, HandPage


def _policy(episodes: int) -> RunPlan:
    return RunPlan(purpose="evaluate", episodes=episodes, sink="none")


def test_end_again_labels_and_stop(tmp_path: Path) -> None:
    with robot(tmp_path, expert(5)) as machine:
        person = Person(machine.board, machine.run)
        for command in (Command.END, Command.RERECORD, Command.SUCCESS, Command.FAILURE):
            done = len(rows(machine.run))
            person.sees(Phase.RUNNING, 3)
            assert person.ask(command) is Answer.DONE
            until(lambda done=done: len(rows(machine.run)) > done)  # type: ignore[misc]
        person.sees(Phase.RUNNING, 3)
        person.ask(Command.STOP)
        outcome = machine.wait()
        assert outcome.code == 5
        found = rows(machine.run)
        assert [row["reason"] for row in found] == [
            *("operator", "rerecord", "operator", "operator", "fault")
        ]
        # Thrown away: the same scene again, under a number of its own.
        assert [row["seed"] for row in found] == [0, 1, 1, 2, 3]
        assert [row["episode_seq"] for row in found] == [0, 1, 2, 3, 4]
        assert "stop" in outcome.what


def test_a_pause_holds_the_arm_and_stops_the_episodes_clock(tmp_path: Path) -> None:
    with robot(tmp_path, expert(1)) as machine:
        person, board = Person(machine.board, machine.run), machine.board
        person.sees(Phase.RUNNING, 10)
        assert person.ask(Command.PAUSE) is Answer.DONE
        until(lambda: board.loop_state == LoopState.HOLD)
        time.sleep(0.5)
        step, tick = board.step, board.tick
        arm = SimArm(machine.run, "test")
        stood = arm.read().positions
        time.sleep(0.5)
        assert board.step == step
        assert board.tick > tick + 5, "the loop itself goes on"
        assert np.abs(arm.read().positions - stood).max() < 0.5
        arm.close()
        assert person.ask(Command.RESUME) is Answer.DONE
        until(lambda: board.step > step + 10)
        assert board.watchdog_tripped == 0
        shown = ticks(machine.run)
        moves = np.diff([row.action for row in shown], axis=0)
        assert [row.step for row in shown] == list(range(len(shown))), "no step was recorded twice"
        assert np.abs(moves).max() < 9.0, "120 deg/s at 30 Hz are 4 deg a tick; the hand 250 %/s"


def test_a_pause_is_no_section_of_a_tick(tmp_path: Path) -> None:
    """Else the longest wait of the episode is how long somebody had coffee."""
    with robot(tmp_path, expert(1)) as machine:
        person = Person(machine.board, machine.run)
        person.sees(Phase.RUNNING, 3)
        person.ask(Command.PAUSE)
        time.sleep(2.5)
        step = machine.board.step
        person.ask(Command.RESUME)
        until(lambda: machine.board.step > step + 3)
        person.ask(Command.END)
        until(lambda: bool(rows(machine.run)))
    assert rows(machine.run)[0]["timings"]["wait_max_s"] < 2.0


def test_a_person_takes_over_by_leader_and_by_keys_and_hands_back_smoothly(tmp_path: Path) -> None:
    package = policy_package(tmp_path / "package")
    overrides = [f"policy.package={package.folder}", "episode.max_s=120", "operator.blend_s=0.4"]
    with robot(tmp_path / "run", _policy(1), *overrides) as machine:
        person, board, run = Person(machine.board, machine.run), machine.board, machine.run
        person.sees(Phase.RUNNING, 20)
        page = HandPage.open(run.hand_path("device"))
        at = ticks(run)[-1].action

        # A leader that stands elsewhere: the arm waits for it.
        far = tuple((at + 20.0).tolist())
        page.write(LEADER, far, time.monotonic() + 60, 0.0)
        assert person.ask(Command.TAKE_OVER) is Answer.DONE
        until(lambda: Flag.MATCHING in read_phase(board)[1])
        time.sleep(0.3)
        assert not Flag.TAKEN_OVER & read_phase(board)[1]
        held = ticks(run)[-1]
        assert held.intervention
        assert np.abs(held.action - at).max() < 5.0

        # Near it: it is followed.
        near = tuple(np.add(held.action, [6, 6, -6, 6, 6, 6]).tolist())
        page.write(LEADER, near, time.monotonic() + 60, 0.0)
        until(lambda: np.abs(ticks(run)[-1].action - near).max() < 0.1)
        assert Flag.TAKEN_OVER in read_phase(board)[1]

        # Moved in a pause: it must come near again.
        assert person.ask(Command.PAUSE) is Answer.DONE
        until(lambda: board.loop_state == LoopState.HOLD)
        page.write(LEADER, far, time.monotonic() + 60, 0.0)
        assert person.ask(Command.RESUME) is Answer.DONE
        until(lambda: Flag.MATCHING in read_phase(board)[1])
        paused = board.step
        until(lambda: board.step > paused + 10)
        assert np.abs(ticks(run)[-1].action - near).max() < 1.0
        page.write(LEADER, near, time.monotonic() + 60, 0.0)
        until(lambda: Flag.TAKEN_OVER in read_phase(board)[1])

        # By keys, from where the leader left it.
        page.write(JOG, (1.0, 0, 0, 0, 0, 0), time.monotonic(), time.monotonic() + 0.4)
        until(lambda: ticks(run)[-1].action[0] > near[0] + 3.0)
        time.sleep(0.6)
        assert ticks(run)[-1].action[0] < near[0] + 0.4 * 15 + 3.0, "a key let go stops the arm"

        chunks = board.step
        assert person.ask(Command.HAND_BACK) is Answer.DONE
        until(lambda: board.step > chunks + 40)
        shown = ticks(run)
        back = next(i for i in range(len(shown) - 1, 0, -1) if shown[i].intervention)
        assert not any(row.intervention for row in shown[back + 1 :])
        moves = np.abs(np.diff([row.action for row in shown], axis=0))
        jerks = np.abs(np.diff([row.action for row in shown], n=2, axis=0))
        assert moves[:, :5].max() < 4.1
        assert jerks[back - 2 : back + 25, :5].max() < 1.4, "1200 deg/s2 at 30 Hz are 1.33 a tick"
        until(lambda: board.loop_state == LoopState.RUNNING)  # the policy is at work again


def test_the_arm_goes_home_and_waits_for_the_scene_to_be_set(tmp_path: Path) -> None:
    home = [10.0, -40.0, 40.0, 40.0, 10.0, 50.0]
    poses = tmp_path / "poses.yaml"
    poses.write_text("poses:\n- [10, -40, 40, 40, 10, 50]\n- {shoulder_pan: -10, gripper: 20}\n")
    overrides = [
        f"episode.home={home}", "episode.reset=[home, scripted, operator]", "episode.max_s=0.5",
        f"episode.reset_file={poses}", "episode.reset_speed=40",
    ]  # fmt: skip
    with robot(tmp_path / "run", expert(1, "idle"), *overrides) as machine:
        person, board = Person(machine.board, machine.run), machine.board
        seen: list[float] = []

        def waits() -> bool:
            seen.append(board.reset_progress)
            return Flag.WAITS_FOR_RESET in read_phase(board)[1]

        until(waits)
        assert any(0.2 < progress < 0.8 for progress in seen)
        arm = SimArm(machine.run, "test")
        assert np.abs(arm.read().positions - [-10, -40, 40, 40, 10, 20]).max() < 3.0
        arm.close()
        time.sleep(0.3)
        assert board.step == 0 and not rows(machine.run), "nobody said that the scene is set"
        assert person.ask(Command.RESET_DONE) is Answer.DONE
        assert machine.wait().code == 0
        assert len(rows(machine.run)) == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["episode.reset=home"], "episode.home"),
        (["episode.reset=home", "episode.home=[0, 0, 0, 0, 400, 0]"], "wrist_roll"),
        (["episode.reset=scripted"], "no poses"),
    ],
)
def test_a_reset_that_the_arm_cannot_do_is_refused_before_it_moves(
    tmp_path: Path, overrides: list[str], words: str
) -> None:
    with robot(tmp_path, expert(1, "idle"), *overrides) as machine:
        outcome = machine.wait()
    assert outcome.code == 2
    assert words in outcome.what
    assert not rows(machine.run)


def test_a_label_ends_the_episode_and_reaches_the_record(tmp_path: Path) -> None:
    package = policy_package(tmp_path / "package")
    overrides = [
        f"policy.package={package.folder}", "episode.label=keys",
        "operator.keys=false",
    ]  # fmt: skip
    plan = RunPlan(purpose="evaluate", episodes=3, sink="dataset", output=str(tmp_path / "dataset"))
    with robot(tmp_path / "run", plan, *overrides) as machine:
        person, board = Person(machine.board, machine.run), machine.board
        person.sees(Phase.RUNNING, 5)
        assert person.ask(Command.SUCCESS) is Answer.DONE
        until(lambda: board.episodes_done == 1)
        person.sees(Phase.RUNNING, 5)
        assert person.ask(Command.END) is Answer.DONE
        person.sees(Phase.LABEL)
        assert person.ask(Command.FAILURE) is Answer.DONE
        until(lambda: board.episodes_done == 2)
        assert read_outcomes(board) == (1, 2)
        person.sees(Phase.RUNNING, 5)
        person.ask(Command.END)
        person.sees(Phase.LABEL)
        person.ask(Command.RERECORD)
        until(lambda: len(rows(machine.run)) == 3)
        person.sees(Phase.RUNNING, 5)
        person.ask(Command.SUCCESS)
        assert machine.wait().code == 0
    found = rows(machine.run)
    assert [row["operator_success"] for row in found] == [True, False, None, True]
    assert DatasetReader(tmp_path / "dataset").num_episodes == 3


def test_a_person_records_and_takes_the_last_episode_back(tmp_path: Path) -> None:
    plan = RunPlan(
        purpose="record", driver="person", episodes=2, sink="dataset", output=str(tmp_path / "set")
    )
    with robot(tmp_path / "run", plan, "episode.reset=operator", "operator.keys=false") as machine:
        person, board, run = Person(machine.board, machine.run), machine.board, machine.run

        def episode() -> None:
            until(lambda: Flag.WAITS_FOR_RESET in read_phase(board)[1])
            assert person.ask(Command.RESET_DONE) is Answer.DONE
            person.sees(Phase.RUNNING, 3)

        episode()
        page = HandPage.open(run.hand_path("device"))
        assert person.ask(Command.TAKE_OVER) is Answer.DONE
        before = ticks(run)[-1].action[0]
        page.write(JOG, (1.0, 0, 0, 0, 0, 0), time.monotonic(), time.monotonic() + 0.5)
        until(lambda: ticks(run)[-1].action[0] > before + 3.0)
        assert person.ask(Command.SUCCESS) is Answer.DONE
        until(lambda: board.episodes_done == 1)
        episode()
        until(lambda: Flag.TAKEN_OVER in read_phase(board)[1])  # whose hands it was in
        assert person.ask(Command.FAILURE) is Answer.DONE
        until(lambda: board.episodes_done == 2)
        outcome = machine.wait()
    assert outcome.code == 0
    reader = DatasetReader(tmp_path / "set")
    assert reader.num_episodes == 2
    assert [row["operator_success"] for row in rows(run)] == [True, False]

    plan = msgspec.structs.replace(plan, episodes=2)
    with robot(tmp_path / "more", plan, "episode.reset=operator", "operator.keys=false") as machine:
        person, board = Person(machine.board, machine.run), machine.board
        for command in (Command.SUCCESS, Command.RERECORD, Command.SUCCESS, Command.SUCCESS):
            done = board.episodes_done
            until(lambda: Flag.WAITS_FOR_RESET in read_phase(board)[1])
            if command is Command.RERECORD:  # while the scene is being set
                assert person.ask(command) is Answer.DONE
                until(lambda done=done: board.episodes_done == done - 1)  # type: ignore[misc]
                continue
            person.ask(Command.RESET_DONE)
            person.sees(Phase.RUNNING, 3)
            person.ask(command)
            until(lambda done=done: board.episodes_done == done + 1)  # type: ignore[misc]
        assert machine.wait().code == 0
        assert read_outcomes(board) == (2, 2), "the one that was taken back is not counted"
    assert DatasetReader(tmp_path / "set").num_episodes == 4, (
        "two more: one of three was taken back"
    )
