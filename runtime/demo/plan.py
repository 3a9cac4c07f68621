"""What the demo runs: its options checked, and the command line of every process. Starts nothing."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.errors import ConfigError, MissingDependency
from contracts.files import outputs
from contracts.files.dataset_place import require_dataset
from runtime.demo import demonstrations

REWARDS = ("demo", "zero-shot", "truth", "constant", "clock")
_MODELS = {"truth": "success", "constant": "constant", "clock": "clock"}
SOCKETS = ("frames", "episodes", "weights", "health")
EVALUATION_SEED_BASE = 1_000_000
LAST_SEED = 48
"""The next one's training scenes would be those of the demonstrations."""
MARK = "demo.json"
"""In every demo's run folder: what runs, and how it ended."""


@dataclass(frozen=True)
class Options:
    """As given on the command line; `task` with underscores, as the bench names it."""

    task: str
    seed: int
    iterations: int
    episodes: int
    evaluation_episodes: int
    reward: str
    run_dir: Path
    output: Path
    pretrained: Path
    trainer_set: tuple[str, ...] = ()
    robot_set: tuple[str, ...] = ()

    @property
    def policy_package(self) -> Path:
        return self.pretrained / f"policy-{self.task}"

    @property
    def previous(self) -> Path:
        """Where what an earlier demo left in `run_dir` is kept, once."""
        return self.run_dir.with_name(f"{self.run_dir.name}.previous")

    @property
    def demonstrations(self) -> Path:
        return demonstrations.folder(self.pretrained, self.task)

    @property
    def must_record(self) -> bool:
        """Shipped policies come with their demonstrations' seeds, not with the recordings."""
        listed = (self.pretrained / demonstrations.LIST_FILE).exists()
        return listed and not self.recorded_mark.exists()

    @property
    def recorded_mark(self) -> Path:
        """There once the recording is whole (see `runtime.demo.demonstrations`)."""
        return self.demonstrations / ".complete"

    @property
    def reward_package(self) -> Path | None:
        """Where the reward has a model of its own; the baselines have none."""
        if self.reward == "demo":
            return self.pretrained / f"reward-demo-{self.task}"
        return self.pretrained / "reward-zero-shot" if self.reward == "zero-shot" else None


def check(options: Options) -> None:
    """Everything that can be wrong before a process starts. Raises `ConfigError`."""
    if options.reward not in REWARDS:
        raise ConfigError("--reward", expected=f"one of {list(REWARDS)}", found=options.reward)
    for name, value in (
        ("--iterations", options.iterations),
        ("--episodes", options.episodes),
        ("--evaluation-episodes", options.evaluation_episodes),
    ):
        if value < 1:
            raise ConfigError(name, expected=">= 1", found=value)
    demo = outputs.holding(MARK)
    for folder in (options.run_dir, options.previous):
        outputs.require_folder(folder, "a demo", demo)
    outputs.require_folder(options.output, "the report", outputs.only(*outputs.REPORT_FILES))
    if options.must_record:
        require_dataset(options.demonstrations)
    wanted = [options.policy_package / "manifest.json"]
    if options.must_record:
        recording_command(options)
    else:
        wanted.append(options.demonstrations)
    if options.reward_package is not None:
        wanted.append(options.reward_package / "manifest.json")
    for path in wanted:
        if not path.exists():
            raise ConfigError(
                f"the demo needs {path}", remedy="make it with `make pretrained`, or fix --task"
            )


def program(name: str) -> str:
    """Path of one of our commands: beside this Python, else on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise MissingDependency(
            f"{name} is not installed", remedy="pip install 'entracte[trainer]'"
        )
    return found


def trainer_command(options: Options) -> list[str]:
    """`robot-trainer serve` on free ports; `endpoints.json` in its folder says which."""
    settings: dict[str, Any] = {
        "seed": options.seed,
        "demonstrations": [str(options.demonstrations)],
        "reward.model": _MODELS.get(options.reward, "edge"),
        "refiner.package": str(options.policy_package),
        "iteration.episodes": options.episodes,
        "iteration.count": options.iterations,
        "store.keep_logs": False,
        **{f"listen.{name}": "tcp://127.0.0.1:0" for name in SOCKETS},
    }
    if options.reward_package is not None:
        settings["reward.package"] = str(options.reward_package)
    run_dir = str(options.run_dir / "trainer")
    return [
        program("robot-trainer"),
        "serve",
        "--run-dir",
        run_dir,
        *_set(settings, options.trainer_set),
    ]


def robot_command(options: Options, endpoints: dict[str, str]) -> list[str]:
    """`robot-run start`: all iterations. Scenes of two seeds never overlap; up to LAST_SEED they lie
    below all others."""
    settings: dict[str, Any] = {
        "episode.label": "truth" if options.reward == "truth" else "none",
        "episode.seed_base": 10_000 * (options.seed + 1),
        "policy.seed": options.seed,
        "iteration.count": options.iterations,
        "iteration.episodes": options.episodes,
        **{f"link.{name}": endpoints[name] for name in SOCKETS},
    }
    command = [
        program("robot-run"), "start", "--package", str(options.policy_package),
        "--task", options.task, "--run-dir", str(options.run_dir / "robot"), "--json",
    ]  # fmt: skip
    if options.reward_package is not None:
        command += ["--reward-package", str(options.reward_package)]
    return [*command, *_set(settings, options.robot_set)]


def evaluation_command(options: Options, which: str) -> list[str]:
    """`robot-run eval` of "base" or "final": the same scenes, the same noise, other weights."""
    folder = options.run_dir / "eval"
    command = [
        program("robot-run"), "eval", "--package", str(options.policy_package),
        "--task", options.task, "--episodes", str(options.evaluation_episodes),
        "--seed-base", str(EVALUATION_SEED_BASE + 1000 * options.seed),
        "--output", str(folder / f"{which}.jsonl"), "--record", str(folder / which / "dataset"),
        "--run-dir", str(folder / which / "run"), "--json",
        *_set({"policy.seed": 100 + options.seed, "recording.depth": False}, options.robot_set),
    ]  # fmt: skip
    if options.reward_package is not None:
        # It ends and decides nothing there: the report holds its judgement against the truth.
        command += ["--reward-package", str(options.reward_package)]
    if which == "final":
        command += ["--slots", str(options.run_dir / "robot")]
    return command


def recording_command(options: Options) -> list[str]:
    """`robot-run record` of the demonstrations. Raises `ConfigError` if the task isn't listed."""
    run_dir = options.run_dir / "demonstrations"
    return demonstrations.command(options.pretrained, options.task, run_dir)


def report_command(options: Options) -> list[str]:
    run, output = str(options.run_dir), str(options.output)
    return [program("robot-trainer"), "report", "--run", run, "--output", output]


def readable(command: list[str]) -> str:
    """The command as one would type it, here: paths below this folder made relative."""
    here = f"{Path.cwd()}/"
    words = [Path(command[0]).name, *(word.replace(here, "") for word in command[1:])]
    return " ".join(f"'{word}'" if set(word) & set(' "[]{}$') else word for word in words)


def _set(settings: dict[str, Any], more: tuple[str, ...]) -> list[str]:
    """`more`, the user's own, comes last and so has the last word."""
    given = [*(f"{key}={json.dumps(value)}" for key, value in settings.items()), *more]
    return [part for override in given for part in ("--set", override)]
