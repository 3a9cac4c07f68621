"""`robot-bench push`: what its table says."""

from __future__ import annotations

from benchmarks.push import Found, Row, table


def test_the_idle_time_is_told_beside_a_rebuild_whichever_is_longer() -> None:
    rows = (
        Row("made ready ahead", verified=3.0, armed=4.0, idle=20.0, payload=5e5),
        Row("all at the boundary", verified=3.0, armed=4.0, idle=800.0, payload=5e5),
    )
    told = table(Found("p", 1_000_000, 2, 4, "steps", 200.0, 1, rows, None, {}))
    assert "| made ready ahead | 0.0 | 3.0 | 4.0 | 0.0 | 20.0 |" in told
    assert "made ready ahead: idle 10.0 times shorter than building the sessions takes" in told
    assert "all at the boundary: idle 4.0 times LONGER than building the sessions takes" in told
    columns = {line.count("|") for line in told.splitlines() if line.startswith("|")}
    assert len(columns) == 1, told
