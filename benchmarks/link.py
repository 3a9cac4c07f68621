"""`robot-bench link`: a steady stream through link and trainer, the fastest beside peers, and a soak."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks import link_scene
from benchmarks.link_figures import Ages, Slope, ages, slope
from benchmarks.link_race import Lane, race
from benchmarks.link_run import Ends, Spent
from benchmarks.link_verdicts import Verdict, of_race, of_soak
from benchmarks.machine import in_words, machine

WARM_UP_S = 180.0
SAMPLE_S = 1.0

Say = Callable[[str], None]


class Steady(msgspec.Struct, frozen=True):
    """A stream of `seconds` at `rate_hz`. Cores are those of each process on average, this one's (control's
    part) too; `mbit_s`: the episodes' bytes, over the time."""

    seconds: float
    episode_s: float
    rate_hz: float
    encrypted: bool
    cores_link: float
    cores_trainer: float
    cores_control: float
    frames: int
    ring_drops: int
    live_sent: int
    live_drops: int
    mbit_s: float
    live_mbit_s: float
    clock_offset_s: float
    ages: Ages
    slopes: dict[str, Slope] = {}


class Found(msgspec.Struct, frozen=True):
    machine: dict[str, Any]
    steady: Steady | None
    lanes: tuple[Lane, ...]

    @property
    def verdicts(self) -> list[Verdict]:
        """What was to be shown of what was measured."""
        slopes = self.steady.slopes if self.steady is not None else {}
        return [*of_race(self.lanes), *of_soak(slopes)]


def measure(
    *,
    seconds: float,
    episode_s: float,
    soak_s: float,
    peers: bool,
    rounds: int,
    encrypted: bool,
    lerobot: str,
    say: Say,
) -> Found:
    """What was asked for, one after another; 0 seconds leaves the steady stream out."""
    load = machine()
    steady = None
    if seconds or soak_s:
        steady = _steady(soak_s or seconds, episode_s, encrypted, soak_s > 0, say)
    lanes = race(4.0, rounds, lerobot, say) if peers else []
    return Found(load, steady, tuple(lanes))


def _steady(seconds: float, episode_s: float, encrypted: bool, soak: bool, say: Say) -> Steady:
    say(f"streaming {seconds:g} s")
    views = link_scene.views()
    with tempfile.TemporaryDirectory(prefix="entracte-bench-") as folder:
        with Ends(Path(folder), encrypted) as ends:
            watched = {"link": ends.link.pid, "trainer": ends.trainer.pid}
            spent = {name: Spent(pid) for name, pid in watched.items()}
            mine = Spent(psutil.Process().pid)
            began_s = time.monotonic()
            with Watch(watched) as watch:
                ends.stream(seconds, episode_s, link_scene.RATE_HZ, views)
            wall_s, board = time.monotonic() - began_s, ends.board
            cores = {name: one.cores() for name, one in spent.items()} | {"control": mine.cores()}
            counts = board.frames_sent, board.frames_dropped, board.live_bytes_sent
            spooled, offset_s = (board.spooled_age_p50_s, board.spooled_age_p99_s), 0.0
            offset_s = board.clock_offset_s
            ends.part_ways()
        found = ages(ends.root, spooled)
    warm_up_s = min(WARM_UP_S, seconds / 4)
    return Steady(
        seconds=wall_s,
        episode_s=episode_s,
        rate_hz=float(link_scene.RATE_HZ),
        encrypted=encrypted,
        **{f"cores_{name}": value for name, value in cores.items()},
        frames=ends.frames_pushed,
        ring_drops=ends.frames_dropped,
        live_sent=counts[0],
        live_drops=counts[1],
        mbit_s=found.nbytes * 8e-6 / wall_s,
        live_mbit_s=counts[2] * 8e-6 / wall_s,
        clock_offset_s=offset_s,
        ages=found,
        slopes={name: slope(watch.samples[name], warm_up_s) for name in watched} if soak else {},
    )


