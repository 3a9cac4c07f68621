"""Feeds one target mutated inputs and judges what comes of each. Seeded: the same seed, the same inputs.

A finding is an exception that is not an `EntracteError` (a `MemoryError` included), or an input that takes
longer than its time. Inputs that led to an answer not seen before are kept and mutated further.
"""

from __future__ import annotations

import hashlib
import random
import re
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.errors import EntracteError
from tests.faults.fuzz.target import Feed, Target

MOST_KEPT = 512
FEW = 20
"""So many inputs are fed whatever time they take."""
CPU_LIMIT_S = 2.0
"""Processor time of one input: what other programs take of the machine does not count."""
_VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9]+|/\S+")


class TooSlowError(BaseException):
    """One input used up its processor time."""


@dataclass
class Found:
    """One input that must not have done what it did."""

    what: str
    where: str
    data: bytes
    trace: str = ""


@dataclass
class Tally:
    """What a run of one target came to. `refused`: by type of error and, for releases, reason."""

    target: str
    seed: int
    messages: int = 0
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    answers: int = 0
    found: list[Found] = field(default_factory=list)
    seconds: float = 0.0
    slowest_s: float = 0.0
    grown_mib: float = 0.0

    @property
    def per_s(self) -> float:
        return self.messages / self.seconds if self.seconds else 0.0


def feed_mutated(
    target: Target,
    scratch: Path,
    *,
    seed: int,
    messages: int,
    seconds: float = float("inf"),
    begin: int = 0,
    before: Callable[[int, bytes], None] = lambda number, data: None,
) -> Tally:
    """Feed `messages` inputs, or as many as `seconds` of processor time allow.

    `begin`: number of the first, where a run goes on after the process died. `before` sees every input before
    the decoder does.
    """
    rng = random.Random(f"{target.name} {seed} {begin}")
    tally = Tally(target.name, seed)
    seeds = target.seeds()
    kept = list(seeds)
    seen: set[str] = set()
    places: set[str] = set()
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    memory = _peak_mib()
    with target.open(scratch) as feed:
        for data in seeds:
            feed(data)  # an example that is refused would leave the decoder's inside unseen
        for number in range(begin, begin + messages):
            # What is kept is mostly refused: half of the inputs begin with one that is sound.
            data = rng.choice(seeds if rng.random() < 0.5 else kept)
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                data = target.mutate(rng, data)
            before(number, data)
            answer = _one(feed, data, tally, places)
            tally.messages += 1
            if answer not in seen:
                seen.add(answer)
                if len(kept) >= MOST_KEPT:
                    del kept[rng.randrange(len(kept))]
                kept.append(data)
            if tally.messages >= FEW and time.process_time() - began_cpu_s > seconds:
                break
    tally.seconds = time.monotonic() - began_s
    tally.answers, tally.grown_mib = len(seen), _peak_mib() - memory
    return tally


def _one(feed: Feed, data: bytes, tally: Tally, places: set[str]) -> str:
    """Feed one input; returns what kind of answer that gave."""
    began_s = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    try:
        feed(data)
        tally.accepted += 1
        answer = "accepted"
    except EntracteError as error:
        name = type(error).__name__
        reason = getattr(error, "reason", "")
        kind = f"{name} {reason}".strip()
        tally.refused[kind] = tally.refused.get(kind, 0) + 1
        answer = f"{name} {_VARIES.sub('', str(error))[:80]}"
    except (Exception, TooSlowError) as error:
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if "/tests/" not in f.filename
        ]
        own = [
            f
            for f in frames
            if "site-packages" not in f.filename and "/lib/python" not in f.filename
        ]
        at = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
        answer = f"{type(error).__name__} at {at}"
        if answer not in places:
            places.add(answer)
            trace = "".join(traceback.format_exception(error)[-12:])
            tally.found.append(
                Found(f"{type(error).__name__}: {str(error)[:160]}", at, data, trace)
            )
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    tally.slowest_s = max(tally.slowest_s, time.process_time() - began_s)
    return answer


def watch_time() -> Callable[[], None]:
    """Let `TooSlowError` be raised when an input's time is used up; the returned call undoes that."""

    def expired(_number: int, _frame: Any) -> None:
        raise TooSlowError(f"more than {CPU_LIMIT_S:g} s of processor time")

    old = signal.signal(signal.SIGPROF, expired)
    return lambda: (signal.signal(signal.SIGPROF, old), None)[1]


def save(found: Found, target: str, folder: Path) -> Path:
    """The input under a name of its content; what is saved under `found/` is fed again by the suite."""
    path = folder / target / f"{hashlib.sha256(found.data).hexdigest()[:12]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found.data)
    return path


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
