"""A trainer that is killed at random moments ends with the weights of one that was left alone, to the bit.

`robot-trainer serve` as a process on a store of recorded episodes, SIGKILLed while it loads, while it works,
and while it writes what an iteration has learned; then started again in the same folder.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon_bench import Trainer, wait
from driven_episode import Driver
from recorded_store import recorded_store

from contracts.files.packages import Package

ITERATIONS, EPISODES = 8, 4
LONG_S = 200.0
# Long enough that a moment at random lies in an update more often than not.
OPTIONS: dict[str, dict[str, object]] = {
    "bestofn": {"gradient_steps": 120, "batch": 16, "critic_batch": 16, "critic_after": 1},
    "dsrl": {"steps": 80, "batch": 16, "after": 1, "hidden": 32, "execute": 2, "ensemble": 2},
    "awr": {"steps": 120, "value_steps": 60, "batch": 16, "hidden": 16},
    "residual": {"steps": 80, "batch": 16, "after": 1, "hidden": 32, "execute": 2, "ensemble": 2},
    # The episodes are all the base policy's: none is too old here.
    "ppo": {"epochs": 20, "batch": 8, "hidden": 16, "kl": 10.0, "stale": ITERATIONS},
}
PACKAGES = {"dsrl": "steered", "residual": "corrected"}
MOMENTS = {"loading": 1, "working": 2, "writing": 2}
"""When it is killed, and how often of five times."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, driver: Driver) -> Path:
    """A store with all episodes."""
    folder = tmp_path_factory.mktemp("recorded") / "store"
    return recorded_store(folder, driver, ITERATIONS * EPISODES)


class Life:
    """One trainer's folder, from a copy of the recorded store to its last iteration."""

    def __init__(self, folder: Path, recorded: Path, kind: str, package: Package, iterations: int):
        self.root, self._iterations = folder, iterations
        shutil.copytree(recorded, folder / "store")
        options = {f"refiner.options.{name}": value for name, value in OPTIONS[kind].items()}
        self._settings = {
            "refiner.kind": kind,
            "iteration.episodes": EPISODES,
            "iteration.count": iterations,
            "store.dataset": False,
            **options,
        }
        self.trainer = Trainer(folder, package)

    def launch(self) -> None:
        self.trainer.launch(**self._settings)

    @property
    def done(self) -> int:
        """Iterations that are finished for good."""
        path = self.root / "state" / "state.json"
        return int(json.loads(path.read_text())["iteration"]) if path.exists() else 0

    @property
    def finished(self) -> bool:
        return self.done == self._iterations

    def written(self) -> set[str]:
        """What lies in the folders into which an iteration is written."""
        folders = self.root / "state", self.root / "releases" / "policy"
        return {path.name for folder in folders if folder.exists() for path in folder.iterdir()}

    def run_out(self) -> tuple[float, float]:
        """From a start to its end, undisturbed: (seconds until it was ready, seconds at work)."""
        began_s, before = time.monotonic(), self.done
        self.launch()
        self.trainer.await_ready()
        ready_s = time.monotonic()
        wait("the last iteration", lambda: self.finished, LONG_S)
        took_s = time.monotonic() - ready_s
        assert self.trainer.stop() == 0
        return ready_s - began_s, took_s / max(1, self.done - before)

    def cut(self, chance: random.Random, loading_s: float, iteration_s: float) -> str:
        """A start, and a kill at a random moment; returns of what kind that was."""
        self.launch()
        (moment,) = chance.choices(list(MOMENTS), list(MOMENTS.values()))
        if moment == "loading":
            time.sleep(chance.uniform(0, loading_s))
        else:
            self.trainer.await_ready()
            before = self.written()
            if moment == "writing":
                wait("a write", lambda: self.written() != before or self.finished, LONG_S)
            time.sleep(chance.uniform(0, 0.05 if moment == "writing" else 1.5 * iteration_s))
        self.trainer.stop(signal.SIGKILL)
        return moment

    def left(self) -> dict[str, Any]:
        """All that the last iteration left: the weights of its release, the refiner's state, and what every
        iteration released."""
        state = json.loads((self.root / "state" / "state.json").read_text())
        release = self.root / "releases" / "policy" / f"{state['published_seq']:08d}"
        records = self.trainer.records("iteration")
        assert [record["refiner_failure"] for record in records] == [""] * len(records)
        return {
            "weights": (release / "weights.safetensors").read_bytes(),
            "refiner": {
                path.name: path.read_bytes()
                for path in (self.root / "state" / state["refiner"]).iterdir()
            },
            "iterations": [(record["iteration"], record["weights_id"]) for record in records],
        }


@pytest.fixture
def lives(tmp_path: Path, recorded: Path, request: pytest.FixtureRequest):
    """Makes a `Life`; what is left alive at the end is killed."""
    made: list[Life] = []

    def make(kind: str, iterations: int) -> Life:
        package = request.getfixturevalue(PACKAGES.get(kind, "package"))
        made.append(Life(tmp_path / str(len(made)), recorded, kind, package, iterations))
        return made[-1]

    yield make
    for life in made:
        if life.trainer.process is not None:
            life.trainer.stop(signal.SIGKILL)


def killed_and_left_alone(
    lives: Callable[[str, int], Life], kind: str, iterations: int, kills: int, seed: int
) -> None:
    alone = lives(kind, iterations)
    loading_s, iteration_s = alone.run_out()
    expected = alone.left()
    assert [number for number, _ in expected["iterations"]] == list(range(1, iterations + 1))
    assert len({weights for _, weights in expected["iterations"]}) > iterations // 2, "it learned"
    chance, moments, rounds = random.Random(seed), Counter[str](), 0
    while moments.total() < kills:  # a quick one comes to its end before the last kill: once more
        rounds += 1
        life = lives(kind, iterations)
        while moments.total() < kills and not life.finished:
            moments[life.cut(chance, loading_s, iteration_s)] += 1
        life.run_out()
        found = life.left()
        for what in expected:
            assert found[what] == expected[what], f"{kind}, seed {seed}: {what} after {moments}"
    print(
        f"{kind}, seed {seed}: {moments.total()} kills ({dict(moments)}) in {rounds} runs of {iterations} "
        f"iterations (each {iteration_s:.2f} s, loading {loading_s:.1f} s): all equal to the bit"
    )


@pytest.mark.timeout(900)
def test_three_kills_change_no_bit(lives: Callable[[str, int], Life]) -> None:
    killed_and_left_alone(lives, "bestofn", iterations=3, kills=3, seed=7)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", OPTIONS)
def test_twenty_kills_change_no_bit(lives: Callable[[str, int], Life], kind: str) -> None:
    killed_and_left_alone(lives, kind, ITERATIONS, kills=20, seed=11)