class Watch:
    """Memory, file descriptors and threads of other processes, once a second, in a thread."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self.samples: dict[str, list[dict[str, Any]]] = {name: [] for name in processes}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            for name, process in self._processes.items():
                with process.oneshot():
                    self.samples[name].append(
                        {
                            "at_s": time.monotonic(),
                            "rss_mb": process.memory_info().rss / 1e6,
                            "descriptors": process.num_fds(),
                            "threads": process.num_threads(),
                        }
                    )


def table(found: Found) -> str:
    """Markdown, for a terminal and for docs/results."""
    lines = []
    if found.steady is not None:
        lines += _steady_table(found.steady)
    if found.lanes:
        lines += _race_table(found)
    lines += ["", *(f"- {verdict}" for verdict in found.verdicts)] if found.verdicts else []
    lines += ["", f"Machine: {in_words(found.machine)}."]
    return "\n".join(lines)


def _steady_table(steady: Steady) -> list[str]:
    how = "encrypted (CURVE)" if steady.encrypted else "plain"
    found = steady.ages
    rows = (
        ("in the robot's spool", found.spooled),
        ("at the trainer, live", found.live),
        ("an episode's last frame stored at the trainer", found.last),
        ("every frame stored at the trainer", found.all),
    )
    lost = steady.frames - found.steps
    lines = [
        f"Two 640x480 RGB-D streams at {steady.rate_hz:g} Hz for {steady.seconds:.0f} s, {how}, episodes of "
        f"{steady.episode_s:g} s:",
        "",
        "| age of a frame, ms | p50 | p99 |",
        "|---|---|---|",
        *(f"| {name} | {1e3 * p50:.1f} | {1e3 * p99:.1f} |" for name, (p50, p99) in rows),
        "",
        "| what | |",
        "|---|---|",
        f"| frames pushed, stored | {steady.frames}, {found.steps} |",
        f"| pictures without room in the ring | {steady.ring_drops} |",
        f"| frames neither stored nor counted as dropped | {lost - steady.ring_drops} |",
        f"| live frames sent, dropped | {steady.live_sent}, {steady.live_drops} |",
        f"| episodes, live (Mbit/s) | {steady.mbit_s:.1f}, {steady.live_mbit_s:.1f} |",
        f"| cores: link, trainer, control's part | {steady.cores_link:.2f}, {steady.cores_trainer:.2f}, "
        f"{steady.cores_control:.2f} |",
        f"| clock offset (true: 0), largest error (ms) | {1e3 * steady.clock_offset_s:.3f}, "
        f"{1e3 * found.error:.3f} |",
    ]
    if steady.slopes:
        lines += [
            "",
            "| memory | MB/min (95 %) | from, to (MB) | descriptors | threads |",
            "|---|---|---|---|---|",
        ]
    for name, one in steady.slopes.items():
        lines.append(
            f"| {name} | {one.mb_min:+.3f} ({one.low:+.3f} to {one.high:+.3f}) | {one.first_mb:.1f}, "
            f"{one.last_mb:.1f} | {_span(one.descriptors)} | {_span(one.threads)} |"
        )
    return lines


def _race_table(found: Found) -> list[str]:
    lines = [
        "",
        "| a frame: two RGB-D pictures | frames/s | frames per CPU second | MB a frame |",
        "|---|---|---|---|",
    ]
    for lane in found.lanes:
        if lane.absent:
            lines.append(f"| {lane.name} | absent: {lane.absent} | | |")
            continue
        lines.append(
            f"| {lane.name} | {lane.frames_s:.0f} | {lane.frames_cpu_s:.0f} | {lane.mb_frame:.3f} |"
        )
    by_name = {lane.name: lane for lane in found.lanes if not lane.absent}
    ours = by_name.get("ours, encrypted")
    for name, what in (
        ("bare pyzmq, encrypted", "of bare pyzmq's frames/s, and {cpu:.2f} per CPU second"),
        (
            "pickled arrays over gRPC, plain",
            "times the pickled peer's frames/s, and {cpu:.1f} per CPU second",
        ),
    ):
        if ours is not None and name in by_name:
            other = by_name[name]
            ratio, cpu = ours.frames_s / other.frames_s, ours.frames_cpu_s / other.frames_cpu_s
            lines.append(f"\nOurs, encrypted: {ratio:.2f} {what.format(cpu=cpu)}.")
    lines += [f"\n{lane.name}: {lane.how}." for lane in found.lanes if lane.how]
    return lines


def _span(span: tuple[int, int]) -> str:
    return f"{span[0]}" if span[0] == span[1] else f"{span[0]} to {span[1]}"
