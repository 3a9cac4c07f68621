"""`python -m tests.faults.chaos --episodes 2000 --seed 1`: traffic under faults, then its history judged.

Robots and a trainer as in `tests.faults.ends`, a misbehaving network between them, kills, restarts, power
cuts, full disks and clock steps at random. Exit code 1 if a rule of `tests.faults.history` is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_package import make_package

from tests.faults import history
from tests.faults.ends import (
    MAX_ACTION_AGE_S,
    SOCKETS,
    RobotEnd,
    SmallDisk,
    TrainerEnd,
)
from tests.faults.proxy import CALM, ChaosNet, Faults

EPISODES_PER_ITERATION = 10
DRAIN_S = 90.0


class Chaos:
    """Everything that goes wrong, drawn from one seed. `turn`, called often, does something now and then."""

    def __init__(
        self, seed: int, net: ChaosNet, trainer: TrainerEnd, robots: list[RobotEnd]
    ) -> None:
        self._random = random.Random(seed)
        self._net, self._trainer, self._robots = net, trainer, robots
        self._disks: list[SmallDisk] = []
        self._until: dict[str, tuple[float, object]] = {}
        self._next_s, self._stored_before = 0.0, 0
        self.counts: Counter[str] = Counter()

    def with_disks(self, disks: list[SmallDisk]) -> None:
        self._disks = [disk for disk in disks if disk.usable]

    def turn(self) -> None:
        now_s = time.monotonic()
        for name, (until_s, undo) in list(self._until.items()):
            if now_s >= until_s:
                del self._until[name]
                undo()  # type: ignore[operator]
        self._supervise()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._random.expovariate(1.2)
        draw = self._random.choices(
            [
                self._bad_wire,
                self._cut,
                self._kill_link,
                self._kill_trainer,
                self._restart,
                self._power_cut,
                self._fill_disk,
                self._step_clock,
                self._touch_spool,
            ],
            weights=[30, 6, 12, 5, 3, 4, 5, 5, 3],
        )[0]
        draw(now_s)

    def calm(self) -> None:
        """Nothing goes wrong from here on, but what died is started again."""
        self._net.calm()
        for _, undo in self._until.values():
            undo()  # type: ignore[operator]
        self._until.clear()
        self._supervise()

    def _supervise(self) -> None:
        self._trainer.process.watch()
        for robot in self._robots:
            with robot.lock:
                robot.link.watch()

    def _bad_wire(self, now_s: float) -> None:
        draw = self._random
        kind, faults = draw.choice(
            [
                ("late", Faults(delay_s=draw.uniform(0, 0.2), jitter_s=draw.uniform(0, 0.1))),
                ("slow", Faults(bytes_per_s=draw.uniform(20e3, 500e3))),
                ("black hole", Faults(black_hole=True)),
                ("refusing", Faults(refuse=True)),
                ("resetting", Faults(reset=0.2)),
                ("truncating", Faults(truncate=0.1)),
                ("flipping", Faults(flip=0.05)),
                ("repeating", Faults(repeat=0.05)),
                (
                    "all at once",
                    Faults(0.01, 0.02, 1e6, reset=0.01, truncate=0.01, flip=0.01, repeat=0.01),
                ),
            ]
        )
        for name in draw.sample(sorted(self._net.wires), draw.randint(1, len(self._net.wires))):
            wire = self._net.wires[name]
            wire.faults = faults
            undo = lambda wire=wire: setattr(wire, "faults", CALM)  # noqa: E731
            self._until[name] = (now_s + draw.uniform(0.3, 3.0), undo)
        self.counts[f"wire {kind}"] += 1

    def _cut(self, _now_s: float) -> None:
        name = self._random.choice(sorted(self._net.wires))
        self._net.cut(name)
        self.counts["connection cut"] += 1

    def _kill_link(self, _now_s: float) -> None:
        robot = self._random.choice(self._robots)
        with robot.lock:
            if robot.board.link_ready or self._random.random() < 0.2:  # else it hardly ever runs
                robot.kill_link()
                self.counts["link killed"] += 1

    def _kill_trainer(self, _now_s: float) -> None:
        """Once it has stored a few since its last start, however slow this machine is; rarely before."""
        stored = self._trainer.stored
        if stored - self._stored_before >= 5 or self._random.random() < 0.05:
            self._stored_before = stored
            self._trainer.process.kill()
            self._trainer.process.start()
            self.counts["trainer killed"] += 1

    def _restart(self, _now_s: float) -> None:
        self._random.choice(self._robots).next_restart = "restart"
        self.counts["robot restarted"] += 1

    def _power_cut(self, _now_s: float) -> None:
        self._random.choice(self._robots).next_restart = "power cut"
        self.counts["robot's power cut"] += 1

    def _fill_disk(self, now_s: float) -> None:
        if self._disks:
            disk = self._random.choice(self._disks)
            disk.fill()
            self._until[str(disk.folder)] = (now_s + self._random.uniform(0.3, 2.0), disk.free)
            self.counts["disk filled"] += 1

    def _step_clock(self, _now_s: float) -> None:
        process = self._random.choice([self._trainer.process, *(r.link for r in self._robots)])
        process.step_clock(self._random.choice([-1, 1]) * 10 ** self._random.uniform(0, 5.5))
        self.counts["clock stepped"] += 1

    def _touch_spool(self, _now_s: float) -> None:
        """Times of files as a clock that was stepped leaves them."""
        robot = self._random.choice(self._robots)
        for path in (robot.folder / "spool").glob("*.elog*"):
            at_s = self._random.uniform(1e9, 2e9)
            try:
                os.utime(path, (at_s, at_s))
            except FileNotFoundError:
                continue
        self.counts["file times shuffled"] += 1


def run(
    folder: Path,
    episodes: int,
    seed: int,
    robots: int = 2,
    say=print,
    disks: bool = True,
    drain_s: float = DRAIN_S,
    curve: bool = False,
) -> history.Findings:
    """`episodes` in all, shared by the robots, under chaos; the findings, with the faults counted. `curve`:
    with keys, where libzmq gives a connection up for one flipped bit."""
    package = make_package(folder / "package")
    made = [SmallDisk(folder / "trainer", 512)] if disks else []
    made += [SmallDisk(folder / f"robot-{n}", 64) for n in range(robots)] if disks else []
    for disk in made:
        if not disk.usable:
            say(f"disks that fill are left out: this user may not mount one ({disk.why})")
            break
    (folder / "trainer").mkdir(exist_ok=True)
    try:
        return _run(folder, package, episodes, seed, robots, made, say, drain_s, curve)
    finally:
        for disk in made:
            disk.unmount()


def _run(folder, package, episodes, seed, robots, disks, say, drain_s, curve) -> history.Findings:
    settings = {"listen.curve": "always"} if curve else {}
    trainer = TrainerEnd(folder / "trainer", package, EPISODES_PER_ITERATION, settings)
    started_s = time.monotonic()
    with ChaosNet(seed) as net:
        ends = []
        for number in range(robots):
            wires = {
                name: net.wire(f"{number}.{name}", trainer.endpoints[name]).address
                for name in SOCKETS
            }
            share = episodes // robots + (number < episodes % robots)
            place = folder / f"robot-{number}"
            ends.append(
                RobotEnd(
                    place, package, trainer, wires, f"bench-{number}", share, f"{seed}.{number}"
                )
            )
        chaos = Chaos(seed, net, trainer, ends)
        chaos.with_disks(disks)
        for robot in ends:
            robot.start()
        said_s = 0.0
        try:
            while not all(robot.done for robot in ends) and not any(r.error for r in ends):
                chaos.turn()
                time.sleep(0.02)
                if time.monotonic() - said_s > 10:
                    said_s = time.monotonic()
                    where = ", ".join(f"{len(r.written)} ({r.untold} wait)" for r in ends)
                    say(
                        f"{said_s - started_s:5.0f} s: episodes {where}; {sum(chaos.counts.values())} faults"
                    )
            for robot in ends:
                if robot.error is not None:
                    raise robot.error
            chaos.calm()
            _drain(chaos, ends, drain_s)
            codes = [robot.link.end() for robot in ends]
            for robot in ends:
                robot.swapper.close()
        finally:
            for robot in ends:
                robot.link.kill()
        codes.append(trainer.process.end())
        trainer.process.kill()
        faults = chaos.counts + net.counts
    actions = trainer.actions()
    activated = {
        (robot.name, version): actions[version] for robot in ends for version in robot.activated
    }
    found = history.check(
        trainer.store, [w for r in ends for w in r.written], activated, MAX_ACTION_AGE_S
    )
    if any(codes):
        found.breach("end", f"processes ended with {codes}")
    found.counts.update(
        {
            "episodes written": sum(len(robot.written) for robot in ends),
            "episodes cut by a power cut": sum(w.cut for r in ends for w in r.written),
            "episodes to record again": sum(not w.kept for r in ends for w in r.written),
            "steps written": sum(len(w.steps) for robot in ends for w in robot.written),
            "releases published": len(actions) - 1,
            "releases swapped in": sum(robot.swaps for robot in ends),
            "robot boots": sum(1 + robot.restarts + robot.power_cuts for robot in ends),
            "control ended for a full disk": sum(robot.ended_full for robot in ends),
            "link ended by itself": sum(len(robot.link.deaths) for robot in ends),
            "trainer ended by itself": len(trainer.process.deaths),
            "seconds": int(time.monotonic() - started_s),
            **Counter(f"trainer ended by itself: {why}" for why in trainer.process.deaths),
            **Counter(f"link ended by itself: {why}" for r in ends for why in r.link.deaths),
            **{f"fault: {name}": count for name, count in faults.items()},
        }
    )
    return found


def _drain(chaos: Chaos, ends: list[RobotEnd], patience_s: float) -> None:
    """Until nothing waits on the robots any more, or nothing has moved for so long."""
    least, moved_s = sys.maxsize, time.monotonic()
    while left := sum(robot.untold for robot in ends):
        chaos.calm()
        if left < least:
            least, moved_s = left, time.monotonic()
        if time.monotonic() - moved_s > patience_s:
            return  # the history says what is missing
        time.sleep(0.02)


def in_short(problems: list[str]) -> str:
    """How much was lost, came twice or out of order: also when nothing was."""
    rules = Counter(problem.partition(":")[0] for problem in problems)
    lost, twice, order = (
        sum(rules[name] for name in names)
        for names in (
            ("lost", "steps lost", "torn"),
            ("duplicated", "steps duplicated or altered"),
            ("out of order", "steps out of order"),
        )
    )
    return f"lost {lost}, duplicated {twice}, out of order {order}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults.chaos", description=__doc__)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--robots", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    parser.add_argument("--no-disks", action="store_true", help="no file systems of their own")
    parser.add_argument("--curve", action="store_true", help="with keys")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="entracte-chaos-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        say = lambda line: print(line, flush=True)  # noqa: E731
        found = run(
            folder,
            options.episodes,
            options.seed,
            options.robots,
            say,
            not options.no_disks,
            curve=options.curve,
        )
    print(json.dumps(dict(sorted(found.counts.items())), indent=1))
    for problem in found.problems[:50]:
        print(problem)
    print(f"seed {options.seed}: {in_short(found.problems)}; {len(found.problems)} breaches")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
