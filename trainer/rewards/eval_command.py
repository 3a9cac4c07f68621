"""`robot-reward eval`: measures reward models on clips with known truth and on RoboRewardBench folders."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from msgspec import json as to_json

from contracts.errors import ConfigError
from contracts.files import outputs


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
        list[str] | None, typer.Option(help="key=value for every --reward (value as YAML).")
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

    With --data and packages alone: one line (with --json an object) a model and task, every frame scored.
    """
    if not data and not bench:
        raise ConfigError("nothing to measure on", remedy="name --data or --bench")
    if output:
        outputs.require_folder(output, "the evaluation", outputs.only("report.*"))
    if data and not (output or bench or reward or fit or limit):
        from trainer.rewards.evaluation.nearest import NOT_SHOWN
        from trainer.rewards.recipe import NEAREST, evaluate_all

        _require_eye(demonstrations, bool(package))
        measured: set[str] = set()
        shown: set[str] = set()
        for report in evaluate_all(package or [], data, demonstrations or [], tasks):
            typer.echo(to_json.encode(report.as_dict()).decode() if json else report.line())
            (shown if report.model == NEAREST else measured).add(report.task)
        if demonstrations and measured - shown:
            typer.echo(f"{', '.join(sorted(measured - shown))}: {NOT_SHOWN}", err=True)
        return
    from trainer.rewards.edge import EdgeReward
    from trainer.rewards.evaluation.clips import evaluate_clips
    from trainer.rewards.evaluation.models import named, video_models
    from trainer.rewards.evaluation.provenance import provenance
    from trainer.rewards.evaluation.saving import as_json, as_text, save
    from trainer.rewards.evaluation.suite import evaluate_bench
    from trainer.rewards.opening import options_of

    given = named(answers or [], "answers")
    models = video_models(package or [], reward or [], options_of(option or []), seed)
    _require_eye(demonstrations, any(isinstance(model, EdgeReward) for model in models.values()))
    on_bench = (
        evaluate_bench(
            bench,
            models,
            given,
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
    identities = {name: model.model_id for name, model in models.items()}
    made = provenance(line, seed, identities, [*(data or []), *(fit or [])])
    if output:
        save(output, reports, on_bench, made)
    found = as_json(reports, on_bench, made)
    typer.echo(to_json.encode(found).decode() if json else as_text(reports, on_bench))


def _require_eye(demonstrations: list[Path] | None, there: bool) -> None:
    if demonstrations and not there:
        raise ConfigError(
            "--demonstrations: the nearest-neighbour baseline sees as an edge model does",
            expected="an edge package",
            found="none",
            remedy="name one with --package, or leave --demonstrations out",
        )


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
