"""A run folder whose spool is another robot's: refused before anything is sent or moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from robots import policy_package
from tiny_robot import episode, session_start
from typer.testing import CliRunner

from contracts import wire
from contracts.errors import ConfigError
from contracts.files.episode_log import EpisodeLogWriter
from contracts.messages import ReleaseOutcome
from runtime.app import app
from runtime.link.outcomes import OutcomeSpool
from runtime.link.owner import require_own


def _begun(folder: Path) -> EpisodeLogWriter:
    log = EpisodeLogWriter(folder / "s1_00000000.elog")
    log.append(wire.pack(session_start(robot_id="arm")))
    for parts in episode(0, steps=2):
        log.append(parts)
    return log


def _finished(folder: Path) -> None:
    _begun(folder).finish()


def _unfinished(folder: Path) -> None:
    log = _begun(folder)
    with log.part.open("ab") as file:
        file.write(b"torn")


def _report(folder: Path) -> None:
    spool = OutcomeSpool(folder / "outcomes", lambda parts: True)
    spool.add(ReleaseOutcome("arm", "policy", 1, "swapped", "", 3, 9, 0.1, 0.2, 0.3, "a"))


@pytest.mark.parametrize("leave", [_finished, _unfinished, _report])
def test_what_waits_is_delivered_under_the_id_it_was_recorded_with(
    tmp_path: Path, leave: Callable[[Path], None]
) -> None:
    require_own(tmp_path / "none", "arm-2")
    leave(tmp_path)
    (tmp_path / "s1_00000001.elog").write_bytes(b"no log")
    require_own(tmp_path, "arm")
    with pytest.raises(ConfigError, match=r"robot\.id arm-2, found arm; start with robot\.id=arm "):
        require_own(tmp_path, "arm-2")


def test_a_start_under_another_id_is_refused(tmp_path: Path) -> None:
    package, folder = policy_package(tmp_path / "policy"), tmp_path / "run"
    _finished(folder / "spool")
    done = CliRunner().invoke(
        app,
        [
            *("start", "--package", str(package.folder), "--task", "open-drawer"),
            *("--run-dir", str(folder), "--episodes", "1", "--set", "robot.id=arm-2"),
        ],
    )
    assert isinstance(done.exception, ConfigError), done.output
    assert "has not delivered yet" in str(done.exception)
    assert sorted(path.name for path in folder.iterdir()) == ["spool"]
