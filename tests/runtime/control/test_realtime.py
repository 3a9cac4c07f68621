"""What the system grants is said, what it refuses too, and neither stops a robot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.config import LoopSection
from runtime.control import realtime

ASK = """
import gc, json, os, resource, sys
import msgspec
from runtime.control import realtime
from runtime.config import LoopSection
if len(sys.argv) > 2:  # an ordinary user: no capability, and these limits
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    os.setuid(int(sys.argv[2]))
section = msgspec.json.decode(sys.argv[1], type=LoopSection)
lines = [[line.what, line.status, line.fix] for line in realtime.finding(section)]
granted = realtime.ask(section)
big = bytearray(64 << 20)  # memory can still be had, and is locked where that was granted
status = dict(l.split(":", 1) for l in open("/proc/self/status"))
print(json.dumps({
    "granted": granted, "lines": lines, "locked_kb": int(status["VmLck"].split()[0]),
    "policy": os.sched_getscheduler(0), "cpus": sorted(os.sched_getaffinity(0)), "gc": gc.isenabled(),
}))
"""


REST = """
import json, os, sys, time
from types import SimpleNamespace
from runtime.control import realtime
from runtime.config import LoopSection
from runtime.control.resting import Resting
before = sorted(os.sched_getaffinity(0))
realtime.ask(LoopSection(cpus=(before[0],)))
robot = SimpleNamespace(clock=SimpleNamespace(lockstep=False), rest=lambda: time.sleep(0.002) or True)
def job():
    return sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
found = Resting(robot)(job)
own = os.sched_getaffinity(0), os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
print(json.dumps([before, *found, sorted(own[0]), *own[1:]]))
"""


def test_what_is_done_between_episodes_never_takes_the_loops_processor() -> None:
    command = [sys.executable, "-c", REST]
    root = Path(realtime.__file__).parents[2]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    before, cpus, policy, rank, own_cpus, own_policy, own_rank = json.loads(done.stdout)
    assert cpus == before and own_cpus == before[:1]
    assert policy == own_policy
    if own_policy == 1:  # else this user has no right to it
        assert 0 < rank < own_rank


def ask(section: LoopSection, *user: str) -> dict:  # type: ignore[type-arg]
    import msgspec

    command = [sys.executable, "-c", ASK, msgspec.json.encode(section).decode(), *user]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=Path(realtime.__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_what_is_granted_is_really_so() -> None:
    found = ask(LoopSection(lock_memory=True, cpus=(0,)))
    granted = found["granted"]
    if granted["fifo"] == realtime.GRANTED:
        assert found["policy"] == 1
    if granted["lock_memory"] == realtime.GRANTED:
        assert found["locked_kb"] > 64 << 10
    assert granted["cpus"] == granted["freeze_gc"] == realtime.GRANTED
    assert found["cpus"] == [0] and found["gc"] is False


def test_what_is_not_asked_for_is_left_alone() -> None:
    found = ask(LoopSection(fifo=False, freeze_gc=False))
    assert set(found["granted"].values()) == {realtime.NOT_ASKED}
    assert found["policy"] == 0 and found["locked_kb"] == 0 and found["gc"] is True
    assert found["lines"] == []


def test_a_user_without_rights_is_told_and_goes_on() -> None:
    import os

    if os.geteuid() != 0:
        pytest.skip("only root can become a user without rights")
    found = ask(LoopSection(lock_memory=True, cpus=(4096,)), "65534")
    for option in ("fifo", "lock_memory", "cpus"):
        assert found["granted"][option].startswith("refused"), option
    assert found["granted"]["freeze_gc"] == realtime.GRANTED
    assert found["locked_kb"] == 0
    assert [status for _, status, _ in found["lines"]] == ["warn"]
    assert all(fix for _, _, fix in found["lines"])
