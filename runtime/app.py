"""`robot-run`: the commands of the robot. Owns arguments and what is printed; the work is elsewhere."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from contracts.errors import CheckFailed, ConfigError, EntracteError
from contracts.files import outputs
from contracts.files.dataset_place import require_dataset
from contracts.release import ReleaseManifest
from runtime.commands import blackbox, doctor, enroll, keys, slots
from runtime.config import RobotConfig, load_config
from runtime.demo import command as demo
from runtime.drift import require_in_place
from runtime.link.keys import LinkKeys
from runtime.link.owner import require_own
from runtime.operator.attend import say
from runtime.preflight import check
from runtime.processes.progress import Progress, refining
from runtime.processes.supervisor import Outcome, alone_in, supervise
from runtime.run import RunPlan
from runtime.weights.slots import TargetState

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Run a robot: control, link and watchdog."
)
for verb in (doctor, blackbox, enroll, keys, slots, demo):
    verb.register(app)
EXIT_WRONG_INPUT = 2
WEIGHTS = "weights.safetensors"

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="hardware config; default: the embedded bench")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="override a key: --set loop.rate_hz=30 (repeat)")
]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="run folder to keep")]
PackageOption = Annotated[str, typer.Option("--package", help="policy package (folder)")]
RewardOption = Annotated[str, typer.Option("--reward-package", help="reward package (folder)")]
WeightsOption = Annotated[str, typer.Option("--weights", help="refined head (safetensors file)")]
TaskOption = Annotated[str, typer.Option("--task", help="task of the bench")]
JsonOption = Annotated[bool, typer.Option("--json", help="print the report as JSON")]
WebOption = Annotated[bool, typer.Option("--web", help="serve the operator's page")]
ViewOption = Annotated[bool, typer.Option("--view", help="show the run in Rerun")]
SlotsOption = Annotated[
    Path | None, typer.Option("--slots", help="run folder whose active release is used")
]


def _resolve(config: Path | None, overrides: list[str] | None, **values: object) -> RobotConfig:
    """The file, then the command's own options, then --set, which has the last word."""
    given = [f"{key.replace('__', '.')}={json.dumps(v)}" for key, v in values.items() if v != ""]
    return load_config(config, [*given, *(overrides or [])])


def _run_dir(given: Path | None, verb: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = given or Path("run") / f"{verb}-{stamp}-{secrets.token_hex(2)}"
    outputs.require_room(folder)
    return folder


def _finish(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"exit_code": outcome.code, "what": outcome.what, **outcome.report}))
    elif not outcome.code or outcome.report.get(
        "ticks"
    ):  # of a run that never began there is nothing
        report = outcome.report
        abstained = report.get("rewards_abstained", 0)
        silent = f"{abstained} rewards abstained, " if abstained else ""
        rss = ", ".join(f"{name} {mb:.0f}" for name, mb in report.get("rss_mb", {}).items())
        typer.echo(
            f"{report.get('episodes', 0)} episodes, {report.get('ticks', 0)} ticks, "
            f"missed {report.get('missed_ticks', 0)}, held {report.get('held_ticks', 0)}, "
            f"{silent}lateness p99 {1e3 * report.get('lateness_p99_s', 0.0):.2f} ms, memory (MB): {rss}"
        )
    if (loop := outcome.report.get("loop", {})) and loop["health"] != "ok":
        typer.echo(
            f"robot-run: the loop was irregular ({loop['health']}): of 100 periods "
            f"{100 * loop['worst_success_rate']:.0f} had their tick at worst; docs/loop.md says what helps",
            err=True,
        )
    if outcome.what and outcome.code:
        typer.echo(f"robot-run: {outcome.what}", err=True)
    raise typer.Exit(outcome.code)


