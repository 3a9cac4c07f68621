"""One process of the demo: started with its logs, asked, awaited and, in the end, made to stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.files.orphans import die_with_parent

TAIL_LINES = 12
# Two cores are shared by everything here: libraries must not start threads of their own.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass
class Program:
    """One process with its log. It has a session of its own: Ctrl-C reaches who started it alone. When that
    one is gone, however it went, this one is asked to end."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes]
    output: Path

    @classmethod
    def start(cls, name: str, command: list[str], folder: Path) -> Program:
        folder.mkdir(parents=True, exist_ok=True)
        log, output = folder / f"{name}.log", folder / f"{name}.out"
        with log.open("wb") as errors, output.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env={**_ENVIRONMENT, **os.environ},
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 one system call, no lock taken
            )
        return cls(name, command, log, process, output)

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def tail(self) -> list[str]:
        """The last lines that it wrote, errors before results."""
        for path in (self.log, self.output):
            lines = path.read_text(errors="replace").replace("\r", "\n").splitlines()
            lines = [line for line in lines if line.strip()]
            if lines:
                return lines[-TAIL_LINES:]
        return []

    def result(self) -> dict[str, Any]:
        """The JSON object that it printed; {} if it did not."""
        try:
            found = json.loads(self.output.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def stop(self, number: int, patience_s: float) -> None:
        """Ask, wait, insist."""
        for ask, wait_s in ((number, patience_s), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            if self.code is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(ask)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(wait_s)
