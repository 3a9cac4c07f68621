"""A learner whose steps several processes make, each on rows of its own of every batch.

The trainer itself makes none of them and is in no process group: it starts the processes (`member`), tells
them what an update is made from, and takes over what they have learned. So one of them that dies, hangs, or
is ended by its GPU's library costs an update, which says so, and never the trainer.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
import torch

from contracts.errors import ConfigError, EntracteError, MissingDependency
from trainer.interfaces import Update
from trainer.refiners.episodic import OPTIONS, Learner
from trainer.refiners.experience import Trajectory
from trainer.refiners.parcels import Arrays, named, opened, parcel, put_in
from trainer.refiners.placement import Placement

PROGRAM: Sequence[str] = ("-m", "trainer.refiners.member")
SILENT_S = 120.0
"""A process that says nothing for longer hangs: while it learns it says so every second, and loading a GPU's
libraries from a cold disk takes half a minute."""
_LAST_WORDS_S = 2.0
_BATCHES = ("batch", "critic_batch")


class Several(Placement):
    """The trainer's own end of several processes: what it opens stays on the CPU and makes no step."""

    def __init__(self, device: str, processes: int) -> None:
        """`device`: "cpu", or "cuda" for a GPU each. Raises `MissingDependency` without accelerate."""
        super().__init__()
        self._where, self._processes = device, processes
        if find_spec("accelerate") is None:
            raise MissingDependency(
                f"refiner.processes={processes} needs accelerate",
                remedy="pip install 'entracte[trainer]', or set refiner.processes=1",
            )

    def learner(
        self,
        alone: Learner[Any],
        refiner: type,
        package: Path,
        demonstrations: list[Trajectory],
        seed: int,
    ) -> Learner[Any]:
        """Raises `ConfigError` for a batch that they can't share, and whatever keeps them from opening."""
        _require_shared(alone.options, self._processes)
        arrays: Arrays = {}
        told = {
            "module": refiner.__module__,
            "refiner": refiner.__qualname__,
            "package": str(package.resolve()),
            "options": msgspec.to_builtins(alone.options),
            "seed": seed,
            "demonstrations": put_in(demonstrations, "demonstrations", arrays),
        }
        return Together(alone, self._where, self._processes, parcel(told, arrays))


def _require_shared(options: Any, processes: int) -> None:
    # The noises that Q^W learns from are drawn otherwise in every other row.
    unit = 2 * processes if getattr(options, "distil", False) else processes
    for name in _BATCHES:
        size = getattr(options, name, 0)
        if size % unit:
            raise ConfigError(
                f"{OPTIONS}{name}",
                expected=f"a multiple of {unit}, as refiner.processes is {processes}",
                found=size,
            )


class Together:
    """See the module. `alone` is the same learner in this process: what it holds is what all of them hold
    between updates."""

    def __init__(self, alone: Learner[Any], device: str, processes: int, opening: bytes) -> None:
        self.options, self.own = alone.options, alone.own
        self._alone, self._opening = alone, opening
        self._device, self._processes = device, processes
        self._told = 0
        """Of `own`: how many they hold."""
        self._group: Group | None = self._begun()

    @property
    def released(self) -> torch.nn.Module:
        return self._alone.released

    def learn(self, fresh: list[Any], seed: int, iteration: int) -> Update:
        """Raises `EntracteError` where one of them dies, hangs or fails; nothing of that update is kept then,
        and the next one has new ones."""
        group, self._group = self._group, None
        if group is None or not group.alive:
            group = self._begun()
        arrays: Arrays = {f"state/{name}": array for name, array in self._alone.state().items()}
        told = {
            "seed": seed,
            "iteration": iteration,
            "kept": self._told,
            "own": put_in(self.own[self._told :], "own", arrays),
            "fresh": put_in(fresh, "fresh", arrays),
        }
        answers, learned = group.ask(parcel(told, arrays))
        self._alone.restore(named("state", learned), "what was learned together")
        if answers[0]["own"] == len(self.own) + len(fresh):
            self.own += fresh
        self._group, self._told = group, len(self.own)
        metrics = {
            # Of what each found of its own rows; what all found alike stays as it is.
            name: fmean(answer["metrics"][name] for answer in answers)
            for name in answers[0]["metrics"]
        }
        return Update(named("update", learned), answers[0]["samples"], metrics)

    def state(self) -> dict[str, np.ndarray]:
        return self._alone.state()

    def restore(self, tensors: dict[str, np.ndarray], what: str) -> None:
        self._alone.restore(tensors, what)
        self._told = 0

    def _begun(self) -> Group:
        self._told = 0
        return Group(self._device, self._processes, self._opening)


