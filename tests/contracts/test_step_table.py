"""A row's times are those of the picture that it shows; what was lost on the way is counted."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from tiny_robot import session_start, step

from contracts.errors import WireError
from contracts.files.step_table import StepTable


def table() -> StepTable:
    return StepTable(session_start(), "test")


def test_a_lost_picture_keeps_the_time_of_the_one_shown() -> None:
    rows = table()
    for index in range(5):
        rows.add(step(index), {"front"} if index in (1, 2, 4) else ())
    captured = rows.columns()["time.capture.front"]
    assert np.allclose(captured, [100.1, 100.1, 100.2, 100.2, 100.4])
    assert np.allclose(rows.columns()["time.receive.front"] - captured, 0.001)
    assert rows.lost == 2


def test_a_camera_slower_than_the_loop_loses_nothing() -> None:
    rows = table()
    for index in range(6):
        shown_s = 100.0 + index // 2
        seen = msgspec.structs.replace(step(index), captured_s={"front": shown_s})
        rows.add(seen, {"front"} if index % 2 == 0 else ())
    assert rows.lost == 0
    assert rows.columns()["time.capture.front"].tolist() == [100, 100, 101, 101, 102, 102]


def test_rows_without_a_picture_on_purpose_are_no_loss_and_steps_that_never_came_are() -> None:
    rows = StepTable(msgspec.structs.replace(session_start(), frames_every=3), "test")
    for index in (0, 1, 2, 3, 6, 7):
        rows.add(step(index), {"front"} if index == 0 else ())
    assert rows.lost == 2, "of 3 and 6"
    assert rows.gaps == 2
    assert rows.missing(10) == 4


def test_non_finite_requests_become_unknown_and_nothing_else_does() -> None:
    rows = table()
    rows.add(msgspec.structs.replace(step(0), requested=(math.inf,) * 6), ())
    columns = rows.columns()
    assert np.isnan(columns["requested"]).all() and np.isfinite(columns["action"]).all()
    assert np.isnan(columns["reward.process"]).all()
    assert math.isnan(columns["time.capture.front"][0])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (msgspec.structs.replace(step(3), action=(1.0,) * 5), "arity of step 3"),
        (step(0), "out of order"),
    ],
)
def test_wrong_steps_are_refused(bad: object, words: str) -> None:
    rows = table()
    rows.add(step(0), ())
    with pytest.raises(WireError, match=words):
        rows.add(bad, ())  # type: ignore[arg-type]
    assert len(rows) == 1
