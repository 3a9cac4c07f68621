"""`robot-export`: trained models to model packages, their checks, their lesser precisions, their engines.

Each verb is a function `command` in export/<verb>_command.py that imports torch, ONNX or an engine only when
it runs: `build` and `check` also run on a Jetson, where there is no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from contracts.errors import CheckFailed, EntracteError

VERBS = ("policy", "reward", "check", "quantize", "encoder", "vlm", "build", "support")
EXIT_WRONG_INPUT = 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Export policies and reward models to ONNX packages, and check them."""


for _verb in VERBS:
    _module = import_module(f"export.{_verb.replace('-', '_')}_command")
    app.command(name=_verb)(_module.command)


def main() -> None:
    """Entry point: one clear sentence on an error. Exit code 2 for what a user must mend, 1 for a check that
    was made and failed."""
    try:
        app()
    except EntracteError as error:
        print(f"robot-export: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, CheckFailed) else EXIT_WRONG_INPUT)


if __name__ == "__main__":
    main()
