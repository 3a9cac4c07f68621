"""`robot-calibrate`: what a robot's models and pictures must be measured for before they are trusted.

Each verb is a function `command` in calibration/<verb>_command.py.
"""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from contracts.errors import CheckFailed, EntracteError, MissingDependency

VERBS = ("board", "capture", "depth", "handeye", "intrinsics", "latency", "quantization", "verify")
EXIT_WRONG_INPUT = 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Calibrate a robot: cameras, where they are, how late they are, and sets for quantisation."""


for _verb in VERBS:
    app.command(name=_verb)(import_module(f"calibration.{_verb}_command").command)


def main() -> None:
    """Entry point: one clear sentence on an error. Exit code 2 for what a user must mend, 1 for a check that
    was made and failed."""
    try:
        _run()
    except EntracteError as error:
        print(f"robot-calibrate: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, CheckFailed) else EXIT_WRONG_INPUT)


def _run() -> None:
    try:
        app()
    except ModuleNotFoundError as error:  # a robot's own extras have no scipy
        if (error.name or "").partition(".")[0] != "scipy":
            raise
        raise MissingDependency(
            "calibration needs scipy", remedy="pip install 'entracte[calibration]'"
        ) from error


if __name__ == "__main__":
    main()
