"""The reward server as a program: its configuration, loading of models by registered name, start and stop."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from contracts.config import apply_overrides, convert, parse
from contracts.errors import ConfigError
from contracts.reward_service import Health, ModelState
from trainer.interfaces import VideoRewardModel
from trainer.reward_service.client import health
from trainer.reward_service.service import Limits, RewardService
from trainer.rewards.opening import open_video_model

SELFTEST_TIMEOUT_S = 600.0


class ModelSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`reward`: a name of the entry-point group `entracte.reward_models`; the rest is what it takes."""

    reward: str
    package: str = ""
    demonstrations: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    seed: int = 0


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The server's file. `threads`: of torch, a call of a model."""

    address: str = "tcp://127.0.0.1:5710"
    limits: Limits = Limits()
    models: dict[str, ModelSection] = {}
    selftest_instruction: str = ""
    threads: int = 0


def load_config(
    path: Path | None, package: Path | None = None, overrides: Sequence[str] = ()
) -> ServeConfig:
    """The file with overrides; `package` adds model "edge". Raises `ConfigError`."""
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = parse(path.read_text(), str(path))
        except OSError as error:
            raise ConfigError(f"can't read {path}", found=error.strerror) from error
    if package is not None:
        tree = apply_overrides(tree, ["models.edge.reward=edge", f"models.edge.package={package}"])
    config = convert(apply_overrides(tree, overrides), ServeConfig, str(path or "command line"))
    if not config.models:
        raise ConfigError(
            "no reward model to serve",
            remedy="give --package pretrained/reward-zero-shot, or --config with `models:`",
        )
    return config


def load_model(section: ModelSection) -> VideoRewardModel:
    """Raises `ConfigError` for a model that doesn't judge by pictures alone."""
    return open_video_model(
        section.reward,
        Path(section.package) if section.package else None,
        section.options,
        section.seed,
        [Path(folder) for folder in section.demonstrations],
    )


def serve(config: ServeConfig, as_json: bool) -> None:
    """Until SIGINT or SIGTERM. The first line says the address, when the models have passed their tests."""
    models = {name: load_model(section) for name, section in config.models.items()}
    if config.threads and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(config.threads)
    service = RewardService(
        models,
        config.address,
        config.limits,
        selftest_instruction=config.selftest_instruction,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.stop())
    give_up_s = time.monotonic() + SELFTEST_TIMEOUT_S
    for name, batcher in service.batchers.items():
        batcher.wait_for_selftest(give_up_s - time.monotonic())
        if batcher.selftest != "passed":
            print(f"robot-reward: {name} abstains: {batcher.selftest}", file=sys.stderr)
    said = {
        "address": service.address,
        "models": {n: b.selftest for n, b in service.batchers.items()},
    }
    print(
        json.dumps(said) if as_json else f"serving {', '.join(models)} at {service.address}",
        flush=True,
    )
    try:
        service.run()
    finally:
        service.close()


def check_server(address: str, as_json: bool) -> None:
    """Prints what a running server says of itself, all its models tested again at their next turn. Raises
    `ConfigError` where nobody answers or a model is unwell."""
    found = health(address, selftest=True)
    deadline_s = time.monotonic() + SELFTEST_TIMEOUT_S
    while any(state.busy_s > 0 for state in found.models) and time.monotonic() < deadline_s:
        time.sleep(0.1)
        found = health(address)
    print(msgspec.json.encode(found).decode() if as_json else _table(found))
    unwell = {state.name: state.selftest for state in found.models if state.selftest != "passed"}
    if unwell:
        raise ConfigError(f"reward server {address}", expected="models that are well", found=unwell)


def _table(found: Health) -> str:
    head = (
        f"up {found.uptime_s:.0f} s, {found.sessions} sessions, "
        f"{found.frame_bytes / 2**20:.1f} MiB of frames, {found.malformed} malformed messages"
    )
    return "\n".join([head, *map(_line, found.models)])


def _line(state: ModelState) -> str:
    silent = ", ".join(f"{count} {kind}" for kind, count in sorted(state.abstained.items()))
    latency = (
        ""
        if math.isnan(state.latency_p50_s)
        else f"; latency p50 {state.latency_p50_s * 1e3:.1f} ms, p99 {state.latency_p99_s * 1e3:.1f} ms"
    )
    return (
        f"{state.name}: self-test {state.selftest}; {state.asked} asked, {state.scored} scored"
        f"{f' ({silent} abstained)' if silent else ''} in {state.passes} passes; {state.waiting} waiting, "
        f"busy {state.busy_s:.1f} s{latency}"
    )
