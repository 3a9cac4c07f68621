"""What the configuration names: arm, cameras, engines, packages. Runs in a child process of `checks`,
because a driver may hang or crash for good in native code.

`python -m runtime.doctor.devices <check> [<name>]` reads the configuration as JSON from stdin and prints
its lines as JSON.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import msgspec

from contracts.errors import EntracteError
from contracts.files.packages import load_package
from runtime.config import PolicySection, RewardSection, RobotConfig
from runtime.doctor.packages import packages
from runtime.engines import options_of, survey
from runtime.findings import Line, tried
from runtime.gym import environment
from runtime.preflight import known

CAMERA, ARM, ENGINES, PACKAGES = "camera", "arm", "engines", "packages"


def examine(config: RobotConfig, check: str, name: str = "") -> list[Line]:
    """The lines of one check."""
    if check == CAMERA:
        return _camera(config, name)
    if check == ARM:
        return _arm(config)
    return _engines(config) if check == ENGINES else packages(config)


def _camera(config: RobotConfig, name: str) -> list[Line]:
    section = config.cameras[name]
    line = tried(f"camera {name}", lambda: known("cameras", section.kind))
    if not line.ok or importlib.util.find_spec("runtime.cameras.examine") is None:
        return [line]
    from runtime.cameras.examine import examine as look

    return list(look(name, section))


def _arm(config: RobotConfig) -> list[Line]:
    line = tried("arm", lambda: known("arms", config.arm.kind))
    if not line.ok or importlib.util.find_spec("runtime.arms.examine") is None:
        return [line]
    from runtime.arms.examine import examine as look

    return list(look(config.arm))


def _engines(config: RobotConfig) -> list[Line]:
    """What the machine has for engines, what the configured ones will use and why, or what they lack."""
    caches = (config.policy.cache, config.reward.cache)
    lines = [Line(what, "ok", found) for what, found in survey.found_here(caches)]
    for what, section in (("policy", config.policy), ("reward", config.reward)):
        options = options_of(section)

        def about(section: PolicySection | RewardSection = section) -> str:
            return survey.use(options_of(section))

        line = tried(f"{what} engine", lambda kind=options.kind: known("engines", kind))  # type: ignore[misc]
        lines.append(tried(f"{what} engine", about) if line.ok else line)
        if options.kind == "tensorrt" and section.package and lines[-1].ok:
            lines.append(_planned(what, section))
    if (other := config.bench.gymnasium) is not None:
        lines.append(tried("environment", lambda: environment.require(other)))
    elif config.bench.enabled:
        there = importlib.util.find_spec("mujoco") is not None
        found = "installed" if there else "missing"
        lines.append(Line.judged("mujoco", there, found, "pip install 'entracte[sim]'"))
    return lines


def _planned(what: str, section: PolicySection | RewardSection) -> Line:
    try:
        missing = survey.missing_plans(load_package(Path(section.package)), options_of(section))
    except EntracteError as error:
        return Line(f"{what} plans", "fail", str(error))
    return Line.advised(
        f"{what} plans",
        not missing,
        "; ".join(missing) or "all cached",
        "robot-export build makes them now; else the first start does, in minutes",
    )


def main() -> int:
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=RobotConfig)
    lines = examine(config, *sys.argv[1:])
    # Libraries print to stdout as they like: the last line is ours.
    sys.stdout.write("\n" + msgspec.json.encode(lines).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
