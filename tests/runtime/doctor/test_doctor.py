"""The doctor: what is wrong is said with its fix, and nothing that hangs or crashes keeps it from that."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from robots import config, policy_package

from runtime.doctor import checks, machine, network, storage
from runtime.doctor.checks import Check, in_child
from runtime.doctor.packages import packages
from runtime.findings import Line

REALTIME = config("pace=realtime", "loop.rate_hz=200", "loop.lock_memory=true")


def doctor(*settings: str) -> subprocess.CompletedProcess[str]:
    overrides = [word for setting in settings for word in ("--set", setting)]
    return subprocess.run(
        [sys.executable, "-m", "runtime.app", "doctor", *overrides, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def by_name(lines: list[Line]) -> dict[str, Line]:
    return {line.what: line for line in lines}


def test_every_line_says_its_status_and_what_is_not_ok_its_fix() -> None:
    done = doctor("link.enabled=false")
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)
    assert {line["status"] for line in lines} <= {"ok", "warn"}
    assert all(set(line) == {"what", "status", "found", "fix"} for line in lines)
    assert all(line["fix"] for line in lines if line["status"] != "ok")
    for what in (
        *("camera front", "arm", "policy package", "cuda", "mujoco", "monotonic clock"),
        *("clock source", "wall clock", "cpu frequency", "throttled since boot", "kernel"),
        *("real-time priority", "locked memory", "network", "free disk", "disk speed"),
    ):
        assert what in {line["what"] for line in lines}, what


def test_what_keeps_a_run_from_starting_is_a_failure() -> None:
    done = doctor("arm.kind=panda", "policy.package=/nowhere", "recording.min_free_mib=1000000000")
    assert done.returncode == 1, done.stderr
    failed = {line["what"] for line in json.loads(done.stdout) if line["status"] == "fail"}
    assert failed == {"arm", "policy package", "free disk"}


def test_a_driver_that_hangs_or_crashes_is_a_line_and_costs_its_time_only() -> None:
    def child(code: str) -> list[Line]:
        return in_child("arm", [sys.executable, "-c", code], b"{}", 1.0, "switch it off")

    nested = "import subprocess; subprocess.run(['sleep', '60'])"
    crash = f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    looked = [
        Check("hung process", lambda: child(nested), 2.0),
        Check("crashed", lambda: child(crash), 5.0),
        Check("raised", lambda: child("raise SystemExit('no bus')"), 5.0),
        Check("hung thread", lambda: time.sleep(30) or [], 1.0, "look at dmesg"),
        Check("wrong", lambda: {}["line"], 1.0),
        Check("fine", lambda: [Line("fine", "ok", "it is")], 1.0),
    ]
    began_s = time.monotonic()
    hung, crashed, raised, thread, wrong, fine = checks.run(looked)
    assert time.monotonic() - began_s < 6.0
    assert "no answer within 1 s" in hung.found and hung.fix == "switch it off"
    assert "crashed (signal 11)" in crashed.found
    assert raised.found == "no bus"
    assert thread == Line("hung thread", "fail", "no answer within 1 s", "look at dmesg")
    assert "KeyError" in wrong.found
    assert fine.ok and not any(line.ok for line in (hung, crashed, raised, thread, wrong))


def test_a_slow_throttled_laptop_is_told_so(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = tree(
        tmp_path,
        {
            f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave",
            f"{cpu}/cpu0/cpufreq/scaling_min_freq": "800000",
            f"{cpu}/cpu0/cpufreq/scaling_max_freq": "3500000",
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "3",
            f"{cpu}/cpu1/thermal_throttle/core_throttle_count": "4",
            "sys/class/thermal/thermal_zone0/temp": "45000",
            "sys/class/thermal/thermal_zone0/type": "acpitz",
            "sys/class/thermal/thermal_zone1/temp": "93000",
            "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp",
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet",
            "proc/version": "Linux version 6.8 SMP PREEMPT_DYNAMIC",
            "proc/self/status": "CapEff:\t0000000000000000",
        },
    )
    found = by_name(
        [
            *machine.power(REALTIME, root),
            *machine.clocks(REALTIME, root),
            *machine.realtime(REALTIME, root),
        ]
    )
    bad = {what for what, line in found.items() if line.status == "warn"}
    assert {"cpu frequency", "throttled since boot", "temperature", "clock source", "kernel"} <= bad
    assert "powersave" in found["cpu frequency"].found
    assert found["throttled since boot"].found == "7 times too hot"
    assert found["temperature"].found == "93 C (x86_pkg_temp)"
    assert "hpet" in found["clock source"].found
    assert "cpupower" in found["cpu frequency"].fix


def test_a_well_kept_machine_is_told_nothing(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = tree(
        tmp_path,
        {
            f"{cpu}/cpu0/cpufreq/scaling_governor": "schedutil",
            f"{cpu}/cpu0/cpufreq/scaling_min_freq": "2200000",
            f"{cpu}/cpu0/cpufreq/scaling_max_freq": "2200000",
            f"{cpu}/isolated": "3",
            "sys/class/hwmon/hwmon1/oc1_event_cnt": "0",
            "sys/kernel/realtime": "1",
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "arch_sys_counter",
            "proc/self/status": "CapEff:\t0000000000800000",
        },
    )
    lines = [*machine.power(REALTIME, root), *machine.realtime(REALTIME, root)]
    assert {line.status for line in lines if line.what != "locked memory"} == {"ok"}
    found = by_name(lines)
    assert found["cpu frequency"].found == "held at its highest"
    assert (found["kernel"].found, found["isolated cores"].found) == ("PREEMPT_RT", "3")


@pytest.mark.parametrize(
    ("says", "status", "found"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", "ok", "MAXN_SUPER"),
        ("NV Power Mode: 15W\n0\n", "warn", "15W"),
        ("sleep", "warn", "nvpmodel does not answer"),
    ],
)
def test_a_jetsons_power_mode_is_asked_for(
    tmp_path: Path, says: str, status: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool is a script of ours: what it prints is what a Jetson's prints."""
    tool = tmp_path / "nvpmodel"
    body = "sleep 30" if says == "sleep" else f"printf '{says}'"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(machine, "_TOOL_S", 0.5)
    root = tree(tmp_path, {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3"})
    line = by_name(machine.power(REALTIME, root))["power mode"]
    assert line.status == status and found in line.found


def test_an_address_that_answers_is_ok_one_that_does_not_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as other:
            closed = other.getsockname()[1]
        lines = by_name(
            network.network(
                config(
                    "link.enabled=true",
                    f"link.frames=tcp://127.0.0.1:{port}",
                    f"link.episodes=tcp://127.0.0.1:{closed}",
                    "link.weights=tcp://nowhere.invalid:5",
                    "link.health=tcp://*",
                )
            )
        )
    assert lines["link frames"].status == "ok" and "answers in" in lines["link frames"].found
    assert lines["link episodes"].status == "warn" and "robot-trainer" in lines["link episodes"].fix
    assert (
        lines["link weights"].status == "warn" and "nowhere.invalid" in lines["link weights"].found
    )
    assert lines["link health"].status == "fail"


@pytest.mark.parametrize(
    ("fault", "found", "fix"),
    [
        ("truncated", "truncated or corrupt", "export the package again"),
        ("joints", "action names: policy ['pan.pos'", "trained for this hardware config"),
        ("units", "action units: policy ['normalised'", "--calibration, or with --units deg"),
        (
            "aspect",
            "aspect ratio of camera 'front': policy 128x96, robot 128x128",
            "fix the config",
        ),
        ("rate", "integer multiple of its 10 Hz, found 7 Hz", "set loop.rate_hz=10"),
        ("steps", "at most its 8 actions, found 80", "set policy.execute_steps=4"),
    ],
)
def test_a_package_that_a_start_refuses_is_refused_here(
    tmp_path: Path, fault: str, found: str, fix: str
) -> None:
    package = policy_package(tmp_path / "policy")
    settings = {
        "aspect": ["cameras.front.height=128", "cameras.wrist.height=128"],
        "rate": ["loop.rate_hz=7"],
        "steps": ["policy.execute_steps=80"],
    }.get(fault, [])
    weights, action = package.folder / "weights.safetensors", package.manifest.action
    assert action is not None
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-7])
    changed = {"joints": ("names", "pan.pos"), "units": ("units", "normalised")}.get(fault)
    if changed:
        field, first = changed
        head = json.loads((package.folder / "manifest.json").read_text())
        head["action"][field] = [first, *head["action"][field][1:]]
        (package.folder / "manifest.json").write_text(json.dumps(head))
    line, _ = packages(config(f"policy.package={package.folder}", *settings))
    assert line.status == "fail" and found in line.found and fix in line.fix, line


def test_what_a_package_was_not_compared_with_is_said(tmp_path: Path) -> None:
    folder = policy_package(tmp_path / "policy").folder
    line, _ = packages(config(f"policy.package={folder}"))
    assert line == Line("policy package", "ok", "tiny, 3 refinable tensors")
    line, _ = packages(config(f"policy.package={folder}", "arm.kind=so101"))
    assert line.ok and "not compared without the devices: joints, their units" in line.found


def test_the_ring_must_fit_into_shared_memory(tmp_path: Path) -> None:
    settings = config("recording.ring_s=1000000", "cameras.front.width=1280")
    found = by_name(storage.storage(settings, tmp_path))
    assert found["shared memory"].status == "fail" and "ring_s" in found["shared memory"].fix
    assert found["disk speed"].found.endswith("written and synced")
    assert not list(tmp_path.iterdir())
