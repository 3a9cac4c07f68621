"""Every file of a run folder that the report reads, parsed into `rows`. The one place that knows formats.

Robot: `robot/config.json`, `robot/truth.jsonl`, `robot/spool`; evaluations: `eval/base.jsonl`,
`eval/final.jsonl` (truth), `eval/base/dataset`, `eval/final/dataset` (recordings),
`eval/*/run/config.json`. Trainer: `trainer/metrics.jsonl`, `trainer/store`, `trainer/releases`. Demo:
`demo.json`. Any of them may be absent, and a last line cut off: what can't be read is left out and said
in `missing`, never guessed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import EntracteError
from contracts.files.dataset_reader import DatasetReader
from contracts.files.log_to_dataset import read_episode
from contracts.messages import ABORTED, EpisodeEnd, EpisodeStart, SessionStart
from contracts.reward import RewardSignal
from trainer.report import engine, files, iterations
from trainer.report.files import number
from trainer.report.monitoring import monitoring
from trainer.report.recordings import DatasetRecording, LogRecording
from trainer.report.releases import releases
from trainer.report.rows import (
    STOPPED,
    Episode,
    Iteration,
    Judgement,
    Process,
    RunData,
    Truth,
)

Key = tuple[str, int]


@dataclass
class _Found:
    """What is being gathered."""

    episodes: dict[Key, Episode] = field(default_factory=dict)
    arrival: dict[Key, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def load_run(folder: Path) -> RunData:
    """Whatever there is of the run in `folder`. Raises `EntracteError` only if there is no such folder."""
    if not folder.is_dir():
        raise EntracteError(
            "no run folder", expected=folder, remedy="give --run-dir as robot-run demo printed it"
        )
    found = _Found()
    demo = files.tree(folder / "demo.json", found.missing, "") or {}
    robot = (
        files.tree(folder / "robot/config.json", found.missing, "The robot was not started") or {}
    )
    metrics = list(
        files.lines(
            folder / "trainer/metrics.jsonl", found.missing, "The trainer's metrics are missing"
        )
    )
    config = robot.get("config", {})
    threshold = engine.threshold(config)
    _add_truth(folder, found)
    _add_recordings(folder, found)
    _add_judgements(metrics, found)
    _add_engine_judgements(folder, found)
    index = _add_arrivals(folder, found)
    done = tuple(iterations.finished(metrics))
    episodes = _in_order(found, number(config.get("episode", {}).get("max_s")))
    per_iteration = int(config.get("iteration", {}).get("episodes", 10))
    episodes = _numbered(episodes, found, index, done, per_iteration)
    _say_what_lacks(episodes, found)
    first = episodes[0] if episodes else None
    return RunData(
        folder=folder,
        task=str(demo.get("task") or (first.task if first else "")),
        instruction=first.instruction if first else "",
        reward=str(demo.get("reward", "")),
        seed=demo.get("seed"),
        planned_iterations=int(demo.get("iterations", 0)),
        ended=str(demo.get("ended", "")),
        started_unix_s=number(demo.get("started_unix_s")),
        ended_unix_s=number(demo.get("ended_unix_s")),
        completion_threshold=threshold,
        episodes=tuple(episodes),
        iterations=done,
        releases=tuple(releases(folder, metrics)),
        monitoring=monitoring(metrics),
        package_bytes=_package_bytes(config),
        processes=tuple(_process(tree) for tree in demo.get("processes", [])),
        versions={str(k): str(v) for k, v in demo.get("versions", {}).items()},
        config={"robot": config, "plan": robot.get("plan", {}), "demo": demo.get("options", {})},
        missing=tuple(found.missing),
    )


# Truth and evaluations


def _add_truth(folder: Path, found: _Found) -> None:
    """Rows of the bench: {task, seed, instruction, episode_seq, session_id, purpose, success, progress,
    steps, reason, policy_version}."""
    paths = [folder / "robot/truth.jsonl", *sorted(folder.glob("eval/**/*.jsonl"))]
    for path in paths:
        for row in files.lines(path, found.missing, ""):
            if "success" not in row or "episode_seq" not in row:
                continue
            key = (str(row.get("session_id", path.stem)), int(row["episode_seq"]))
            found.episodes[key] = Episode(
                session_id=key[0],
                seq=key[1],
                phase=_phase(
                    str(row.get("purpose", "evaluate")), int(row.get("policy_version", 0)), path
                ),
                task=str(row.get("task", "")),
                instruction=str(row.get("instruction", "")),
                seed=int(row.get("seed", -1)),
                policy_version=int(row.get("policy_version", 0)),
                steps=int(row.get("steps", 0)),
                reason=str(row.get("reason", "")),
                truth=Truth(bool(row["success"]), number(row.get("progress"))),
            )


def _phase(purpose: str, policy_version: int, path: Path) -> str:
    """An evaluation is the base's or the final one: by its folder, else by the weights that acted."""
    if purpose != "evaluate":
        return purpose
    for part in (path.stem, *(parent.name for parent in path.parents)):
        if part in ("base", "final"):
            return part
    return "final" if policy_version > 0 else "base"


