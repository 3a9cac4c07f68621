"""`robot-reward`: data, training, adaptation and evaluation of reward models, and the service that scores.

Each verb is a function `command` in trainer/rewards/<verb>_command.py that imports torch, transformers or
matplotlib only when it runs, so that `--help` stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from contracts.errors import CheckFailed, EntracteError

VERBS = (
    *("record-clips", "build-data", "train", "adapt", "distill", "eval", "plot", "score"),
    "serve",
)
EXIT_WRONG_INPUT = 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Reward models: what they learn from, training, adaptation, evaluation."""


for _verb in VERBS:
    _module = import_module(f"trainer.rewards.{_verb.replace('-', '_')}_command")
    app.command(name=_verb)(_module.command)


def main() -> None:
    """Entry point: one clear sentence on an error. Exit code 2 for what a user must mend, 1 for a check that
    was made and failed."""
    try:
        app()
    except EntracteError as error:
        print(f"robot-reward: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, CheckFailed) else EXIT_WRONG_INPUT)


if __name__ == "__main__":
    main()
