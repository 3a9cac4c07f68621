"""How far the edge reward model carries: tasks with relatives in training, their reverse alone, or none.

`python -m benchmarks.reward_groups --clips TRAIN --validation VALIDATION --work DIR --out FOLDER` trains one
model a seed without the goals of the last two groups, adapts each to five demonstrations of every task, and
measures all of them on played clips of the evaluation split. Resumable: what exists is kept. `--table` alone
makes groups.md from what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pretrained import BIN, Stage, run_stages
from contracts.files import atomic, outputs
from trainer.report.several import over_seeds

GROUPS = {
    "unseen combination": ("open_drawer", "put_on"),
    "reverse motion only": ("close_drawer", "close_tray", "close_lid"),
    "no relative": ("press_button", "turn_lever_left", "turn_lever_right"),
}
WITHOUT = ("close", "press", "turn_left", "turn_right")
TASKS = [task for tasks in GROUPS.values() for task in tasks]
DEMONSTRATIONS = 5
FIGURES = {
    "rank": "rank",
    "auc": "AUC, time-matched",
    "fpr_at_tpr80": "FPR at TPR 80 %",
    "tpr": "TPR at the threshold",
    "fpr": "FPR at the threshold",
    "language": "right against wrong instruction",
    "order": "order of frames",
    "coverage": "coverage",
}

HEADER = """# How far the edge reward model carries

`python -m benchmarks.reward_groups --clips CLIPS --validation VALIDATION --work WORK` (the recipe's clips:
`python -m benchmarks.pretrained --list`). Means over training seeds ± 95 % t interval over them. The README
beside this page says what the groups are and what the figures come to.
"""


def stages(given: argparse.Namespace) -> Iterator[Stage]:
    work: Path = given.work
    reward, export = str(BIN / "robot-reward"), str(BIN / "robot-export")
    clips = work / "clips-eval"
    names = [word for task in TASKS for word in ("--tasks", task)]
    yield Stage(
        "record clips of the evaluation split",
        clips / "meta.json",
        (
            *(reward, "record-clips", "--split", "eval", *names, "--output", str(clips)),
            *("--episodes", str(120 * len(TASKS)), "--seed", "3301", "--arranged", "0"),
        ),
    )
    for task in TASKS:
        folder = work / f"demonstrations-{task}"
        yield Stage(
            f"record demonstrations of {task}",
            folder / "meta" / "info.json",
            (
                *(sys.executable, "-m", "runtime.app", "record", "--expert", "--keep", "success"),
                *("--split", "eval", "--task", task, "--episodes", str(DEMONSTRATIONS)),
                *("--seed-base", "500000", "--output", str(folder)),
                *("--run-dir", str(work / "runs" / task), "--set", "recording.depth=false"),
            ),
        )
    data = ("--data", str(given.clips), "--validation", str(given.validation))
    left_out = [word for kind in WITHOUT for word in ("--without", kind)]
    for seed in range(given.seeds):
        own = work / f"seed-{seed}"
        yield from _trained(
            "zero-shot",
            own,
            (reward, "train", *data, *left_out, "--steps", str(given.steps), "--seed", str(seed)),
            export,
        )
        for task in TASKS:
            adapt = (
                *(reward, "adapt", "--base", str(own / "zero-shot"), *data, *left_out),
                *("--demonstrations", str(work / f"demonstrations-{task}"), "--seed", str(seed)),
                *("--count", str(DEMONSTRATIONS)),
            )
            yield from _trained(f"demo-{task}", own, adapt, export)
            yield Stage(
                f"measure {task}, seed {seed}",
                own / f"report-{task}" / "report.json",
                (
                    *(reward, "eval", "--data", str(clips), "--tasks", task, "--no-robustness"),
                    *("--package", str(own / "package-zero-shot")),
                    *("--package", str(own / f"package-demo-{task}")),
                    *("--demonstrations", str(work / f"demonstrations-{task}")),
                    *("--seed", str(seed), "--output", str(own / f"report-{task}")),
                ),
            )


def _trained(name: str, own: Path, command: tuple[str, ...], export: str) -> Iterator[Stage]:
    source, package = own / name, own / f"package-{name}"
    yield Stage(
        f"{own.name}: train {name}", source / "edge.json", (*command, "--output", str(source))
    )
    yield Stage(
        f"{own.name}: export {name}",
        package / "manifest.json",
        (export, "reward", str(source), str(package)),
    )


def table(work: Path, out: Path) -> None:
    """groups.md and groups.json: means over seeds of each figure, with t intervals over the seeds."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    commands, rows = set(), []
    for path in sorted(work.glob("seed-*/report-*/report.json")):
        report = json.loads(path.read_text())
        # The same on every machine: what lies where is no result.
        commands.add(report["command"].replace(str(work), "WORK"))
        task = report["tasks"][0]
        for model in (*task["models"], *task["baselines"]):
            name = "demo-conditioned" if "demo-" in model["model"] else model["model"]
            name = "zero-shot" if name == "package-zero-shot" else name
            rows.append({"seed": path.parents[1].name, "task": task["task"], "name": name, **model})
            for figure, (value, *_) in model["figures"].items():
                if value is not None:
                    found[task["task"], name][figure].append(float(value))
    atomic.write_json(out / "groups.json", {"commands": sorted(commands), "rows": rows})
    head = " | ".join(FIGURES.values())
    lines = [
        HEADER,
        f"| group | task | model | seeds | {head} |",
        "|---" * (4 + len(FIGURES)) + "|",
    ]
    for group, tasks in GROUPS.items():
        for task in tasks:
            for (name_of, name), figures in found.items():
                if name_of == task:
                    seeds = max(len(values) for values in figures.values())
                    cells = " | ".join(_cell(figures.get(figure, [])) for figure in FIGURES)
                    lines.append(f"| {group} | {task} | {name} | {seeds} | {cells} |")
    atomic.write_bytes(out / "groups.md", ("\n".join(lines) + "\n").encode())


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    found = over_seeds(values)
    if len(values) < 2:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ± {found.high - found.value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--clips", type=Path, help="folder of training clips")
    parser.add_argument("--validation", type=Path, help="folder of validation clips")
    parser.add_argument("--work", type=Path, default=Path("run/reward-groups"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/reward"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--table", action="store_true", help="only make the table")
    parser.add_argument("--list", action="store_true", help="print the commands only")
    given = parser.parse_args()
    result = outputs.json_with("commands", "rows")
    outputs.require_file(given.out / "groups.json", "the figures", result)
    outputs.require_file(
        given.out / "groups.md", "the table", outputs.beginning(HEADER[:40].encode())
    )
    if not given.table:
        if given.clips is None or given.validation is None:
            parser.error("--clips and --validation are needed")
        given.work.mkdir(parents=True, exist_ok=True)
        run_stages(list(stages(given)), only_list=given.list)
    if not given.list:
        table(given.work, given.out)


if __name__ == "__main__":
    main()
