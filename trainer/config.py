"""The trainer's configuration: what every key of hw_configs/trainer.yaml means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from contracts.config import apply_overrides, convert, parse
from contracts.errors import ConfigError

DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "hw_configs" / "trainer.yaml"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: a key that isn't declared here is an error."""


class ListenSection(_Section, frozen=True):
    """Addresses that the trainer binds: `tcp://<interface or address>:<port>`, never all interfaces at once.
    Port 0 takes a free one; `endpoints.json` says which. `curve`: "auto" asks for keys off loopback, "always"
    there, too. `enroll`: bound only while `robot-trainer enroll` waits."""

    frames: str = "tcp://127.0.0.1:5701"
    episodes: str = "tcp://127.0.0.1:5702"
    weights: str = "tcp://127.0.0.1:5703"
    health: str = "tcp://127.0.0.1:5704"
    enroll: str = "tcp://127.0.0.1:5705"
    curve: Literal["auto", "always"] = "auto"


class LimitsSection(_Section, frozen=True):
    """Of each robot on each socket: what comes faster is thrown away and counted, and who goes on is cut off
    for `rest_s`. `held_mib`: most that may wait unread in memory. `silent_connections`: of all that never
    said anything."""

    messages_per_s: float = 2000.0
    mib_per_s: float = 256.0
    held_mib: int = 256
    rest_s: float = 5.0
    silent_connections: int = 256


class RewardSection(_Section, frozen=True):
    """`model`: a name of the entry-point group `entracte.reward_models`. `labels`: whose word says whether an
    episode that is learned from succeeded: "operator", where a label came with it, and "model"; a person's
    wins, and monitors hold the model's own against it. `live`: let it look at frames
    while an episode is still running (changes when work is done, never a score). `timeout_s`: per
    episode; a model that takes longer abstains for it. `purposes`: episodes of these are scored."""

    model: str = "edge"
    package: str = ""
    options: dict[str, Any] = {}
    labels: tuple[Literal["operator", "model"], ...] = ("model",)
    live: bool = True
    timeout_s: float = 120.0
    purposes: tuple[str, ...] = ("refine",)


class RefinerSection(_Section, frozen=True):
    """`kind`: a name of the group `entracte.refiners`, empty to store and score only. `package`: the
    policy package that is refined. `device`: where gradient steps are made, "cpu", "cuda", "cuda:<number>" or
    "auto" (a GPU where there is one). `processes`: that share every batch of an update; on GPUs one each."""

    kind: str = "bestofn"
    package: str = ""
    device: str = "cpu"
    processes: int = 1
    options: dict[str, Any] = {}


class AdaptationSection(_Section, frozen=True):
    """Adapts the robot's own reward head between episodes. `package`: the edge reward package that the robot
    runs, empty for never. `labels`: whose word counts, "operator" (a person's) and "model" (the trainer's
    reward model, where it is another than the robot's); a person's wins. `options`: see
    `trainer.rewards.adaptation.AdaptationOptions`."""

    package: str = ""
    labels: tuple[str, ...] = ("operator", "model")
    options: dict[str, Any] = {}


class SecondSection(_Section, frozen=True):
    """Who else judges every episode. `model`: "robot" for what the robot's own reward said while it acted, or
    its package where ours taught its head; a name of `entracte.reward_models`; or empty for nobody.
    `threshold`: of the robot's completion, 0 for that of `adaptation.package`, else 0.5; a model of ours has
    its own."""

    model: str = "robot"
    package: str = ""
    options: dict[str, Any] = {}
    threshold: float = 0.0


class AuditSection(_Section, frozen=True):
    """Which episodes a person is asked to label: each with the chance `share`, and the more the two rewards
    differ the more likely, up to surely, unless `most_open` wait already."""

    share: float = 0.1
    most_open: int = 40


class MonitorsSection(_Section, frozen=True):
    """Sequential tests of whether the reward is being gamed; one that trips pauses refinement.
    `false_alarms`: chance of a pause in a run, however long, whose reward is sound. Sound is: at every
    moment, of all episodes at most `alone`, or of those that the second opinion (or a label) calls failures
    at most `of_failures`, are successes to the reward alone; and that share has grown by at most `growth`
    since the base policy. docs/monitors.md."""

    enabled: bool = True
    false_alarms: float = 0.05
    alone: float = 0.05
    of_failures: float = 0.4
    growth: float = 0.1
    second: SecondSection = SecondSection()
    audit: AuditSection = AuditSection()


class IterationSection(_Section, frozen=True):
    """`episodes`: stored and scored episodes of purpose "refine" per update. `count`: 0 until stopped."""

    episodes: int = 10
    count: int = 0


