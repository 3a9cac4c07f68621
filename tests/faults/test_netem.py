"""The chaos run over a loopback that the kernel itself makes late, lossy, doubling and out of order.

Needs network namespaces and netem; skips with what the kernel said where either is missing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = ("unshare", "--map-root-user", "--net", "sh", "-ec")


def missing(netem: str) -> str:
    """Why a loopback with that netem can't be had here; "" if it can."""
    try:
        done = subprocess.run(
            [*NAMESPACE, _loopback(netem)], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""


def _loopback(netem: str) -> str:
    return f"ip link set lo up; tc qdisc add dev lo root netem {netem}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "netem",
    [
        "delay 20ms 10ms distribution normal",
        "delay 5ms loss 3% 25%",
        "delay 10ms reorder 20% 50% duplicate 2%",
        "delay 2ms corrupt 1% rate 20mbit",
    ],
)
def test_nothing_is_lost_over_such_a_wire(netem: str, tmp_path: Path) -> None:
    if why := missing(netem):
        pytest.skip(f"no network namespace with netem here: {why}")
    chaos = f"{sys.executable} -m tests.faults.chaos --episodes 100 --seed 1 --no-disks"
    script = f"{_loopback(netem)}; exec {chaos} --folder {tmp_path}"
    done = subprocess.run(
        [*NAMESPACE, script], cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
