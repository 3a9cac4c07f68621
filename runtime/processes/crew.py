"""One evaluation by several workers at once, each a whole robot on a bench of its own, in its own processes.

Owns who works, what becomes of the episode of one that died, and what is put together at the end. An episode
is the same, bit by bit, whichever worker runs it and after whatever others (`Control._plans`); who takes what
is `runtime.processes.claims`' business. docs/external_benchmarks.md has what it costs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from contracts.errors import ConfigError, EntracteError, some_of
from contracts.files import atomic
from contracts.files.dataset_format import INFO_PATH, DatasetError, require_alike
from contracts.files.dataset_reader import DatasetReader
from contracts.files.gathering import gather, recorded, truth_rows
from contracts.messages import ABORTED
from runtime.config import RobotConfig
from runtime.processes import claims
from runtime.processes.progress import Progress
from runtime.processes.supervisor import (
    EXIT_INTERRUPTED,
    EXIT_PROCESS_DIED,
    Outcome,
    Supervisor,
    make_run,
    new_session,
)
from runtime.run import RunPlan
from runtime.system.interrupts import put_back, when_asked_to_end

_POLL_S = 0.02
MOST_DEATHS = 3
"""Of workers over the same episode: then it is named, and not tried again. While none is finished, so many
before any, or more than that for every worker, end the run: the cause is not the episodes'."""
_SUMS = (
    *("episodes", "ticks", "missed_ticks", "held_ticks", "rewards_abstained"),
    *("gate_interventions", "gate_refusals", "ring_frames_dropped", "ring_records_dropped"),
)
_RECORDED = ("kept", "dropped", "unrecorded", "pictures_lost", "steps_lost")


