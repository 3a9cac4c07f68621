"""One block of a collection, on whichever machine it is given to: `robot-run eval` as a process, its scenes
recorded into a folder of this try alone. Nothing counts of it before the block's `done.json` is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec

from contracts.errors import EntracteError, some_of
from contracts.files import atomic
from contracts.files.gathering import recorded, truth_rows
from contracts.files.orphans import die_with_parent

MARK = "collection.json"
"""In the folder of every collection (`trainer.collection`)."""
DONE, TRUTH, DATASET = "done.json", "truth.jsonl", "dataset"
_END_S = 30.0
# As robot-run says it: wrong input; a process of it died, or it was asked to end.
_REFUSED, _DIED = 2, (4, 130)


class Job(msgspec.Struct, frozen=True):
    """The `episodes` from `first` on of the evaluation that begins at `seed_base`. `words`: what every block
    gives `robot-run eval`; `cwd`: the folder in which relative paths were meant."""

    words: tuple[str, ...]
    cwd: str
    output: str
    seed_base: int
    first: int
    episodes: int

    @property
    def seeds(self) -> range:
        return range(self.seed_base + self.first, self.seed_base + self.first + self.episodes)

    @property
    def folder(self) -> Path:
        return Path(self.output) / "blocks" / f"{self.first:08d}"


class Ended(msgspec.Struct, frozen=True):
    """How a try of a block ended. "died": it may well be done when tried again; "refused": by what it was
    given, before anything moved; "failed": it would fail again."""

    first: int
    how: Literal["done", "died", "refused", "failed"]
    why: str = ""


class Done(msgspec.Struct, frozen=True):
    """`done.json`: the try that counts; of its episodes, in order, truth and place in its data set."""

    attempt: str
    rows: list[dict[str, Any]]
    places: list[int]


def done(folder: Path) -> Done | None:
    """What the block at `folder` has; None where it is not done. Raises `FileError`."""
    if not (folder / DONE).exists():
        return None
    return msgspec.convert(atomic.read_json(folder / DONE), Done)


def run_block(job_json: bytes) -> bytes:
    """An `Ended` as JSON. Runs in any process that sees the collection's folder."""
    job = msgspec.json.decode(job_json, type=Job)
    try:
        ended = _run(job)
    except (
        EntracteError,
        OSError,
    ) as error:  # what it recorded can't be read, say: it is run again
        ended = Ended(job.first, "died", f"{platform.node()}: {error}")
    return msgspec.json.encode(ended)


def _run(job: Job) -> Ended:
    if not (Path(job.output) / MARK).exists():
        why = f"{platform.node()} does not see {job.output}: all machines must share that folder"
        return Ended(job.first, "refused", why)
    # Of this try alone: one on a machine that was given up may still be writing its own.
    attempt = job.folder / f"try-{secrets.token_hex(4)}"
    attempt.mkdir(parents=True)
    code = _robot(job, attempt)
    if code == 0:
        return _commit(job, attempt)
    how: Literal["died", "refused", "failed"] = "failed"
    if code < 0 or code in _DIED:
        how = "died"
    elif code == _REFUSED:
        how = "refused"
    said = _last_words(attempt / "log.txt")
    return Ended(job.first, how, said or f"robot-run exited with {code}")


def _robot(job: Job, attempt: Path) -> int:
    command = [
        *(sys.executable, "-m", "runtime.app", "eval", *job.words),
        *("--seed-base", str(job.seed_base), "--first", str(job.first)),
        *("--episodes", str(job.episodes), "--workers", "1"),
        *("--record", str(attempt / DATASET), "--run-dir", str(attempt / "run")),
        *("--set", f"bench.truth_file={TRUTH}"),
    ]
    # Ray sets it to a task's processors; a robot's processes choose for themselves.
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    with (attempt / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=job.cwd if Path(job.cwd).is_dir() else job.output,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 one system call, no lock taken
        )
    try:
        return process.wait()
    except BaseException:  # this task is cancelled: the robot ends in order
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        process.kill()
        raise


def _commit(job: Job, attempt: Path) -> Ended:
    """Everything that was asked for is there, or it does not count."""
    rows, places = truth_rows(attempt / "run" / TRUTH), recorded(attempt / DATASET)
    found = [row["seed"] for row in rows]
    if found != list(job.seeds):
        why = f"other scenes than asked for: seeds {some_of(found)} for {some_of(job.seeds)}"
        return Ended(job.first, "failed", why)
    missing = [row["seed"] for row in rows if row["episode_seq"] not in places]
    if missing:
        said = _last_words(attempt / "log.txt")
        why = f"seeds {some_of(missing)} were not recorded{f' ({said})' if said else ''}"
        return Ended(job.first, "failed", why)
    whole = Done(attempt.name, rows, [places[row["episode_seq"]] for row in rows])
    atomic.write_bytes(job.folder / DONE, json.dumps(msgspec.to_builtins(whole)).encode())
    return Ended(job.first, "done")


def _last_words(log: Path) -> str:
    """The last sentence of robot-run, else the last line of anybody."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("robot-run: ")]
    return own[-1].removeprefix("robot-run: ") if own else lines[-1] if lines else ""
