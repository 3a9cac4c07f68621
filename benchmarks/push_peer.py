"""LeRobot's learner and actor as processes of their own, pushing the tensors that our publisher pushes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.relay import Relay
from contracts.errors import EntracteError
from contracts.files.packages import safetensors_bytes

SCRIPT = Path(__file__).with_name("lerobot_push.py")
PATH = "ENTRACTE_LEROBOT_PATH"
"""Folders for its PYTHONPATH: LeRobot comes without grpcio unless its extra was installed."""


class PeerPush(msgspec.Struct, frozen=True):
    """Milliseconds, medians: `publish` (torch.save and queued), `arrived` (bytes at the actor), `idle` (the
    actor loads them, in its loop). Bytes of one push: `payload` of torch.save, `wire` over TCP both ways."""

    kind: str
    publish: float
    arrived: float
    idle: float
    whole: float
    longest: float
    payload: float
    wire: float


def measure_peer(python: str, series: Sequence[dict[str, np.ndarray]], folder: Path) -> PeerPush:
    """Pushes `series[1:]` one after the other. Raises `EntracteError` where a process of the peer ends."""
    folder.mkdir(parents=True)
    (folder / "0.safetensors").write_bytes(safetensors_bytes(series[0]))
    environment = {**os.environ, "PYTHONPATH": os.environ.get(PATH, "")}
    learner = _start(python, ["learner", "--weights", str(folder)], environment)
    actor = None
    spent: list[tuple[float, float, float, float]] = []
    try:
        hello = _read(learner)
        with Relay(("127.0.0.1", int(hello["port"]))) as relay:
            address = f"127.0.0.1:{relay.port}"
            arguments = ["actor", "--weights", str(folder), "--address", address]
            actor = _start(python, arguments, environment)
            kind = str(_read(actor)["kind"])
            wire, payload = [], []
            for number in range(1, len(series)):
                path = folder / f"{number}.safetensors"
                path.write_bytes(safetensors_bytes(series[number]))
                before = relay.passed
                assert learner.stdin is not None
                learner.stdin.write(f"push {number}\n")
                learner.stdin.flush()
                said, got = _read(learner), _read(actor)
                path.unlink()
                wire.append(relay.passed - before)
                payload.append(int(got["nbytes"]))
                spent.append(
                    (
                        said["published_s"] - said["begin_s"],
                        got["arrived_s"] - said["published_s"],
                        got["idle_s"],
                        got["loaded_s"] - said["begin_s"],
                    )
                )
            actor.kill()  # before the relay goes, or it would complain
    finally:
        for process in (learner, actor):
            if process is not None:
                process.kill()
                process.wait()
    publish, arrived, idle, whole = ([1e3 * each[i] for each in spent[1:]] for i in range(4))
    return PeerPush(
        kind=kind,
        publish=statistics.median(publish),
        arrived=statistics.median(arrived),
        idle=statistics.median(idle),
        whole=statistics.median(whole),
        longest=max(whole),
        payload=statistics.median(payload[1:]),
        wire=statistics.median(wire[1:]),
    )


def _start(python: str, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, str(SCRIPT), *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _read(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next JSON line; LeRobot's own lines are passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise EntracteError(
        "the peer ended", found=f"exit code {process.wait()}", remedy="see its messages above"
    )
