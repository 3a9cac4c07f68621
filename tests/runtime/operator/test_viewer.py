"""The live view: what Rerun is given, and what happens when it takes nothing."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from people import Person, expert, robot
from robots import config, until

from contracts.errors import EntracteError
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board
from runtime.frames import FrameSlots
from runtime.operator.commands import Command
from runtime.operator.status import Looker
from runtime.operator.window import ROWS, Window
from runtime.processes.supervisor import Supervisor
from runtime.run import Run, RunPlan
from runtime.viewer import COUNTS_FILE, QUEUE, Picture, Sampler, feed

POSE = np.zeros(6)


def _run(folder: Path) -> Run:
    return Run(
        config=config(), plan=RunPlan(), run_dir=str(folder), shm_dir=str(folder), session_id="s"
    )


def _counts(machine: Supervisor) -> dict[str, int]:
    path = Path(machine.run.run_dir) / COUNTS_FILE
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}  # not yet, or just being written


def _show(window: Window, number: int) -> None:
    nan = float("nan")
    window.show((0.1 * number, 0, number, 2, 0, 0.0, nan, nan, nan, 0), POSE, POSE, POSE)


def test_a_reader_of_the_window_gets_every_tick_or_is_told_how_many_it_lost(tmp_path: Path) -> None:
    window = Window.create(tmp_path / "window", SO101_ACTION, 30.0)
    reader = Window.open(tmp_path / "window")
    assert reader.since(0) == ([], 0)
    for number in range(10):
        _show(window, number)
    rows, lost = reader.since(4)
    assert ([row.step for row in rows], lost) == ([4, 5, 6, 7, 8, 9], 0)
    for number in range(10, 3 * ROWS):
        _show(window, number)
    rows, lost = reader.since(10)
    assert rows[-1].step == 3 * ROWS - 1
    assert len(rows) + lost == 3 * ROWS - 10
    assert len(rows) > ROWS - 5
    window.say("old readings")
    assert reader.said() == "old readings"
    assert reader.about().names == SO101_ACTION.names


def test_names_that_the_window_has_no_room_for_are_refused(tmp_path: Path) -> None:
    names = tuple(f"{joint}-{'x' * 700}" for joint in SO101_ACTION.names)
    spec = msgspec.structs.replace(SO101_ACTION, names=names)
    with pytest.raises(EntracteError, match="shorter names"):
        Window.create(tmp_path / "window", spec, 30.0)


def test_what_rerun_does_not_take_is_dropped_and_counted_and_nobody_waits(tmp_path: Path) -> None:
    run = _run(tmp_path)
    window = Window.create(run.window_path, SO101_ACTION, 30.0)
    slots = FrameSlots.create(run.frames_path("front"), 96, 128, True)
    waiting: queue.Queue[object] = queue.Queue(QUEUE)
    stop, stalled, taken = threading.Event(), threading.Event(), list[object]()

    def sink(seen: object) -> None:
        taken.append(seen)
        stalled.wait()

    with Board.create(run.board_path) as board:
        sampler = Sampler(Looker(run, board), waiting)  # type: ignore[arg-type]
        sender = threading.Thread(target=feed, args=(sink, waiting, stop), daemon=True)
        sender.start()
        longest_s = 0.0
        for number in range(1, 300):
            _show(window, number)
            slots.write(np.zeros((96, 128, 3), np.uint8), None, 0.1 * number)
            started_s = time.perf_counter()
            sampler.look(0.2 * number)
            longest_s = max(longest_s, time.perf_counter() - started_s)
        assert len(taken) == 1
        assert sampler.dropped > 400
        assert longest_s < 5.0, "it never waited for the sink, which takes nothing at all"
        stalled.set()
        until(waiting.empty)
        stop.set()
        sender.join(2.0)
        assert any(isinstance(seen, Picture) for seen in taken)


def test_a_run_is_shown_in_rerun(tmp_path: Path) -> None:
    rerun = pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra viewer)")
    shown = tmp_path / "view.rrd"
    overrides = ["operator.view=true", f"operator.view_url={shown}"]
    with robot(tmp_path / "run", expert(1, labels=True), *overrides) as machine:
        until(lambda: _counts(machine).get("offered", 0) > 60, 60.0)
        Person(machine.board, machine.run).ask(Command.END)
        assert machine.wait().code == 0
    assert _counts(machine)["dropped"] == 0
    recording = rerun.dataframe.load_recording(str(shown))
    paths = {column.entity_path for column in recording.schema().component_columns()}
    assert {
        "/cameras/front/colour", "/cameras/front/depth", "/joints/elbow_flex/state",
        "/joints/elbow_flex/action", "/signals/process", "/gate/bits", "/loop/lateness_ms",
    } <= paths  # fmt: skip


def test_a_viewer_that_listens_and_takes_nothing_changes_nothing_for_the_run(
    tmp_path: Path,
) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra viewer)")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"rerun+http://127.0.0.1:{deaf.getsockname()[1]}/proxy"
        overrides = ["operator.view=true", f"operator.view_url={url}", "operator.keys=false"]
        with robot(tmp_path, expert(1), *overrides) as machine:
            until(lambda: _counts(machine).get("dropped", 0) > 60, 60.0)
            tick, since_s = machine.board.tick, time.monotonic()
            until(lambda: machine.board.tick > tick + 30)
            assert time.monotonic() - since_s < 3.0, "the loop goes on at its rate"
            Person(machine.board, machine.run).ask(Command.END)
            outcome = machine.wait()
    assert outcome.code == 0
    assert outcome.report["watchdog"] == "none"