class ReleaseSection(_Section, frozen=True):
    """`robot_ids`: who may use the releases, empty for any robot that holds the package. `keep`, `keep_mib`:
    how many are kept, and in how much space; the oldest go. `encode`: offer them compressed and as
    differences from what robots hold, too; `bases`: from how many such files at most; `threads`: for large
    ones. `above`: numbers begin above it, where robots have seen those up to it of another trainer."""

    robot_ids: list[str] = []
    valid_s: float = 7 * 86400.0
    keep: int = 40
    keep_mib: int = 4096
    above: int = 0
    encode: bool = True
    bases: int = 2
    threads: int = 2


class StoreSection(_Section, frozen=True):
    """`dataset`: also write every episode to a LeRobotDataset v3.0 per robot. `keep_logs`: keep an
    episode's log after that, too, and after an update has learned from it (where there is no room left for as
    long, until it is in the data set: that update may then read its pictures as video); without
    the data set logs are always kept. `max_episode_mib`: larger ones stay
    on the robot, set aside. `max_mib`: what the logs may take in all, 0 for no limit. `min_free_mib`: of the
    disk stays free. Where either is reached nothing more is asked for: robots keep what they have until there
    is room."""

    dataset: bool = True
    keep_logs: bool = True
    max_episode_mib: int = 2048
    max_mib: int = 0
    min_free_mib: int = 1024


class TrainerConfig(_Section, frozen=True):
    """The whole file. `demonstrations`: LeRobotDataset folders that the base policy was imitated from."""

    seed: int = 0
    threads: int = 1
    demonstrations: list[str] = []
    listen: ListenSection = ListenSection()
    limits: LimitsSection = LimitsSection()
    reward: RewardSection = RewardSection()
    refiner: RefinerSection = RefinerSection()
    adaptation: AdaptationSection = AdaptationSection()
    monitors: MonitorsSection = MonitorsSection()
    iteration: IterationSection = IterationSection()
    release: ReleaseSection = ReleaseSection()
    store: StoreSection = StoreSection()


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> TrainerConfig:
    """The YAML file (default: hw_configs/trainer.yaml) with dotted overrides. Raises `ConfigError`."""
    path = path or DEFAULT_CONFIG
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text", expected="UTF-8", found=str(error)) from error
    except OSError as error:
        raise ConfigError(
            f"can't read {path}", found=error.strerror, remedy="give --config <file>.yaml"
        ) from error
    config = convert(apply_overrides(parse(text, str(path)), overrides), TrainerConfig, str(path))
    for name, value, low in (
        ("iteration.episodes", config.iteration.episodes, 1),
        ("iteration.count", config.iteration.count, 0),
        ("refiner.processes", config.refiner.processes, 1),
        ("reward.timeout_s", config.reward.timeout_s, 0.001),
        ("number of reward.labels", len(config.reward.labels), 1),
        ("release.valid_s", config.release.valid_s, 1.0),
        ("release.keep", config.release.keep, 1),
        ("release.keep_mib", config.release.keep_mib, 1),
        ("release.bases", config.release.bases, 0),
        ("release.threads", config.release.threads, 1),
        ("store.max_episode_mib", config.store.max_episode_mib, 1),
        ("store.max_mib", config.store.max_mib, 0),
        ("store.min_free_mib", config.store.min_free_mib, 0),
        ("threads", config.threads, 1),
        ("limits.messages_per_s", config.limits.messages_per_s, 20.0),
        ("limits.mib_per_s", config.limits.mib_per_s, 1.0),
        ("limits.held_mib", config.limits.held_mib, 64),
        ("limits.rest_s", config.limits.rest_s, 0.0),
        ("limits.silent_connections", config.limits.silent_connections, 8),
        ("monitors.audit.most_open", config.monitors.audit.most_open, 0),
    ):
        if not value >= low:
            raise ConfigError(f"{path}: {name}", expected=f">= {low:g}", found=value)
    _check_monitors(config.monitors, f"{path}: monitors")
    return config


def _check_monitors(monitors: MonitorsSection, where: str) -> None:
    for name, value, low, high in (
        ("false_alarms", monitors.false_alarms, 1e-6, 0.5),
        ("alone", monitors.alone, 0.001, 0.9),
        ("of_failures", monitors.of_failures, 0.001, 0.95),
        ("growth", monitors.growth, 0.01, 0.9),
        ("audit.share", monitors.audit.share, 0.001, 1.0),
        ("second.threshold", monitors.second.threshold, 0.0, 1.0),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{where}.{name}", expected=f"{low:g} to {high:g}", found=value)
    if not monitors.alone < monitors.of_failures:
        raise ConfigError(
            f"{where}.alone",
            expected=f"below of_failures, which is {monitors.of_failures:g}",
            found=monitors.alone,
            remedy="it is a share of all episodes, the other one of the failures among them",
        )