# Recordings


def _add_recordings(folder: Path, found: _Found) -> None:
    scores = folder / "trainer/store/scores"
    roots = [*folder.glob("trainer/store/dataset/*"), *folder.glob("eval/*/dataset")]
    for root in sorted(path for path in roots if (path / "meta/info.json").exists()):
        try:
            reader = DatasetReader(root)
        except EntracteError as error:
            found.missing.append(f"The data set can't be read: {error}.")
            continue
        for index in range(reader.num_episodes):
            extra = reader.meta(index)["extra"]
            if "start" not in extra:
                continue
            session, start, end = _convert(extra)
            signals = _signals(scores, start)
            _add_episode(found, session, start, end, root)
            key = (start.session_id, start.episode_seq)
            found.arrival[key] = int(extra.get("arrival", index))
            found.episodes[key] = replace(
                found.episodes[key],
                recording=DatasetRecording(reader, index, signals),
                steps=reader.length(index),
                rate_hz=session.loop_rate_hz or float(reader.fps),
            )
    logs = [
        *sorted((folder / "trainer/store/logs").glob("*.elog")),
        *sorted(folder.glob("robot/spool/*.elog")),
        *sorted(folder.glob("eval/*/spool/*.elog")),
    ]
    for path in logs:
        try:
            _add_log(path, scores, found)
        except (EntracteError, OSError) as error:
            found.missing.append(f"One episode can't be read: {error}.")


def _add_log(path: Path, scores: Path, found: _Found) -> None:
    key = _key_of_log(path)
    if key is not None and key in found.episodes and found.episodes[key].recording is not None:
        return
    logged = read_episode(path)
    start = logged.start
    key = (start.session_id, start.episode_seq)
    if logged.torn or not len(logged.columns["action"]):
        lacks = f"was cut off ({logged.torn})" if logged.torn else "has no step"
        found.missing.append(f"Episode {start.episode_seq} {lacks}.")
        return
    _add_episode(found, logged.session, start, logged.end, path)
    found.episodes[key] = replace(
        found.episodes[key],
        recording=LogRecording(path, _signals(scores, start)),
        steps=len(logged.columns["action"]),
        rate_hz=logged.session.loop_rate_hz or logged.session.action.rate_hz,
    )


def _key_of_log(path: Path) -> Key | None:
    """Trainer: robot__session__seq.elog; robot: session_seq.elog. Spares reading what the data set has."""
    parts = path.stem.rsplit("__", 2)
    session, seq = parts[1:] if len(parts) == 3 else path.stem.rsplit("_", 1)
    return (session, int(seq)) if seq.isdigit() else None


def _convert(extra: dict[str, Any]) -> tuple[SessionStart, EpisodeStart, EpisodeEnd]:
    return (
        msgspec.convert(extra["session"], SessionStart),
        msgspec.convert(extra["start"], EpisodeStart),
        msgspec.convert(
            {k: v for k, v in extra["end"].items() if v is not None or k == "operator_success"},
            EpisodeEnd,
        ),
    )


def _add_episode(
    found: _Found, session: SessionStart, start: EpisodeStart, end: EpisodeEnd, path: Path
) -> None:
    key = (start.session_id, start.episode_seq)
    known = found.episodes.get(key)
    phase = known.phase if known else _phase(start.purpose, start.policy_version, path)
    found.episodes[key] = Episode(
        session_id=key[0],
        seq=key[1],
        phase=phase,
        task=start.task,
        instruction=start.instruction,
        seed=start.scene_seed,
        policy_version=start.policy_version,
        steps=end.steps,
        rate_hz=session.loop_rate_hz or session.action.rate_hz,
        reason=end.reason,
        started_unix_s=start.started_at_unix_s,
        timings={name: number(value) for name, value in end.timings.items()},
        label=end.operator_success,
        truth=known.truth if known else None,
    )


def _signals(folder: Path, start: EpisodeStart) -> tuple[RewardSignal, ...]:
    """The trainer's scores of an episode, () where there are none."""
    path = folder / f"{start.robot_id}__{start.session_id}__{start.episode_seq:08d}.json"
    try:
        tree = json.loads(path.read_bytes())
        return tuple(msgspec.convert(signal, RewardSignal) for signal in tree["signals"])
    except (OSError, ValueError, KeyError, msgspec.ValidationError):
        return ()