def choose_workers(config: RobotConfig, wanted: int, episodes: int) -> int:
    """How many there are to be; `wanted` 0: as many as have a processor to themselves. Raises `ConfigError`
    for what only one robot at a time can have."""
    if wanted < 0:
        raise ConfigError("--workers", expected="0 (a processor each) or more", found=wanted)
    cores, threads = len(os.sched_getaffinity(0)), _threads(config)
    workers = min(wanted or max(1, cores // threads), max(1, episodes))
    if workers == 1:
        return 1
    if config.pace != "asap":
        raise ConfigError(
            f"{workers} workers need simulated time",
            expected="pace: asap",
            found=f"pace: {config.pace}",
            remedy="set pace: asap, or leave --workers out",
        )
    if config.operator.web or config.operator.view or config.episode.label == "keys":
        raise ConfigError(
            f"{workers} workers have nobody to look at them or to label",
            remedy="leave operator.web, operator.view and episode.label=keys out, or --workers",
        )
    if workers * threads > cores:
        # Never fewer threads than configured: with another number an engine may round otherwise.
        sys.stderr.write(
            f"robot-run: {workers} workers with {threads} thread{'s'[: threads > 1]} an engine share "
            f"{cores} processors: they wait for one another\n"
        )
    return workers


def _threads(config: RobotConfig) -> int:
    """Of one worker, at most at once: in lockstep the bench, the policy and the reward take turns."""
    reward = config.reward.threads if config.reward.package else 1
    return max(1, config.policy.threads, reward)


@dataclass
class _Worker:
    """`results`: its episodes' truth by index, once it has ended."""

    name: str
    folder: Path
    robot: Supervisor
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    recorded: dict[int, int] = field(default_factory=dict)
    """Index of an episode -> its place in the data set of this worker."""
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"


class Crew:
    """`run` is all of it. Safe to interrupt: what is finished then counts, and the rest is said."""

    def __init__(
        self, config: RobotConfig, plan: RunPlan, run_dir: Path, workers: int, progress: Progress
    ) -> None:
        self._session = new_session()
        self._truth_path = run_dir.resolve() / config.bench.truth_file
        bench = msgspec.structs.replace(config.bench, truth_file="truth.jsonl")
        self._config = msgspec.structs.replace(config, bench=bench)
        self._plan, self._workers, self._progress = plan, workers, progress
        self._run_dir = run_dir.resolve()
        self._home = self._run_dir / f"workers-{self._session}"
        self._claims = self._home / "claims"
        self._working: list[_Worker] = []
        self._gone: list[_Worker] = []
        self._deaths: Counter[int | None] = Counter()
        self._died = self._died_in_vain = self._most_done = 0
        self._lost: dict[int, str] = {}
        self._failed: Outcome | None = None
        self._unread = ""
        self._interrupted = False
        self._said: set[str] = set()
        # A new data set fits whatever comes first.
        self._fits = plan.sink != "dataset" or not (Path(plan.output) / INFO_PATH).exists()

    def run(self) -> Outcome:
        """Every episode of the plan, once. Raises `EntracteError` if no worker could even begin."""
        handlers = when_asked_to_end(self._interrupt)
        try:
            self._begin()
            while self._working:
                try:
                    self._tell()
                    self._look()
                    self._require_fitting_dataset()
                    self._progress.show(self._done(), self._describe)
                except OSError as error:  # the others end in order, and what is done counts
                    what = f"the evaluation can't go on: {error}"
                    self._failed = self._failed or Outcome(EXIT_PROCESS_DIED, what)
                time.sleep(_POLL_S)
        finally:
            for worker in self._working:
                worker.robot.close()
                shutil.rmtree(worker.robot.run.shm_dir, ignore_errors=True)
            put_back(handlers)
        return self._put_together()

    # -- workers

    def _begin(self) -> None:
        try:
            self._claims.mkdir(parents=True)
            (self._run_dir / "recorder.json").unlink(missing_ok=True)  # of an earlier start
            for _ in range(self._workers):
                self._hire()
        except OSError as error:
            raise EntracteError("could not start the workers' processes", found=error) from error

    def _hire(self) -> None:
        name = f"worker-{len(self._gone) + len(self._working)}"
        folder = self._home / name
        plan = msgspec.structs.replace(
            self._plan,
            claims=str(self._claims),
            output=str(folder / "dataset") if self._plan.sink == "dataset" else "",
        )
        run = make_run(self._config, plan, folder, self._session)
        try:
            robot = Supervisor(run, signals=False)
            robot.say = self._say_once
            robot.__enter__()
        except BaseException:
            shutil.rmtree(run.shm_dir, ignore_errors=True)
            raise
        self._working.append(_Worker(name, folder, robot))

    def _say_once(self, text: str) -> None:
        """What every worker's robot has to say of itself."""
        if text not in self._said:
            self._said.add(text)
            self._progress.say(text)

    def _look(self) -> None:
        """Whoever has ended, and what follows from it."""
        for worker in list(self._working):
            try:
                outcome = worker.robot.poll()
            except OSError as error:  # of its files or processes: as good as dead
                outcome = Outcome(EXIT_PROCESS_DIED, f"can't be looked after: {error}")
            if outcome is None:
                continue
            self._working.remove(worker)
            self._gone.append(worker)
            worker.robot.close()
            outcome = worker.robot.seen_out(outcome)
            shutil.rmtree(worker.robot.run.shm_dir, ignore_errors=True)
            worker.report = _read(worker.folder / "run_report.json") or outcome.report
            died = _died(outcome.code, worker.report)
            self._take_results(worker, died)
            if outcome.code and not (self._interrupted or self._failed):
                self._replace(worker, outcome, died)

    def _tell(self) -> None:
        """Everybody who works: that the run is to end."""
        for worker in self._working:
            if self._interrupted and not worker.robot.interrupted:
                worker.robot.interrupt()
            elif self._failed:
                worker.robot.stop()

    def _replace(self, worker: _Worker, outcome: Outcome, died: bool) -> None:
        """Another worker for one that died, which runs its episode again; anything else ends the run."""
        if not died:
            self._failed = outcome
            return
        self._count_death()
        if self._died_in_vain > MOST_DEATHS * self._workers:
            what = f"{self._died_in_vain} workers died and finished no episode: {outcome.what}"
            self._failed = Outcome(outcome.code, what)
            return
        mine = claims.held_by(self._claims, worker.name) - worker.results.keys()
        over: list[int | None] = [*mine]
        for episode in over or [None]:
            self._deaths[episode] += 1
            if self._deaths[episode] < MOST_DEATHS:
                again = "" if episode is None else f"; seed {self._seed(episode)} is run again"
                self._progress.say(f"robot-run: {worker.name} died ({outcome.what}){again}")
                if episode is not None:
                    claims.release(self._claims, episode)
            elif episode is None:
                self._failed = outcome
                return
            else:
                self._lost[episode] = outcome.what
        if len(claims.claimed(self._claims)) < self._plan.episodes:
            try:
                self._hire()
            except (EntracteError, OSError) as error:
                what = f"{worker.name} died ({outcome.what}) and no other could be started: {error}"
                self._failed = Outcome(EXIT_PROCESS_DIED, what)

    def _count_death(self) -> None:
        """Those without any progress in between apart: a cause that goes on is none of the episodes'."""
        # The most that ever were: what was done and not yet recorded is done again.
        if (done := self._done()) > self._most_done:
            self._most_done, self._died_in_vain = done, 0
            del self._deaths[None]
        self._died += 1
        self._died_in_vain += 1

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupted = True

    def _require_fitting_dataset(self) -> None:
        """As soon as anybody records: the data set which is to grow is one for this robot."""
        if self._fits or self._failed:
            return
        part = next((w for w in self._working if (w.dataset / INFO_PATH).exists()), None)
        if part is None:
            return
        self._fits, root = True, Path(self._plan.output)
        try:
            known, given = DatasetReader(root), DatasetReader(part.dataset)
            require_alike(root, (known.fps, known.features), (given.fps, given.features))
        except DatasetError as error:
            self._failed = Outcome(EXIT_PROCESS_DIED, str(error))

    # -- what they leave

    def _take_results(self, worker: _Worker, died: bool) -> None:
        try:
            worker.recorded = recorded(worker.dataset)
        except EntracteError as error:
            if not died:  # else its episodes are run again
                self._unread = f"what {worker.name} recorded can't be read: {error}"
        unfinished = (ABORTED, "rerecord", *(("fault",) if died else ()))
        for row in truth_rows(worker.folder / "truth.jsonl"):
            if row["reason"] in unfinished:
                continue
            seq = int(row["episode_seq"])
            if not died or self._plan.sink != "dataset" or seq in worker.recorded:
                worker.results[seq] = row

    def _put_together(self) -> Outcome:
        """The truth and the data set, in the episodes' order, and one report. Raises `EntracteError`."""
        rows = {seq: (worker, row) for worker in self._gone for seq, row in worker.results.items()}
        ordered = sorted(rows)
        with self._writing(self._truth_path):
            for seq in ordered:
                atomic.append_line(self._truth_path, json.dumps(rows[seq][1]).encode())
        code, what = self._how_it_ended(rows.keys())
        report = self._report()
        if self._plan.sink == "dataset":
            try:
                self._gather([(rows[seq][0], seq) for seq in ordered])
            except (EntracteError, OSError) as error:
                code = code or 1
                what = what or f"{error}; what was recorded is in {self._home}"
        path = self._run_dir / "run_report.json"
        with self._writing(path):
            atomic.write_bytes(path, json.dumps(report, indent=1).encode())
        shutil.rmtree(self._claims, ignore_errors=True)
        return Outcome(code, what, report)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = f"what every worker did is in {self._home}"
            raise EntracteError(f"could not write {path}", found=error, remedy=remedy) from error

    def _how_it_ended(self, done: Collection[int]) -> tuple[int, str]:
        wanted = range(self._plan.first, self._plan.first + self._plan.episodes)
        missing = [seq for seq in wanted if seq not in done]
        some = f"{len(done)} of {self._plan.episodes} episodes are done"
        if self._interrupted:
            return EXIT_INTERRUPTED, f"interrupted: {some}"
        if self._failed is not None:
            return self._failed.code, self._failed.what + (f" ({some})" if done else "")
        if missing:
            seeds = some_of([self._seed(seq) for seq in missing])
            why = next(iter(self._lost.values()), "nobody ran them")
            return EXIT_PROCESS_DIED, f"not evaluated: the scenes of seeds {seeds} ({why})"
        return 0, ""

    def _gather(self, ordered: list[tuple[_Worker, int]]) -> None:
        """The recorded episodes into one data set. Raises `DatasetError` or `OSError`; what was copied until
        then is reported as kept, and the workers' own data sets stay."""
        report: dict[str, Any] = dict.fromkeys(_RECORDED, 0)
        notes = []
        for worker in self._gone:
            found = _read(worker.folder / "recorder.json") or {}
            for key in _RECORDED:
                report[key] += found.get(key, 0)
            notes += [f"{worker.name}: {note}" for note in found.get("notes", [])]
        wanted = [(w.dataset, w.recorded[seq]) for w, seq in ordered if seq in w.recorded]
        report |= {"kept": 0, "notes": notes}
        try:
            for count in gather(Path(self._plan.output), wanted):
                report["kept"] = count
            if self._unread:
                raise DatasetError(self._unread)
            if wanted:
                for worker in self._gone:
                    shutil.rmtree(worker.dataset, ignore_errors=True)
        finally:
            atomic.write_json(self._run_dir / "recorder.json", report)

    def _report(self) -> dict[str, Any]:
        reports = [worker.report for worker in self._gone if worker.report]
        rss: Counter[str] = Counter()
        for found in sorted(reports, key=lambda r: -sum(r["rss_mb"].values()))[: self._workers]:
            rss.update(found["rss_mb"])
        return {
            "session_id": self._session,
            "workers": self._workers,
            "died": self._died,
            **{key: sum(found.get(key, 0) for found in reports) for key in _SUMS},
            "lateness_p99_s": max((found["lateness_p99_s"] for found in reports), default=0.0),
            "rss_mb": {
                f"{name} ({self._workers} together)": round(mb, 1)
                for name, mb in sorted(rss.items())
            },
        }

    # -- what is said

    def _done(self) -> int:
        running = sum(worker.robot.board.episodes_done for worker in self._working)
        return running + sum(len(worker.results) for worker in self._gone)

    def _describe(self) -> str:
        peaks = (child.rss_peak for w in self._working for child in w.robot.children)
        return f", workers: {len(self._working)}, {sum(peaks) / 1e9:.1f} GB"

    def _seed(self, episode: int) -> int:
        return self._config.episode.seed_base + episode


def _died(code: int, report: dict[str, Any]) -> bool:
    """Whether a worker ended by what happened to its processes, and not by what it was given to do."""
    # Where one process can't begin, the supervisor itself kills control and terminates the others.
    others = (c for name, c in report.get("exit_codes", {}).items() if name != "control")
    killed = any(code is not None and code < 0 and code != -signal.SIGTERM for code in others)
    tripped = report.get("watchdog", "none") != "none"
    return code == EXIT_PROCESS_DIED or (code != 0 and (killed or tripped))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found
