"""Lateness of the control loop with nobody looking, with a viewer that reads, and with one that stopped.

One run of the robot on the bench in `realtime` pace, its page served; the three take turns in it, in an
order that rotates. The viewer is a process that takes all that a browser takes (events and every picture that
it can get); the one that stopped reading is the same process after SIGSTOP, with its connections open.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bare import quantiles
from benchmarks.pauses import Probes, Span, covered_s
from contracts.errors import EntracteError
from runtime.board import Board
from runtime.config import load_config
from runtime.operator.attend import read_page
from runtime.operator.window import Row, Window
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import RunPlan

CONFIG = Path(__file__).resolve().parent.parent / "hw_configs" / "sim_realtime.yaml"
TURNS = ("nobody", "reading", "stopped")
START_S = 60.0
SETTLE_S = 2.0
LATE_S = 0.005
_LOOK_S = 1.0


def measure(
    package: Path,
    rate_hz: float,
    rounds: int,
    seconds: float,
    folder: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Quantiles by turn, and how many events the page dropped for viewers that did not read."""
    overrides = [
        f"policy.package={package.resolve()}", f"loop.rate_hz={rate_hz:g}", "link.enabled=false",
        "operator.web=true", "operator.web_port=0", "operator.keys=false",
        f"episode.max_s={10 * rounds * seconds + 600:g}",
        # Longer than the pauses of a shared machine: a stop would end the comparison.
        "loop.watchdog_timeout_s=2", "loop.lease_s=2",
    ]  # fmt: skip
    plan = RunPlan(purpose="refine", episodes=1, sink="none")
    run = make_run(load_config(CONFIG, overrides), plan, folder)
    ticks: dict[str, list[Row]] = {turn: [] for turn in TURNS}
    missed = dict.fromkeys(TURNS, 0)
    with Supervisor(run) as robot, Probes() as probes:
        _await(lambda: robot.board.step > rate_hz, "the robot did not start", robot)
        page = read_page(folder.resolve())
        if page is None:
            raise EntracteError("the operator's page did not come up")
        window = Window.open(run.window_path)
        for number in range(rounds):
            for turn in (*TURNS[number % 3 :], *TURNS[: number % 3]):
                before = robot.board.missed_ticks
                ticks[turn] += _turn(turn, page.url, window, seconds, robot.board)
                missed[turn] += robot.board.missed_ticks - before
            say(f"round {number + 1} of {rounds}")
        dropped = _dropped(page.url)
        pauses = probes.stop()
    return {
        "rate_hz": rate_hz,
        "rounds": rounds,
        "seconds": seconds,
        "events_dropped": dropped,
        **{
            turn: quantiles([row.lateness_s for row in ticks[turn]], missed[turn])
            | {
                "late": [
                    _explain(row, pauses, 1.0 / rate_hz)
                    for row in ticks[turn]
                    if row.lateness_s > LATE_S
                ]
            }
            for turn in TURNS
        },
    }


def _explain(row: Row, pauses: list[Span], period_s: float) -> dict[str, Any]:
    """A late tick, and how much of the time since the one before was due the machine itself stood still."""
    lost_s = covered_s(pauses, row.at_s - row.lateness_s - period_s, row.at_s)
    return {
        "late_ms": 1e3 * row.lateness_s,
        "machine_lost_ms": 1e3 * lost_s,
        "whose": "machine" if lost_s >= 0.5 * row.lateness_s else "program",
    }


def table(result: dict[str, Any]) -> str:
    """Plain text for a terminal and for docs/results."""
    columns = ("p50_ms", "p99_ms", "p99.9_ms", "max_ms", "ticks", "missed")
    lines = [f"{'viewer':10}" + "".join(f"{name:>12}" for name in columns)]
    for turn in TURNS:
        lines.append(f"{turn:10}" + "".join(f"{result[turn][name]:>12.3f}" for name in columns))
    for turn in TURNS:
        for late in result[turn]["late"]:
            lines.append(
                f"{turn}: a tick late by {late['late_ms']:.1f} ms, the {late['whose']}'s "
                f"(the machine stood still for {late['machine_lost_ms']:.1f} ms before it)"
            )
    for turn in TURNS[1:]:
        more = result[turn]["p99_ms"] - result["nobody"]["p99_ms"]
        lines.append(f"p99 with a viewer {turn}: {more:+.3f} ms against nobody")
    lines.append(f"events dropped for viewers that stopped reading: {result['events_dropped']}")
    return "\n".join(lines)


def _turn(turn: str, url: str, window: Window, seconds: float, board: Board) -> list[Row]:
    """The ticks while this viewer is there; its coming and going is left out."""
    viewer: subprocess.Popen[bytes] | None = None
    if turn != "nobody":
        command = [sys.executable, "-m", "benchmarks.viewer_client", url]
        viewer = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert viewer.stdout is not None
        viewer.stdout.readline()  # it has seen its first picture
        if turn == "stopped":
            viewer.send_signal(signal.SIGSTOP)
    try:
        time.sleep(SETTLE_S)
        found: list[Row] = []
        number, until_s = window.newest, time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left_s))
            rows, _ = window.since(number)
            found += rows
            number = rows[-1].number if rows else number
            if board.watchdog_tripped or not rows:
                raise EntracteError("the loop stopped", found=window.said())
        return found
    finally:
        if viewer is not None:
            viewer.kill()
            viewer.wait()


def _dropped(url: str) -> int:
    """What the page counted."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5.0)
    with suppress(OSError, ValueError):
        connection.request("GET", "/events")
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                return int(json.loads(line[6:])["viewer_events_dropped"])
    raise EntracteError("the operator's page does not answer any more")


def _await(ready: Callable[[], bool], what: str, robot: Supervisor) -> None:
    give_up_s = time.monotonic() + START_S
    while not ready():
        if time.monotonic() > give_up_s or robot.child("control").code is not None:
            log = Path(robot.run.run_dir) / "logs" / "control.log"
            raise EntracteError(what, found=log.read_text(errors="replace")[-300:])
        time.sleep(0.05)
