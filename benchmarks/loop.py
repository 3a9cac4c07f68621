"""Lateness of the control loop in `realtime` pace, beside a bare absolute-deadline loop in the same run.

Everything runs: the bench renders both cameras, the policy infers, the link encodes, streams and spools,
a trainer receives and stores. The bare loop runs at the same time in a process of its own, at the same
priority, and so do probes that say when the machine itself stood still. A late tick is the machine's where
what it lost since the tick before (the probes stood still, or the bare loop's copy of two pictures took
more than 2 ms) is at least half of the lateness, and the program's elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bare import quantiles
from benchmarks.pauses import Probes, Span, covered_s, stolen_s
from contracts.errors import EntracteError
from contracts.files.episode_log import EpisodeLogReader
from contracts.messages import Step
from runtime.pacing import percentile

BIN = Path(sys.executable).parent
START_S = 30.0
LATE_S = 0.005
WATCHED_S = 0.12


def measure(package: Path, rate_hz: float, seconds: float, folder: Path) -> dict[str, Any]:
    """Quantiles for the control loop ("loop") and the bare one ("bare"), and what was streamed."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer = _start(
        [
            str(BIN / "robot-trainer"), "serve", "--run-dir", str(folder / "trainer"),
            "--set", "refiner.kind=''", "--set", "reward.model=constant", "--set", "reward.live=false",
            "--set", "store.dataset=false",
            *(f for n in ("frames", "episodes", "weights", "health")
              for f in ("--set", f"listen.{n}=tcp://127.0.0.1:0")),
        ],
        folder / "trainer.log",
    )  # fmt: skip
    robot: subprocess.Popen[bytes] | None = None
    probes, stolen_before_s = Probes(), stolen_s()
    try:
        endpoints = _endpoints(folder / "trainer" / "endpoints.json", trainer)
        robot_dir = folder / "robot"
        robot_dir.mkdir(exist_ok=True)
        episode_s = 20.0
        episodes = max(1, round(seconds / episode_s))
        robot = _start(
            [
                str(BIN / "robot-run"), "start", "--config", str(_realtime_config()),
                "--package", str(package), "--run-dir", str(robot_dir), "--json",
                "--episodes", str(episodes), "--set", f"loop.rate_hz={rate_hz}",
                "--set", f"episode.max_s={min(episode_s, seconds)}",
                "--set", "iteration.wait_for_release=false",
                *(f for n in ("frames", "episodes", "weights", "health")
                  for f in ("--set", f"link.{n}={endpoints[n]}")),
            ],
            folder / "robot.log",
        )  # fmt: skip
        _wait_for_first_step(robot_dir, robot)
        bare = subprocess.run(
            [sys.executable, "-m", "benchmarks.bare", str(rate_hz), str(seconds)],
            capture_output=True,
            text=True,
            check=True,
        )
        bare_found = json.loads(bare.stdout)
        code = robot.wait(seconds * 2 + 120)
        stolen = stolen_s() - stolen_before_s
        pauses = probes.stop()
        lost = [*pauses, *((a, b) for a, b in bare_found["slow"])]
        if code:
            why = _why_stopped(robot_dir, lost, bare_found["late"])
            raise EntracteError("the robot stopped", found=_tail(folder / "robot.log") + why)
        _wait_stored(folder / "trainer" / "store", episodes)
    finally:
        for process in (robot, trainer):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
        probes.__exit__()
    report = json.loads((robot_dir / "run_report.json").read_text())
    steps = [
        packet.message
        for log in sorted((folder / "trainer" / "store" / "logs").glob("*"))
        for packet in EpisodeLogReader(log).packets()
        if isinstance(packet.message, Step)
    ]
    return {
        "rate_hz": rate_hz,
        "seconds": seconds,
        "cores": os.cpu_count(),
        "loop": quantiles([step.lateness_s for step in steps], int(report["missed_ticks"])),
        "bare": bare_found,
        "late": [
            explain(step.tick_s, step.lateness_s, 1.0 / rate_hz, lost, bare_found["late"])
            for step in steps
            if step.lateness_s > LATE_S
        ],
        "pauses": pauses,
        "stolen_s": round(stolen, 2),
        "pictures": picture_ages(steps),
        "frames_dropped": report["ring_frames_dropped"],
        "records_dropped": report["ring_records_dropped"],
        "held_ticks": report["held_ticks"],
        "start_to_first_action_s": report["start_to_first_action_s"],
        "rss_mb": report["rss_mb"],
        "episodes": report["episodes"],
    }


def explain(
    at_s: float, late_s: float, period_s: float, lost: list[Span], bare: list[Span]
) -> dict[str, Any]:
    """A tick that began late at `at_s` (monotonic), and in ms how much the machine lost and the bare loop was
    late, since the tick before was due."""
    from_s = at_s - late_s - period_s
    lost_s = covered_s(lost, from_s, at_s)
    return {
        "at_s": at_s,
        "late_ms": 1e3 * late_s,
        "lost_ms": 1e3 * lost_s,
        "bare_late_ms": 1e3 * covered_s(bare, from_s, at_s),
        "whose": "machine" if lost_s >= 0.5 * late_s else "program",
    }


