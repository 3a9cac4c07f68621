"""`robot-export quantize`: a package in fp16 or INT8, or a refusal that says which joint and why."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Precision(str, Enum):
    fp16 = "fp16"
    int8 = "int8"


def command(
    package: Annotated[Path, typer.Argument(help="Folder of the float32 package.")],
    output: Annotated[Path, typer.Argument(help="Folder of the package to write.")],
    precision: Annotated[Precision, typer.Option(help="Of the trunk; the head stays float32.")],
    calibration: Annotated[
        Path | None, typer.Option(help="Set of robot-calibrate quantization.")
    ] = None,
    recorded: Annotated[
        list[Path] | None, typer.Option(help="Data set to draw a set from (repeat).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of a set that is drawn here.")] = 0,
    method: Annotated[str, typer.Option(help="auto, minmax, percentile or entropy.")] = "auto",
    keep_float: Annotated[
        int | None,
        typer.Option(min=0, help="Most sensitive layers left in float32 (default: auto)."),
    ] = None,
    action_limit: Annotated[
        float, typer.Option(help="Largest p99 of a joint's error, percent of its range.")
    ] = 2.0,
    bench: Annotated[str, typer.Option(help="Task of the bench for the closed-loop gate.")] = "",
    episodes: Annotated[int, typer.Option(min=1, help="Paired episodes on the bench.")] = 200,
    success_limit: Annotated[
        float, typer.Option(help="Points that the interval of the difference may reach down.")
    ] = 10.0,
    report: Annotated[
        Path | None, typer.Option(help="Folder of the report (default: beside the package).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Quantise a package's trunk; refuse, and write nothing, when its actions or its success suffer."""
    from export.libraries import require

    require("quantize", "onnx")
    from calibration.quantization.card import read_set
    from calibration.quantization.draw import draw
    from contracts.errors import ConfigError, EntracteError
    from contracts.files.packages import load_package, require_place
    from export.parity.bench import require_enough, require_task
    from export.quantize.build import Options, quantize
    from export.quantize.progress import Progress
    from export.quantize.report import Report, require_folder, write

    if (calibration is None) == (not recorded):
        raise ConfigError(
            "what to calibrate with", expected="either --calibration SET or --recorded DATASET"
        )
    beside = report or output.with_name(f"{output.name}-quantization")
    require_place(output, package)
    require_folder(beside)
    if bench:
        require_task(bench)
        require_enough(episodes, success_limit)
    loaded = load_package(package)
    asked = _asked(locals())
    drawn = (
        read_set(calibration)
        if calibration
        else draw(loaded, recorded or [], seed=seed, command=asked)
    )
    options = Options(
        precision=precision.value,
        method=method,
        keep_float=keep_float,
        action_limit=action_limit,
        success_limit=success_limit,
        task=bench,
        episodes=episodes if bench else 0,
        command=asked,
    )
    found = Report(
        precision.value,
        package.resolve().name,
        loaded.package_id,
        asked,
        {"action": action_limit, "success": success_limit},
        drawn.card,
    )
    if drawn.card.fitness != "good":
        typer.echo(f"the set is {drawn.card.fitness}: {'; '.join(drawn.card.findings)}", err=True)
    tell = Progress()
    try:
        quantize(loaded, drawn, output, options, found, tell)
    except EntracteError as error:
        found.refused = str(error)
        if report is not None:
            write(report, found)
        raise
    finally:
        tell.end()
    write(beside, found)
    typer.echo(found.json().decode() if json else found.text())
    typer.echo(f"{found.verdict(output)}. Report in {beside}", err=json)


def _asked(given: dict[str, object]) -> str:
    """The command, to be typed again."""
    from contracts.files.typed import typed

    words: list[object] = ["robot-export", "quantize", given["package"], given["output"]]
    words += ["--precision", given["precision"].value]  # type: ignore[attr-defined]
    if given["calibration"] is not None:
        words += ["--calibration", given["calibration"]]
    for one in given["recorded"] or ():  # type: ignore[attr-defined]
        words += ["--recorded", one]
    if given["recorded"]:
        words += ["--seed", given["seed"]]
    if given["method"] != "auto":
        words += ["--method", given["method"]]
    if given["keep_float"] is not None:
        words += ["--keep-float", given["keep_float"]]
    words += ["--action-limit", f"{given['action_limit']:g}"]
    if given["bench"]:
        words += ["--bench", given["bench"], "--episodes", given["episodes"]]
        words += ["--success-limit", f"{given['success_limit']:g}"]
    return typed(words)
