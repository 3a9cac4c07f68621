"""Several robots against one trainer: what each gets of it, which weights each acts by, and steps stored.

The real daemon scores, refines and publishes while the robots send: real links over loopback with keys
(CURVE), each behind a process that replays recorded episodes (`fleet_robot`). Every turn has a trainer and
robots of its own; one robot and several take turns.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks.fleet_figures import Row, acknowledged, problems_of, records, rows_of
from benchmarks.fleet_robot import Asked, Did
from benchmarks.link_run import SOCKETS, exchange_keys
from benchmarks.machine import in_words, machine
from contracts.errors import EntracteError
from contracts.files import atomic
from contracts.files.orphans import die_with_parent

PATIENCE_S = 180.0
WARM_UP_S = 2.0
POLL_S = 0.1
LEAVE_S = 30.0
"""For a robot that is told to end, to take what it shares with its link out of memory."""

Say = Callable[[str], None]


class Turn(msgspec.Struct, frozen=True):
    """`seconds` that were measured, from `WARM_UP_S` after the robots began. `steps_s`: stored in that time;
    `least_over_most`: of the robot that got least, over those of the one that got most. `cores`: in use by
    all, on average. `iterations` that the trainer finished; `problems`: what must not be, in words."""

    robots: int
    seconds: float
    steps_s: float
    least_over_most: float
    cores: float
    iterations: int
    rows: tuple[Row, ...]
    problems: tuple[str, ...]


class Found(msgspec.Struct, frozen=True):
    """`ratio`: stored steps/s of the most robots over those of the fewest, means over rounds."""

    machine: dict[str, Any]
    refiner: str
    rate_hz: float
    turns: tuple[Turn, ...]
    ratio: float


def measure(
    package: Path,
    recorded: Path,
    *,
    robots: Sequence[int] = (1, 4),
    rounds: int = 1,
    seconds: float = 30.0,
    versions: int = 1,
    rate_hz: float = 0.0,
    refiner: str = "bestofn",
    settings: Sequence[str] = (),
    say: Say = lambda line: None,
) -> Found:
    """`recorded`: data set of episodes of that package's robot. A turn lasts `seconds`, and longer until
    every robot has acted by so many `versions` beyond the package's own. `settings`: the trainer's overrides.
    Raises `EntracteError` where a process ends or nothing comes."""
    load, turns = machine(), []
    for turn in range(rounds):
        for count in robots:
            say(f"round {turn + 1} of {rounds}: {count} robot{'s' * (count > 1)}")
            with tempfile.TemporaryDirectory(prefix="entracte-fleet-") as folder:
                chosen = ("refiner.kind=" + (refiner or "''"), *settings)
                fleet = Fleet(Path(folder), package, recorded, rate_hz, chosen)
                turns.append(fleet.turn(count, seconds, versions if refiner else 0))
    means = {
        count: sum(turn.steps_s for turn in turns if turn.robots == count) / rounds
        for count in (min(robots), max(robots))
    }
    ratio = means[max(robots)] / means[min(robots)] if means[min(robots)] else 0.0
    return Found(load, refiner, rate_hz, tuple(turns), ratio)


class Fleet:
    """One trainer and its robots in `folder`."""

    def __init__(
        self, folder: Path, package: Path, recorded: Path, rate_hz: float, settings: Sequence[str]
    ) -> None:
        self._folder, self._package, self._recorded = folder, package.resolve(), recorded.resolve()
        self._rate_hz, self._settings = rate_hz, settings
        self.root = folder / "trainer"
        self.root.mkdir()
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def turn(self, count: int, seconds: float, versions: int) -> Turn:
        names = [f"robot-{number}" for number in range(count)]
        for name in names:
            (self._folder / name).mkdir()
            exchange_keys(self.root, self._folder / name, name)
        with self._trainer() as endpoints, ExitStack() as started:
            for name in names:
                started.enter_context(self._robot(name, endpoints))
            for name in names:
                self._read_ready(name)
            for name in names:
                print(file=self._processes[name].stdin, flush=True)
            time.sleep(WARM_UP_S)
            from_s, spent_s = time.time(), _cpu_s(self._processes.values())
            self._last(seconds, names, versions)
            to_s, spent_s = time.time(), _cpu_s(self._processes.values()) - spent_s
            iterations = len(records(self.root, "iteration"))
            for name in names:
                self._processes[name].terminate()
            did = [self._did(name) for name in names]
        stored = acknowledged(self.root)
        rows = rows_of(did, stored, from_s, to_s)
        each = [row.steps_s for row in rows]
        return Turn(
            robots=count,
            seconds=to_s - from_s,
            steps_s=sum(each),
            least_over_most=min(each) / max(each) if max(each) else 0.0,
            cores=spent_s / (to_s - from_s),
            iterations=iterations,
            rows=rows,
            problems=tuple(problems_of(did, stored, self.root)),
        )

    def _last(self, seconds: float, names: list[str], versions: int) -> None:
        """So long, and until every robot has acted by enough versions."""
        began_s = time.monotonic()
        while (elapsed_s := time.monotonic() - began_s) < seconds:
            self._require_alive()
            time.sleep(min(POLL_S, seconds - elapsed_s))
        while True:
            acted: dict[str, set[int]] = {name: set() for name in names}
            for one in acknowledged(self.root):
                acted[one.robot_id].add(one.version)
            if all(len(each - {0}) >= versions for each in acted.values()):
                return
            if time.monotonic() - began_s > seconds + PATIENCE_S:
                raise EntracteError(
                    f"waited {PATIENCE_S:g} s in vain for {versions} releases on every robot",
                    found={name: sorted(each) for name, each in acted.items()},
                    remedy="give it more --seconds, or --versions 0",
                )
            self._require_alive()
            time.sleep(POLL_S)

    @contextmanager
    def _trainer(self) -> Iterator[dict[str, str]]:
        settings = {
            **{f"listen.{name}": "tcp://127.0.0.1:0" for name in SOCKETS},
            "listen.curve": "always",
            "reward.model": "success",
            "refiner.package": self._package,
            "store.dataset": "false",
            # A replayed episode takes a fraction of its time: more messages a second than any robot has.
            "limits.messages_per_s": 1e6,
        }
        sets = [f"{name}={value}" for name, value in settings.items()]
        words = [word for one in (*sets, *self._settings) for word in ("--set", one)]
        command = ["-m", "trainer.app", "serve", "--run-dir", str(self.root), *words]
        with self._started("trainer", command):  # killed: it would finish its update first
            endpoints = self.root / "endpoints.json"
            self._wait("the trainer", endpoints.exists)
            found = json.loads(endpoints.read_text())
            yield {name: found[name] for name in SOCKETS}

    @contextmanager
    def _robot(self, name: str, endpoints: dict[str, str]) -> Iterator[None]:
        folder = self._folder / name
        if (key := self.root / "trainer.pub").exists():  # nobody signs where nobody refines
            (folder / "trainer.pub").write_bytes(key.read_bytes())
        asked = Asked(
            robot_id=name,
            folder=str(folder),
            package=str(self._package),
            recorded=str(self._recorded),
            endpoints=endpoints,
            rate_hz=self._rate_hz,
        )
        atomic.write_bytes(folder / "asked.json", msgspec.json.encode(asked))
        command = ["-m", "benchmarks.fleet_robot", str(folder / "asked.json")]
        with self._started(name, command, LEAVE_S):
            yield

    @contextmanager
    def _started(self, name: str, command: list[str], leave_s: float = 0.0) -> Iterator[None]:
        """A Python in a session of its own, which is ended with all that it started: told to (SIGINT), given
        `leave_s`, and killed."""
        with (self._folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 one system call, no lock taken
            )
        self._processes[name] = process
        try:
            yield
        finally:
            try:
                if leave_s and process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(leave_s)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()

    def _read_ready(self, name: str) -> None:
        out = self._processes[name].stdout
        assert out is not None
        if out.readline().strip() != "ready":
            raise self._ended(name)

    def _did(self, name: str) -> Did:
        """What that robot says at its end."""
        process = self._processes[name]
        said, _ = process.communicate()
        if process.returncode:
            raise self._ended(name)
        return msgspec.json.decode(said, type=Did)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            self._require_alive()
            if time.monotonic() > give_up_s:
                raise EntracteError(f"waited {PATIENCE_S:g} s in vain for {what}")
            time.sleep(POLL_S)

    def _require_alive(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise self._ended(name)

    def _ended(self, name: str) -> EntracteError:
        said = (self._folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return EntracteError(f"{name} ended by itself", found=said[-1] if said else "no word")


def _cpu_s(processes: Iterable[subprocess.Popen[str]]) -> float:
    """Processor time of these and of all that they started, so far."""
    spent_s = 0.0
    for process in processes:
        own = psutil.Process(process.pid)
        for one in (own, *own.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                spent_s += times.user + times.system
    return spent_s


def table(found: Found) -> str:
    """Markdown, for a terminal and for docs/results."""
    lines = [
        "| robots | robot | episodes | steps | steps/s | acted by (releases) | end of an episode to stored: "
        "median, longest (s) | longest without an acknowledgement (s) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for turn in found.turns:
        for row in turn.rows:
            acted = ", ".join(map(str, row.versions))
            lines.append(
                f"| {turn.robots} | {row.robot_id} | {row.episodes} | {row.steps} | {row.steps_s:.0f} | "
                f"{acted} | {row.wait_p50_s:.2f}, {row.wait_max_s:.2f} | {row.longest_without_s:.2f} |"
            )
    lines += [
        "",
        "| robots | seconds | stored steps/s | least over most | iterations | cores in use | wrong |",
        "|---|---|---|---|---|---|---|",
    ]
    for turn in found.turns:
        wrong = "; ".join(turn.problems) or "nothing"
        lines.append(
            f"| {turn.robots} | {turn.seconds:.0f} | {turn.steps_s:.0f} | {turn.least_over_most:.2f} | "
            f"{turn.iterations} | {turn.cores:.2f} | {wrong} |"
        )
    pace = f"{found.rate_hz:g} steps/s asked of each" if found.rate_hz else "as fast as it goes"
    most, fewest = max(t.robots for t in found.turns), min(t.robots for t in found.turns)
    lines += [
        "",
        f"{most} robots store {found.ratio:.2f} times the steps/s of {fewest} ({pace}; refiner "
        f"'{found.refiner}'). Machine: {in_words(found.machine)}.",
    ]
    return "\n".join(lines)
