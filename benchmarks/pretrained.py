"""`make pretrained`: rebuilds everything under `pretrained/` from nothing, with seeds, by public commands.

A stage whose result exists under --work is not run again; delete it to redo it. Hours of one core; the
recipe is this list and nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contracts.files import atomic, outputs
from runtime.demo import demonstrations

BIN = Path(sys.executable).parent
EVALUATION_TASKS = ("open_drawer", "put_on")
GLANCES = ("--scenes", "16000", "--moments", "7", "--seed", "1", "--workers", "2")
PRETRAIN_STEPS = 9000
# Few enough that the base succeeds about half the time (docs/results says how often).
DEMONSTRATIONS = {
    "open_drawer": {"episodes": 3, "seed_base": 500_000, "unsteady_deg": 2.0},
    "put_on": {"episodes": 50, "seed_base": 500_000, "unsteady_deg": 0.0},
}
IMITATION_STEPS = 1500
CLIPS, CLIPS_SEED = 5600, 1
WORK_NAMES = ("runs", "glances", "trunk*", "base-*", "clips", "validation", "reward*")
# Played episodes only: thresholds are set on what a hand does, not on arranged scenes.
VALIDATION = (
    *("--tasks", "put_on", "put_on", "open_drawer", "put_in"),
    *("--arranged", "0", "--episodes", "500", "--seed", "2"),
)
REWARD_STEPS = 2400


@dataclass(frozen=True)
class Stage:
    """One command; `result` exists when it is done."""

    name: str
    result: Path
    command: tuple[str, ...]


def stages(work: Path, out: Path) -> Iterator[Stage]:
    trainer, reward = str(BIN / "robot-trainer"), str(BIN / "robot-reward")
    export = str(BIN / "robot-export")
    for task in EVALUATION_TASKS:
        yield Stage(
            f"record demonstrations of {task}",
            demonstrations.folder(out, task) / "meta" / "info.json",
            tuple(demonstrations.command(out, task, work / "runs" / f"demo-{task}")),
        )
    glances = work / "glances"
    yield Stage(
        "record glances of the training scenes",
        glances / "meta.json",
        (sys.executable, "-m", "runtime.bench.glances", *GLANCES, "--output", str(glances)),
    )
    yield Stage(
        "teach the policy's trunk to see",
        work / "trunk" / "policy.safetensors",
        (
            *(trainer, "pretrain", "--glances", str(glances), "--steps", str(PRETRAIN_STEPS)),
            *("--robot", str(demonstrations.folder(out, EVALUATION_TASKS[0]))),
            *("--output", str(work / "trunk"), "--seed", "0", "--threads", "2"),
        ),
    )
    for task in EVALUATION_TASKS:
        yield Stage(
            f"imitate {task} from few demonstrations, the trunk frozen",
            work / f"base-{task}" / "policy.safetensors",
            (
                *(trainer, "imitate", "--data", str(demonstrations.folder(out, task))),
                *("--start", str(work / "trunk"), "--trunk-rate", "0"),
                "--new-head",
                *("--output", str(work / f"base-{task}")),
                *("--steps", str(IMITATION_STEPS), "--seed", "0"),
            ),
        )
        yield Stage(
            f"export the policy for {task}",
            out / f"policy-{task}" / "manifest.json",
            (export, "policy", str(work / f"base-{task}"), str(out / f"policy-{task}")),
        )
    clips = sys.executable, "-m", "runtime.bench.clips", "--split", "train", "--workers", "2"
    for name, what in (
        ("clips", ("--episodes", str(CLIPS), "--seed", str(CLIPS_SEED))),
        ("validation", VALIDATION),
    ):
        yield Stage(
            f"record {name} for the reward model",
            work / name / "meta.json",
            (*clips, *what, "--output", str(work / name)),
        )
    yield Stage(
        "train the reward model",
        work / "reward" / "edge.json",
        (
            *(reward, "train", "--data", str(work / "clips"), "--steps", str(REWARD_STEPS)),
            *("--validation", str(work / "validation"), "--output", str(work / "reward")),
        ),
    )
    yield Stage(
        "export the zero-shot reward model",
        out / "reward-zero-shot" / "manifest.json",
        (export, "reward", str(work / "reward"), str(out / "reward-zero-shot")),
    )
    for task in EVALUATION_TASKS:
        adapted = work / f"reward-demo-{task}"
        yield Stage(
            f"give the reward model the demonstrations of {task}",
            adapted / "edge.json",
            (
                *(reward, "adapt", "--base", str(work / "reward"), "--data", str(work / "clips")),
                *("--validation", str(work / "validation")),
                *("--demonstrations", str(demonstrations.folder(out, task))),
                *("--output", str(adapted)),
            ),
        )
        yield Stage(
            f"export the demo-conditioned reward model of {task}",
            out / f"reward-demo-{task}" / "manifest.json",
            (export, "reward", str(adapted), str(out / f"reward-demo-{task}")),
        )


def run_stages(todo: list[Stage], *, only_list: bool = False) -> None:
    """One after the other, those whose result isn't there yet; ends the program at the first that fails."""
    for number, stage in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] {stage.name}", flush=True)
        if only_list:
            print("    " + " ".join([Path(stage.command[0]).name, *stage.command[1:]]))
            continue
        if stage.result.exists():
            print("    there already", flush=True)
            continue
        started_s = time.monotonic()
        code = subprocess.run(stage.command, check=False).returncode
        if code or not stage.result.exists():
            sys.exit(f"'{stage.name}' failed (exit code {code})")
        print(f"    {time.monotonic() - started_s:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="rebuild pretrained/ from nothing")
    parser.add_argument("--work", type=Path, default=Path("run/pretrained"))
    parser.add_argument("--out", type=Path, default=Path("pretrained"))
    parser.add_argument("--fresh", action="store_true", help="forget what is there already")
    parser.add_argument("--list", action="store_true", help="print the commands only")
    given = parser.parse_args()
    work, out = given.work, given.out
    outputs.require_folder(work, "what lies between", outputs.only(*WORK_NAMES))
    outputs.require_folder(out, "packages", outputs.holding(demonstrations.LIST_FILE))
    if given.fresh:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    atomic.make_directory(out)
    atomic.write_json(out / demonstrations.LIST_FILE, DEMONSTRATIONS)
    run_stages(list(stages(work, out)), only_list=given.list)


if __name__ == "__main__":
    main()
