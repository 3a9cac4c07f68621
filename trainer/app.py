"""`robot-trainer`: serve (the daemon) and other modules' verbs: pretrain, imitate, collect, refine, report.

Each of those is a function `command` in trainer/<verb>_command.py that imports torch or matplotlib only
when it runs, so that `--help` stays quick.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.errors import (
    ConfigError,
    EntracteError,
    MissingDependency,
    PackageError,
    SpecMismatch,
)
from contracts.files import outputs
from trainer import audit_command, keys_command, monitors_command

EXIT_WRONG_INPUT = 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """On the workstation: receive episodes, score them, refine the policy, publish releases."""


@app.command()
def serve(
    run_dir: Annotated[Path, typer.Option(help="Folder of store, releases, metrics and state.")],
    config: Annotated[Path | None, typer.Option(help="YAML file; hw_configs/trainer.yaml.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
) -> None:
    """Run the daemon until Ctrl-C or SIGTERM; a later start with the same folder goes on where it was."""
    from trainer.config import load_config

    settings = load_config(config, set_ or [])
    outputs.require_room(run_dir)
    # Read by torch and ONNX Runtime when they are first imported: the models come after this.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
    from trainer.daemon import Daemon

    daemon = Daemon(run_dir, settings)

    def stop(_number: int, _frame: Any) -> None:
        daemon.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    typer.echo(f"robot-trainer: listening, state in {run_dir}", err=True)
    daemon.run()


for _verb in ("enroll", "pretrain", "imitate", "collect", "refine", "report"):
    if find_spec(f"trainer.{_verb}_command") is not None:
        app.command(name=_verb)(import_module(f"trainer.{_verb}_command").command)

app.add_typer(keys_command.app, name="keys")
app.add_typer(monitors_command.app, name="monitors")
app.add_typer(audit_command.app, name="audit")


def main() -> None:
    """Entry point: one clear sentence on an error that a user can mend. Exit code 2, as `robot-run`'s, for
    what starting again can't cure; else 1."""
    try:
        app()
    except (ConfigError, MissingDependency, PackageError, SpecMismatch) as error:
        print(f"robot-trainer: {error}", file=sys.stderr)
        sys.exit(EXIT_WRONG_INPUT)
    except EntracteError as error:
        print(f"robot-trainer: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
