"""What a link counts for the run's report, over the ends of links."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
from daemon_bench import NAMES, Robot, Trainer, wait
from tiny_package import make_package


def test_a_link_that_is_started_again_counts_on(tmp_path: Path) -> None:
    """It began at 0: an episode that was lost before was missing from the report."""
    package = make_package(tmp_path / "policy")
    nobody = Trainer(tmp_path / "trainer", package)
    nobody.root.mkdir()
    (nobody.root / "trainer.pub").write_text("00" * 32)
    nobody.endpoints = {name: "tcp://127.0.0.1:1" for name in NAMES}
    robot = Robot(tmp_path / "robot", package, nobody)
    no_room = msgspec.structs.replace(
        robot.run.config.link, on_full="continue", spool_min_free_mib=1 << 30
    )
    config = msgspec.structs.replace(robot.run.config, link=no_room)
    robot.run = msgspec.structs.replace(robot.run, config=config)
    robot.run.save()
    robot.board.episodes_aside = 1  # as a link before set one aside
    robot.start()
    try:
        for seq in (1, 2):
            robot.play(seq)
            wait("its loss", lambda n=seq: robot.board.episodes_unkept == n)
            robot.stop(signal.SIGKILL)
            robot.start()
        robot.play(3)
        wait("its loss", lambda: robot.board.episodes_unkept == 3)
        assert robot.board.episodes_aside == 1 and robot.spooled == []
        assert robot.stop() == 0
    finally:
        robot.stop(signal.SIGKILL)
