"""`robot-reward eval`: measures reward models on clips with known truth and on RoboRewardBench folders."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from msgspec import json as to_json

from contracts.errors import ConfigError
from contracts.files import atomic

EXPLAINED = """Intervals are 95 %, bootstrapped over recordings (a share without any exception: the exact
binomial bound). "Beats" means intervals apart. What each figure means: `MEANING` in
trainer/rewards/evaluation/measure.py.
"""


def command(
    data: Annotated[
        list[Path] | None, typer.Option(help="Folders of clips with known truth.")
    ] = None,
    package: Annotated[list[Path] | None, typer.Option(help="Reward packages to measure.")] = None,
    demonstrations: Annotated[
        list[Path] | None, typer.Option(help="LeRobotDatasets for the nearest-neighbour baseline.")
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Only these tasks.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html, .json, .md, .txt: the whole evaluation."),
    ] = None,
    fit: Annotated[
        list[Path] | None,
        typer.Option(help="Clips of the train split: blind baselines and calibration."),
    ] = None,
    bench: Annotated[
        Path | None, typer.Option(help="Folder in RoboReward's format: metadata.jsonl and mp4.")
    ] = None,
    bench_train: Annotated[
        Path | None, typer.Option(help="The same of the train split, for the blind baselines.")
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Given answers to the bench, JSONL of file_name, task, answer."),
    ] = None,
    reward: Annotated[
        list[str] | None, typer.Option(help="Registered reward models that judge by pictures.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="key=value for every --reward (value as JSON or text).")
    ] = None,
    reading: Annotated[
        str, typer.Option(help="Score of a distribution: discrete (most likely) or expected.")
    ] = "discrete",
    robustness: Annotated[
        bool, typer.Option(help="Run the robustness suite (with --output).")
    ] = True,
    limit: Annotated[int, typer.Option(help="Most clips a task (0: all).")] = 0,
    seed: Annotated[int, typer.Option()] = 0,
    draws: Annotated[int, typer.Option(help="Bootstrap draws.")] = 400,
) -> None:
    """Figures with intervals beside blind baselines, RoboRewardBench, robustness; table, JSON, page.

    Without --output and --bench: one line (with --json an object) a model and task, every frame scored.
    """
    if not data and not bench:
        raise ConfigError("nothing to measure on", remedy="name --data or --bench")
    if data and output is None and bench is None:
        from trainer.rewards.recipe import evaluate_all

        for report in evaluate_all(package or [], data, demonstrations or [], tasks):
            typer.echo(to_json.encode(report.as_dict()).decode() if json else report.line())
        return
    from trainer.rewards.evaluation.clips import evaluate_clips
    from trainer.rewards.evaluation.models import video_models
    from trainer.rewards.evaluation.suite import evaluate_bench

    models = video_models(package or [], reward or [], _options(option or []), seed)
    on_bench = (
        evaluate_bench(
            bench,
            models,
            {path.stem: path for path in answers or []},
            train=bench_train,
            reading=_reading(reading),
            draws=draws,
            seed=seed,
            report=_progress,
        )
        if bench
        else None
    )
    reports = evaluate_clips(
        models,
        data or [],
        fit=fit or [],
        demonstrations=demonstrations or [],
        tasks=tasks,
        limit=limit,
        with_robustness=robustness,
        draws=draws,
        seed=seed,
        report=_progress,
    )
    line = shlex.join(["robot-reward", *sys.argv[1:]])
    whole = {
        "command": line,
        "bench": on_bench.as_dict() if on_bench else None,
        "tasks": [report.as_dict() for report in reports],
    }
    text = "\n\n\n".join(part.text() for part in ([on_bench] if on_bench else []) + reports)
    if output:
        from trainer.rewards.evaluation.page import render

        atomic.make_directory(output)
        atomic.write_json(output / "report.json", whole)
        atomic.write_bytes(output / "report.txt", (text + "\n").encode())
        tables = "\n".join(report.markdown() for report in reports)
        head = f"# Reward models beside blind baselines, and their robustness\n\n    {line}\n\n"
        atomic.write_bytes(output / "report.md", (head + EXPLAINED + "\n" + tables).encode())
        page = render(reports, on_bench, "How good the reward models are", line)
        atomic.write_bytes(output / "report.html", page.encode())
    typer.echo(to_json.encode(whole).decode() if json else text)


def _progress(what: str, done: int, total: int) -> None:
    """One line on a terminal, a line every tenth elsewhere (logs)."""
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{what} {done}/{total}", nl=done == total, err=True)
    elif done == total or done % max(1, total // 10) == 0:
        typer.echo(f"{what} {done}/{total}", err=True)


def _reading(text: str) -> Literal["discrete", "expected"]:
    if text not in ("discrete", "expected"):
        raise ConfigError("--reading", expected="discrete or expected", found=text)
    return text  # type: ignore[return-value]


def _options(pairs: list[str]) -> dict[str, Any]:
    """key=value pairs; a value that is JSON is read as such."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found:
            raise ConfigError("--option", expected="key=value", found=pair)
        try:
            out[key] = to_json.decode(value.encode())
        except Exception:  # msgspec's own types; plain text is meant then
            out[key] = value
    return out
