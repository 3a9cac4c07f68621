"""The control process where what follows an episode, or the run, takes long. Words in the environment:
"report": to sum an episode up; "disk": to write down how regular the loop was.

Started by the supervisor in control's place (test_slow_ends.py).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from contracts.files import atomic
from runtime.control import pacing
from runtime.control import process as control
from runtime.run import LOOP_FILE

SLOW_S = 2.5


def main() -> int:
    word = os.environ["SLOW_END"]
    summary, write = pacing.summary, atomic.write_bytes

    def slow_summary(values_s: list[float], name: str) -> dict[str, float]:
        if name == "wait":
            time.sleep(SLOW_S)
        return summary(values_s, name)

    def slow_write(path: Path, data: bytes, *more: Any, **named: Any) -> None:
        if path.name == LOOP_FILE:
            time.sleep(SLOW_S)
        write(path, data, *more, **named)

    if word == "report":
        pacing.summary = slow_summary
    else:
        atomic.write_bytes = slow_write
    return control.main()


if __name__ == "__main__":
    sys.exit(main())
