"""Probation on the whole path: a healthy release committed, another on probation, until the robot decides.

`drawn`: control's own `Releases`, swapper, engine and slots on disk; only the episodes are not run again but
drawn from pools of real ones. `real`: `robot-run` with every process and the bench, one start a trial.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from contracts.errors import EntracteError
from contracts.files import atomic
from contracts.files.packages import Package, load_package, safetensors_bytes
from contracts.messages import AnyMessage, EpisodeEnd, ReleaseOutcome
from contracts.package import weights_id
from contracts.release import ReleaseManifest
from contracts.weights import read_tensors
from runtime.board import Board
from runtime.config import RobotConfig, load_config
from runtime.control.judgement import Judgement
from runtime.control.releases import Releases
from runtime.control.resting import Resting
from runtime.control.robot import Robot
from runtime.engines import EngineOptions, open_engine
from runtime.processes.supervisor import supervise
from runtime.run import Run, RunPlan
from runtime.weights.probation import Probation, Tally
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper
from runtime.weights.swap_checks import SwapLimits
from trainer.report.statistics import wilson

HEALTHY, TRIED = 1, 2
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Drawn trials write as often as real ones in a small share of the time: no disk could keep up."""
Weights = Mapping[str, np.ndarray]


class Pool(msgspec.Struct, frozen=True):
    """Real episodes of one policy, by scene seed: success or not, as the bench judges. `head`: SHA-256 of its
    weights' file, `package`: its id; "" where that was not kept."""

    name: str
    command: str
    success: dict[str, int]
    head: str = ""
    package: str = ""

    @property
    def rate(self) -> float:
        return sum(self.success.values()) / len(self.success)

    def __str__(self) -> str:
        found = wilson(sum(self.success.values()), len(self.success))
        return f"{self.name} {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] of {found.count}"


class Trial(msgspec.Struct, frozen=True):
    """`outcome`: what the robot told the trainer; `episodes` on probation until then."""

    outcome: str
    episodes: int
    reference: str
    reason: str


