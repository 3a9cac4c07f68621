"""The same closed-loop success? `robot-run eval` as a process for each side, on the same scenes, so that
episodes pair up. Owns neither the bench nor what success is.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import ConfigError, EntracteError, MissingDependency
from contracts.files.packages import read_manifest

FIRST_SEED = 1_000_000
Z_95 = 1.959964
EXECUTED = 8
"""`policy.execute_steps` where nobody sets it (`runtime.config`)."""
POINTS = 10.0
"""A difference of success that matters; an interval that reaches further says nothing."""
_MOST_S = 6 * 3600.0


@dataclass(frozen=True)
class Contender:
    """A package on an engine ("onnxruntime", "onnxruntime:cuda", "tensorrt")."""

    package: Path
    engine: str
    config: Path | None = None
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.package} on {self.engine}"


@dataclass(frozen=True)
class ClosedLoop:
    """Success of `right` against `left` on the same scenes. `lost`: scenes where `left` alone succeeds,
    `won`: where `right` alone does. `low`, `high`: 95 % interval of (right - left), in shares."""

    left: str
    right: str
    task: str
    episodes: int
    successes_left: int
    successes_right: int
    lost: int
    won: int
    low: float
    high: float

    @property
    def difference(self) -> float:
        return (self.successes_right - self.successes_left) / self.episodes

    @property
    def holds(self) -> bool:
        """No difference beyond chance."""
        return self.low <= 0.0 <= self.high


def closed_loop(
    left: Contender,
    right: Contender,
    task: str,
    episodes: int,
    tell: Callable[[str], None] = lambda line: None,
) -> ClosedLoop:
    """Run both. `tell` hears whose turn it is: each takes minutes. Raises `EntracteError` with the program's
    last line when one fails."""
    found = []
    for side in (left, right):
        name = side.package.resolve().name
        tell(f"{episodes} episodes of {task} with {name} on {side.engine}")
        found.append(_run(side, task, episodes))
    before, after = found
    scenes = sorted(before.keys() & after.keys())
    if len(scenes) != episodes:
        raise EntracteError(
            "the bench's truth is incomplete", expected=f"{episodes} scenes", found=len(scenes)
        )
    return paired(str(left), str(right), task, [(before[s], after[s]) for s in scenes])


def paired(left: str, right: str, task: str, pairs: Sequence[tuple[bool, bool]]) -> ClosedLoop:
    """Figures of (left succeeded, right succeeded) per scene. The interval is Newcombe's for paired shares
    (Newcombe 1998, Stat Med 17:2635, method 10), which holds for few episodes too."""
    n = len(pairs)
    both = sum(a and b for a, b in pairs)
    lost = sum(a and not b for a, b in pairs)
    won = sum(b and not a for a, b in pairs)
    neither = n - both - lost - won
    first, second = both + lost, both + won
    low_1, high_1 = _wilson(first, n)
    low_2, high_2 = _wilson(second, n)
    share_1, share_2 = first / n, second / n
    phi = _correlation(both, lost, won, neither)
    difference = share_2 - share_1
    down = _root(share_2 - low_2, high_1 - share_1, phi)
    up = _root(high_2 - share_2, share_1 - low_1, phi)
    return ClosedLoop(
        *(left, right, task, n, first, second, lost, won, difference - down, difference + up)
    )


def require_task(task: str) -> None:
    """Raise `ConfigError` naming the bench's tasks unless `task` is one: before any work."""
    command = [sys.executable, "-m", "runtime.bench.known_tasks", task]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConfigError("--bench", expected="a task of the bench", found=lines[-1])


def require_enough(episodes: int, limit: float = POINTS) -> None:
    """Raise `ConfigError` for so few pairs that even the very same successes leave an interval that reaches
    `limit` points down: nothing could be said."""
    if _reach_down(episodes) < limit:
        return
    few = episodes
    many = 2 * episodes
    while _reach_down(many) >= limit:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if _reach_down(middle) < limit else (middle, many)
    raise ConfigError(
        f"so few episodes say nothing of success: with the very same successes on both sides the interval "
        f"of {episodes} pairs reaches down to -{_reach_down(episodes):.1f} points",
        expected=f"--episodes {many} at least, some hundreds to be likely to find {limit:g} points",
        found=episodes,
    )


def _reach_down(episodes: int) -> float:
    """Points below zero that the interval reaches at the least when no pair falls differently."""
    same = (
        paired("", "", "", [(True, True)] * k + [(False, False)] * (episodes - k))
        for k in range(episodes + 1)
    )
    return -100.0 * max(one.low for one in same)


def _short_chunk(side: Contender) -> tuple[str, ...]:
    """A chunk shorter than what robots execute of one by default is executed whole."""
    chunk = read_manifest(side.package).chunk
    if chunk is None or chunk.length >= EXECUTED:
        return ()
    return (f"policy.execute_steps={chunk.length}",)


def _run(side: Contender, task: str, episodes: int) -> dict[int, bool]:
    """Success by scene seed."""
    kind, _, provider = side.engine.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(folder) / "truth.jsonl"
        command = [
            *(_program(), "eval", "--package", str(side.package.resolve()), "--task", task),
            *("--episodes", str(episodes), "--seed-base", str(FIRST_SEED), "--json"),
            *("--output", str(truth), "--run-dir", str(Path(folder) / "run")),
            *("--set", f"policy.engine={kind}", "--set", f"policy.provider={provider or 'cpu'}"),
            *(("--config", str(side.config)) if side.config else ()),
            *(word for one in (*_short_chunk(side), *side.overrides) for word in ("--set", one)),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_MOST_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EntracteError(
                f"robot-run eval with {side} took more than {_MOST_S:.0f} s"
            ) from error
        if done.returncode != 0 or not truth.exists():
            lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            said = lines[-1].removeprefix("robot-run: ") if lines else done.returncode
            raise EntracteError(f"the bench with {side} failed", found=said)
        rows = [json.loads(line) for line in truth.read_text().splitlines()]
    return {int(row["seed"]): bool(row["success"]) for row in rows}


def _program() -> str:
    beside = Path(sys.executable).with_name("robot-run")
    found = str(beside) if beside.exists() else shutil.which("robot-run")
    if found is None:
        raise MissingDependency(
            "closed-loop parity needs the program robot-run", remedy="pip install 'entracte[sim]'"
        )
    return found


def _wilson(successes: int, n: int) -> tuple[float, float]:
    share, z = successes / n, Z_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _correlation(both: int, lost: int, won: int, neither: int) -> float:
    """Phi of the two sides' successes, with Newcombe's continuity correction where it is positive."""
    product = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    if product == 0:
        return 0.0
    cross, n = both * neither - lost * won, both + lost + won + neither
    corrected = max(cross - n / 2, 0.0) if cross > 0 else float(cross)
    return corrected / math.sqrt(product)


def _root(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))