# The trainer's metrics


def _add_judgements(metrics: list[dict[str, Any]], found: _Found) -> None:
    for row in metrics:
        key = (str(row.get("session_id", "")), int(row.get("episode_seq", -1)))
        if row.get("kind") != "episode" or key not in found.episodes:
            continue
        found.episodes[key] = replace(
            found.episodes[key],
            judgement=Judgement(
                row.get("success"),
                number(row.get("completion")),
                number(row.get("process")),
                _silence(row),
            ),
        )


def _add_engine_judgements(folder: Path, found: _Found) -> None:
    """Evaluations, where their own run had a reward engine."""
    limits = {
        which: engine.threshold((files.tree(path, found.missing, "") or {}).get("config", {}))
        for which in ("base", "final")
        if (path := folder / f"eval/{which}/run/config.json").exists()
    }
    for key, episode in found.episodes.items():
        limit = limits.get(episode.phase, math.nan)
        if episode.recording is not None and not math.isnan(limit):
            judged = engine.judgement(episode.recording.columns(), limit)
            found.episodes[key] = replace(episode, judgement=judged)


def _silence(row: dict[str, Any]) -> str:
    failure = str(row.get("failure") or "").partition(":")[0]
    if failure or row.get("success") is not None:
        return failure
    return STOPPED if row.get("end_reason") == ABORTED else "abstained"


# Putting it together


def _add_arrivals(folder: Path, found: _Found) -> list[int]:
    """Of every episode that the trainer has stored, be it in its data set yet or not; returns the places that
    iterations are counted by."""
    index = []
    for row in files.lines(folder / "trainer/store/index.jsonl", found.missing, ""):
        if {"session_id", "episode_seq", "arrival"} <= row.keys():
            found.arrival[str(row["session_id"]), int(row["episode_seq"])] = int(row["arrival"])
            index.append(row)
    return iterations.places(index)


def _in_order(found: _Found, max_s: float) -> list[Episode]:
    """By phase, training episodes in the order in which the trainer stored them."""
    rank = {"base": 0, "refine": 1, "final": 2}
    keys = sorted(
        found.episodes,
        key=lambda key: (
            rank.get(found.episodes[key].phase, 3),
            found.arrival.get(key, iterations.NOT_STORED),
            found.episodes[key].recording is None,
            found.episodes[key].started_unix_s
            if not math.isnan(found.episodes[key].started_unix_s)
            else 0.0,
            key[1],
        ),
    )
    return [replace(found.episodes[key], max_s=max_s) for key in keys]


def _numbered(
    episodes: list[Episode],
    found: _Found,
    index: list[int],
    done: Sequence[Iteration],
    per_iteration: int,
) -> list[Episode]:
    trained = [episode for episode in episodes if episode.phase == "refine"]
    arrivals = [found.arrival.get((e.session_id, e.seq), iterations.NOT_STORED) for e in trained]
    index = sorted({*index, *(a for a in arrivals if a < iterations.NOT_STORED)})
    numbers = iter(iterations.iterations_of(arrivals, index, done, per_iteration))
    labels = {iteration.number: iteration.labels for iteration in done}
    newest = done[-1].labels if done else ("model",)
    return [
        replace(e, iteration=(it := next(numbers)), labels=labels.get(it, newest))
        if e.phase == "refine"
        else e
        for e in episodes
    ]


def _say_what_lacks(episodes: list[Episode], found: _Found) -> None:
    phases = {episode.phase for episode in episodes}
    for phase, words in (
        ("base", "The base policy was not evaluated"),
        ("refine", "There is no training episode"),
        ("final", "The refined policy was not evaluated"),
    ):
        if phase not in phases:
            found.missing.append(f"{words}.")
    if episodes and all(episode.truth is None for episode in episodes):
        labelled = any(episode.label is not None for episode in episodes)
        found.missing.append(
            "There is no simulator's truth: success is by the operator's label where there is one."
            if labelled
            else "The bench wrote no truth: success is as the reward judged it."
        )


def _package_bytes(config: dict[str, Any]) -> int:
    package = Path(config.get("policy", {}).get("package", ""))
    paths = [path for path in package.glob("*") if path.suffix in (".onnx", ".safetensors")]
    return sum(path.stat().st_size for path in paths) if package.name else 0


def _process(tree: dict[str, Any]) -> Process:
    return Process(
        name=str(tree.get("name", "")),
        command=str(tree.get("command", "")),
        exit_code=tree.get("exit_code"),
        log_tail=tuple(str(line) for line in tree.get("log_tail", ())),
    )
