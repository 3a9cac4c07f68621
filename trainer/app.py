"""`robot-trainer`: serve (the daemon) and the verbs of other modules: pretrain, imitate, refine, report.

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

from contracts.errors import EntracteError

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


for _verb in ("pretrain", "imitate", "refine", "report"):
    if find_spec(f"trainer.{_verb}_command") is not None:
        app.command(name=_verb)(import_module(f"trainer.{_verb}_command").command)


def main() -> None:
    """Entry point: one clear sentence and exit code 1 on an error that a user can mend."""
    try:
        app()
    except EntracteError as error:
        print(f"robot-trainer: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
