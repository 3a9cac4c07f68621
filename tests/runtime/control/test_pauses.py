"""The loop outlives a short pause of its processor; the benchmark says whose a late tick is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from robots import REALTIME, config, until

from benchmarks.loop_blocks import explain
from benchmarks.pauses import LATE_S, Probes, covered_s
from runtime.board import LoopState
from runtime.control.pacing import BEAT_S
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import RunPlan

# Stops a process for a while, ahead of other programs, and prints how long each stop lasted.
STOPPER = """
import os, signal, sys, time
from runtime.system.priority import Rank, run_first
run_first(Rank.PROBE)
pid, stop_s = int(sys.argv[1]), float(sys.argv[2])
for _ in range(5):
    time.sleep(0.3)
    at_s = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(stop_s)
    os.kill(pid, signal.SIGCONT)
    print(time.monotonic() - at_s)
"""


def _robot(folder: Path) -> Supervisor:
    run = make_run(
        config(*REALTIME, "episode.max_s=30"),
        RunPlan(purpose="record", driver="expert", style="idle", episodes=1, sink="none"),
        folder,
    )
    return Supervisor(run)


def test_a_pause_of_50_ms_is_no_stall(tmp_path: Path) -> None:
    """Linux lets ordinary programs run for 50 ms before anybody where they were starved for a second."""
    with _robot(tmp_path) as robot:
        board = robot.board
        until(lambda: board.loop_state == LoopState.RUNNING and board.step > 5)
        beats, tick = board.beats, board.tick
        time.sleep(0.5)
        assert board.beats - beats > board.tick - tick  # it beats while it waits
        command = [sys.executable, "-c", STOPPER, str(board.control_pid), "0.05"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        stops_s = [float(line) for line in done.stdout.split()]
        if max(stops_s) + BEAT_S > 0.065:
            pytest.skip(f"this machine made the stops longer: {stops_s}")
        time.sleep(0.2)
        assert board.watchdog_tripped == 0
        assert board.loop_state == LoopState.RUNNING
        assert board.missed_ticks > 0  # a pause is survived, not hidden


def test_the_bare_loop_has_the_control_loops_own_priority(tmp_path: Path) -> None:
    with _robot(tmp_path) as robot:
        until(lambda: robot.board.loop_state == LoopState.RUNNING and robot.board.step > 5)
        bare = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare", "30", "2"], stdout=subprocess.PIPE
        )
        control = robot.board.control_pid
        wanted = (
            os.sched_getscheduler(control),
            os.sched_getparam(control),
            os.getpriority(0, control),
        )

        def rank(pid: int) -> tuple[int, os.sched_param, int]:
            return os.sched_getscheduler(pid), os.sched_getparam(pid), os.getpriority(0, pid)

        until(lambda: rank(bare.pid) == wanted, 1.9)
        found = json.loads(bare.communicate(timeout=10.0)[0])
    assert found["ticks"] > 50
    assert (found["priority"] == "fifo") == (wanted[0] == os.SCHED_FIFO)


def test_a_probe_that_was_kept_from_running_says_when() -> None:
    with Probes() as probes:
        process, cpu = probes._processes[0], min(os.sched_getaffinity(0))
        until(lambda: os.sched_getaffinity(process.pid) == {cpu})
        time.sleep(0.2)
        from_s = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        process.send_signal(signal.SIGCONT)
        to_s = time.monotonic()
        time.sleep(0.1)
        pauses = probes.stop()
    assert covered_s(pauses, from_s, to_s) > 0.08
    assert all(b - a > LATE_S for a, b in pauses)


def test_a_late_tick_is_the_machines_only_where_the_machine_stood_still_before_it() -> None:
    pauses = [(1.000, 1.020), (1.005, 1.025), (1.030, 1.035)]
    found = explain(1.040, 0.040, 1 / 30, pauses)
    assert (found["whose"], round(found["lost_ms"])) == ("machine", 30)
    assert explain(1.040, 0.005, 1 / 30, pauses)["whose"] == "machine"
    assert explain(1.100, 0.040, 1 / 30, pauses)["whose"] == "program"
    assert explain(2.0, 0.03, 1 / 30, [])["lost_ms"] == 0.0
