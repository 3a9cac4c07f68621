"""The verbs `robot-trainer monitors status|resume`: how the reward is judged, and the end of a pause."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.config import TrainerConfig, load_config
from trainer.enroll_command import RunDirOption
from trainer.monitors.records import Records, waiting

app = typer.Typer(
    no_args_is_help=True,
    help="Whether the reward is being gamed: status; resume after a pause. docs/monitors.md",
)


@app.command()
def status(
    run_dir: RunDirOption,
    config: Annotated[Path | None, typer.Option(help="YAML file; hw_configs/trainer.yaml.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
) -> None:
    """Evidence of every monitor, true success as estimated, and whether refinement stands."""
    found = standing(Records(run_dir), load_config(config, set_ or []))
    typer.echo(json.dumps(found) if as_json else _table(found))


@app.command()
def resume(
    run_dir: RunDirOption,
    note: Annotated[str, typer.Option(help="why; kept in the metrics")] = "",
) -> None:
    """Let refinement go on, within a second. Evidence counts anew from the first episode after the pause:
    where those that were held are lies too, refinement pauses again before it learns from them."""
    records = Records(run_dir)
    ended = records.resume(note)
    typer.echo(
        f"refinement goes on; it was paused by {ended.monitor}: {ended.why}\n"
        f"held since then: {records.came_after(ended.arrival)} episodes; they count as evidence first, and "
        "are then refined"
    )


def standing(records: Records, config: TrainerConfig) -> dict[str, Any]:
    """All that `status` says, of the reward model that judged last."""
    from trainer.monitors.verdicts import judged, true_success

    rows, labels, now = records.rows(), records.labels(), records.standing()
    latest = [row for row in rows if row.model_id == rows[-1].model_id]
    success = true_success(latest, labels, config.iteration.episodes)
    said = [row.verdict for row in latest if row.verdict is not None]
    figures = judged(config.monitors, latest, labels, now.since).figures()
    return {
        "paused": {"monitor": now.pause.monitor, "why": now.pause.why} if now.pause else None,
        "paused_for_s": time.time() - now.pause.unix_s if now.pause else None,
        "episodes": len(latest),
        "reward_says": sum(said) / len(said) if said else None,
        "true_success": None
        if math.isnan(success.value)
        else {"value": success.value, "low": success.low, "high": success.high},
        "true_success_over": success.count,
        "waiting": len(waiting(rows, labels)),
        "monitors": {
            figure.monitor: {
                "counted": figure.counted,
                "evidence_log10": figure.log_evidence / math.log(10),
                "limit_log10": figure.limit / math.log(10),
                "words": figure.words,
            }
            for figure in figures
        },
    }


def _table(found: dict[str, Any]) -> str:
    paused, true = found["paused"], found["true_success"]
    lines = ["refinement is not paused"]
    if paused:
        lines = [
            f"refinement is PAUSED by {paused['monitor']}: {paused['why']}",
            "label clips (robot-trainer audit list), mend the reward, then robot-trainer monitors resume",
        ]
    for name, figure in found["monitors"].items():
        stands = f"10^{figure['evidence_log10']:.1f} of 10^{figure['limit_log10']:.1f}"
        lines.append(
            f"{name}: {stands}; {figure['words']}"
            if figure["counted"]
            else f"{name}: blind, nothing to compare with"
        )
    said = "-" if found["reward_says"] is None else f"{100 * found['reward_says']:.0f} %"
    lines.append(f"success as the reward says: {said} of {found['episodes']} episodes")
    over = f"of the {found['true_success_over']} episodes whose audit is settled"
    lines.append(
        f"true success: {100 * true['value']:.0f} % "
        f"({100 * true['low']:.0f} to {100 * true['high']:.0f}, 95 %) {over}"
        if true
        else f"true success: not known, too few labels {over}"
    )
    lines.append(f"{found['waiting']} episodes wait for a label")
    return "\n".join(lines)