@dataclasses.dataclass
class _Member:
    process: subprocess.Popen[bytes]
    said: bytes = b""
    heard_s: float = 0.0


class Group:
    """The processes, from their start to their end. Large things go through two files without a name, which
    vanish with the last of them; a line on each one's stdin says that something lies there."""

    def __init__(self, device: str, count: int, opening: bytes) -> None:
        """Starts them and waits until each has opened. Raises `EntracteError`."""
        self._asked, self._answered = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115
        self._folder = tempfile.mkdtemp(prefix="entracte-learn-")
        files = self._asked.fileno(), self._answered.fileno()
        given = {"device": device, "parts": count, "meeting": f"{self._folder}/meeting"}
        given |= {"asked": files[0], "answered": files[1]}
        self._members: list[_Member] = []
        self._end = weakref.finalize(self, _end, self._members, self._folder)
        for part in range(count):
            command = [sys.executable, *PROGRAM, json.dumps({**given, "part": part})]
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                command, bufsize=0, stdin=pipe, stdout=pipe, pass_fds=files, start_new_session=True
            )
            self._members.append(_Member(process))
        self.ask(opening)

    @property
    def alive(self) -> bool:
        return all(member.process.poll() is None for member in self._members)

    def ask(self, data: bytes) -> tuple[list[dict[str, Any]], Arrays]:
        """What each answers, in their order, and the arrays of the first one. Raises `EntracteError` where
        one dies, fails or says nothing; all are ended then."""
        try:
            self._asked.seek(0)
            self._asked.truncate()
            self._asked.write(data)
            self._asked.flush()
            for part, member in enumerate(self._members):
                self._tell(part, member, len(data))
            answers = self._hear()
            size = answers[0]["bytes"]
            with mmap.mmap(self._answered.fileno(), size, access=mmap.ACCESS_READ) as seen:
                _, arrays = opened(seen[:])
            return answers, arrays
        except BaseException:
            self._end()
            raise

    def _tell(self, part: int, member: _Member, size: int) -> None:
        assert member.process.stdin is not None
        member.heard_s = time.monotonic()
        try:
            member.process.stdin.write(b"%d\n" % size)
        except OSError as error:
            raise self._died(part) from error

    def _hear(self) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        with selectors.DefaultSelector() as selector:
            for part, member in enumerate(self._members):
                assert member.process.stdout is not None
                selector.register(member.process.stdout, selectors.EVENT_READ, part)
            while len(answers) < len(self._members):
                for key, _ in selector.select(timeout=0.5):
                    self._listen(key.data, answers)
                self._require_heard(answers)
        return [answers[part] for part in range(len(self._members))]

    def _listen(self, part: int, answers: dict[int, dict[str, Any]]) -> None:
        """Takes what it has said; an answer goes into `answers`."""
        member = self._members[part]
        assert member.process.stdout is not None
        said = os.read(member.process.stdout.fileno(), 1 << 16)
        if not said:
            raise self._died(part)
        member.heard_s = time.monotonic()
        *lines, member.said = (member.said + said).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "failed" in told:
                raise self._died(part, told["failed"])
            if told:  # else it says that it is still there
                answers[part] = told

    def _require_heard(self, answers: dict[int, dict[str, Any]]) -> None:
        now_s = time.monotonic()
        for part, member in enumerate(self._members):
            if part not in answers and now_s - member.heard_s > SILENT_S:
                count = len(self._members)
                raise EntracteError(
                    f"process {part} of {count} that learn together, or one that it waits for, hangs",
                    found=f"not a word for {SILENT_S:g} s",
                    remedy="the next update starts them anew",
                )

    def _died(self, part: int, said: str = "") -> EntracteError:
        """Why `part` gave no answer. Where one dies all others fail, too: it is named that died."""
        until_s = time.monotonic() + _LAST_WORDS_S
        while time.monotonic() < until_s and self.alive:
            time.sleep(0.05)
        for number, member in enumerate(self._members):
            code = member.process.poll()
            if code is not None:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return EntracteError(
                    f"process {number} of {len(self._members)} that learn together died",
                    found=how,
                    remedy="what it said is in the trainer's log; the next update starts them anew",
                )
        return EntracteError(said or f"process {part} that learns went away")


def _end(members: list[_Member], folder: str) -> None:
    for member in members:
        member.process.kill()
    for member in members:
        member.process.wait()
        for pipe in (member.process.stdin, member.process.stdout):
            if pipe is not None:
                pipe.close()
    shutil.rmtree(folder, ignore_errors=True)
