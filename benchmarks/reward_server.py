"""Throughput of the reward server with many askers at once, as ratios to serial questions in the same
run, and how many forward passes it took.
`python -m benchmarks.reward_server --package pretrained/reward-zero-shot`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Annotated, Any

import msgspec
import numpy as np
import typer

from contracts.frames import FrameContract, Video
from contracts.reward_service import Health
from trainer.interfaces import VideoRewardModel
from trainer.reward_service.client import RemoteReward, connect, health
from trainer.reward_service.program import ModelSection, load_model
from trainer.reward_service.service import Limits, RewardService


class Load(msgspec.Struct, frozen=True):
    """What is asked in a round: `questions` about videos of `frames` moments, by `askers` at once."""

    questions: int = 32
    askers: int = 16
    frames: int = 6
    instruction: str = "open the drawer"


class Measured(msgspec.Struct, frozen=True):
    """Seconds are medians over the rounds for all questions of one: `direct_s` in serial calls of the model
    in its own process, `serial_s` by one asker of the server, each after the last answer, `concurrent_s` by
    all askers at once. Ratios are of throughputs, each round compared with itself. `passes`: of the
    concurrent rounds, forward passes of the model, or its calls where it doesn't count them."""

    load: Load
    rounds: int
    direct_s: float
    serial_s: float
    concurrent_s: float
    over_serial: float
    over_direct: float
    passes: int
    questions_a_pass: float
    abstained: int


def measure(model: VideoRewardModel, load: Load, rounds: int) -> Measured:
    """The askers are a process of their own. Every round has new pixels: nothing was computed before."""
    limits = Limits(batch=load.askers)
    service = RewardService(
        {"model": model}, "tcp://127.0.0.1:0", limits, selftest_instruction=load.instruction
    )
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        service.batchers["model"].wait_for_selftest(600)
        with _Askers(service.address, load) as askers:
            askers.round("serial", 0)  # the first of its kind is slow
            rows = [_round(model, load, askers, service.address, n + 1) for n in range(rounds)]
    finally:
        service.stop()
        thread.join()
        service.close()
    direct, serial, together = (
        [row[i] for row in rows] for i in ("direct_s", "serial_s", "concurrent_s")
    )
    passes = int(sum(row["passes"] for row in rows))
    return Measured(
        load,
        rounds,
        statistics.median(direct),
        statistics.median(serial),
        statistics.median(together),
        statistics.median(a / b for a, b in zip(serial, together, strict=True)),
        statistics.median(a / b for a, b in zip(direct, together, strict=True)),
        passes,
        load.questions * rounds / max(1, passes),
        int(sum(row["abstained"] for row in rows)),
    )


def _round(
    model: VideoRewardModel, load: Load, askers: _Askers, address: str, number: int
) -> dict[str, float]:
    videos = some_videos(model.contract, load, 3 * number)
    started_s = time.perf_counter()
    for video in videos:
        model.score(video, load.instruction)
    direct_s = time.perf_counter() - started_s
    serial_s, _ = askers.round("serial", 3 * number + 1)
    before = _passes(model, health(address))
    concurrent_s, abstained = askers.round("concurrent", 3 * number + 2)
    passes = _passes(model, health(address)) - before
    return {
        "direct_s": direct_s,
        "serial_s": serial_s,
        "concurrent_s": concurrent_s,
        "passes": passes,
        "abstained": abstained,
    }


def _passes(model: VideoRewardModel, state: Health) -> int:
    forwards = getattr(getattr(model, "engine", None), "forwards", None)
    return int(forwards) if forwards is not None else state.models[0].passes


class _Askers:
    """The asking process; one round a line."""

    def __init__(self, address: str, load: Load) -> None:
        words = [sys.executable, "-m", "benchmarks.reward_server", "--ask", address]
        self._process = subprocess.Popen(
            [*words, "--load", msgspec.json.encode(load).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> _Askers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stdin.close()
        self._process.wait(60)

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def round(self, kind: str, seed: int) -> tuple[float, int]:
        """Seconds, and how many answers abstained."""
        assert self._process.stdout is not None
        print(kind, seed, file=self._stdin, flush=True)
        took_s, abstained = self._process.stdout.readline().split()
        return float(took_s), int(abstained)


def ask(address: str, load: Load) -> None:
    """The asking process: a line "serial SEED" or "concurrent SEED" in, "seconds abstained" out."""
    remotes = [connect(address, deadline_s=600.0) for _ in range(load.askers)]
    for line in sys.stdin:
        kind, seed = line.split()
        videos = some_videos(remotes[0].contract, load, int(seed))
        askers = remotes if kind == "concurrent" else remotes[:1]
        started_s = time.perf_counter()
        abstained = _at_once(askers, videos, load.instruction)
        print(time.perf_counter() - started_s, abstained, flush=True)


def _at_once(remotes: Sequence[RemoteReward], videos: Sequence[Video], instruction: str) -> int:
    """Every asker its share, one question after the other; how many abstained."""

    def share(index: int) -> int:
        mine = videos[index :: len(remotes)]
        return sum(bool(remotes[index].score(video, instruction).abstained) for video in mine)

    with ThreadPoolExecutor(len(remotes)) as pool:
        return sum(pool.map(share, range(len(remotes))))


def some_videos(contract: FrameContract, load: Load, seed: int) -> list[Video]:
    """Noise of 128 by 96 pixels at the contract's rate: what is in a picture costs the same."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(load.frames) / contract.rate_hz
    shape = (load.frames, 96, 128, 3)
    return [
        Video(
            {c: rng.integers(0, 255, shape, np.uint8) for c in contract.cameras or ("front",)},
            times_s,
            np.arange(load.frames),
        )
        for _ in range(load.questions)
    ]


def main(
    reward: Annotated[str, typer.Option(help="registered reward model")] = "edge",
    package: Annotated[str, typer.Option(help="its package")] = "",
    options: Annotated[str, typer.Option(help="its options as JSON")] = "{}",
    load: Annotated[
        str, typer.Option(help="questions, askers, frames, instruction as JSON")
    ] = "{}",
    rounds: Annotated[int, typer.Option(help="direct, serial and concurrent, in turn")] = 5,
    threads: Annotated[int, typer.Option(help="of torch; 0 leaves them")] = 0,
    ask_: Annotated[str, typer.Option("--ask", hidden=True)] = "",
) -> None:
    """One JSON line: seconds, ratios, forward passes."""
    asked = msgspec.json.decode(load, type=Load)
    if ask_:
        ask(ask_, asked)
        return
    chosen: dict[str, Any] = json.loads(options)
    model = load_model(ModelSection(reward, package, (), chosen))
    if threads:
        import torch

        torch.set_num_threads(threads)
    typer.echo(msgspec.json.encode(measure(model, asked, rounds)).decode())


if __name__ == "__main__":
    typer.run(main)
