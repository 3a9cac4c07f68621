"""The refinement experiment: tasks x rewards x seeds, each cell run with the real programs, resumable.

    python -m benchmarks.refinement run --out docs/results/refinement [--tasks ...] [--rewards ...]
    python -m benchmarks.refinement table --out docs/results/refinement

`--config` is another robot than the embedded bench, a Gymnasium environment, say; `--pretrained` then holds
policy-<task>, demonstrations-<task> and the reward packages, as the repository's does of the bench.
A cell starts `robot-trainer serve` and `robot-run start` as processes, lets them do the iterations, and
evaluates base and refined policy with `robot-run eval` on the same scenes. A cell that is finished is one
JSON file and is never run again; one that was killed starts over. As many cells run at once as there are
cores; an evaluation also takes those that no other cell has (its outcomes are the same with any number).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import refinement_table
from benchmarks.refinement_plan import (
    Plan,
    demonstrations,
    policy_package,
    refiner_of,
    reward_package,
    robot_settings,
    settings,
    trainer_settings,
)
from benchmarks.refinement_processes import (
    BIN,
    CellFailed,
    Cores,
    commit,
    fresh,
    run_program,
    wait_for,
)
from contracts.files import atomic, outputs
from contracts.files.packages import load_package

TASKS = ("open_drawer", "put_on")
REWARDS = ("demo", "zero-shot", "truth-end", "truth", "demonstrations", "constant", "clock")
TARGETS = {
    "demo": ">= +30",
    "zero-shot": ">= +20",
    "truth-end": "comparison",
    "truth": "comparison",
    "demonstrations": "< +10",
    "constant": "< +10",
    "clock": "< +10",
}
FAILURES = (CellFailed, subprocess.TimeoutExpired, OSError)
CONTROL_SEEDS = 2  # constant and clock, as the issue asks
EVALUATION_SEED_BASE = 1_000_000


def evaluate(
    plan: Plan, task: str, seed: int, folder: Path, package: Path, weights: Path | None
) -> dict[str, int]:
    """Scene seed -> success (0 or 1) of the package with these weights (None: its own), by the bench's own
    verdict."""
    output = folder / "truth.jsonl"
    output.unlink(missing_ok=True)
    command = [
        str(BIN / "robot-run"), "eval", *plan.robot, "--package", str(package), "--task", task,
        "--episodes", str(plan.evaluation_episodes),
        "--seed-base", str(EVALUATION_SEED_BASE + 1000 * seed),
        "--output", str(output), "--run-dir", str(folder / "run"), "--json",
        *settings({"policy.seed": 100 + seed}),
    ]  # fmt: skip
    if weights is not None:
        command += ["--weights", str(weights)]
    with plan.cores.idle_too() as workers:
        run_program([*command, "--workers", str(workers)], folder / "eval.log", plan.timeout_s)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    return {str(row["seed"]): int(row["success"]) for row in rows}


def base(plan: Plan, task: str, seed: int, reward: str = "truth") -> dict[str, int]:
    """What a cell of that reward refines, on this seed's evaluation scenes; run once, shared by all rewards
    that refine the same package: an untrained actor is not the policy that it stands before."""
    package = policy_package(plan, task, reward)
    own = package != policy_package(plan, task, "truth")
    path = plan.out / task / f"base{'-shipped' if own else ''}-seed{seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text())["success"])
    folder = fresh(plan.work / task / f"base{'-shipped' if own else ''}-{seed}")
    success = evaluate(plan, task, seed, folder, package, None)
    atomic.make_directory(path.parent)
    atomic.write_json(path, {"what": "base", "task": task, "seed": seed, "success": success})
    return success


def run_cell(plan: Plan, task: str, reward: str, seed: int) -> None:
    """Base, refinement, final evaluation; writes the cell's JSON."""
    path = plan.out / task / f"{reward}-seed{seed}.json"
    if path.exists():
        return
    before = base(plan, task, seed, reward)
    folder = fresh(plan.work / task / f"{reward}-{seed}")
    started_s = time.monotonic()
    trainer_dir, robot_dir = folder / "trainer", folder / "robot"
    robot_dir.mkdir(parents=True)
    trainer_command = [
        str(BIN / "robot-trainer"), "serve", "--run-dir", str(trainer_dir),
        *trainer_settings(plan, task, reward, seed),
    ]  # fmt: skip
    with (folder / "trainer.log").open("wb") as log:
        trainer = subprocess.Popen(trainer_command, stdout=log, stderr=log)
    try:
        endpoints = wait_for(trainer_dir / "endpoints.json", trainer, folder / "trainer.log")
        shutil.copy(next(trainer_dir.rglob("trainer.pub")), robot_dir / "trainer.pub")
        policy, package = policy_package(plan, task, reward), reward_package(plan, task, reward)
        robot_command = [
            str(BIN / "robot-run"), "start", *plan.robot, "--package", str(policy),
            "--task", task, "--run-dir", str(robot_dir), "--json",
            *(["--reward-package", str(package)] if package else []),
            *robot_settings(plan, reward, seed, endpoints),
        ]  # fmt: skip
        run_program(robot_command, folder / "robot.log", plan.timeout_s)
    finally:
        trainer.send_signal(signal.SIGTERM)
        try:
            trainer.wait(60)
        except subprocess.TimeoutExpired:
            trainer.kill()
    refine_s = time.monotonic() - started_s
    final, released = fresh(folder / "final"), newest_release(trainer_dir)
    after = evaluate(plan, task, seed, final, policy, released)
    curve = {}
    for number in (n for n in plan.curve if n < plan.iterations):
        weights = release_of(trainer_dir, number)
        curve[number] = evaluate(plan, task, seed, fresh(folder / f"at-{number}"), policy, weights)
    record = {
        "what": "refinement-cell",
        "task": task,
        "reward": reward,
        "refiner": refiner_of(plan, reward),
        "options": plan.options,
        "config": plan.config and plan.config.name,
        "seed": seed,
        "base": before,
        "final": after,
        "curve": curve,
        "package": load_package(policy).package_id,
        "wall_s": round(time.monotonic() - started_s, 1),
        "refine_s": round(refine_s, 1),
        "training_episodes": plan.iterations * plan.episodes,
        "training": training_summary(trainer_dir, robot_dir),
        "trainer_command": _portable(plan, trainer_command),
        "robot_command": _portable(plan, robot_command),
        "entracte": version("entracte"),
        "commit": commit(),
    }
    atomic.make_directory(path.parent)
    atomic.write_json(path, record)
    if not plan.keep:
        shutil.rmtree(folder)


