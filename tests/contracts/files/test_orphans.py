"""What must not outlive who starts it doesn't, also where that one is gone before the child can say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contracts.files import orphans

ROOT = Path(orphans.__file__).resolve().parents[2]
STARTER_GONE = """
import os, time
from contracts.files.orphans import die_with_parent
if os.fork() == 0:
    starter = os.getpid()
    if os.fork() == 0:
        while os.getppid() == starter:
            time.sleep(0.001)
        die_with_parent()
        os.write(1, b"it lives")
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells no child of its parent's end")
def test_a_child_whose_starter_is_gone_already_ends() -> None:
    command = [sys.executable, "-c", STARTER_GONE]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert (said.stdout, said.stderr) == ("", "")


def test_a_child_whose_starter_is_there_does_its_work() -> None:
    command = [sys.executable, "-c", "print('done')"]
    child = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=orphans.die_with_parent,
        check=True,
    )
    assert child.stdout == "done\n"