def picture_ages(steps: list[Step]) -> dict[str, dict[str, float]]:
    """By camera: ticks that saw a new picture, in percent, and how old pictures were, median and p99."""
    found = {}
    for name in sorted({name for step in steps for name in step.captured_s}):
        ages_s = sorted(s.tick_s - s.captured_s[name] for s in steps if name in s.captured_s)
        fresh = len({s.captured_s[name] for s in steps if name in s.captured_s})
        found[name] = {
            "fresh_percent": 100.0 * fresh / len(steps),
            "age_p50_ms": 1e3 * percentile(ages_s, 0.5),
            "age_p99_ms": 1e3 * percentile(ages_s, 0.99),
        }
    return found


def _why_stopped(robot_dir: Path, lost: list[Span], bare: list[Span]) -> str:
    """The processes' last words, and whether the machine stood still before the watchdog tripped."""
    words = [f"{log.stem}: {_tail(log, 1)}" for log in sorted((robot_dir / "logs").glob("*.log"))]
    said = "".join(f" | {word}" for word in words if not word.endswith(": "))
    tripped_s = json.loads((robot_dir / "run_report.json").read_text())["watchdog_tripped_at_s"]
    if tripped_s is None:
        return said
    found = explain(tripped_s, WATCHED_S, 0.0, lost, bare)
    return (
        f"{said} | of the {1e3 * WATCHED_S:.0f} ms before, the "
        f"machine lost {found['lost_ms']:.1f} ms, and the bare loop was late for "
        f"{found['bare_late_ms']:.1f} ms"
    )


def table(result: dict[str, Any]) -> str:
    """Plain text for a terminal and for docs/results."""
    columns = ("p50_ms", "p99_ms", "p99.9_ms", "max_ms", "ticks", "missed", "missed_percent")
    lines = [f"{'':6}" + "".join(f"{name:>15}" for name in columns)]
    for row in ("loop", "bare"):
        lines.append(f"{row:6}" + "".join(f"{result[row][name]:>15.3f}" for name in columns))
    more = result["loop"]["p99_ms"] - result["bare"]["p99_ms"]
    missed = result["loop"]["missed_percent"]
    lines.append(
        f"p99 above the bare loop: {more:+.2f} ms (target <= 2: {'met' if more <= 2 else 'MISSED'}); "
        f"missed ticks {missed:.3f} % (target <= 0.1: {'met' if missed <= 0.1 else 'MISSED'})"
    )
    lines += [
        f"late by {late['late_ms']:.1f} ms at {late['at_s']:.3f} s: the {late['whose']}'s (the machine "
        f"lost {late['lost_ms']:.1f} ms, the bare loop was {late['bare_late_ms']:.1f} ms late)"
        for late in result["late"]
    ]
    longest_ms = 1e3 * max((b - a for a, b in result["pauses"]), default=0.0)
    bare = result["bare"]
    lines.append(
        f"the machine: longest pause {longest_ms:.1f} ms, copies of two pictures took "
        f"{bare['copy_p50_ms']:.1f} ms (p50) to {bare['copy_max_ms']:.1f} ms, {result['stolen_s']} s of "
        f"processor time taken by its host; both loops ran with priority '{bare['priority'] or 'normal'}'"
    )
    lines += [
        f"camera {name}: a new picture in {seen['fresh_percent']:.1f} % of the ticks, "
        f"age p50 {seen['age_p50_ms']:.0f} ms, p99 {seen['age_p99_ms']:.0f} ms"
        for name, seen in result["pictures"].items()
    ]
    memory = ", ".join(f"{name} {mb:.0f}" for name, mb in result["rss_mb"].items())
    lines.append(
        f"frames dropped before the link {result['frames_dropped']}, records dropped "
        f"{result['records_dropped']}; start to first action {result['start_to_first_action_s']} s; "
        f"resident memory (MB): {memory}"
    )
    return "\n".join(lines)


def _realtime_config() -> Path:
    return Path(__file__).resolve().parent.parent / "hw_configs" / "sim_realtime.yaml"


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out)


def _endpoints(path: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    deadline_s = time.monotonic() + START_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise EntracteError(
                "the trainer did not start", found=_tail(path.parents[1] / "trainer.log")
            )
        time.sleep(0.05)
    return dict(json.loads(path.read_text()))


def _wait_for_first_step(robot_dir: Path, robot: subprocess.Popen[bytes]) -> None:
    """Until the first episode is being spooled: the bare loop should not measure the start-up."""
    deadline_s = time.monotonic() + START_S
    while not any((robot_dir / "spool").glob("*")):
        if robot.poll() is not None or time.monotonic() > deadline_s:
            raise EntracteError(
                "the robot did not start", found=_tail(robot_dir.parent / "robot.log")
            )
        time.sleep(0.05)


def _wait_stored(store: Path, episodes: int) -> None:
    deadline_s = time.monotonic() + 60.0
    while len(list((store / "logs").glob("*"))) < episodes and time.monotonic() < deadline_s:
        time.sleep(0.2)


def _tail(log: Path, lines: int = 3) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:])
