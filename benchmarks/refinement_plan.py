"""What a cell of the refinement experiment is: its packages, and the settings of trainer and robot.

With `config` the robot is another one than the embedded bench (a file of `hw_configs`): its policies and
demonstrations are made by whoever made the folder `pretrained`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.refinement_processes import BIN, CellFailed, Cores, run_program
from contracts.files import atomic
from runtime.demo.demonstrations import ensure, folder

MODELS = {"truth": "success", "truth-end": "human", "constant": "constant", "clock": "clock"}
"""Reward -> the trainer's reward model. `truth-end`: the bench's verdict at the episode's end; `truth`: its
progress at every tick as well, which no robot has."""
ACTORS = {"dsrl": ("steered", "--noise-actor", "1.5"), "residual": ("residual", "--residual", "5")}
"""Refiners that need a policy with an actor: what it is called, and how it is exported."""


@dataclass(frozen=True)
class Plan:
    """What every cell of this experiment shares."""

    out: Path
    work: Path
    pretrained: Path
    iterations: int
    episodes: int
    evaluation_episodes: int
    keep: bool
    refiner: str = "bestofn"
    options: tuple[str, ...] = ()
    config: Path | None = None
    """Of the robot; None: the embedded bench."""
    curve: tuple[int, ...] = (10, 20)
    """Iterations whose releases are evaluated beside the last one's."""
    timeout_s: float = 3 * 3600.0
    """Of a cell's refinement, and of each of its evaluations."""
    cores: Cores = field(default_factory=lambda: Cores(0))
    """By default none but a cell's own."""

    @property
    def robot(self) -> list[str]:
        """What `robot-run` is told of the robot."""
        return [] if self.config is None else ["--config", str(self.config)]


def refiner_of(plan: Plan, reward: str) -> str:
    """The control that takes its gradient steps on demonstrations only is a refiner of its own."""
    return "demonstrations" if reward == "demonstrations" else plan.refiner


def policy_package(plan: Plan, task: str, reward: str) -> Path:
    """What is refined: the shipped policy, with an untrained actor where the cell's refiner needs one."""
    package = plan.pretrained / f"policy-{task}"
    if refiner_of(plan, reward) not in ACTORS:
        return package
    kind, *options = ACTORS[plan.refiner]
    acted = plan.work / f"{kind}-{task}"
    if not acted.exists():
        atomic.make_directory(plan.work)
        command = [str(BIN / "robot-export"), "policy", str(package), str(acted)]
        run_program([*command, *options], plan.work / f"{kind}-{task}.log")
    return acted


def demonstrations(plan: Plan, task: str) -> Path:
    """The data set that the base policy of `task` was imitated from. Raises `CellFailed` where another
    robot's is not there."""
    if plan.config is None:
        return ensure(plan.pretrained, task, plan.work / f"record-{task}")
    found = folder(plan.pretrained, task)
    if not (found / "meta/info.json").exists():
        raise CellFailed(
            f"{found} is no data set: record it (robot-run record --expert --config {plan.config} "
            f"--task {task} --keep success --output {found})"
        )
    return found


def reward_package(plan: Plan, task: str, reward: str) -> Path | None:
    if reward == "demo":
        return plan.pretrained / f"reward-demo-{task}"
    if reward == "zero-shot":
        return plan.pretrained / "reward-zero-shot"
    return None


def trainer_settings(plan: Plan, task: str, reward: str, seed: int) -> list[str]:
    """Overrides of hw_configs/trainer.yaml for one cell."""
    model = MODELS.get(reward, "edge")
    refiner, options = refiner_of(plan, reward), plan.options
    if reward == "demonstrations":
        model = "constant"  # the label is never looked at
        if plan.refiner != "bestofn":  # whose options that control has; another's it would refuse
            options = tuple(o for o in options if not o.startswith("refiner.options"))
    wanted = {
        "seed": seed,
        "demonstrations": [str(demonstrations(plan, task))],
        "reward.model": model,
        "refiner.kind": refiner,
        "refiner.package": str(policy_package(plan, task, reward)),
        "iteration.episodes": plan.episodes,
        "iteration.count": plan.iterations,
        "store.dataset": False,
        **{f"listen.{n}": "tcp://127.0.0.1:0" for n in ("frames", "episodes", "weights", "health")},
    }
    package = reward_package(plan, task, reward)
    if package is not None:
        wanted["reward.package"] = str(package)
    return settings(wanted) + [part for option in options for part in ("--set", option)]


def robot_settings(plan: Plan, reward: str, seed: int, endpoints: dict[str, str]) -> list[str]:
    """Overrides of hw_configs/sim.yaml for one cell. Training scenes of two seeds never overlap, and
    lie below the evaluation scenes."""
    return settings(
        {
            "episode.label": "truth" if reward in ("truth", "truth-end") else "none",
            "episode.seed_base": 10_000 * (seed + 1),
            "policy.seed": seed,
            "iteration.count": plan.iterations,
            "iteration.episodes": plan.episodes,
            "link.live": False,
            "recording.depth": False,
            # A noise actor explores by its own draws.
            **({"policy.explore_deg": 0.0} if refiner_of(plan, reward) == "dsrl" else {}),
            **{f"link.{n}": endpoints[n] for n in ("frames", "episodes", "weights", "health")},
        }
    )


def settings(wanted: dict[str, Any]) -> list[str]:
    """As `--set` takes them."""
    return [part for k, v in wanted.items() for part in ("--set", f"{k}={json.dumps(v)}")]