def record(name: str, package: Path, weights: Path | None, episodes: int, out: Path) -> Pool:
    """A pool from `robot-run eval` on the bench; one with as many episodes at `out` is taken as it is.
    `weights` None: of whatever head is there. Raises `EntracteError` for one of another head or package."""
    head = hashlib.sha256(weights.read_bytes()).hexdigest() if weights else ""
    ran = head, load_package(package.resolve()).package_id
    if out.exists():
        found = msgspec.json.decode(out.read_bytes(), type=Pool)
        _require_same(found, *ran, out)
        if len(found.success) >= episodes:
            return found
    with tempfile.TemporaryDirectory(prefix="entracte-pool-") as scratch:
        truth = Path(scratch) / "truth.jsonl"
        command = [
            *(sys.executable, "-m", "runtime.app", "eval", "--package", str(package)),
            *("--task", "open-drawer", "--episodes", str(episodes), "--seed-base", "2000000"),
            *("--output", str(truth), "--run-dir", f"{scratch}/run", "--json"),
            *(("--weights", str(weights)) if weights else ()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EntracteError(f"robot-run eval of {name} failed", found=done.stderr[-300:])
        rows = [json.loads(line) for line in truth.read_text().splitlines()]
    said = f"robot-run eval --task open-drawer --episodes {episodes} --seed-base 2000000"
    pool = Pool(name, said, {str(row["seed"]): int(row["success"]) for row in rows}, *ran)
    atomic.write_bytes(out, msgspec.json.format(msgspec.json.encode(pool), indent=1))
    return pool


def _require_same(pool: Pool, head: str, package: str, path: Path) -> None:
    """Raises `EntracteError` unless these are episodes of that head (any where "") and package."""
    other_package = pool.package not in ("", package)
    if other_package or head not in ("", pool.head):
        raise EntracteError(
            f"{path} holds episodes of another {'package' if other_package else 'head'}",
            expected=package if other_package else head[:12],
            found=pool.package if other_package else pool.head[:12] or "a head that was not noted",
            remedy="name another --work or --pools folder, or move that file away",
        )


def worsened(weights: Weights, by: float, seed: int) -> dict[str, np.ndarray]:
    """The same weights with noise of `by` times each tensor's own spread: a policy made worse on purpose."""
    rng = np.random.default_rng(seed)
    return {
        name: (t + by * t.std() * rng.standard_normal(t.shape)).astype(t.dtype)
        for name, t in weights.items()
    }


def load(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file, the caller's own."""
    data = atomic.read_bytes(path, 1 << 30)
    return {name: np.array(t) for name, t in read_tensors(data).items()}


def stage(slots: SlotStore, package: Package, seq: int, tensors: Weights) -> None:
    """A release in its slot, as the link leaves it."""
    data = safetensors_bytes(tensors)
    chunk = package.manifest.chunk
    manifest = ReleaseManifest(
        "policy", package.package_id, seq, 0, seq, weights_id(tensors),
        hashlib.sha256(data).hexdigest(), len(data), package.manifest.refinable,
        chunk.samples if chunk else 0, (), "", 0.0, 1e12, "bench",
    )  # fmt: skip
    name, _ = slots.begin_fetch(manifest, time.monotonic())
    slots.partial_path(name).write_bytes(data)
    slots.mark_verified(name, 0.0, len(data))
    slots.mark_staged(name, 0.0)


def commit(slots: SlotStore, outcomes: Iterable[int]) -> None:
    """What is staged acts and is committed, with these episodes behind it."""
    staged = slots.find("staged")
    assert staged is not None
    slots.begin_shadow(staged[0])
    slots.begin_probation(staged[0])
    slots.commit(staged[0])
    for success in outcomes:
        slots.settle(staged[1].publish_seq, bool(success), Probation())


# Drawn from pools


class _Still:
    """The part of a loop that `Releases` touches, where no time passes."""

    lockstep = True


@dataclass
class _Loop:
    """Stands in for the robot around the real `Releases`: no arm, no camera, no time."""

    swapper: Swapper
    told: list[ReleaseOutcome] = field(default_factory=list)
    reward: None = None
    reward_version: int = 0
    faulted: bool = False

    @property
    def gate(self) -> Any:
        return self

    @property
    def policy(self) -> Any:
        return self

    @property
    def policy_version(self) -> int:
        return self.swapper.version

    @property
    def clock(self) -> _Still:
        return _Still()

    @property
    def floor(self) -> Any:
        return self

    @property
    def stream(self) -> Any:
        return self

    def boundary(self, message: AnyMessage) -> None:
        if isinstance(message, ReleaseOutcome):
            self.told.append(message)

    def of(self, seq: int) -> list[ReleaseOutcome]:
        """What was told of one release: of those before it, what was still owed is told again."""
        return [told for told in self.told if told.publish_seq == seq]

    def enter(self, _phase: object) -> None:
        pass

    def rest(self) -> bool:
        return True


def drawn(
    package: Path,
    healthy: Pool,
    tried: Pool,
    trials: int,
    reference: int,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
    """Trials whose episodes are drawn with replacement: `reference` with the healthy policy, then those of
    the one that is tried."""
    loaded, rng = load_package(package.resolve()), np.random.default_rng(seed)
    good = np.array(list(healthy.success.values()))
    other = np.array(list(tried.success.values()))
    found = []
    for number in range(trials):
        with tempfile.TemporaryDirectory(prefix="entracte-probation-", dir=_MEMORY) as scratch:
            draws = rng.choice(good, reference)
            found.append(
                _drawn_trial(Path(scratch), loaded, draws, lambda: bool(rng.choice(other)))
            )
        if (number + 1) % 25 == 0:
            report(f"{tried.name}: {number + 1} of {trials} trials")
    return found


def _drawn_trial(
    folder: Path, package: Package, reference: np.ndarray, episode: Callable[[], bool]
) -> Trial:
    slots = SlotStore(folder / "slots" / "policy", package.package_id)
    base = package.refinable_weights()
    stage(slots, package, HEALTHY, {n: t * np.float32(1.0001) for n, t in base.items()})
    commit(slots, reference)
    stage(slots, package, TRIED, {n: t * np.float32(1.0002) for n, t in base.items()})
    engine = open_engine(package, "head", EngineOptions())
    limits = SwapLimits(latency_s=10.0)  # the machine's load is not what is measured here
    swapper = Swapper("policy", slots, package, engine, robot_id="bench-0", limits=limits)
    swapper.start()
    loop = _Loop(swapper)
    run = Run(RobotConfig(), RunPlan(), str(folder), str(folder), "probation")
    with Board.create(folder / "board") as board:
        robot = cast(Robot, loop)
        releases = Releases(run, board, robot, Resting(robot))
        seq = 0
        while len(loop.of(TRIED)) < 2:  # swapped, and what became of it
            releases.before(seq)
            assert swapper.version == TRIED, loop.told
            end = EpisodeEnd(seq, 1, "time_limit", operator_success=episode())
            releases.after(end, Judgement())
            seq += 1
    last = loop.of(TRIED)[-1]
    acts, wanted = swapper.version, {"rolled_back": HEALTHY, "committed": TRIED}[last.outcome]
    swapper.close()
    if acts != wanted:
        raise EntracteError("what acts is not what was told", expected=wanted, found=acts)
    tally = Tally(int(reference.sum()), int(len(reference) - reference.sum()))
    return Trial(last.outcome, seq, str(tally), last.reason)


# On the bench


def real(
    package: Path,
    healthy: Path,
    tried: Path,
    pool: Pool,
    trials: int,
    reference: int,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
    """Trials of `robot-run start` on the bench, its truth as the label. The reference episodes are drawn from
    `pool`, real ones of the healthy policy; all others are run."""
    loaded, rng = load_package(package.resolve()), np.random.default_rng(seed)
    good, other = load(healthy), load(tried)
    outcomes = np.array(list(pool.success.values()))
    found = []
    for number in range(trials):
        folder = Path(tempfile.mkdtemp(prefix="entracte-probation-"))
        slots = SlotStore(folder / "slots" / "policy", loaded.package_id)
        stage(slots, loaded, HEALTHY, good)
        commit(slots, rng.choice(outcomes, reference))
        stage(slots, loaded, TRIED, other)
        found.append(_real_trial(folder, package, 3_000_000 + 1000 * number))
        report(f"{tried.name} {number + 1} of {trials}: {found[-1]}")
        shutil.rmtree(folder)
    return found


def _real_trial(folder: Path, package: Path, seed_base: int) -> Trial:
    settings = {
        "policy.package": str(package.resolve()), "episode.label": "truth",
        "episode.seed_base": seed_base, "policy.seed": seed_base, "policy.explore_deg": 0.0,
        "link.enabled": False, "recording.depth": False, "episode.task": "open-drawer",
        "iteration.wait_for_release": False,
    }  # fmt: skip
    config = load_config(None, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    slots = SlotStore.open(folder / "slots" / "policy")
    done = 0

    def watch(board: Board) -> None:
        nonlocal done
        if board.episodes_done > done:
            done = board.episodes_done
            tried = slots.state().by_seq(TRIED)
            if tried and tried[1].state not in ("staged", "shadow", "probation"):
                board.stop_requested = 1

    most = config.probation.most_episodes + 1
    plan = RunPlan(purpose="refine", episodes=most, sink="none")
    outcome = supervise(config, plan, folder, watch)
    state = slots.state()
    tried = state.by_seq(TRIED)
    if tried is None or tried[1].state not in ("rolled_back", "committed"):
        became = f"{tried[1].state}, {tried[1].reason}" if tried else "not in its slots any more"
        raise EntracteError(
            f"no verdict in {done} episodes: the release that was tried is {became}",
            expected="rolled back or committed",
            found=outcome.what or "a run that ended in order",
            remedy="where its runs took too long (latency), repeat on a machine with nothing else to do",
        )
    committed = state.named("committed")
    if tried[1].state == "rolled_back" and (
        committed is None or committed[1].publish_seq != HEALTHY
    ):
        raise EntracteError("the healthy release is not in force again", found=state)
    reference = committed[1].tally if committed else Tally()
    return Trial(tried[1].state, tried[1].tally.counted, str(reference), tried[1].reason)


def summary(name: str, trials: Sequence[Trial]) -> str:
    """One row of markdown."""
    back = [t.episodes for t in trials if t.outcome == "rolled_back"]
    share = wilson(len(back), len(trials))
    mean = np.mean(back) if back else float("nan")
    half = 1.96 * np.std(back, ddof=1) / np.sqrt(len(back)) if len(back) > 1 else float("nan")
    return (
        f"| {name} | {len(trials)} | {len(back)} | {100 * share.value:.1f} | {100 * share.low:.1f} to "
        f"{100 * share.high:.1f} | {mean:.1f} ± {half:.1f} | "
        f"{max(back, default=0)} |"
    )


HEAD = (
    "| on probation | trials | rolled back | % | 95 % | episodes until then, mean ± 95 % | longest |\n"
    "|---|---|---|---|---|---|---|"
)
