"""What `robot-bench link` must show, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from benchmarks.link_figures import Slope
from benchmarks.link_race import Lane

OURS, BARE, PICKLED = (
    "ours, encrypted",
    "bare pyzmq, encrypted",
    "pickled arrays over gRPC, plain",
)
LEAST_OF_BARE, LEAST_OF_PICKLED = 0.8, 5.0
MOST_MB_MIN = 1.0


class Verdict(msgspec.Struct, frozen=True):
    what: str
    found: str
    met: bool

    def __str__(self) -> str:
        return f"{'met' if self.met else 'MISSED'}: {self.what}; found {self.found}"


def of_race(lanes: Sequence[Lane]) -> list[Verdict]:
    """Of what ran; a lane that was to run and is absent is a miss."""
    by_name = {lane.name: lane for lane in lanes if not lane.absent}
    if not lanes:
        return []
    asked: list[tuple[str, float, str, Callable[[Lane], float]]] = [
        (BARE, LEAST_OF_BARE, "frames/s", lambda lane: lane.frames_s),
        (PICKLED, LEAST_OF_PICKLED, "frames per CPU second", lambda lane: lane.frames_cpu_s),
    ]
    found = []
    for name, least, unit, figure in asked:
        what = f"{OURS}: at least {least:g} times the {unit} of {name}"
        if OURS in by_name and name in by_name:
            ratio = figure(by_name[OURS]) / figure(by_name[name])
            found.append(Verdict(what, f"{ratio:.2f}", ratio >= least))
        else:
            found.append(Verdict(what, "no such figures", False))
    return found


def of_soak(slopes: Mapping[str, Slope]) -> list[Verdict]:
    """Of each process: the whole interval of its memory's slope, and what it opens."""
    found = []
    for name, one in slopes.items():
        found.append(
            Verdict(
                f"{name}: memory grows by at most {MOST_MB_MIN:g} MB/min",
                f"{one.mb_min:+.3f} (95 %: {one.low:+.3f} to {one.high:+.3f})",
                one.high <= MOST_MB_MIN,
            )
        )
        for kind, grown in zip(("descriptors", "threads"), one.grown, strict=True):
            found.append(
                Verdict(
                    f"{name}: no more {kind} in the second half than in the first",
                    f"{grown:+d}",
                    grown <= 0,
                )
            )
    return found
