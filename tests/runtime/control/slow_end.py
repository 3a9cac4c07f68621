"""The control process where what follows an episode, or the run, takes long. Words in the environment:
"report": to sum an episode up; "disk": to write down how regular the loop was; "trace": of a mistake in a
tick, which is made, to write down where.

Started by the supervisor in control's place (test_slow_ends.py).
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from contracts.files import atomic
from runtime.control import pacing
from runtime.control import process as control
from runtime.control.episode import Episode
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

    def mistaken(episode: Episode, _lateness_s: float) -> None:
        episode._step += 1
        episode.robot.board.step = episode._step
        episode.robot.post(0.0)
        if episode._step > 10:
            raise ValueError("a mistake of ours")

    def slow_trace(*_: Any, **__: Any) -> None:
        time.sleep(SLOW_S)

    if word == "report":
        pacing.summary = slow_summary
    elif word == "trace":
        Episode._conclude = mistaken  # type: ignore[assignment, method-assign]
        traceback.print_exc = traceback.print_exception = slow_trace
    else:
        atomic.write_bytes = slow_write
    return control.main()


if __name__ == "__main__":
    sys.exit(main())