@app.command()
def start(
    *,
    package: PackageOption = "",
    reward_package: RewardOption = "",
    task: TaskOption = "",
    config: ConfigOption = None,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    episodes: Annotated[int, typer.Option(help="stop after so many (0: iteration.count)")] = 0,
    weights: WeightsOption = "",
    web: WebOption = False,
    view: ViewOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run episodes for refinement: stream them to the trainer, swap its releases in between."""
    resolved = _resolve(
        config,
        set_,
        policy__package=_absolute(package),
        **_refined(weights, None),
        reward__package=_absolute(reward_package),
        episode__task=task,
        **_for_people(web, view),
    )
    plan = RunPlan(
        purpose="refine", episodes=episodes, sink="link" if resolved.link.enabled else "none"
    )
    check(resolved, plan)
    total = episodes or resolved.iteration.count * resolved.iteration.episodes
    folder = _run_dir(run_dir, "start")
    if plan.sink == "link":
        LinkKeys(resolved.link, folder).client()  # without keys that it needs nothing moves
        require_own(folder / "spool", resolved.robot.id)
    in_place = partial(require_in_place, resolved, folder, say)
    progress = Progress(total, refining, quiet=as_json)
    outcome = supervise(resolved, plan, folder, progress, in_place)
    waiting = outcome.report.get("spooled", 0)
    if waiting:
        typer.echo(
            f"robot-run: {waiting} episode{'s wait' if waiting > 1 else ' waits'} in {folder / 'spool'} "
            f"for the trainer; the next start with --run-dir {folder} sends them (robot-run doctor says "
            "whether it lets this robot in)",
            err=True,
        )
    _finish(outcome, as_json)


@app.command(name="eval")
def evaluate(
    *,
    package: PackageOption = "",
    reward_package: RewardOption = "",
    task: TaskOption = "",
    episodes: Annotated[int, typer.Option("--episodes", help="how many scenes")] = 50,
    seed_base: Annotated[int, typer.Option("--seed-base", help="first scene seed")] = 1_000_000,
    first: Annotated[
        int, typer.Option("--first", min=0, help="a block of these scenes: begin at this one")
    ] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", help="truth of every episode (JSON lines)")
    ] = None,
    record: Annotated[Path | None, typer.Option("--record", help="data set to record too")] = None,
    workers: Annotated[
        int, typer.Option("--workers", help="episodes at once; 0: one a processor")
    ] = 1,
    weights: WeightsOption = "",
    slots: SlotsOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run fixed scenes (equal seeds pair two policies). The bench writes the truth; control never sees it."""
    resolved = _resolve(
        config,
        set_,
        policy__package=_absolute(package),
        **_refined(weights, slots),
        reward__package=_absolute(reward_package),
        episode__task=task,
        episode__seed_base=seed_base,
        bench__truth_file=_absolute(str(output)) if output else "",
    )
    plan = RunPlan(
        purpose="evaluate",
        episodes=episodes,
        first=first,
        sink="dataset" if record else "none",
        output=_absolute(str(record)) if record else "",
    )
    check(resolved, plan)
    if record:
        require_dataset(record)
    if output:
        earlier = outputs.json_with("session_id", "seed", "success")
        outputs.require_file(output, "the truth of episodes", earlier)
    if workers != 1:
        # Brings along what data sets are put together with, which one robot's start need not wait for.
        from runtime.processes.crew import Crew, choose_workers

        workers = choose_workers(resolved, workers, episodes)
    folder, progress = _run_dir(run_dir, "eval"), Progress(episodes, quiet=as_json)
    in_place = partial(require_in_place, resolved, folder, say)
    if workers > 1:
        with alone_in(folder):
            in_place()
            outcome = Crew(resolved, plan, folder, workers, progress).run()
    else:
        outcome = supervise(resolved, plan, folder, progress, in_place)
    if record:
        _recorded(outcome, folder, record, as_json)
    truth = folder.resolve() / resolved.bench.truth_file
    if resolved.bench.enabled and truth.exists():
        session = outcome.report.get("session_id")
        rows = [json.loads(line) for line in truth.read_text().splitlines()]
        mine = [row for row in rows if row["session_id"] == session and row["reason"] != "rerecord"]
        successes = sum(row["success"] for row in mine)
        outcome.report |= {"successes": successes, "of": len(mine)}
        if mine and not as_json:
            share = 100 * successes / len(mine)
            typer.echo(f"success: {successes} of {len(mine)} ({share:.0f} %), truth in {truth}")
    _finish(outcome, as_json)


@app.command()
def record(
    *,
    output: Annotated[Path, typer.Option("--output", help="LeRobotDataset v3.0 (new or to grow)")],
    task: TaskOption = "",
    episodes: Annotated[int, typer.Option("--episodes")] = 50,
    expert: Annotated[bool, typer.Option("--expert", help="the bench's scripted expert")] = False,
    style: Annotated[
        str, typer.Option(help="expert, failures, or styles by name, comma-separated")
    ] = "",
    split: Annotated[str, typer.Option(help="train or eval scenes")] = "",
    seed_base: Annotated[int, typer.Option("--seed-base", help="first scene seed")] = 0,
    keep: Annotated[str, typer.Option(help="all or success")] = "all",
    labels: Annotated[bool, typer.Option(help="the bench's progress with every step")] = False,
    teleoperate: Annotated[
        bool, typer.Option("--teleoperate", help="a person moves the arm (operator.teleoperator)")
    ] = False,
    web: WebOption = False,
    view: ViewOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record a teleoperator's episodes as a data set (demonstrations, clips for reward models)."""
    if expert == teleoperate:
        _wrong(
            "recording needs one who moves the arm: give --teleoperate, or --expert on the bench"
        )
    resolved = _resolve(
        config,
        set_,
        episode__task=task,
        episode__seed_base=seed_base,
        bench__split=split,
        **_for_people(web, view),
    )
    if teleoperate and not resolved.operator.teleoperator:
        _wrong("set operator.teleoperator: who should move the arm?")
    plan = msgspec.convert(
        {
            "purpose": "record",
            "driver": "expert" if expert else "person",
            "style": style,
            "episodes": episodes,
            "sink": "dataset",
            "output": _absolute(str(output)),
            "label_steps": labels,
            "keep": keep,
        },
        RunPlan,
    )
    check(resolved, plan)
    require_dataset(output)
    folder = _run_dir(run_dir, "record")
    in_place = partial(require_in_place, resolved, folder, say)
    outcome = supervise(resolved, plan, folder, Progress(episodes, quiet=as_json), in_place)
    _recorded(outcome, folder, output, as_json)
    _finish(outcome, as_json)


def _recorded(outcome: Outcome, folder: Path, output: Path, as_json: bool) -> None:
    """What the recorder reports, and every sentence that it said."""
    path = folder / "recorder.json"
    if not path.exists():
        return
    found = json.loads(path.read_text())
    outcome.report |= found
    if as_json:
        return
    missing = {
        "left out": "dropped",
        "without room": "unrecorded",
        "pictures lost": "pictures_lost",
        "steps lost": "steps_lost",
    }
    said = ", ".join(f"{found[key]} {words}" for words, key in missing.items() if found[key])
    typer.echo(
        f"recorded {found['kept']} episodes to {output}{f' ({said})' if said else ''}"
        f"{_with_those_before(output, found['kept'])}"
    )
    for note in found["notes"]:
        typer.echo(f"robot-run: {note}", err=True)


def _with_those_before(output: Path, kept: int) -> str:
    """What a data set that grew holds by now, as its head says; nothing of a new one."""
    try:
        total = int(json.loads((output / "meta" / "info.json").read_text())["total_episodes"])
    except (OSError, ValueError, KeyError):
        return ""
    return f", {total} in all ({total - kept} were there)" if total > kept else ""


@app.command()
def selftest(
    config: ConfigOption = None,
    set_: SetOption = None,
    trip_watchdog: Annotated[
        bool, typer.Option("--trip-watchdog", help="trip every stop there is")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Trip the gate and the watchdog on the bench: how soon is the arm in hold, how soon does it stand?"""
    from runtime.selftest import run_selftest

    results = run_selftest(_resolve(config, set_), trip_watchdog=trip_watchdog)
    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(result) for result in results]))
    else:
        for result in results:
            typer.echo(str(result))
    raise typer.Exit(0 if all(result.ok for result in results) else 1)


def _refined(weights: str, slots: Path | None) -> dict[str, object]:
    """Overrides for refined weights: the file, and how many chunks its release lets the critic choose
    from. `slots` is the run folder whose release in force is meant."""
    if slots is not None:
        force = _slots_state(slots / "slots" / "policy").in_force
        if force is None:
            return {}  # the package's own weights, as on the robot
        path, release = slots / "slots" / "policy" / force[0] / WEIGHTS, force[1].manifest
    elif weights:
        path, release = Path(weights), None
        manifest = path.with_name("manifest.json")
        if manifest.exists():  # the trainer's own folder of a release
            with contextlib.suppress(msgspec.ValidationError):
                release = msgspec.json.decode(manifest.read_bytes(), type=ReleaseManifest)
    else:
        return {}
    chosen: dict[str, object] = {"policy__weights": _absolute(str(path))}
    if release is not None:
        chosen["policy__samples"] = release.samples
    return chosen


def _for_people(web: bool, view: bool) -> dict[str, object]:
    """Overrides for --web and --view; without them the file decides."""
    return {
        **({"operator__web": True} if web else {}),
        **({"operator__view": True} if view else {}),
    }


def _slots_state(folder: Path) -> TargetState:
    try:
        return msgspec.json.decode((folder / "state.json").read_bytes(), type=TargetState)
    except OSError as error:
        raise ConfigError(f"no slots at {folder}", found=error.strerror) from error


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if path else ""


def _wrong(what: str) -> None:
    typer.echo(f"robot-run: {what}", err=True)
    raise typer.Exit(EXIT_WRONG_INPUT)


def main() -> None:
    """Entry point: one clear sentence and an exit code for whatever a user can get wrong; 1 for a check that
    was made and failed."""
    try:
        app()
    except EntracteError as error:
        typer.echo(f"robot-run: {error}", err=True)
        sys.exit(1 if isinstance(error, CheckFailed) else EXIT_WRONG_INPUT)
    except msgspec.ValidationError as error:
        typer.echo(f"robot-run: {error}", err=True)
        sys.exit(EXIT_WRONG_INPUT)


if __name__ == "__main__":
    main()
