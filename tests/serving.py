"""`robot-trainer serve` as a process, with the plugins of tests/plugin, for tests of whole runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trainer.metrics import read_metrics

ROOT = Path(__file__).resolve().parent.parent
SOCKETS = ("frames", "episodes", "weights", "health")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "tests/plugin"), "OMP_NUM_THREADS": "1"}


def set_(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


class Serving:
    """`with Serving(folder, "reward.model=clock", ...) as trainer:`; `restart` keeps its addresses."""

    def __init__(self, folder: Path, *overrides: str, starter: tuple[str, ...] = ("-m",)) -> None:
        """`starter`: arguments of Python before the module's name."""
        self.folder, self._overrides, self._starter = folder, overrides, starter
        self.endpoints: dict[str, str] = dict.fromkeys(SOCKETS, "tcp://127.0.0.1:0")
        folder.mkdir(parents=True, exist_ok=True)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        path, log = self.folder / "endpoints.json", self.folder / "trainer.log"
        path.unlink(missing_ok=True)
        command = [
            *(sys.executable, *self._starter, "trainer.app", "serve"),
            *("--run-dir", str(self.folder), *set_(*self._overrides)),
            *set_(*(f"listen.{name}={address}" for name, address in self.endpoints.items())),
        ]
        with log.open("ab") as errors:
            process = subprocess.Popen(command, env=ENVIRONMENT, stderr=errors)
        give_up_s = time.monotonic() + 60
        while not path.exists():
            assert process.poll() is None and time.monotonic() < give_up_s, log.read_text()
            time.sleep(0.02)
        found = json.loads(path.read_text())
        self.endpoints = {name: found[name] for name in SOCKETS}
        return process

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(60)

    def restart(self) -> None:
        self.stop(signal.SIGKILL)
        self.process = self._start()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def of(self, kind: str, *names: str) -> list[list[Any]]:
        """These fields of all metrics of a kind."""
        path = self.folder / "metrics.jsonl"
        records = read_metrics(path) if path.exists() else []
        return [[r[name] for name in names] for r in records if r["kind"] == kind]

    def enrol(self, robot: Path) -> None:
        """The trainer's key into a robot's run folder."""
        robot.mkdir(parents=True, exist_ok=True)
        (robot / "trainer.pub").write_bytes((self.folder / "trainer.pub").read_bytes())


def robot_command(
    folder: Path, package: Path, endpoints: dict[str, str], *overrides: str
) -> list[str]:
    """`robot-run start` in `folder`, linked to these addresses."""
    return [
        *(sys.executable, "-m", "runtime.app", "start", "--package", str(package)),
        *("--task", "open-drawer", "--run-dir", str(folder), "--json"),
        *set_(*(f"link.{name}={endpoints[name]}" for name in SOCKETS), *overrides),
    ]
