"""Some causes of `robot-bench faults`, once each: each is stopped by whom it should be."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.fault_causes import CAUSES, Cause
from benchmarks.fault_rig import Rig
from contracts.errors import ConfigError
from runtime.board import LoopState

QUICK = ("NaN action", "frozen camera", "unforeseen error", "arm lost to control", "clock step")


def _once(cause: str, folder: Path) -> dict[str, object]:
    found = faults.measure(folder, 1, [cause], 0.0, lambda _: None)
    if cause in found["skipped"]:
        pytest.skip(found["skipped"][cause])
    row: dict[str, object] = found["causes"][cause]
    assert row["wrong"] == 0, (folder / f"{cause.replace(' ', '-')}.jsonl").read_text()
    assert "a trial of the benchmark" in faults.table(found)
    return row


@pytest.mark.parametrize("cause", QUICK)
def test_the_arm_is_stopped_by_whom_it_should_be(cause: str, tmp_path: Path) -> None:
    row = _once(cause, tmp_path)
    assert row["unverified"] == 0
    assert faults.measure(tmp_path, 1, [cause], 0.0, lambda _: pytest.fail("again"))


@pytest.mark.slow
@pytest.mark.parametrize("cause", [cause.name for cause in CAUSES if cause.name not in QUICK])
def test_so_it_is_for_the_other_causes(cause: str, tmp_path: Path) -> None:
    _once(cause, tmp_path)


@pytest.mark.slow
def test_nothing_trips_without_a_fault(tmp_path: Path) -> None:
    found = faults.measure(tmp_path, 0, [], 20.0, lambda _: None)
    assert faults.good(found)
    assert json.loads((tmp_path / "clean.jsonl").read_text())["ticks"] > 500


class Vanishing(Cause):
    """Calls itself a hold and takes the run away."""

    def strike(self, rig: Rig) -> dict[str, object]:
        os.kill(rig.board.control_pid, signal.SIGKILL)
        assert rig.until(lambda: rig.control_ended)
        row = {"by": "hold", "check": "not latched", "latched": False, "ok": True}
        return {"hold_ms": 1.0, "still_ms": 1.0, **row}


def test_a_run_that_ends_by_itself_or_never_goes_on_is_counted(tmp_path: Path) -> None:
    cause = Vanishing("frozen camera", ("hold",), check="not latched")
    with faults.installed(tmp_path), Rig(tmp_path, None) as rig:
        assert faults._one_run(cause, rig, tmp_path, 1, lambda _: None) is None
        assert faults._one_run(cause, rig, tmp_path, 1, lambda _: None) is not None, "it had ended"
    for stood_ms in (faults.MACHINE_MS - 1, faults.MACHINE_MS):
        faults._count_own_end(cause, tmp_path, stood_ms, lambda _: None)
    assert len(faults._lines(tmp_path, cause.name + faults.ASIDE)) == 1, "the machine's own doing"
    rows = faults._lines(tmp_path, cause.name)
    assert [row["by"] for row in rows] == [
        "hold, never went on",
        "the run's own end, before the injection",
    ]
    found = {"causes": {cause.name: faults.summary(rows, cause.check)}, "clean": []}
    assert found["causes"][cause.name]["wrong"] == 2 and not faults.good(found)


def test_an_injection_waits_for_the_end_of_a_hold_that_is_not_its_own(tmp_path: Path) -> None:
    (cause,) = (one for one in CAUSES if one.name == "frozen camera")
    with faults.installed(tmp_path), Rig(tmp_path, cause) as rig:
        assert rig.await_running()
        cause.cast(rig)
        assert rig.until(lambda: rig.board.loop_state == LoopState.HOLD)
        threading.Timer(0.5, rig.sign.put, ["none"]).start()
        held_s = time.monotonic()
        assert rig.await_running() and time.monotonic() - held_s > 0.4
        os.kill(rig.board.control_pid, signal.SIGKILL)
        assert rig.until(lambda: rig.control_ended) and not rig.await_running()


def test_a_stop_that_was_not_read_back_as_it_should_be_is_no_success() -> None:
    row = {"hold_ms": 1.0, "still_ms": 1.0, "by": "gate", "ok": True}
    for check, good in (("verified", True), ("failed", False), ("unreadable", False)):
        rows = [{**row, "check": check}]
        found = {"causes": {"NaN action": faults.summary(rows, "verified")}, "clean": []}
        assert faults.good(found) is good


def test_durations_and_names_are_checked(tmp_path: Path) -> None:
    assert [faults.seconds_of(text) for text in ("30m", "90s", "1h", "45")] == [1800, 90, 3600, 45]
    with pytest.raises(ConfigError, match="duration"):
        faults.seconds_of("soon")
    with pytest.raises(ConfigError, match="flood"):
        faults.measure(tmp_path, 1, ["flood"], 0.0, lambda _: None)