def release_of(trainer_dir: Path, iteration: int) -> Path:
    """Weights of the release that came of that iteration."""
    manifests = (trainer_dir / "releases" / "policy").glob("*/manifest.json")
    found = [m for m in manifests if json.loads(m.read_text())["iteration"] == iteration]
    return max(found).with_name("weights.safetensors")


def newest_release(trainer_dir: Path) -> Path:
    """Weights of the last release: the one of the last iteration, which no training episode used."""
    return max((trainer_dir / "releases" / "policy").glob("*/weights.safetensors"))


def training_summary(trainer_dir: Path, robot_dir: Path) -> dict[str, Any]:
    """Training episodes as the reward judged them and as the bench knows them, joined by episode."""
    judged: dict[int, bool | None] = {}
    acted: dict[int, int] = {}
    for line in (trainer_dir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("kind") == "episode":
            judged[int(row["episode_seq"])] = row.get("success")
            acted[int(row["episode_seq"])] = int(row["policy_version"])
    truth: dict[int, bool] = {}
    truth_file = robot_dir / "truth.jsonl"
    if truth_file.exists():
        for line in truth_file.read_text().splitlines():
            row = json.loads(line)
            truth[int(row["episode_seq"])] = bool(row["success"])
    shared = sorted(judged.keys() & truth.keys())
    return {
        "judged": [judged[s] for s in shared],
        "truth": [truth[s] for s in shared],
        "policy_version": [acted[s] for s in shared],
        "abstained": sum(judged[s] is None for s in shared),
        "false_positives": sum(judged[s] is True and not truth[s] for s in shared),
        "false_negatives": sum(judged[s] is False and truth[s] for s in shared),
    }


def _portable(plan: Plan, command: list[str]) -> str:
    """The command without this machine's paths."""
    text = " ".join([Path(command[0]).name, *command[1:]])
    names = {plan.pretrained: "pretrained", plan.work: "WORK"}
    if plan.config is not None:
        names[plan.config] = f"hw_configs/{plan.config.name}"
    for path, name in names.items():
        text = text.replace(str(path), name)
    return text


def cells(tasks: list[str], rewards: list[str], seeds: int) -> list[tuple[str, str, int]]:
    """Seed by seed, so that an interrupted experiment has whole seeds."""
    return [
        (task, reward, seed)
        for seed in range(seeds)
        for task in tasks
        for reward in rewards
        if seed < CONTROL_SEEDS or reward not in ("constant", "clock")
    ]


def run(plan: Plan, tasks: list[str], rewards: list[str], seeds: int, workers: int) -> int:
    """Every cell that is not there yet; returns how many failed."""
    wanted = cells(tasks, rewards, seeds)
    missing = [c for c in wanted if not (plan.out / c[0] / f"{c[1]}-seed{c[2]}.json").exists()]
    print(
        f"{len(wanted)} cells, {len(wanted) - len(missing)} done, {len(missing)} to run", flush=True
    )
    failed = 0
    for task in tasks:
        demonstrations(plan, task)

    def base_of(cell: tuple[str, int, str]) -> None:
        # One that fails is told by the cells that need it.
        with contextlib.suppress(*FAILURES), plan.cores.one():
            base(plan, *cell)

    def one(cell: tuple[str, str, int]) -> tuple[tuple[str, str, int], str, float]:
        started_s = time.monotonic()
        try:
            with plan.cores.one():
                run_cell(plan, *cell)
        except FAILURES as error:
            return cell, str(error), time.monotonic() - started_s
        return cell, "", time.monotonic() - started_s

    # The base of a (task, seed) is shared: made first, so that two workers don't both make it.
    with ThreadPoolExecutor(workers) as pool:
        refined = {
            (t, seed, policy_package(plan, t, reward)): reward for t, reward, seed in missing
        }
        list(pool.map(base_of, [(t, seed, reward) for (t, seed, _), reward in refined.items()]))
        for done, (cell, error, wall_s) in enumerate(pool.map(one, missing), 1):
            failed += bool(error)
            print(f"{done}/{len(missing)} {cell} {wall_s:.0f} s {error or 'ok'}", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("verb", choices=["run", "table"])
    parser.add_argument("--out", type=Path, default=Path("docs/results/refinement"))
    parser.add_argument("--work", type=Path, default=Path("run/refinement"))
    parser.add_argument("--pretrained", type=Path, default=Path("pretrained"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--rewards", nargs="+", default=list(REWARDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--evaluation-episodes", type=int, default=100)
    parser.add_argument("--curve", type=int, nargs="*", default=[10, 20], help="evaluated, too")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2)))
    parser.add_argument("--refiner", default="bestofn", help="with another one name another --out")
    parser.add_argument("--set", action="append", default=[], help="of the trainer (repeat)")
    parser.add_argument("--config", type=Path, help="of another robot than the embedded bench")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    given = parser.parse_args()
    tasks = {*TASKS, *given.tasks}
    made = (f"{kind}-{task}*" for task in tasks for kind in ("record", "steered", "residual"))
    outputs.require_folder(given.work, "the runs", outputs.only(*tasks, *made))
    results = outputs.holding("table.md", *tasks)
    outputs.require_folder(given.out, "the results", results)
    if given.verb == "table":
        found = refinement_table.load_cells(given.out)
        text = refinement_table.markdown(refinement_table.rows(found), TARGETS)
        wanted = cells(given.tasks, given.rewards, given.seeds)
        if lacking := refinement_table.missing(found, wanted):
            text += f"\nNot run: {', '.join(lacking)}.\n"
        atomic.write_bytes(given.out / "table.md", text.encode())
        print(text)
        return
    plan = Plan(
        given.out.resolve(),
        given.work.resolve(),
        given.pretrained.resolve(),
        given.iterations,
        given.episodes,
        given.evaluation_episodes,
        given.keep,
        given.refiner,
        tuple(given.set),
        given.config and given.config.resolve(),
        tuple(given.curve),
        cores=Cores(given.workers),
    )
    try:
        sys.exit(1 if run(plan, given.tasks, given.rewards, given.seeds, given.workers) else 0)
    except CellFailed as error:
        sys.exit(f"benchmarks.refinement: {error}")


if __name__ == "__main__":
    main()
