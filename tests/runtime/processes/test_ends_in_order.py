"""A process that is told to end while it is still being imported does what it is there for, and then ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from recording_run import check_whole, packets, push, recording_run, session
from robots import until

from contracts.files.log_to_dataset import read_episode
from runtime.processes.supervisor import EXIT_INTERRUPTED, EXIT_PROCESS_DIED, Outcome, Supervisor

SOCKETS = ("frames", "episodes", "weights", "health")


@pytest.mark.parametrize("name", ["recorder", "link"])
def test_told_to_end_at_once_it_still_takes_what_is_in_the_ring(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    nobody = [f"link.{socket}=tcp://127.0.0.1:9" for socket in SOCKETS]
    with recording_run(tmp_path / "run", root, *nobody) as made:
        sink = "link" if name == "link" else "dataset"
        run = msgspec.structs.replace(made, plan=msgspec.structs.replace(made.plan, sink=sink))
        run.save()
        robot = Supervisor(run)
        assert robot._ring is not None
        for parts in (session(), *packets(0)):
            assert push(robot._ring, parts)
        child = robot.child(name)
        try:
            robot._start(child)
            child.end(60.0, asked=False)
            said = (Path(run.run_dir) / "logs" / f"{name}.log").read_text()
            assert child.code == 0, said
        finally:
            if child.process is not None:
                child.process.kill()
                child.process.wait()
            robot.board.close()
            robot._ring.close()
        if name == "recorder":
            assert check_whole(root) == [0]
            assert (Path(run.run_dir) / "recorder.json").exists()
        else:
            (log,) = run.spool_dir.glob("*.elog")
            assert read_episode(log).end.reason == "completed"


def test_a_recorder_that_fails_at_the_last_episode_is_in_the_outcome(tmp_path: Path) -> None:
    """Control has ended by then, and with it what looks after the processes."""
    root = tmp_path / "data"
    with recording_run(tmp_path / "run", root) as run:
        robot = Supervisor(run)
        assert robot._ring is not None
        child = robot.child("recorder")
        try:
            robot._start(child)
            *under_way, last = packets(0)
            for parts in (session(), *under_way):
                assert push(robot._ring, parts)
            until((root / "videos").exists)
            shutil.rmtree(root / "data", ignore_errors=True)
            (root / "data").write_text("somebody's own")
            assert push(robot._ring, last)
        finally:
            robot.close()
        assert child.code == 1
        for code, becomes in (
            (0, EXIT_PROCESS_DIED),
            (EXIT_INTERRUPTED, EXIT_PROCESS_DIED),
            (3, 3),
        ):
            ended = robot.seen_out(Outcome(code, "the camera was gone" if code == 3 else ""))
            assert ended.code == becomes
            assert (
                "the recorder did not finish: recorder: " in ended.what and str(root) in ended.what
            )
        assert ended.what.startswith("the camera was gone; ")
        assert robot.seen_out(ended) == ended  # said once


def test_a_recorder_whose_log_is_full_ends_in_order(tmp_path: Path) -> None:
    """What it has to say of an episode without an end goes to nobody, and into its report all the same."""
    root = tmp_path / "data"
    with recording_run(tmp_path / "run", root) as run:
        (tmp_path / "run" / "logs").mkdir()
        (tmp_path / "run" / "logs" / "recorder.log").symlink_to("/dev/full")
        robot = Supervisor(run)
        assert robot._ring is not None
        child = robot.child("recorder")
        try:
            robot._start(child)
            *under_way, _ = packets(1)
            for parts in (session(), *packets(0), *under_way):
                assert push(robot._ring, parts)
        finally:
            robot.close()
        assert child.code == 0 and check_whole(root) == [0]
        report = json.loads((tmp_path / "run" / "recorder.json").read_text())
        assert report["notes"] == ["episode 1 had no end and was not recorded"]
