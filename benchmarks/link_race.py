"""How many frames a second, and per second of CPU: our stream, bare pyzmq, pickled arrays over gRPC.

Each pair of ends runs alone, in two processes on loopback, in turns, so that a machine that slows down slows
all of them down. A frame is one tick's pictures: two RGB-D cameras at 640x480.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import link_scene
from contracts.errors import EntracteError

PICKLE_PEER = Path(__file__).resolve().parent / "pickle_over_grpc.py"
PATIENCE_S = 120.0


class Lane(msgspec.Struct, frozen=True):
    """One way of sending. `frames_s`: frames arrived a second; `frames_cpu_s`: per second of CPU of both
    ends; `mb_frame`: what a frame is on the wire."""

    name: str
    frames_s: float = 0.0
    frames_cpu_s: float = 0.0
    mb_frame: float = 0.0
    how: str = ""
    absent: str = ""


def race(
    seconds: float, rounds: int, lerobot: str = "", say: Callable[[str], None] = lambda line: None
) -> list[Lane]:
    """Medians over the rounds, in order: ours, pyzmq, both again without CURVE, ours with pictures en- and
    decoded, gRPC. `lerobot`: a Python with LeRobot and grpcio; without, the peer is re-created by hand."""
    with tempfile.TemporaryDirectory(prefix="entracte-bench-") as folder:
        pictures = Path(folder) / "pictures.npz"
        np.savez(pictures, **_arrays())  # type: ignore[arg-type]
        lanes: dict[str, tuple[list[str], list[str]]] = {
            "ours, encrypted": _ours("ours"),
            "bare pyzmq, encrypted": _ours("zmq"),
            "ours, plain": _ours("ours", "--plain"),
            "bare pyzmq, plain": _ours("zmq", "--plain"),
            "ours, encrypted, pictures en- and decoded": _ours("ours", "--encode"),
            "pickled arrays over gRPC, plain": _pickled(lerobot or sys.executable, pictures),
        }
        found: dict[str, list[tuple[float, float, float]]] = {}
        how: dict[str, str] = {}
        absent: dict[str, str] = {}
        for number in range(rounds):
            for name, ends in lanes.items():
                say(f"round {number + 1} of {rounds}: {name}")
                try:
                    figures, how[name] = _run(*ends, seconds)
                    found.setdefault(name, []).append(figures)
                except (EntracteError, subprocess.TimeoutExpired) as error:
                    absent[name] = str(error)[:300]
    return [
        _lane(name, found[name], how[name]) if name in found else Lane(name, absent=absent[name])
        for name in lanes
    ]


def _lane(name: str, runs: list[tuple[float, float, float]], how: str) -> Lane:
    frames_s, frames_cpu_s, mb_frame = (statistics.median(v) for v in zip(*runs, strict=True))
    return Lane(name, frames_s, frames_cpu_s, mb_frame, how)


def _arrays() -> dict[str, np.ndarray]:
    found = {}
    for number, moment in enumerate(link_scene.views()):
        for camera, (rgb, depth) in moment.items():
            found[f"{number}/{camera}.colour"] = rgb
            found[f"{number}/{camera}.depth"] = depth
    return found


def _ours(kind: str, *more: str) -> tuple[list[str], list[str]]:
    base = [sys.executable, "-m", "benchmarks.link_ends", kind]
    return [*base, "receive", *more], [*base, "send", *more]


def _pickled(python: str, pictures: Path) -> tuple[list[str], list[str]]:
    base = [python, str(PICKLE_PEER)]
    return [*base, "receive"], [*base, "send", "--pictures", str(pictures)]


def _run(
    receive: list[str], send: list[str], seconds: float
) -> tuple[tuple[float, float, float], str]:
    """(frames a second, frames per CPU second of both ends, MB a frame), and how, as the receiver says."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": environment,
    }
    with subprocess.Popen(receive, **pipes) as receiver:
        try:
            assert receiver.stdout is not None
            first = receiver.stdout.readline()
            if not first:
                raise EntracteError("a receiver did not start", found=_last_line(receiver))
            told = json.loads(first)
            more = [
                f"--{key}={told[key]}" for key in ("address", "server", "secret") if key in told
            ]
            sender = subprocess.run(
                [*send, *more, "--seconds", str(seconds)],
                **pipes,
                timeout=PATIENCE_S + seconds,
                check=False,
            )
            if sender.returncode:
                raise EntracteError("a sender failed", found=sender.stderr.strip()[-300:])
            sent = json.loads(sender.stdout.splitlines()[-1])
            arrived = json.loads(receiver.communicate(timeout=PATIENCE_S)[0].splitlines()[-1])
        finally:
            receiver.kill()
    frames = arrived["frames"]
    if not frames:
        raise EntracteError("nothing arrived", found=sent)
    cpu_s = sent["cpu_s"] + arrived["cpu_s"]
    figures = frames / arrived["wall_s"], frames / cpu_s, arrived["bytes"] / frames / 1e6
    return figures, str(told.get("as", ""))


def _last_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    lines = process.stderr.read().strip().splitlines()
    return lines[-1] if lines else f"exit code {process.wait()}"
